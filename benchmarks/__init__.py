"""Benchmarks: ratios against a named baseline, measured in one run, with the physical floor beside them."""
