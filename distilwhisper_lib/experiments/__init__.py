"""Experiments beyond the course: tuning, more seeds, and the paper's whole table as a list of jobs."""
