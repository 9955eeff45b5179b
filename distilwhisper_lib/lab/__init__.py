"""What the notebooks call: one laboratory, the comparison, its record and its figures."""
