"""Benchmarks: ratios to a named baseline, measured in one run, with the hardware's lower bound.

Each is a program: `make benchmark NAME=inference`, `training`, `memory`, `storage`,
`transcription` or `preparation`.
"""
