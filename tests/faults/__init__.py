"""The fault harness: work that is killed, shared, damaged, misused, or has no disk left.

    .venv/bin/python -m tests.faults            # all parts
    .venv/bin/python -m tests.faults --part kills --count 20 --seed 3

`work.py` holds the kinds of work, `attempts.py` runs one in a process of its own; kills, pairs,
damage, inputs and disks each disturb it in one way, and `report.py` counts what came of it.
"""
