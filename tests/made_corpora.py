"""Small made-up corpora in the formats of the real ones, whole and damaged."""

import gzip
import io
import lzma
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile


def tone(seconds: float = 0.5, rate: int = 22_050, pitch: float = 220.0) -> np.ndarray:
    """Return a tone with an overtone, float32 (n,)."""
    time = np.arange(round(seconds * rate)) / rate
    sound = 0.3 * np.sin(2 * np.pi * pitch * time) + 0.1 * np.sin(5 * np.pi * pitch * time)
    return sound.astype(np.float32)


def write_ogg(
    path: Path, seconds: float = 0.5, pitch: float = 220.0, rate: int = 22_050, channels: int = 1
) -> None:
    """Write a Vorbis file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = np.stack([tone(seconds, rate, pitch)] * channels, axis=1)
    soundfile.write(path, sound, rate, format="OGG", subtype="VORBIS")


def dialogue(name: str, font: str, english: str, text: str) -> str:
    """Return one dialogue in Lua."""
    return f'\ndialogId("{name}", "{font}", "{english}")\ndialogStr("{text}")\n\n'


FILLETS_LINES = {  # room -> (id, font, English, text, pitch or None for no sound)
    "gods": [
        ("g-small", "font_small", "A god.", "Malý bůh.", 200),
        ("g-big", "font_big", "Big god.", "Velký bůh.", 210),
        ("g-other", "font_cyan", "Water!", "Voda!", 220),
        ("g-place", "font_cyan", "A%1.", "A%1.", 230),
        ("g-none", "font_cyan", "", "", 240),
    ],
    "airplane": [
        ("a-1", "font_small", "A ship.", "Divná loď.", 250),
        ("a-2", "font_big", "A god.", "Malý BŮH!", 260),
        ("a-x", "font_yellow", "Other.", "Někdo jiný.", 270),
    ],
    "ufo": [
        ("u-1", "font_small", "Hello.", "Dobrý den.", 280),
        ("u-2", "font_big", "Silent.", "Beze zvuku.", None),
    ],
    "cave": [("c-1", "font_big", "Cave.", "Jeskyně.", 290)],
    "share": [("smrt-v-0", "font_big", "Oh.", "No a je to.", 300)],
}


TWO_LEADS = {  # the same, with lines of both leads in each of their splits
    "gods": [
        ("g-small-1", "font_small", "One.", "Jedna.", 200),
        ("g-small-2", "font_small", "Two.", "Dva.", 205),
        ("g-big-1", "font_big", "Three.", "Tři.", 210),
        ("g-big-2", "font_big", "Four.", "Čtyři.", 215),
        ("g-other", "font_cyan", "Water!", "Voda!", 220),
    ],
    "airplane": [
        ("a-small", "font_small", "Five.", "Pět.", 225),
        ("a-big", "font_big", "Six.", "Šest.", 230),
    ],
    "ufo": [
        ("u-small-1", "font_small", "Seven.", "Sedm.", 235),
        ("u-small-2", "font_small", "Eight.", "Osm.", 240),
        ("u-big-1", "font_big", "Nine.", "Devět.", 245),
        ("u-big-2", "font_big", "Ten.", "Deset.", 250),
    ],
    "cave": [
        ("c-small", "font_small", "Yes.", "Ano.", 255),
        ("c-big", "font_big", "No.", "Ne.", 260),
    ],
}


def make_fillets(root: Path, language: str = "cs", script_lines: dict | None = None) -> Path:
    """Write a small game, by default with FILLETS_LINES; returns the data's folder."""
    folder = root / "usr/share/games/fillets-ng"
    for room, lines in (script_lines or FILLETS_LINES).items():
        prefix = "black_" if room == "share" else ""
        script = folder / "script" / room / f"{prefix}dialogs_{language}.lua"
        script.parent.mkdir(parents=True, exist_ok=True)
        content = "-- made up\n" + "".join(dialogue(*line[:4]) for line in lines)
        script.write_text(content, encoding="utf-8")

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
        lines = (
            f"Thing {i}.",
            f"af.utf8=Ding {i}.",
            f"{language}.utf8=Una cosa {i}.",
            f"{language}@valencia.utf8=Altra {i}.",
        )
        text = "\n".join(lines) + "\n"
        base.with_name(f"{base.name}.txt").write_text(text, encoding="utf-8")
    return folder


FESTVOX_LINES = {  # id -> (text, seconds of sound or None)
    "ru_0001": ("+Окна дом+а, - н+ебыло стёкол.", 3.0),
    "ru_0002": (r"Сказал он: \"Пойдём\".", 2.0),
    "ru_0004": ("Беззвучная строка.", None),
    "ru_0005": ("Слишком длинная строка, для такого короткого звука.", 0.5),
}


def make_festvox(root: Path) -> Path:
    """Write a voice with the sentences of FESTVOX_LINES; returns its folder."""
    folder = root / "usr/share/festival/voices/russian/msu_ru_nsh_clunits"
    lines = []
    for number, (name, (text, seconds)) in enumerate(FESTVOX_LINES.items()):
        lines.append(f'( {name} "{text}" )\n')
        if seconds:
            write_sound(folder / "wav" / f"{name}.wav", seconds, 200 + 10 * number, "WAV")
    (folder / "etc").mkdir(parents=True)
    (folder / "etc/txt.done.data").write_text("".join(lines), encoding="utf-8")
    return folder


ASTERISK_LINES = {  # language -> lines of the list of prompts
    "fr": (
        "; Core Sounds, made up",
        "",
        "conf-locked: Cette conférence est verouillée.",
        "dictate/forhelp: Etes-vous là: oui ou non",
        "digits/20: vingt et un",
        "silence/2: (2 seconds of silence)",
        "auth-thankyou: Merci.",
        "vm-next: Pour continuer, appuyez sur 6.",
        "vm-mute: Cette ligne est muette.",
    ),
    "it": (
        "\ufeff; Core Sounds, made up",
        "conf-full: La linea ? piena.",
        "vm-login: Posta vocale. Quale casella?",
        "vm-removed: Il messaggio è stato eliminato vm-then-pound: poi premere un tasto",
        "vm-then-pound: Poi premere un tasto",
    ),
}


def make_asterisk(root: Path, language: str = "fr") -> Path:
    """Write prompts with sound, but for `vm-mute`; returns the folder `asterisk`."""
    folder = root / "usr/share/asterisk"
    lines = ASTERISK_LINES[language]
    names = [line.split(":")[0] for line in lines if ":" in line]
    for number, name in enumerate(names):
        if name != "vm-mute":
            path = folder / "sounds" / f"{language}_XX_f_Nobody" / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, tone(3.0, 8_000, 200 + 10 * number), 8_000)
    texts = folder.parent / "doc" / f"asterisk-core-sounds-{language}"
    texts.mkdir(parents=True)
    content = gzip.compress("\n".join(lines).encode())
    (texts / f"core-sounds-{language}.txt.gz").write_bytes(content)
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


def make_deb(
    path: Path, package: str, version: str, files: dict[str, bytes], kind: str = "xz"
) -> Path:
    """Write a .deb: an ar archive of debian-binary, control.tar.xz and data.tar.xz or .zst."""
    control = f"Package: {package}\nVersion: {version}\nDescription: made up\n of nothing\n"
    data = tar_bytes(files)
    if kind == "xz":
        packed = lzma.compress(data)
    else:
        packed = pa.compress(data, codec="zstd", asbytes=True)
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": lzma.compress(tar_bytes({"./control": control.encode()})),
        f"data.tar.{kind}": packed,
    }
    content = b"!<arch>\n"
    for name, part in members.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(part):<10}`\n"
        content += header.encode() + part + b"\n" * (len(part) % 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


CV_COLUMNS = (
    "client_id",
    "path",
    "sentence",
    "up_votes",
    "down_votes",
    "age",
    "gender",
    "accents",
    "locale",
)
CV_ROWS = {  # table -> (number of the clip, up-votes, down-votes)
    "train": [(1, 2, 0), (2, 5, 1), (3, 5, 0), (4, 2, 0), (5, 2, 1), (6, 9, 4)],
    "dev": [(11, 2, 1), (12, 2, 0), (13, 3, 0)],
    "test": [(21, 0, 2), (22, 2, 0)],
}


def write_sound(path: Path, seconds: float = 0.3, pitch: float = 220.0, kind: str = "MP3") -> None:
    """Write a tone at 16 kHz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(seconds, 16_000, pitch), 16_000, format=kind)


def cv_row(locale: str, number: int, up: object, down: object) -> str:
    """Return a line of a table of Common Voice."""
    cells = (
        f"speaker{number % 3}",
        f"common_voice_{locale}_{number}.mp3",
        f'Frase "{number}.',
        up,
        down,
        "",
        "",
        "",
        locale,
    )
    return "\t".join(map(str, cells)) + "\n"


def make_common_voice(
    root: Path, locale: str = "ca", release: str = "cv-corpus-13.0-2023-03-09"
) -> Path:
    """Write a release of eleven clips; returns the locale's folder."""
    folder = root / release / locale
    for table, rows in CV_ROWS.items():
        for number, _, _ in rows:
            write_sound(
                folder / "clips" / f"common_voice_{locale}_{number}.mp3", pitch=200 + 10 * number
            )
        lines = ["\t".join(CV_COLUMNS) + "\n"] + [cv_row(locale, *row) for row in rows]
        (folder / f"{table}.tsv").write_text("".join(lines), encoding="utf-8")
    (folder / "validated.tsv").write_text("not read\n", encoding="utf-8")
    return folder


def pack(
    folder: Path, archive: Path, extra: dict[str, bytes] | None = None, root: Path | None = None
) -> Path:
    """Write a folder as .tar.gz, its members named relative to `root` (by default its parent)."""
    root = root or folder.parent
    files = {
        name.removeprefix("./"): content
        for name, content in tree(root).items()
        if (root / name).is_relative_to(folder)
    }
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.write_bytes(gzip.compress(tar_bytes(files | (extra or {}))))
    return archive


def pack_zip(folder: Path, archive: Path, root: Path | None = None, sign: str = "/") -> Path:
    """Write a folder as .zip, its members named relative to `root`, with `sign` between parts."""
    root = root or folder.parent
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                member = zipfile.ZipInfo(path.name)
                member.filename = path.relative_to(root).as_posix().replace("/", sign)
                file.writestr(member, path.read_bytes())
    return archive


def make_first_common_voice(root: Path) -> Path:
    """Write the release of 2017: CSVs, and for each a folder in which the clips count from 0."""
    folder = root / "cv_corpus_v1"
    for table, rows in CV_ROWS.items():
        lines = ["filename,text,up_votes,down_votes,age,gender,accent,duration\n"]
        for place, (number, up, down) in enumerate(rows):
            name = f"cv-valid-{table}/sample-{place:06d}.mp3"
            write_sound(folder / name, pitch=200 + 10 * number)
            lines.append(f"{name},sentence {number},{up},{down},,,,\n")
        (folder / f"cv-valid-{table}.csv").write_text("".join(lines), encoding="utf-8")
    return folder


FLEURS_ROWS = {
    "train": [(7, "700", "MALE"), (8, "800", "FEMALE")],
    "dev": [(9, "900", "FEMALE")],
    "test": [(7, "701", "FEMALE"), (5, "501", "MALE"), (4, "401", "MALE")],
}
ENGLISH_ROWS = {
    "train": [(7, "1", "MALE")],
    "dev": [(9, "2", "MALE")],
    "test": [(7, "3", "MALE"), (5, "4", "MALE")],
}


def make_fleurs(
    root: Path, code: str = "ca_es", rows: dict | None = None, packed: bool = True
) -> Path:
    """Write a language in the published layout under data/, its sounds in archives or unpacked."""
    folder = root / "data" / code
    for table, lines in (rows or FLEURS_ROWS).items():
        for _, name, _ in lines:
            write_sound(
                folder / "audio" / table / f"{name}.wav", pitch=100 + int(name) % 500, kind="WAV"
            )
        cells = (
            (i, f"{name}.wav", f'Raw "{i}, {code}.', f"{code} {table} {i}", "r a w |", 4800, gender)
            for i, name, gender in lines
        )
        (folder / f"{table}.tsv").write_text(
            "".join("\t".join(map(str, row)) + "\n" for row in cells), encoding="utf-8"
        )
        if packed:
            pack(folder / "audio" / table, folder / "audio" / f"{table}.tar.gz")
            shutil.rmtree(folder / "audio" / table)
    return folder


def make_fleurs_parquet(root: Path, published: Path) -> Path:
    """Write an unpacked language in the hub's parquet layout."""
    folder = root / published.name
    for table, split in (("train", "train"), ("dev", "validation"), ("test", "test")):
        rows = []
        for line in (published / f"{table}.tsv").read_text(encoding="utf-8").splitlines():
            number, name, raw, text, _, samples, gender = line.split("\t")
            sound = {
                "bytes": (published / "audio" / table / name).read_bytes(),
                "path": f"{table}/{name}",
            }
            rows.append(
                {
                    "id": int(number),
                    "num_samples": int(samples),
                    "path": f"cache/{name}",
                    "audio": sound,
                    "transcription": text,
                    "raw_transcription": raw,
                    "gender": int(gender == "FEMALE"),
                }
            )
        (folder / split).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / split / "0000.parquet")
    return folder


def make_recordings(root: Path, count: int = 60, header: str = "path,text,speaker") -> Path:
    """Write recordings of fifteen speakers; returns the folder."""
    root.mkdir(parents=True, exist_ok=True)
    lines = [header]
    for i in range(count):
        write_sound(root / "sound" / f"{i}.wav", 0.2, 200 + 5 * i, "WAV")
        lines.append(f'sound/{i}.wav,"Hola, {i % 20}.",speaker {i % 15}')
    (root / "recordings.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root
