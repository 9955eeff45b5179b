"""The demo: what it computes, how page and worker talk, what is shown, and its environment.

The page itself is tested in tests/demo, in a browser (make test-all).
"""

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from made_corpora import tone
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from distilwhisper_lib.data.audio import SAMPLE_RATE
from distilwhisper_lib.demo import client, markup, page, worked, worker
from distilwhisper_lib.evaluation.scoring import count_errors, word_errors
from distilwhisper_lib.lab.lab import Lab
from distilwhisper_lib.method.blocks import clsr_blocks
from distilwhisper_lib.presets import LAPTOP

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
KEY = "cs/in-domain"


def load_tool(name):
    """Import a file of tools/, which is not a package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


setup_env = load_tool("setup_env")
update_lock = load_tool("update_lock")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A lab at `smoke` in which two methods are trained; clips are decoded one by one."""
    folder = tmp_path_factory.mktemp("lab")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_CACHE", str(folder / "cache"))
        patch.setenv("LAB_RESULTS", str(folder / "results"))
        patch.setenv("LAB_PRECISION", "no")
        found = Lab("smoke", eval_batch_size=1)
        for name in ("fine-tuning", "experts"):
            found.train(name)
    return found


@pytest.fixture
def demo(lab):
    return worked.Demo(lab)


def write(path, audio, rate=SAMPLE_RATE):
    soundfile.write(path, audio, rate)
    return path


def kinds(answers):
    return [(answer["kind"], answer.get("name")) for answer in answers if answer["kind"] != "sound"]


# ---- what is there


def test_what_is_trained_is_offered_and_the_rest_is_named(demo, lab):
    before = sorted(lab.folder.rglob("*"))
    about = demo.about()
    assert [system["name"] for system in about["systems"]] == ["student", "fine-tuning", "experts"]
    assert [system["name"] for system in about["untrained"]] == ["teacher", "lora", "distilwhisper"]
    assert about["command"] == "make course PRESET=smoke" and about["made_up"]
    assert {KEY, "cs/out-of-domain", "cs/noise"} <= set(about["tests"])
    assert not any("retention" in key or "validation" in key for key in about["tests"])
    assert about["tests"][KEY] == list(
        zip(lab.test_clips(KEY).ids, lab.test_clips(KEY).texts, strict=True)
    )
    assert about["example"]["clip"] == lab.test_clips(about["example"]["test"]).ids[0]
    assert sorted(lab.folder.rglob("*")) == before, "something was computed"


@pytest.mark.parametrize("name", ["lora", "distilwhisper", "teacher"])
def test_a_system_that_is_not_trained_is_refused_and_not_trained(name, demo, lab):
    before = sorted(lab.folder.rglob("*"))
    sound = demo.clip(KEY, lab.test_clips(KEY).ids[0])
    with pytest.raises(ValueError, match="not trained here: make course PRESET=smoke"):
        list(demo.work(sound, ["student", name]))
    assert sorted(lab.folder.rglob("*")) == before


def test_no_system_is_refused(demo, lab):
    sound = demo.clip(KEY, lab.test_clips(KEY).ids[0])
    with pytest.raises(ValueError, match="tick at least one"):
        list(demo.work(sound, []))


def test_weights_and_speech_that_are_not_here_are_named_and_not_fetched(monkeypatch):
    monkeypatch.setattr(worked, "find_in_cache", lambda *_: None)
    about = worked.Demo(Lab(LAPTOP)).about()
    assert about["missing"] == [
        "the weights of openai/whisper-base",
        "the speech of fillets in Czech",
        "the speech of stamps in Catalan",
    ]
    assert about["command"] == "make course PRESET=laptop" and not about["made_up"]
    assert not about["systems"] and not about["tests"]


def test_what_learns_from_a_teacher_that_is_not_here_is_not_looked_for(monkeypatch):
    monkeypatch.setattr(worked, "find_in_cache", lambda *_: None)
    lab = Lab("smoke", teacher="somebody/large")
    ready = {name: worked.is_ready(lab, name) for name in ("student", "teacher", "distilwhisper")}
    assert ready == {"student": True, "teacher": False, "distilwhisper": False}


# ---- texts


def test_each_system_writes_what_it_writes_in_the_comparison(demo, lab):
    systems = ["experts", "student", "fine-tuning"]
    for clip in lab.test_clips(KEY).ids[:2]:
        answers = list(demo.work(demo.clip(KEY, clip), systems))
        assert answers[0]["kind"] == "sound"
        in_order = [("text", name) for name in ("student", "fine-tuning", "experts")]
        assert kinds(answers) == [*in_order, ("gates", "experts")]
        for answer in answers[1:4]:
            table = lab.transcribe(answer["name"], KEY).set_index("id")
            assert answer["text"] == table.loc[clip, "prediction"]
            assert answer["seconds"] > 0
    json.dumps(answers)


def test_a_clip_of_a_changed_test_has_the_changed_sound(demo, lab):
    clip = lab.test_clips("cs/noise").ids[1]
    plain = demo.clip(KEY, clip)
    noisy = demo.clip("cs/noise", clip)
    assert noisy.reference == plain.reference != ""
    power = np.mean((noisy.audio - plain.audio) ** 2) / np.mean(plain.audio**2)
    assert 10 * np.log10(power) == pytest.approx(-5, abs=0.5)
    with pytest.raises(ValueError, match="has no clip 'nothing'"):
        demo.clip(KEY, "nothing")


@pytest.mark.parametrize(
    ("reference", "text", "marks"),
    [
        ("Malý bůh.", "malý bůh", [("equal", "malý", "malý"), ("equal", "bůh", "bůh")]),
        ("a b c", "a c", [("equal", "a", "a"), ("delete", "b", ""), ("equal", "c", "c")]),
        ("a", "a b", [("equal", "a", "a"), ("insert", "", "b")]),
        ("a b", "x y", [("substitute", "a", "x"), ("substitute", "b", "y")]),
        ("a", "", [("delete", "a", "")]),
        ("", "a", []),
        ("…", "a", []),
    ],
)
def test_words_are_marked_one_by_one(reference, text, marks):
    assert worked.marked_words(reference, text, "whisper-basic") == marks


@pytest.mark.parametrize("text", ["", "one", "three one two", "one too three four", "x y z v w"])
def test_marks_and_wer_are_those_of_the_score(text):
    reference = "one two three"
    marks = worked.marked_words(reference, text, "whisper-basic")
    errors = word_errors(count_errors([reference], [text])).iloc[0]
    assert sum(kind != "equal" for kind, _, _ in marks) == errors
    assert worked.word_error_rate(reference, text, "whisper-basic") == 100 * errors / 3
    assert " ".join(before for _, before, _ in marks if before) == reference
    assert " ".join(after for _, _, after in marks if after) == text


def test_without_a_reference_there_is_no_wer(demo, tmp_path):
    path = write(tmp_path / "a.wav", tone(0.5, SAMPLE_RATE))
    _, answer = demo.work(demo.own(path), ["student"])
    assert answer["wer"] is None and answer["marks"] == []
    _, answer = demo.work(demo.own(path, " a b "), ["student"])
    assert answer["wer"] >= 100 and len(answer["marks"]) >= 2


# ---- sounds


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("notes.txt", b"not a sound", "cannot decode the sound"),
        ("empty.wav", b"", "the file is empty"),
        ("broken.wav", None, "it is cut off after"),
        ("silent.wav", np.zeros(8000), "nothing but digital silence"),
        ("quiet.wav", 0.0004 * np.sin(np.arange(16000) / 5), "nothing is louder than -60 dB"),
        ("long.wav", 0.3 * np.sin(np.arange(121 * 8000) / 5), "is too long: the demo takes up to"),
    ],
)
def test_a_file_that_cannot_be_transcribed_is_told_by_its_name(name, content, told, tmp_path):
    path = tmp_path / name
    if content is None:
        path.write_bytes(write(tmp_path / "whole.wav", tone(1)).read_bytes()[:9000])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write(path, content, 8000)
    with pytest.raises(ValueError, match=told) as caught:
        worked.own_sound(path)
    assert str(caught.value).startswith(name)
    assert str(tmp_path) not in str(caught.value)


def test_a_long_sound_is_cut_and_silent_pieces_are_left_out(lab, tmp_path):
    audio = np.concatenate([tone(5, SAMPLE_RATE), np.zeros(12 * SAMPLE_RATE), tone(3, SAMPLE_RATE)])
    path = write(tmp_path / "a.wav", audio)
    assert len(worked.Demo(lab).own(path).pieces) == 1

    demo = worked.Demo(Lab(replace(lab.preset, max_train_seconds=6.0)))
    sound = demo.own(path)
    assert len(sound.pieces) > 3
    assert all(piece.seconds <= 6 for piece in sound.pieces)
    assert 0 < len(sound.loud_pieces) < len(sound.pieces)
    texts, _ = demo.transcribe("student", sound)
    assert len(texts) == len(sound.loud_pieces)
    told, text = demo.work(sound, ["student"])
    assert told["pieces"] == len(sound.pieces) and told["longest"] <= 6
    assert text["text"] == " ".join(texts)


# ---- gates


def open_layer(model, stack, layer):
    """Let the gates of one layer send every position to the expert, and all others none."""
    blocks = clsr_blocks(model)
    depth = model.config.encoder_layers
    chosen = layer if stack == "encoder" else depth + layer
    for index, block in enumerate(blocks):
        gate = block.gates["cs"]
        torch.nn.init.zeros_(gate.linear1.weight)
        torch.nn.init.ones_(gate.linear1.bias)
        torch.nn.init.constant_(gate.linear2.weight, 1.0 if index == chosen else -1.0)


@pytest.mark.parametrize(("stack", "layer"), [("encoder", 1), ("decoder", 0)])
def test_gates_are_shown_where_they_are_open(stack, layer, demo, lab):
    with torch.no_grad():
        open_layer(demo._model("experts"), stack, layer)
    sound = demo.clip(KEY, lab.test_clips(KEY).ids[0])
    *_, answer = demo.work(sound, ["experts"])
    other = "decoder" if stack == "encoder" else "encoder"
    shares = answer[stack]["shares"]
    assert shares == [100.0 if index == layer else 0.0 for index in range(len(shares))]
    assert set(answer[other]["shares"]) == {0.0}


def test_gates_have_a_position_for_two_frames_of_sound_and_one_for_a_token(demo, lab):
    sound = demo.clip(KEY, lab.test_clips(KEY).ids[0])
    gates = demo.gates("experts", sound.audio, "a b")
    frames = gates.features.shape[1]
    assert frames == pytest.approx(len(sound.audio) / 160, abs=2)
    assert gates.encoder.shape == (2, (frames + 1) // 2)
    assert gates.decoder.shape == (2, len(gates.tokens))
    assert gates.tokens[:4] == ["startoftranscript", "cs", "transcribe", "notimestamps"]
    assert gates.tokens[4:] == ["a", "·", "b"]


def test_a_text_that_is_too_long_for_a_picture_is_cut(demo, lab):
    sound = demo.clip(KEY, lab.test_clips(KEY).ids[0])
    gates = demo.gates("experts", sound.audio, "a$ " * 400)
    told = demo._told_gates("experts", gates)
    assert (told["drawn"], told["tokens"]) == (worked.MOST_DRAWN, len(gates.tokens))
    assert told["encoder"]["png"] and told["decoder"]["png"]


# ---- the worker


class Stubborn:
    """Says what it is asked; one question breaks it."""

    def about(self):
        return {"preset": "smoke"}

    def clip(self, test, clip):
        if clip == "broken":
            raise RuntimeError("a fault")
        return f"{test} {clip}"

    def own(self, path, reference):
        raise ValueError(f"{path} is no sound")

    def work(self, sound, systems):
        yield {"kind": "sound", "name": sound}
        yield {"kind": "text", "name": systems[0]}


def served(*questions):
    output = io.StringIO()
    worker.serve(Stubborn(), [json.dumps(question) for question in questions], output)
    return [json.loads(line) for line in output.getvalue().splitlines()]


def test_the_worker_answers_questions_in_order():
    clip = {"ask": "clip", "test": "t", "clip": "c", "systems": ["student"]}
    assert served({"ask": "about"}, clip) == [
        {"answer": {"preset": "smoke"}},
        {"done": True},
        {"answer": {"kind": "sound", "name": "t c"}},
        {"answer": {"kind": "text", "name": "student"}},
        {"done": True},
    ]


def test_the_worker_goes_on_after_an_error_and_tells_it_in_a_sentence(capsys):
    file = {"ask": "file", "path": "a.wav", "reference": "", "systems": ["student"]}
    fault = {"ask": "clip", "test": "t", "clip": "broken", "systems": ["student"]}
    answers = served(file, fault, {"ask": "about"})
    assert answers[0] == {"error": "a.wav is no sound"}
    assert answers[1] == {"error": worker.UNEXPECTED}
    assert answers[2:] == [{"answer": {"preset": "smoke"}}, {"done": True}]
    said = capsys.readouterr().err
    assert "RuntimeError: a fault" in said and "a.wav" not in said


ECHO = """
import json, sys
for line in sys.stdin:
    question = json.loads(line)
    if question["ask"] == "end":
        sys.exit(1)
    if question["ask"] == "wrong":
        print(json.dumps({"answer": 0}))
        print(json.dumps({"error": "a sentence"}), flush=True)
        continue
    for number in range(question["count"]):
        print(json.dumps({"answer": number}), flush=True)
    print(json.dumps({"done": True}), flush=True)
"""


@pytest.fixture
def echo():
    found = client.Worker([sys.executable, "-c", ECHO])
    yield found
    found.close()


def test_answers_come_as_they_are_given(echo):
    assert list(echo.ask(ask="count", count=3)) == [0, 1, 2]
    assert list(echo.ask(ask="count", count=0)) == []


def test_the_rest_of_an_answer_that_nobody_waits_for_is_left_out(echo):
    answers = echo.ask(ask="count", count=1000)
    assert next(answers) == 0
    answers.close()
    assert list(echo.ask(ask="count", count=2)) == [0, 1]


def test_an_error_is_told_after_what_was_answered(echo):
    answers = echo.ask(ask="wrong")
    assert next(answers) == 0
    with pytest.raises(client.WorkerError, match="^a sentence$"):
        next(answers)
    assert list(echo.ask(ask="count", count=1)) == [0]


def test_a_worker_that_has_ended_is_told_and_started_anew(echo):
    with pytest.raises(client.WorkerError, match="starts anew"):
        list(echo.ask(ask="end"))
    assert list(echo.ask(ask="count", count=2)) == [0, 1]


def test_a_closed_worker_has_ended(echo):
    list(echo.ask(ask="count", count=1))
    process = echo._process
    echo.close()
    assert process.poll() == 0


def test_the_real_worker_answers_a_page_and_prints_nothing_between(monkeypatch):
    monkeypatch.setenv("LAB_PRESET", "smoke")
    found = client.Worker([sys.executable, "-m", "distilwhisper_lib.demo.worker"])
    try:
        (about,) = found.ask(ask="about")
        assert [system["name"] for system in about["systems"]] == ["student"]
        answers = list(found.ask(ask="clip", systems=["student"], **about["example"]))
        assert kinds(answers) == [("text", "student")]
    finally:
        found.close()


# ---- what is shown


def test_texts_of_models_and_readers_are_escaped():
    bad = "<script>alert(1)</script>"
    text = {"name": "lora", "label": "LoRA", "text": bad, "wer": 50.0, "seconds": 1.234}
    text["marks"] = [("substitute", bad, bad), ("delete", bad, ""), ("insert", "", bad)]
    shown = markup.texts([text], bad, "whisper-basic")
    told = {"name": bad, "seconds": 1, "pieces": 1, "longest": 1, "flac": ""}
    shown += markup.problem(bad) + markup.note(bad) + markup.sound(told)
    assert "<script" not in shown and shown.count("&lt;script&gt;") == 9
    assert "50.0" in shown and "1.23" in shown


def test_marks_strike_out_what_is_missing_and_underline_what_is_wrong():
    words = [
        ("equal", "a", "a"),
        ("substitute", "b", "x"),
        ("delete", "c", ""),
        ("insert", "", "d"),
    ]
    assert markup.marks(words) == "a <del>b</del> <ins>x</ins> <del>c</del> <ins>d</ins>"


def test_without_a_reference_nothing_is_compared():
    text = {"name": "lora", "label": "LoRA", "text": "a", "wer": None, "marks": [], "seconds": 1}
    shown = markup.texts([text], "", "whisper-basic")
    assert "WER" not in shown and "Reference" not in shown and "Struck out" not in shown


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"missing": ["the speech of x"], "untrained": []}, "the speech of x must be fetched"),
        ({"missing": [], "untrained": [{"label": "LoRA"}]}, "Not trained here yet: LoRA."),
    ],
)
def test_what_is_missing_is_shown_with_its_command(about, told):
    shown = markup.missing({**about, "command": "make course PRESET=toy"})
    assert told in shown and "<code>make course PRESET=toy</code>" in shown


def test_nothing_is_shown_where_nothing_is_missing():
    assert markup.missing({"missing": [], "untrained": [], "command": "make course"}) == ""


def test_a_picture_of_gates_is_told_in_words():
    stack = {"shares": [100.0, 12.4], "png": "AA"}
    answer = {"label": "Experts", "encoder": stack, "decoder": stack, "tokens": 50, "drawn": 40}
    shown = markup.gates([answer], pieces=2)
    texts = re.findall(r'alt="([^"]*)"', shown)
    assert len(texts) == 2 and all("100 %, 12 %" in text for text in texts)
    assert "the first 40 of 50 tokens" in texts[1]
    assert "first piece" in shown and "first piece" not in markup.gates([answer], pieces=1)


def test_the_page_says_where_a_voice_is_not_understood():
    about = {"language": "Czech", "preset": "toy", "made_up": True}
    told = page._introduction(about)
    assert "Czech" not in told and "make demo PRESET=laptop" in told
    told = page._introduction({**about, "preset": "laptop", "made_up": False})
    assert "Czech" in told and "made-up" not in told


class Answering:
    """A worker that gives answers, then an error where there is one."""

    def __init__(self, answers, error=None):
        self.answers, self.error = answers, error

    def ask(self, **_):
        yield from self.answers
        if self.error:
            raise client.WorkerError(self.error)


SOUND = {"kind": "sound", "name": "a.wav", "seconds": 1.0, "pieces": 1, "longest": 1.0}
SOUND |= {"reference": "a", "flac": "AA"}
TEXT = {"kind": "text", "name": "lora", "label": "LoRA", "text": "a", "wer": 0.0, "seconds": 1}
TEXT |= {"marks": [("equal", "a", "a")]}


def test_the_page_fills_as_answers_come():
    states = list(page.answered(Answering([SOUND, TEXT]), {"ask": "clip"}, "whisper-basic"))
    assert "The systems listen" in states[0][1]
    assert "a.wav" in states[1][0] and "LoRA" not in states[1][1]
    assert "LoRA" in states[2][1] and len(states) == 3


def test_the_page_keeps_what_it_has_where_an_error_comes_later():
    worker_with_error = Answering([SOUND, TEXT], "no memory")
    *_, (sound, texts, _) = page.answered(worker_with_error, {"ask": "clip"}, "whisper-basic")
    assert "a.wav" in sound and "LoRA" in texts
    assert 'role="alert">no memory<' in texts


# ---- the environment

DEMO_LOCK = update_lock.DEMO_LOCK
PINS = [Requirement(pin) for pin in update_lock.read_pins(DEMO_LOCK)]
NEEDED = [Requirement(text) for text in SETTINGS["dependency-groups"]["demo"]]


def test_every_package_has_one_pin_and_the_hashes_of_its_files():
    text = DEMO_LOCK.read_text(encoding="utf-8")
    entries = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    entry = r"[a-z0-9-]+==[0-9][A-Za-z0-9.]*( ; [^\\\n]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+"
    assert re.fullmatch(rf"({entry}\n?)+", entries)
    assert len({pin.name for pin in PINS}) == len(PINS) > 30
    assert not re.search(r"https?:|file:|index-url|find-links", text)


def test_pins_fit_what_the_demo_needs():
    versions = {canonicalize_name(pin.name): str(pin.specifier).lstrip("=") for pin in PINS}
    for requirement in NEEDED:
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])
    assert not {"torch", "transformers", "datasets"} & set(versions)


def pin_of(lock, name):
    pins = map(Requirement, update_lock.read_pins(lock))
    return next(pin for pin in pins if canonicalize_name(pin.name) == name)


def test_gradio_still_needs_an_environment_of_its_own():
    """The demo needs a worker as long as Gradio refuses the course's Pillow: docs/demo.md."""
    ours = str(pin_of(update_lock.LOCK, "pillow").specifier).lstrip("=")
    theirs = str(pin_of(DEMO_LOCK, "pillow").specifier).lstrip("=")
    assert int(theirs.split(".")[0]) < int(ours.split(".")[0]), "could both be one environment now?"


def test_the_lock_is_resolved_from_the_group(monkeypatch):
    asked = []

    def compile_pins(wanted, pins):
        asked.append((wanted, pins))
        return "gradio==6.31.0 \\\n    --hash=sha256:00\n"

    monkeypatch.setattr(update_lock, "_compile", compile_pins)
    assert update_lock.resolve_demo(keep=True) == "gradio==6.31.0 \\\n    --hash=sha256:00\n"
    (wanted, pins), *_ = asked
    assert set(SETTINGS["dependency-groups"]["demo"]) < set(wanted)
    assert any(pin.startswith("gradio==") for pin in pins)


def test_the_environment_of_the_demo_is_made_from_its_lock(monkeypatch, tmp_path, capsys):
    asked = []

    def make_venv(python):
        asked.append(python)
        python.parent.mkdir(parents=True)
        python.touch()

    lock = tmp_path / "lock"
    lock.write_text("gradio==6\n", encoding="utf-8")
    monkeypatch.setattr(setup_env, "DEMO_VENV", tmp_path / "venv")
    monkeypatch.setattr(setup_env, "DEMO_LOCK", lock)
    monkeypatch.setattr(setup_env, "make_venv", make_venv)
    monkeypatch.setattr(setup_env, "pip_locked", lambda *words: asked.append(words[1:]))
    monkeypatch.setattr(setup_env, "pip", lambda *words: asked.append(words[2:]))
    for _ in range(2):
        monkeypatch.setattr(setup_env.sys, "argv", ["setup_env.py", "--demo"])
        setup_env.main()
    checked = ("--require-hashes", "--no-deps", "-r", str(lock))
    assert asked == [setup_env.venv_python(tmp_path / "venv"), ("pip", lock), checked]
    assert "for the demo" in capsys.readouterr().out


@pytest.mark.parametrize("other", ["--gpu", "--here", "--book"])
def test_options_of_other_environments_are_refused(other, monkeypatch):
    monkeypatch.setattr(setup_env.sys, "argv", ["setup_env.py", "--demo", other])
    with pytest.raises(SystemExit, match="--demo"):
        setup_env.main()


def make(*words):
    """Return what make would run, whatever the make that runs these tests was told."""
    ours = ("ARGS", "PRESET", "MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "MAKELEVEL")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    command = ["make", "-n", "--no-print-directory", *words]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize(
    ("words", "preset", "end"),
    [
        ((), "toy", "\n"),
        (("PRESET=laptop",), "laptop", "\n"),
        (("ARGS=--port 8000",), "toy", "--port 8000\n"),
    ],
)
def test_make_starts_the_page_in_its_environment_at_the_preset(words, preset, end):
    said = make("demo", *words)
    start = f"LAB_PRESET={preset} .venv-demo/bin/python -m distilwhisper_lib demo"
    assert f"{start} --python .venv/bin/python" in said
    assert said.index("setup_env.py --demo") < said.index(start)
    assert said.rstrip(" \n").endswith(end.strip() or ".venv/bin/python")


def test_test_all_calls_the_tests_in_the_browser_and_test_does_not():
    assert "--confcutdir=tests/demo tests/demo" in make("test-all")
    assert "demo" in SETTINGS["tool"]["pytest"]["ini_options"]["norecursedirs"]
    assert "tests/demo" not in make("test")


def test_the_page_needs_nothing_of_the_courses_environment():
    """What runs in .venv-demo loads neither torch nor any other package of the course."""
    imports = "import sys, distilwhisper_lib.__main__, distilwhisper_lib.demo.page"
    code = f"{imports}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"torch", "numpy", "filelock"} & set(done.stdout.split())
