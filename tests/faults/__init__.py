"""The fault harness: work that is killed, shared, damaged, misused, or has no disk left.

    .venv/bin/python -m tests.faults            # all parts
    .venv/bin/python -m tests.faults --part kills --count 20 --seed 3

`work.py` holds the kinds of work, `attempts.py` runs one in a process of its own; kills, pairs,
damage, inputs and disks each disturb it in one way, and `report.py` counts what came of it.
"""

import os

# pyarrow's allocator starts a thread when it is imported. A process that forks beside a thread can
# leave the fork with a lock that nobody opens: seen once, as an attempt that hung at its start.
os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")
