"""Experiments beyond the course: tuning, more seeds, smaller experts, and the paper's whole table."""
