"""The benchmarks run, compare like with like, and know the work that they measure."""

import pandas as pd
import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import inference, measuring, memory, storage, training
from distilwhisper_lib.method.attach import (
    attach_experts,
    clsr_blocks,
    expert_parameters,
    use_language,
)
from distilwhisper_lib.whisper.tiny import tiny_whisper
from distilwhisper_lib.whisper.window import use_window


def test_inference_writes_ratios_of_each_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    inference.main(["--quick", "--sizes", "tiny", "--tokens", "6"])
    table = pd.read_csv(tmp_path / "benchmarks" / "inference.csv")
    runs = ["plain", "mixed", "routed", "agreeing", "fixed", "halves"]
    assert list(table["run"]) == runs * 2 and set(table["batch"]) == {1}
    assert (table.loc[table["run"] == "plain", "times plain"] == 1).all() and (
        table["times floor"] > 1
    ).all()
    assert "times plain" in capsys.readouterr().out
    inference.main(
        [
            "--sizes",
            "tiny",
            "--tokens",
            "4",
            "--batches",
            "2",
            "--dtypes",
            "autocast",
            "--repeats",
            "1",
        ]
    )
    both = pd.read_csv(tmp_path / "benchmarks" / "inference.csv")
    assert len(both) == 12 + 14 and set(both["rounds"]) == {
        1,
        2,
    }  # the rows of the other setting are there still
    assert list(both["run"][12:19]) == [*runs[:3], "languages", *runs[3:]]
    inference.main(["--quick", "--sizes", "tiny", "--tokens", "6"])
    assert (
        len(pd.read_csv(tmp_path / "benchmarks" / "inference.csv")) == 12 + 14
    )  # measured again: replaced


@torch.no_grad()
def test_each_run_of_inference_goes_the_way_it_is_named_for():
    setting, asked = inference.Setting("tiny", "fp32", 3, 4), []
    for block in clsr_blocks(setting.model):
        block.gates["cs"].register_forward_hook(lambda *_: asked.append("cs"))
        block.gates["ca"].register_forward_hook(lambda *_: asked.append("ca"))
    layers, found = len(clsr_blocks(setting.model)), {}
    for name, run in setting.runs(setting.one_pass, compiled=False).items():
        asked.clear()
        run()
        found[name] = (asked.count("cs"), asked.count("ca"))
    assert found == {
        "plain": (0, 0),
        "mixed": (layers, 0),
        "routed": (layers, 0),
        "languages": (layers, layers),
        "agreeing": (layers, 0),
        "fixed": (0, 0),
        "halves": (0, 0),
    }
    assert not any(block.fixed for block in clsr_blocks(setting.model))


@torch.no_grad()
def test_gates_that_agree_are_those_that_are_fixed():
    setting = inference.Setting("tiny", "fp32", 3, 4)
    agreeing = setting.within(setting.one_pass, "cs", inference.switched("agree")).logits
    shares = [block.last_gate.unique().tolist() for block in clsr_blocks(setting.model)]
    assert shares == [[1.0], [0.0]] * (len(shares) // 2) and not inference.agree
    fixed = setting.within(setting.one_pass, "cs", inference.fixed_gates(setting.model)).logits
    assert torch.equal(agreeing, fixed)
    setting.within(setting.one_pass, "cs")
    assert len(clsr_blocks(setting.model)[0].last_gate.unique()) == 2  # 4,500 gates drawn again


@torch.no_grad()
def test_blocks_in_halves_compute_what_plain_whisper_does():
    setting, rows = inference.Setting("tiny", "fp32", 3, 5), []
    plain = setting.within(setting.one_pass, None).logits
    blocks = clsr_blocks(setting.model)
    hooks = [
        block.shared.fc1.register_forward_hook(lambda _, inputs, y: rows.append(len(inputs[0])))
        for block in blocks
    ]
    halves = setting.within(setting.one_pass, None, inference.in_halves(setting.model)).logits
    assert torch.allclose(halves, plain, atol=1e-5) and rows == [2250, 2250] * 2 + [8, 7] * 2
    assert not any(isinstance(block.shared, inference.Halves) for block in blocks)
    for hook in hooks:
        hook.remove()


def test_mixed_and_routed_give_the_same_outputs():
    torch.manual_seed(0)
    model = attach_experts(tiny_whisper().eval(), ["cs"])
    with torch.no_grad():
        for _, weight in expert_parameters(model):
            weight.add_(0.3 * torch.randn_like(weight))
        inputs = {
            "input_features": torch.randn(1, 80, 3000),
            "decoder_input_ids": torch.tensor([[1, 2, 3]]),
        }
        with use_language(model, "cs"):
            routed = model(**inputs).logits
            with inference.switched("mixed"):
                mixed = model(**inputs).logits
    assert torch.allclose(routed, mixed, atol=1e-5)


@torch.no_grad()
def test_a_compiled_encoder_gives_the_same_with_a_language_and_without():
    torch.manual_seed(0)
    model, mel = attach_experts(tiny_whisper().eval(), ["cs"]), torch.randn(1, 80, 200)
    for _, weight in expert_parameters(model):
        weight.add_(0.3 * torch.randn_like(weight))
    encode, compiled = model.get_encoder(), torch.compile(model.get_encoder(), backend="eager")
    found = []
    with use_window(model, 200):
        for language in (
            None,
            "cs",
        ):  # one after the other: what is compiled for one must not serve the other
            with use_language(model, language):
                found.append(compiled(mel)[0])
                assert torch.equal(found[-1], encode(mel)[0])
    assert not torch.allclose(*found, atol=1e-2)


@torch.no_grad()
def test_compiled_runs_are_three_graphs():
    model, graphs = attach_experts(tiny_whisper().eval(), ["cs"]), CompileCounter()
    compiled = torch.compile(model, backend=graphs)
    inputs = {
        "input_features": torch.randn(1, 80, 3000),
        "decoder_input_ids": torch.tensor([[1, 2, 3]]),
    }
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        for _ in range(2):  # plain, routed and mixed take turns
            compiled(**inputs)
            with use_language(model, "cs"):
                compiled(**inputs)
                with inference.switched("mixed"):
                    compiled(**inputs)
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
    took = {"plain": [1.0, 2.0, 4.0], "routed": [2.0, 2.0, 8.0]}
    rows = measuring.as_rows(took, "plain", {"plain": 0.5, "routed": 0.5}, size="base")
    assert [row["times plain"] for row in rows] == [1.0, 2.0]
    assert [row["times floor"] for row in rows] == [4.0, 4.0] and rows[1]["run"] == "routed"


def test_storage_writes_the_size_of_each_form(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    storage.main(["--sizes", "tiny"])
    table = pd.read_csv(tmp_path / "benchmarks" / "storage.csv")
    assert (
        list(table["form"]) == ["fp32", "fp16", "int8"] + ["low-rank"] * 3
        and table["times fp32"][0] == 1
    )
    assert (table["megabytes"] > table["floor"]).all() and (
        table["floor"][:3].diff().dropna() < 0
    ).all()


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
    made = training.Training(
        "tiny", "tiny", batch=3, k=10**6
    )  # as many words as there are, but one
    torch.manual_seed(1)
    with torch.no_grad():
        for _, weight in expert_parameters(made.model):
            weight.add_(1.0 * torch.randn_like(weight))  # or the student would be its own teacher
    return made


def test_training_writes_a_row_for_each_step_and_for_the_whole_run(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    training.main(["--quick", "--size", "tiny"])
    table = pd.read_csv(tmp_path / "benchmarks" / "training.csv")
    here = training.steps_here()
    without = ["without " + ", ".join(left) for left in training.LEFT_OUT if left[-1] in here]
    assert list(table["run"]) == [
        "baseline",
        *here,
        *without,
        "frozen front",
        "baseline",
        "library, 30 s",
        "library",
    ]
    assert list(table["work"])[-3:] == ["10 epochs"] * 3 and (table["times floor"] > 1).all()
    assert (table.loc[table["run"] == "baseline", "times baseline"] == 1).all()


def test_what_the_steps_leave_out_does_not_change_the_loss(tiny_training):
    losses = {n: tiny_training.loss(training.STEPS[:n]).item() for n in range(4)}
    assert losses[1] == losses[0]  # the teacher says the same when it is asked again
    assert (
        abs(losses[2] - losses[1]) > 1e-4
    )  # padding is left out: another loss, the one that is meant
    assert losses[3] == pytest.approx(losses[2], abs=1e-4)  # all words but one are stored
    for left in training.LEFT_OUT[1:]:
        some = tuple(step for step in training.STEPS[:5] if step not in left)
        assert tiny_training.loss(some).item() == pytest.approx(
            losses[2], rel=0.02
        )  # the window moves it a little


def test_the_frozen_front_is_what_reaches_the_first_expert(tiny_training):
    seen = []
    handle = clsr_blocks(tiny_training.model)[0].register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    with handle:
        tiny_training.loss(("short window",))
    assert torch.allclose(tiny_training.front(), seen[0], atol=1e-5)


def test_a_step_moves_experts_alone(tiny_training):
    before = {name: p.clone() for name, p in tiny_training.model.named_parameters()}
    tiny_training.step(training.STEPS[:5])
    moved = {
        name
        for name, p in tiny_training.model.named_parameters()
        if not torch.equal(p, before[name])
    }
    assert moved and all(".cs." in name for name in moved)


def test_memory_writes_the_peak_of_both_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    memory.main(["--size", "tiny", "--teacher", "tiny", "--batch", "2"])
    table = pd.read_csv(tmp_path / "benchmarks" / "memory.csv")
    assert list(table["run"]) == ["baseline", "library"] and (table["gb"] > table["floor"]).all()
    assert table["floor"][0] == table["floor"][1] and table["times baseline"][0] == 1


def test_a_run_that_fails_in_the_memory_benchmark_is_named(monkeypatch):
    monkeypatch.setattr(memory, "json", None)
    monkeypatch.setattr(
        memory.subprocess,
        "run",
        lambda *a, **k: memory.subprocess.CompletedProcess(a, 1, "", "oh no"),
    )
    with pytest.raises(RuntimeError, match="'baseline' of benchmarks.memory failed: oh no"):
        memory.measure("tiny", "tiny", 2)
