"""Copy pictures from the notebooks' stored outputs to docs/teach/slides/pictures, for the slides.

    .venv/bin/python tools/slide_pictures.py

Each picture is found by the code that draws it: run this after the notebooks were published, and
mend PICTURES where a notebook draws it in another way now.
"""

import argparse
import base64
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "teach" / "slides" / "pictures"

# name of the picture -> beginning of the notebook's name, and a part of the code that draws it
PICTURES = {
    "log-mel": ("00", "plots.plot_log_mel(features"),
    "error-kinds": ("01", "plots.plot_error_kinds("),
    "noise": ("02", "soft, hard, g = train_toy(strongest)"),
    "divergences": ("03", '"KL(t || s)"'),
    "top-k": ("03", 'table["gradient, cosine"]'),
    "gates-in-training": ("03", '"gate_encoder", "gate_decoder"'),
    "gates-over-sound": ("03", "plots.plot_gates_over_sound("),
    "resampled-differences": ("05", 'label=f"drawn {way}"'),
}


def find_picture(notebook: dict, code: str) -> bytes:
    """Return the first PNG that the cell with this code has drawn.

    Raises:
        ValueError: Where there is no such cell, or it holds no picture.
    """
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code" or code not in "".join(cell["source"]):
            continue
        for output in cell["outputs"]:
            data = output.get("data", {}).get("image/png")
            if data:
                return base64.b64decode("".join(data))
    raise ValueError(f"no cell with {code!r} holds a picture: change it in {Path(__file__).name}")


def main(notebooks: Path = ROOT / "notebooks", folder: Path = FOLDER) -> None:
    """Write all pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (number, code) in PICTURES.items():
        (path,) = notebooks.glob(f"{number}_*.ipynb")
        notebook = json.loads(path.read_text(encoding="utf-8"))
        (folder / f"{name}.png").write_bytes(find_picture(notebook, code))
        print(f"{name}.png: from {path.name}")


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    main()
