"""Beyond the course: tuning, seeds, smaller experts, and the paper's whole table as jobs."""
