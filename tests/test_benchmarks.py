"""The benchmarks run, compare like with like, and know the work that they measure."""

import pandas as pd
import pytest
import torch
from benchmarks import inference, measuring, storage
from distilwhisper_lib import attach_experts, use_language
from distilwhisper_lib.checkpoints import tiny_whisper
from distilwhisper_lib.clsr import expert_parameters
from torch.utils.flop_counter import FlopCounterMode


def test_inference_writes_ratios_of_each_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    inference.main(["--quick", "--sizes", "tiny", "--tokens", "6"])
    table = pd.read_csv(tmp_path / "benchmarks" / "inference.csv")
    assert list(table["run"]) == ["plain", "mixed", "routed"] * 2 and set(table["batch"]) == {1}
    assert (table.loc[table["run"] == "plain", "times plain"] == 1).all() and (table["times floor"] > 1).all()
    assert "times plain" in capsys.readouterr().out


def test_mixed_and_routed_give_the_same_outputs():
    torch.manual_seed(0)
    model = attach_experts(tiny_whisper().eval(), ["cs"])
    with torch.no_grad():
        for _, weight in expert_parameters(model):
            weight.add_(0.3 * torch.randn_like(weight))
        inputs = {"input_features": torch.randn(1, 80, 3000), "decoder_input_ids": torch.tensor([[1, 2, 3]])}
        with use_language(model, "cs"):
            routed = model(**inputs).logits
            with inference.both_computed():
                mixed = model(**inputs).logits
    assert torch.allclose(routed, mixed, atol=1e-5)


def test_the_floor_counts_the_operations_of_a_forward_pass():
    model = tiny_whisper().eval()
    model.set_attn_implementation("eager")  # the counter does not see into the fused one
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        model(input_features=torch.randn(2, 80, 3000), decoder_input_ids=torch.ones(2, 7, dtype=torch.long))
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
    assert list(table["form"]) == ["fp32", "fp16", "int8"] + ["low-rank"] * 3 and table["times fp32"][0] == 1
    assert (table["megabytes"] > table["floor"]).all() and (table["floor"][:3].diff().dropna() < 0).all()


def test_the_floor_of_storage_counts_bytes_by_hand():
    parameters = {"x.experts.cs.fc1.weight": torch.zeros(8, 4), "x.experts.cs.fc1.bias": torch.zeros(8)}
    floors = [storage.least_bytes(parameters, form, 2) for form in ("fp32", "fp16", "int8", "low-rank")]
    assert floors == [4 * 40, 2 * 40, 32 + 2 * 8, 2 * 2 * 12 + 2 * 8]
