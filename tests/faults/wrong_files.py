"""Wrong files: tables of recordings, sounds, and folders of Whisper and of experts."""

import io
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from made_corpora import tone
from safetensors.torch import load_file, save_file

# ---- tables of recordings: name -> (recordings.csv, how many rows are read, how many
# others must be told); 0 rows: an error

_GOOD = ["a.wav,one,s1", "b.wav,two,s2", "c.wav,three,s3", "d.wav,four,s4"]
SOUNDS = ("a.wav", "b.wav", "c.wav", "d.wav")


def _table(*lines: str, header: str = "path,text,speaker", end: str = "\n") -> bytes:
    return (end.join((header, *lines)) + end).encode()


def _with(line: str) -> tuple[bytes, int, int]:
    """Return a table with a line more than the good ones."""
    return _table(*_GOOD[:2], line, *_GOOD[2:]), 4, 1


TABLES: dict[str, tuple[bytes, int, int]] = {
    "empty file": (b"", 0, 0),
    "white space alone": (b" \n \n", 0, 0),
    "header alone": (_table(), 0, 0),
    "no header": (_table(*_GOOD[1:], header=_GOOD[0]), 0, 0),
    "no column text": (_table("a.wav,s1", header="path,speaker"), 0, 0),
    "no column path": (_table("one,s1", header="text,speaker"), 0, 0),
    "a column twice": (_table(*_GOOD, header="path,text,text"), 0, 0),
    "binary": (bytes(range(256)) * 4, 0, 0),
    "a sound": (b"RIFF\x00\x00\x00\x00WAVEfmt ", 0, 0),
    "JSON": (b'[{"path": "a.wav", "text": "one"}]', 0, 0),
    "Excel": (b"PK\x03\x04" + bytes(range(200)), 0, 0),
    "UTF-16": (_table(*_GOOD).decode().encode("utf-16"), 4, 0),
    "UTF-16 without its mark": (_table(*_GOOD).decode().encode("utf-16-le"), 4, 0),
    "Latin-1": (_table("a.wav,caf\u00e9,s1").decode().encode("latin-1"), 0, 0),
    "a byte order mark": (b"\xef\xbb\xbf" + _table(*_GOOD), 4, 0),
    "semicolons": (_table(*_GOOD, header="path,text,speaker").replace(b",", b";"), 4, 0),
    "tabs": (_table(*_GOOD).replace(b",", b"\t"), 4, 0),
    "carriage returns": (_table(*_GOOD, end="\r"), 4, 0),
    "Windows lines": (_table(*_GOOD, end="\r\n"), 4, 0),
    "spaces in the header": (_table(*_GOOD, header=" path , text , speaker "), 4, 0),
    "capitals in the header": (_table(*_GOOD, header="Path,Text,Speaker"), 4, 0),
    "names of the hub": (_table(*_GOOD, header="file_name,transcription,speaker"), 4, 0),
    "an empty path": _with(",five,s5"),
    "commas alone": (_with(",,")[0], 4, 0),  # as spreadsheets write them
    "a path too long": _with("x" * 5000 + ".wav,five,s5"),
    "a quote never closed": (_table(*_GOOD[:2], '"c.wav,three,s3', _GOOD[3]), 3, 1),
    "a NUL": _with("a\0.wav,five,s5"),
    "a path outside": _with("../../etc/passwd,five,s5"),
    "an absolute path": _with("/etc/passwd,five,s5"),
    "no such sound": _with("e.wav,five,s5"),
    "a folder as sound": _with(".,five,s5"),
    "too many fields": _with("a.wav,five,s5,more,more"),
    "too few fields": _with("a.wav"),
    "an empty text": _with("a.wav,,s5"),
    "a text of spaces": _with('a.wav,"   ",s5'),
    "a text of signs": _with("a.wav,...,s5"),
    "the same file twice": _with("a.wav,other,s5"),
    "another language": (_table("a.wav,one,s1,de", header="path,text,speaker,language"), 0, 0),
    "an unknown split": (_table("a.wav,one,s1,best", header="path,text,speaker,split"), 0, 0),
    "a token as text": _with("a.wav,<|endoftext|> five,s5"),
}


def write_recordings(folder: Path, content: bytes) -> None:
    """Write a table beside four sounds."""
    folder.mkdir(parents=True)
    (folder / "recordings.csv").write_bytes(content)
    for number, name in enumerate(SOUNDS):
        soundfile.write(folder / name, tone(0.4, 16_000, 200 + 40 * number), 16_000)


# ---- sounds: name -> what `read_audio` gets


def _file(samples: np.ndarray, rate: int = 16_000, **form) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **({"format": "WAV"} | form))
    return buffer.getvalue()


def _array(samples, rate=16_000) -> dict:
    return {"array": samples, "sampling_rate": rate}


_TONE = tone(0.4, 16_000)
_BAD = _TONE.copy()
_BAD[100] = np.nan
SOUND_VALUES: dict[str, object] = {
    "no bytes": b"",
    "a text": b"these are no samples",
    "a header alone": _file(_TONE)[:44],
    "a header cut off": _file(_TONE)[:20],
    "flac with a hole": _file(_TONE, format="FLAC")[:300] + bytes(200),
    "no samples": _file(_TONE[:0]),
    "zip": b"PK\x03\x04" + bytes(100),
    "m4a cut off": b"\x00\x00\x00\x20ftypM4A " + bytes(40),
    "silence": _file(np.zeros(8000, np.float32)),
    "channels that cancel out": _file(np.stack([_TONE, -_TONE], 1), subtype="FLOAT"),
    "not a number": _file(_BAD, subtype="FLOAT"),
    "scale of int16": _file(_TONE * 32_768, subtype="FLOAT"),
    "no such file": "/no/such/file.wav",
    "a folder": ".",
    "an empty name": "",
    "a NUL in the name": "x\0y.wav",
    "a number": 3,
    "nothing": None,
    "a list": [0.1, 0.2],
    "an empty mapping": {},
    "array of nothing": _array(np.zeros(0, np.float32)),
    "array not a number": _array(_BAD),
    "array infinite": _array(np.full(8000, np.inf, np.float32)),
    "array of silence": _array(np.zeros(8000, np.float32)),
    "array of text": _array(np.array(["a", "b"])),
    "array of objects": _array(np.array([None, 1], object)),
    "array of complex": _array(_TONE.astype(complex)),
    "array of truths": _array(_TONE > 0),
    "array of three dimensions": _array(np.zeros((2, 3, 400), np.float32) + 0.1),
    "array of many channels": _array(np.full((500, 600), 0.1, np.float32)),
    "array that is None": _array(None),
    "array too loud": _array(_TONE * 1000),
    "rate of zero": _array(_TONE, 0),
    "rate below zero": _array(_TONE, -16_000),
    "rate that is text": _array(_TONE, "16000"),
    "rate that is None": _array(_TONE, None),
    "rate not a number": _array(_TONE, float("nan")),
    "rate infinite": _array(_TONE, float("inf")),
    "rate of 1 Hz": _array(_TONE, 1),
    "no rate": {"array": _TONE},
}

# ---- folders of a model, changed: name -> function of the folder

Change = Callable[[Path], None]


def _json(name: str, **changes) -> Change:
    def change(folder: Path) -> None:
        path = folder / name
        value = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: one for key, one in value.items() if one != "gone"}))

    return change


def _tensors(change_of: Callable[[dict[str, torch.Tensor]], None]) -> Change:
    def change(folder: Path) -> None:
        path = next(folder.glob("experts.*.safetensors"), folder / "model.safetensors")
        tensors = load_file(path)
        change_of(tensors)
        save_file(tensors, path, {"format": "pt"})

    return change


def _content(pattern: str, content: bytes | None) -> Change:
    def change(folder: Path) -> None:
        for path in folder.glob(pattern):
            path.write_bytes(content) if content is not None else path.unlink()

    return change


def _weight(tensors: dict) -> str:
    """Return the name of a tensor of the encoder's layers."""
    return next(name for name in sorted(tensors) if "fc1" in name or "linear1" in name)


def _missing(tensors: dict) -> None:
    del tensors[_weight(tensors)]


def _unexpected(tensors: dict) -> None:
    tensors["model.encoder.more.weight"] = torch.ones(3)


def _misshapen(tensors: dict) -> None:
    tensors[_weight(tensors)] = torch.ones(3, 5)


def _filled(value: float) -> Callable[[dict], None]:
    def fill(tensors: dict) -> None:
        name = _weight(tensors)
        tensors[name] = torch.full_like(tensors[name], value)

    return fill


def _whole(tensors: dict) -> None:
    name = _weight(tensors)
    tensors[name] = tensors[name].to(torch.int32)


def _one_layer_less(tensors: dict) -> None:
    for name in [name for name in tensors if ".layers.1." in name]:
        del tensors[name]


def _pickled(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))


def _index_outside(folder: Path) -> None:
    path = next(folder.glob("*.safetensors"))
    outside = folder.parent / "outside.safetensors"
    shutil.move(path, outside)
    names = dict.fromkeys(load_file(outside), "../outside.safetensors")
    text = json.dumps({"metadata": {}, "weight_map": names})
    (folder / "model.safetensors.index.json").write_text(text)


def _cut_weights(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


WEIGHTS: dict[str, Change] = {
    "a tensor missing": _tensors(_missing),
    "a layer missing": _tensors(_one_layer_less),
    "a tensor misshapen": _tensors(_misshapen),
    "a tensor not a number": _tensors(_filled(float("nan"))),
    "a tensor infinite": _tensors(_filled(float("inf"))),
    "a tensor of whole numbers": _tensors(_whole),
    "a tensor too many": _tensors(_unexpected),
    "no tensors": _tensors(dict.clear),
    "weights cut": _cut_weights,
    "weights empty": _content("*.safetensors", b""),
    "weights as text": _content("*.safetensors", b"no weights"),
    "weights missing": _content("*.safetensors", None),
}


WHISPERS: dict[str, Change] = WEIGHTS | {
    "weights pickled": _pickled,
    "an index that points outside": _index_outside,
    "no config.json": _content("config.json", None),
    "config.json empty": _content("config.json", b""),
    "config.json a list": _content("config.json", b"[]"),
    "config.json of another model": _json("config.json", model_type="bert"),
    "config.json without a type": _json("config.json", model_type="gone"),
    "more layers": _json("config.json", encoder_layers=5),
    "another width": _json("config.json", d_model=48),
    "no layers": _json("config.json", decoder_layers=0),
    "layers as text": _json("config.json", encoder_layers="two"),
    "another vocabulary": _json("config.json", vocab_size=10),
}
EXPERTS: dict[str, Change] = WEIGHTS | {
    "no experts.json": _content("experts.json", None),
    "experts.json empty": _content("experts.json", b""),
    "experts.json a list": _content("experts.json", b"[]"),
    "always_open as text": lambda folder: _setting(folder, "always_open", "false"),
    "gate_dim as text": lambda folder: _setting(folder, "gate_dim", "64"),
    "gate_dim of zero": lambda folder: _setting(folder, "gate_dim", 0),
    "dropout over 1": lambda folder: _setting(folder, "expert_dropout", 7),
    "a setting too many": lambda folder: _setting(folder, "more", 1),
}


def _setting(folder: Path, name: str, value: object) -> None:
    """Change a setting in experts.json, wherever it stands."""
    path = folder / "experts.json"
    stored = json.loads(path.read_text())
    part = stored.get("settings", stored)
    part[name] = value
    path.write_text(json.dumps(stored))
