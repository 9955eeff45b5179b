"""Small made-up corpora in the formats of the real ones, whole and damaged."""

import io
import lzma
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile


def tone(seconds: float = 0.5, rate: int = 22_050, pitch: float = 220.0) -> np.ndarray:
    """Return a tone with an overtone, float32 (n,)."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * pitch * time) + 0.1 * np.sin(5 * np.pi * pitch * time)).astype(np.float32)


def write_ogg(path: Path, seconds: float = 0.5, pitch: float = 220.0, rate: int = 22_050, channels: int = 1) -> None:
    """Write a Vorbis file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = np.stack([tone(seconds, rate, pitch)] * channels, axis=1)
    soundfile.write(path, sound, rate, format="OGG", subtype="VORBIS")


def dialogue(name: str, font: str, english: str, text: str) -> str:
    """Return one dialogue in Lua."""
    return f'\ndialogId("{name}", "{font}", "{english}")\ndialogStr("{text}")\n\n'


FILLETS_LINES = {  # room -> (id, font, English, text, pitch or None for no sound)
    "gods": [("g-small", "font_small", "A god.", "Malý bůh.", 200),
             ("g-big", "font_big", "Big god.", "Velký bůh.", 210),
             ("g-other", "font_cyan", "Water!", "Voda!", 220), ("g-place", "font_cyan", "A%1.", "A%1.", 230),
             ("g-none", "font_cyan", "", "", 240)],
    "airplane": [("a-1", "font_small", "A ship.", "Divná loď.", 250),
                 ("a-2", "font_big", "A god.", "Malý BŮH!", 260),
                 ("a-x", "font_yellow", "Other.", "Někdo jiný.", 270)],
    "ufo": [("u-1", "font_small", "Hello.", "Dobrý den.", 280), ("u-2", "font_big", "Silent.", "Beze zvuku.", None)],
    "cave": [("c-1", "font_big", "Cave.", "Jeskyně.", 290)],
    "share": [("smrt-v-0", "font_big", "Oh.", "No a je to.", 300)],
}  # fmt: skip


def make_fillets(root: Path, language: str = "cs") -> Path:
    """Write a small game; returns the data's folder."""
    folder = root / "usr/share/games/fillets-ng"
    for room, lines in FILLETS_LINES.items():
        script = folder / "script" / room / f"{'black_' if room == 'share' else ''}dialogs_{language}.lua"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text("-- made up\n" + "".join(dialogue(*line[:4]) for line in lines), encoding="utf-8")
        place = "share/blackjokes" if room == "share" else room
        for name, _, _, _, pitch in lines:
            if pitch:
                write_ogg(folder / "sound" / place / language / f"{name}.ogg", pitch=pitch)
    return folder


def make_stamps(root: Path, language: str = "ca", count: int = 40) -> Path:
    """Write `count` stamps; returns the folder `stamps`."""
    folder = root / "usr/share/tuxpaint/stamps"
    for i in range(count):
        base = folder / ("animals" if i % 2 else "food/fruit") / f"thing{i}"
        write_ogg(base.with_name(f"{base.name}_desc_{language}.ogg"), 1.0, 200 + 5 * i)
        words = f"Thing {i}.\naf.utf8=Ding {i}.\n{language}.utf8=Una cosa {i}.\n{language}@valencia.utf8=Altra {i}.\n"
        base.with_name(f"{base.name}.txt").write_text(words, encoding="utf-8")
    return folder


def tar_bytes(files: dict[str, bytes]) -> bytes:
    """Return an uncompressed tar of the files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def tree(root: Path) -> dict[str, bytes]:
    """Return all files under a folder by their path in it, as in a package ("./usr/...")."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {f"./{path.relative_to(root).as_posix()}": path.read_bytes() for path in files}


def make_deb(path: Path, package: str, version: str, files: dict[str, bytes], kind: str = "xz") -> Path:
    """Write a .deb: an ar archive of debian-binary, control.tar.xz and data.tar.xz or .zst."""
    control = f"Package: {package}\nVersion: {version}\nDescription: made up\n of nothing\n".encode()
    data = tar_bytes(files)
    packed = lzma.compress(data) if kind == "xz" else pa.compress(data, codec="zstd", asbytes=True)
    members = {"debian-binary": b"2.0\n", "control.tar.xz": lzma.compress(tar_bytes({"./control": control})),
               f"data.tar.{kind}": packed}  # fmt: skip
    content = b"!<arch>\n"
    for name, part in members.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(part):<10}`\n"
        content += header.encode() + part + b"\n" * (len(part) % 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
