"""The benchmarks run, compare like with like, and know the work that they measure."""

import importlib
import inspect
import math
import os
import pkgutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.utils.flop_counter import FlopCounterMode
from torch_versions import ONE_GRAPH

import benchmarks
from benchmarks import inference, measuring, memory, preparation, storage, training
from distilwhisper_lib.data.corpora import common_voice
from distilwhisper_lib.method import attach, experts, routing
from distilwhisper_lib.method.attach import attach_experts
from distilwhisper_lib.method.blocks import clsr_blocks, expert_parameters
from distilwhisper_lib.method.languages import use_language
from distilwhisper_lib.programs import Failed
from distilwhisper_lib.whisper.tiny import tiny_whisper
from distilwhisper_lib.whisper.window import use_window


def members(module):
    """Return the functions of a module and the members of its classes, by name."""
    found = {}
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) != module.__name__:
            continue
        found[name] = value
        if inspect.isclass(value):
            found |= {f"{name}.{key}": member for key, member in vars(value).items()}
    return found


def test_importing_the_benchmarks_leaves_the_library_as_it_was():
    before = [members(module) for module in (attach, experts, routing)]
    for module in pkgutil.iter_modules(benchmarks.__path__):
        importlib.reload(importlib.import_module(f"benchmarks.{module.name}"))
    after = [members(module) for module in (attach, experts, routing)]
    for old, new in zip(before, after, strict=True):
        assert old.keys() == new.keys()
        assert all(old[name] is new[name] for name in old)

    own = "distilwhisper_lib."
    for name, member in members(routing).items():
        if inspect.isfunction(member):
            assert member.__module__.startswith(own), f"{name} comes from {member.__module__}"
    assert type(clsr_blocks(attach_experts(tiny_whisper(), ["cs"]))[0]) is routing.ClsrFeedForward


# ---- inference


def random_experts(scale=0.3):
    """Return a tiny Whisper whose Czech experts and gates differ from the shared blocks."""
    torch.manual_seed(0)
    model = attach_experts(tiny_whisper().eval(), ["cs"], block_class=inference.SwitchableBlock)
    with torch.no_grad():
        for _, weight in expert_parameters(model):
            weight.add_(scale * torch.randn_like(weight))
    return model


def one_clip():
    """Return the inputs of one pass for a clip with three tokens."""
    return {
        "input_features": torch.randn(1, 80, 3000),
        "decoder_input_ids": torch.tensor([[1, 2, 3]]),
    }


def assert_over_floor(table):
    """Check the column of ratios to the floor, as arithmetic: no test asks how long a run took."""
    assert (table["floor"] > 0).all()
    expected = table["seconds"] / table["floor"]
    np.testing.assert_allclose(table["times floor"], expected, rtol=1e-2)


def test_inference_writes_ratios_of_each_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    path = tmp_path / "benchmarks" / "inference.csv"
    quick = ["--quick", "--sizes", "tiny", "--tokens", "6"]
    inference.main(quick)
    table = pd.read_csv(path)
    runs = ["plain", "mixed", "routed", "agreeing", "fixed", "halves"]
    assert list(table["run"]) == runs * 2
    assert set(table["batch"]) == {1}
    assert (table.loc[table["run"] == "plain", "times plain"] == 1).all()
    assert_over_floor(table)
    assert "times plain" in capsys.readouterr().out

    # Rows of another setting are added
    other = ["--tokens", "4", "--batches", "2", "--dtypes", "autocast", "--repeats", "1"]
    inference.main(["--sizes", "tiny", *other])
    both = pd.read_csv(path)
    assert len(both) == 12 + 14
    assert set(both["rounds"]) == {1, 2}
    assert list(both["run"][12:19]) == [*runs[:3], "languages", *runs[3:]]

    # The same setting measured again replaces its rows
    inference.main(quick)
    assert len(pd.read_csv(path)) == 12 + 14


@torch.no_grad()
def test_each_run_of_inference_computes_the_gates_that_it_should():
    setting = inference.Setting("tiny", "fp32", 3, 4)
    computed = []
    for block in clsr_blocks(setting.model):
        for language in ("cs", "ca"):
            block.gates[language].register_forward_hook(
                lambda *_, language=language: computed.append(language)
            )
    layers = len(clsr_blocks(setting.model))
    found = {}
    for name, run in setting.runs(setting.one_pass).items():
        computed.clear()
        run()
        found[name] = (computed.count("cs"), computed.count("ca"))
    assert found == {
        "plain": (0, 0),
        "mixed": (layers, 0),
        "routed": (layers, 0),
        "languages": (layers, layers),
        "agreeing": (layers, 0),
        "fixed": (0, 0),
        "halves": (0, 0),
    }
    assert not any(
        block.constant_gates or block.computes_both for block in clsr_blocks(setting.model)
    )


@torch.no_grad()
def test_constant_gates_give_the_outputs_of_computed_gates_with_the_same_decisions():
    setting = inference.Setting("tiny", "fp32", 3, 4)
    blocks = clsr_blocks(setting.model)
    decided = setting.gates.same_at_every_position()
    computed = setting.within(setting.one_pass, "cs", decided).logits
    shares = [block.last_gate.unique().tolist() for block in blocks]
    assert shares == [[1.0], [0.0]] * (len(shares) // 2)
    fixed = inference.constant_gates(setting.model)
    constant = setting.within(setting.one_pass, "cs", fixed).logits
    assert torch.equal(constant, computed)
    setting.within(setting.one_pass, "cs")
    assert len(blocks[0].last_gate.unique()) == 2  # drawn again


@torch.no_grad()
def test_blocks_in_halves_compute_what_plain_whisper_does():
    setting = inference.Setting("tiny", "fp32", 3, 5)
    plain = setting.within(setting.one_pass, None).logits
    blocks = clsr_blocks(setting.model)
    sizes = []
    hooks = [
        block.shared.fc1.register_forward_hook(lambda _, inputs, y: sizes.append(len(inputs[0])))
        for block in blocks
    ]
    halves = setting.within(setting.one_pass, None, inference.in_halves(setting.model)).logits
    assert torch.allclose(halves, plain, atol=1e-5)
    assert sizes == [2250, 2250] * 2 + [8, 7] * 2
    assert not any(isinstance(block.shared, inference.Halves) for block in blocks)
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def test_computing_both_blocks_gives_the_outputs_of_the_library():
    model = random_experts()
    sizes = []
    for block in clsr_blocks(model):
        block.shared.fc1.register_forward_hook(lambda _, inputs, y: sizes.append(y[..., 0].numel()))
    inputs = one_clip()
    with use_language(model, "cs"):
        routed = model(**inputs).logits
        seen_when_routed = sum(sizes)
        sizes.clear()
        with inference.both_computed(model):
            both = model(**inputs).logits
    assert torch.allclose(routed, both, atol=1e-5)
    assert seen_when_routed < sum(sizes) == 2 * 1500 + 2 * 3  # every position of every layer


@torch.no_grad()
def test_a_compiled_encoder_gives_the_same_with_a_language_and_without():
    model = random_experts()
    mel = torch.randn(1, 80, 200)
    encoder = model.get_encoder()
    compiled = torch.compile(encoder, backend="eager")
    found = []
    with use_window(model, 200):
        # What is compiled for the first must not serve the second
        for language in (None, "cs"):
            with use_language(model, language):
                found.append(compiled(mel)[0])
                assert torch.equal(found[-1], encoder(mel)[0])
    assert not torch.allclose(*found, atol=1e-2)


@ONE_GRAPH
@torch.no_grad()
def test_the_compiled_runs_of_a_setting_are_three_graphs():
    setting = inference.Setting("tiny", "fp32", 1, 4)
    graphs = CompileCounter()
    setting.forward = torch.compile(setting.model, backend=graphs)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        for _ in range(2):  # plain, mixed and routed take turns
            for run in setting.runs(setting.one_pass, compiled=True).values():
                run()
    assert graphs.frame_count == 3


def test_the_floor_counts_the_operations_of_a_forward_pass():
    model = tiny_whisper().eval()
    model.set_attn_implementation("eager")  # the counter does not see into the fused one
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        model(
            input_features=torch.randn(2, 80, 3000),
            decoder_input_ids=torch.ones(2, 7, dtype=torch.long),
        )
    assert inference.flops(model.config, 2, 7) == pytest.approx(counted.get_total_flops(), rel=0.01)


def test_ratio_is_the_median_of_each_round():
    times = {"plain": [1.0, 2.0, 4.0], "routed": [2.0, 2.0, 8.0]}
    rows = measuring.as_rows(times, "plain", {"plain": 0.5, "routed": 0.5}, size="base")
    assert [row["times plain"] for row in rows] == [1.0, 2.0]
    assert [row["times floor"] for row in rows] == [4.0, 4.0]
    assert rows[1]["run"] == "routed"


# ---- storage


def test_storage_writes_the_size_of_each_form(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    storage.main(["--sizes", "tiny"])
    table = pd.read_csv(tmp_path / "benchmarks" / "storage.csv")
    assert list(table["form"]) == ["fp32", "fp16", "int8"] + ["low-rank"] * 3
    assert table["times fp32"][0] == 1
    assert (table["megabytes"] > table["floor"]).all()
    assert (table["floor"][:3].diff().dropna() < 0).all()


def test_the_floor_of_storage_counts_bytes_by_hand():
    parameters = {
        "x.experts.cs.fc1.weight": torch.zeros(8, 4),
        "x.experts.cs.fc1.bias": torch.zeros(8),
    }
    floors = [
        storage.least_bytes(parameters, form, 2) for form in ("fp32", "fp16", "int8", "low-rank")
    ]
    assert floors == [4 * 40, 2 * 40, 32 + 2 * 8, 2 * 2 * 12 + 2 * 8]


# ---- training


@pytest.fixture(scope="module")
def tiny_training():
    """A step of tiny models; all tokens but one are kept of the teacher."""
    made = training.Training("tiny", "tiny", batch=3, k=10**6)
    torch.manual_seed(1)
    with torch.no_grad():
        for _, weight in expert_parameters(made.model):
            weight.add_(1.0 * torch.randn_like(weight))  # or the student would be its own teacher
    return made


def test_training_writes_a_row_for_each_step_and_for_the_whole_run(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    training.main(["--quick", "--size", "tiny"])
    table = pd.read_csv(tmp_path / "benchmarks" / "training.csv")
    steps = training.steps_here()
    without = ["without " + ", ".join(left) for left in training.LEFT_OUT if left[-1] in steps]
    whole = ["baseline", "library, 30 s", "library"]
    assert list(table["run"]) == [
        "baseline",
        *steps,
        *without,
        "deterministic sums",
        "frozen front",
        *whole,
    ]
    assert list(table["work"])[-3:] == ["10 epochs"] * 3
    assert_over_floor(table)
    assert (table.loc[table["run"] == "baseline", "times baseline"] == 1).all()


def test_the_cheaper_steps_compute_the_loss_that_is_meant(tiny_training):
    losses = {n: tiny_training.loss(training.STEPS[:n]).item() for n in range(4)}
    assert losses[1] == losses[0]  # the stored logits are the teacher's
    assert abs(losses[2] - losses[1]) > 1e-4  # without padding: the loss that is meant
    assert losses[3] == pytest.approx(losses[2], abs=1e-4)  # of all tokens but one
    for left_out in training.LEFT_OUT[1:]:
        steps = tuple(step for step in training.STEPS[:5] if step not in left_out)
        loss = tiny_training.loss(steps).item()
        assert loss == pytest.approx(losses[2], rel=0.02)  # the window moves it a little


def test_the_frozen_front_is_the_input_of_the_first_expert(tiny_training):
    seen = []
    handle = clsr_blocks(tiny_training.model)[0].register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    with handle:
        tiny_training.loss(("short window",))
    assert torch.allclose(tiny_training.front(), seen[0], atol=1e-5)


def test_a_step_changes_experts_and_gates_alone(tiny_training):
    before = {name: p.clone() for name, p in tiny_training.model.named_parameters()}
    tiny_training.step(training.STEPS[:5])
    after = dict(tiny_training.model.named_parameters())
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed
    assert all(".cs." in name for name in changed)


# ---- memory


def test_memory_writes_the_peak_of_both_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    memory.main(["--size", "tiny", "--teacher", "tiny", "--batch", "2"])
    table = pd.read_csv(tmp_path / "benchmarks" / "memory.csv")
    assert list(table["run"]) == ["baseline", "library"]
    assert (table["gb"] > table["floor"]).all()
    assert table["floor"][0] == table["floor"][1]
    assert table["times baseline"][0] == 1


def test_a_run_that_fails_in_the_memory_benchmark_is_named(monkeypatch):
    failed = memory.subprocess.CompletedProcess([], 1, "", "oh no")
    monkeypatch.setattr(memory.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(Failed, match="'baseline' of benchmarks.memory failed: oh no"):
        memory.measure("tiny", "tiny", 2)

    killed = memory.subprocess.CompletedProcess([], -9, "", "")
    monkeypatch.setattr(memory.subprocess, "run", lambda *_, **__: killed)
    with pytest.raises(Failed, match="was killed, most likely because memory ran out: lower"):
        memory.measure("tiny", "tiny", 2)


# ---- preparation


def test_preparation_writes_ratios_to_mere_decoding(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    sizes = dict(common_voice.SIZES)
    folders = {name: os.environ.get(name) for name in ("LAB_CACHE", "LAB_DATA")}
    preparation.main(["--clips", "56"])
    table = pd.read_csv(tmp_path / "benchmarks" / "preparation.csv").set_index("run")
    assert list(table.index) == ["decoding", "largest", "smaller", "apart"]
    assert set(table["clips"]) == {56 + 5 + 5}
    assert table.loc["decoding", "times decoding"] == 1
    assert table.loc["decoding", "processor's times decoding"] == 1
    assert table.loc["largest", "floor"] > table.loc["decoding", "floor"] > 0
    share = sum(preparation.SHARES.values())
    assert table.loc["apart", "floor"] == pytest.approx(
        share * table.loc["largest", "floor"], rel=1e-2
    )
    assert_over_floor(table.drop("smaller"))
    assert math.isnan(table.loc["smaller", "floor"])
    assert sizes == common_voice.SIZES
    assert {name: os.environ.get(name) for name in folders} == folders


# ---- options

TINY = "--size tiny --teacher tiny"


@pytest.mark.parametrize(
    ("program", "line", "told"),
    [
        (inference, "--sizes", "argument --sizes: expected at least one argument"),
        (inference, "--sizes tiniest", "argument --sizes: invalid choice: 'tiniest'"),
        (inference, "--batches", "argument --batches: expected at least one argument"),
        (inference, "--batches 1 0", "argument --batches: it is 0: a whole number from 1 on"),
        (inference, "--batches x", "argument --batches: it is 'x': a whole number from 1 on"),
        (inference, "--dtypes", "argument --dtypes: expected at least one argument"),
        (inference, "--dtypes fp8", "argument --dtypes: invalid choice: 'fp8'"),
        (inference, "--tokens 0", "argument --tokens: it is 0: a whole number from 1 to 444"),
        (inference, "--tokens 445", "argument --tokens: it is 445: a whole number from 1 to 444"),
        (inference, "--tokens 2.5", "argument --tokens: it is '2.5': a whole number from 1 to 444"),
        (inference, "--repeats 0", "argument --repeats: it is 0: a whole number from 1 on"),
        (inference, "--quick=1", "argument --quick: ignored explicit argument '1'"),
        (inference, "--compile=1", "argument --compile: ignored explicit argument '1'"),
        (storage, "--sizes", "argument --sizes: expected at least one argument"),
        (storage, "--sizes tiniest", "argument --sizes: invalid choice: 'tiniest'"),
        (training, "--size tiniest", "argument --size: invalid choice: 'tiniest'"),
        (training, "--teacher none", "argument --teacher: invalid choice: 'none'"),
        (training, "--size tiny", "--teacher small has other tokens than --size tiny"),
        (training, "--teacher tiny", "--teacher tiny has other tokens than --size base"),
        (training, f"{TINY} --batch 0", "argument --batch: it is 0: a whole number from 1 on"),
        (training, f"{TINY} --epochs -1", "argument --epochs: it is -1: a whole number from 1 on"),
        (training, f"{TINY} --repeats 0", "argument --repeats: it is 0: a whole number from 1 on"),
        (memory, "--size tiniest", "argument --size: invalid choice: 'tiniest'"),
        (memory, "--teacher none", "argument --teacher: invalid choice: 'none'"),
        (memory, "--size tiny", "--teacher small has other tokens than --size tiny"),
        (memory, f"{TINY} --batch 0", "argument --batch: it is 0: a whole number from 1 on"),
        (memory, f"{TINY} --one plain", "argument --one: invalid choice: 'plain'"),
        (preparation, "--clips 3", "argument --clips: it is 3: a whole number from 28 on"),
        (preparation, "--rounds 0", "argument --rounds: it is 0: a whole number from 1 on"),
    ],
    ids=lambda value: value.__name__ if inspect.ismodule(value) else value,
)
def test_a_wrong_option_ends_a_benchmark_with_its_name(program, line, told, monkeypatch, capsys):
    monkeypatch.setattr(program, "measure", lambda *_: pytest.fail("something was measured"))
    with pytest.raises(SystemExit) as end:
        program.main(line.split())
    assert end.value.code == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("program", "line", "measured"),
    [
        (inference, "", [("base", "fp32", 1, 8, 2, False)]),
        (
            inference,
            "--sizes tiny base tiny --batches 4 --tokens 30 --repeats 1",
            [("tiny", "fp32", 4, 30, 1, False), ("base", "fp32", 4, 30, 1, False)],
        ),
        (storage, "", [("base", storage.FORMS[:4])]),
        (storage, "--sizes tiny tiny small", [(n, storage.FORMS[:4]) for n in ("tiny", "small")]),
        (training, "", [("base", "base", 2, 1, 10)]),
        (training, "--size small --teacher base --batch 4", [("small", "base", 4, 1, 10)]),
        (memory, "--size tiny", [("tiny", "tiny", 2)]),
        (memory, "--teacher small --batch 4", [("base", "small", 4)]),
        (preparation, "", [(preparation.QUICK, 1)]),
        (preparation, "--clips 56 --rounds 2", [(56, 2)]),
    ],
    ids=lambda value: value.__name__ if inspect.ismodule(value) else None,
)
def test_a_quick_benchmark_keeps_to_the_options_that_are_given(
    program, line, measured, monkeypatch
):
    found = []
    monkeypatch.setattr(program, "measure", lambda *given: found.append(given) or [])
    monkeypatch.setattr(program, "report", lambda *_: None)
    program.main(["--quick", *line.split()])
    assert found == measured


@pytest.mark.parametrize("program", [memory, storage])  # in a process of its own, and in this one
def test_a_benchmark_that_fails_ends_with_one_sentence(program, tmp_path):
    command = [sys.executable, "-m", program.__name__, "--quick", "--size", "tiny"]
    if program is storage:
        command[-2] = "--sizes"
    (tmp_path / "file").touch()
    environment = os.environ | {"LAB_RESULTS": str(tmp_path / "file")}
    if program is memory:  # it starts a process of its own
        environment["LAB_PRECISION"] = "fp7"
    done = subprocess.run(
        command, cwd=memory.ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    named = "LAB_PRECISION" if program is memory else "LAB_RESULTS"
    assert named in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe,\x00", b"size\n1,2,3\n1\n", b"run\nplain\n"])
def test_a_damaged_table_of_a_benchmark_is_set_aside(content, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    path = tmp_path / "benchmarks" / "storage.csv"
    path.parent.mkdir()
    path.write_bytes(content)
    rows = [{"size": "tiny", "form": "fp32", "megabytes": 1.0}]
    measuring.report("storage", rows, ("size", "form"))
    assert list(pd.read_csv(path)["megabytes"]) == [1.0]
    assert path.with_name("storage.csv.damaged-1").read_bytes() == content
    assert "storage.csv is damaged" in capsys.readouterr().err
