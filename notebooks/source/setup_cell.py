# The same first cell in every notebook: it finds the project, installs only what is missing, opens the laboratory.
PRESET = None  # "toy", "laptop" or "colab"; None takes the variable LAB_PRESET, else "toy"

import os
import pathlib
import subprocess
import sys

here = pathlib.Path.cwd()
root = next((p for p in (here, *here.parents, here / "distilwhisper-lab") if (p / "distilwhisper_lib").is_dir()), None)
if root is None:  # on Colab, say
    address = os.environ.get("LAB_REPOSITORY") or input("The address that this project can be cloned from: ")
    root = here / "distilwhisper-lab"
    subprocess.run(["git", "clone", "--depth", "1", address, str(root)], check=True)
sys.path.insert(0, str(root / "notebooks"))

from lab_setup import open_lab

lab = open_lab(PRESET)
