"""Parity with the authors' release, whose numbers are in data/parity."""

import json
import re
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from hub_stand_in import hub_stand_in, no_hub
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import GenerationConfig

from distilwhisper_lib.data.normalisers import normalise
from distilwhisper_lib.method.attach import attach_experts
from distilwhisper_lib.method.blocks import expert_languages, expert_parameters, last_gates
from distilwhisper_lib.method.experts import ExpertSettings
from distilwhisper_lib.method.languages import set_language
from distilwhisper_lib.method.loading import load_experts
from distilwhisper_lib.method.losses import cross_entropy, js_divergence, kl_divergence, total_loss
from distilwhisper_lib.method.released import (
    PINNED,
    PUBLISHED,
    load_released,
    released_folder,
    save_released,
)
from distilwhisper_lib.method.storage import save_experts
from distilwhisper_lib.whisper.hub import REVISIONS
from distilwhisper_lib.whisper.loading import load_whisper

PARITY = Path(__file__).parent / "data" / "parity"
FORWARD = np.load(PARITY / "forward.npz")
LOSSES = np.load(PARITY / "losses.npz")
CODES = {"catalan": "ca", "tamil": "ta"}


def tensor(numbers):
    return torch.from_numpy(np.asarray(numbers))


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def logits_of(model, language):
    set_language(model, language)
    with torch.no_grad():
        return model(
            input_features=tensor(FORWARD["input_features"]),
            decoder_input_ids=tensor(FORWARD["decoder_input_ids"]),
        ).logits


@pytest.fixture(scope="module")
def model():
    return load_released(PARITY / "released", ["catalan", "ta"])


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(PARITY / "released", tmp_path / "released"))


# ---- numbers


def test_plain_whisper_without_a_language(model):
    expected = tensor(FORWARD["logits.whisper"])
    assert_close(logits_of(model, None), expected)
    assert_close(logits_of(load_whisper(PARITY / "whisper"), None), expected)


@pytest.mark.parametrize("language", CODES)
@pytest.mark.parametrize("named", ["by name", "by code"])
def test_logits_and_gates_of_each_language(model, language, named):
    expected = tensor(FORWARD[f"logits.{language}.transcribe"])
    plain = tensor(FORWARD["logits.whisper"])
    assert (expected - plain).abs().max() > 0.1  # the experts do something
    found = logits_of(model, language if named == "by name" else CODES[language])
    assert_close(found, expected)

    gates = last_gates(model)
    for stack, layers in gates.items():
        for index, gate in enumerate(layers):
            expected_gate = tensor(FORWARD[f"gates.{language}.transcribe.{stack}.{index}"])
            assert torch.equal(gate, expected_gate)
    all_gates = torch.cat([gate.flatten() for gate in gates["encoder"] + gates["decoder"]])
    expected_mean = FORWARD[f"gate_mean.{language}.transcribe"].item()
    assert all_gates.mean().item() == pytest.approx(expected_mean, abs=1e-6)


def test_sequences_of_different_languages_in_one_batch(model):
    found = logits_of(model, ["tamil", None, "ca"])
    for index, source in enumerate(("tamil.transcribe", "whisper", "catalan.transcribe")):
        assert_close(found[index], tensor(FORWARD[f"logits.{source}"])[index])


def test_saved_in_our_format_and_loaded_again_it_is_the_same(model, tmp_path):
    save_experts(model, tmp_path / "experts", form="fp32")
    again = load_experts(load_whisper(PARITY / "whisper"), tmp_path / "experts")
    assert expert_languages(again) == ["ca", "ta"]
    for language in (None, "ca", "ta"):
        assert torch.equal(logits_of(again, language), logits_of(model, language))


@pytest.mark.parametrize("kind", ["js", "kl"])
@pytest.mark.parametrize("temperature", [1, 2, 3])
def test_divergences(kind, temperature):
    divergence = {"js": js_divergence, "kl": kl_divergence}[kind]
    found = divergence(
        tensor(LOSSES["teacher_logits"]), tensor(LOSSES["student_logits"]), temperature
    )
    assert found.item() == pytest.approx(LOSSES[f"{kind}.tau{temperature}"].item(), abs=1e-5)


def test_cross_entropy_and_total():
    ce = cross_entropy(
        tensor(LOSSES["student_logits"]), tensor(LOSSES["labels"]), label_smoothing=0.1
    )
    assert ce.item() == pytest.approx(LOSSES["ce.smoothing0.1"].item(), abs=1e-5)
    js = js_divergence(tensor(LOSSES["teacher_logits"]), tensor(LOSSES["student_logits"]))
    total = total_loss(ce, torch.tensor(0.8 - 0.5), js)
    assert total.item() == pytest.approx(LOSSES["total.js.tau1.gate_mean0.8"].item(), abs=1e-5)


@pytest.mark.parametrize(
    "case", json.loads((PARITY / "normaliser.json").read_text(encoding="utf-8"))
)
def test_normaliser(case):
    assert normalise(case["text"], "released") == case["normalised"]


# ---- saving in the release's format


def test_a_published_checkpoint_is_written_as_it_was(model, tmp_path):
    folder = save_released(model, tmp_path / "again")
    for name in ("pytorch_model.bin", "expert.catalan.bin", "expert.tamil.bin"):
        theirs, ours = (
            torch.load(place / name, weights_only=True) for place in (PARITY / "released", folder)
        )
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    for language in (None, "ca", "ta"):
        again = load_released(folder, ["ca", "ta"])
        assert_close(logits_of(again, language), logits_of(model, language))


def test_settings_of_experts_and_of_generate_are_written_too(tmp_path):
    whisper = load_whisper("tiny")
    settings = ExpertSettings(gate_dim=8, skip_gate=0.5)
    attach_experts(whisper, "th", settings)
    for _, parameter in expert_parameters(whisper):
        parameter.data += 0.1
    again = load_released(save_released(whisper, tmp_path / "own"), "thai")
    features = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[256, 257]])
    logits = []
    for one in (whisper, again):
        set_language(one, "th")
        with torch.no_grad():
            logits.append(one(input_features=features, decoder_input_ids=tokens).logits)
    assert_close(*logits)
    found = again.model.encoder.layers[0].fc1.routing.settings
    assert (found.gate_dim, found.skip_gate) == (8, 0.5)
    assert again.generation_config.lang_to_id == whisper.generation_config.lang_to_id


def test_what_the_release_has_no_format_for_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="no experts are attached"):
        save_released(load_whisper("tiny"), tmp_path / "plain")
    for settings in (ExpertSettings(rank=2), ExpertSettings(always_open=True)):
        whisper = attach_experts(load_whisper("tiny"), "ca", settings)
        with pytest.raises(ValueError, match="full experts behind gates"):
            save_released(whisper, tmp_path / "other")
    assert not list(tmp_path.iterdir())
    (tmp_path / "full").mkdir()
    whisper = attach_experts(load_whisper("tiny"), "ca")
    with pytest.raises(FileExistsError, match="give a new folder"):
        save_released(whisper, tmp_path / "full")


# ---- errors


def test_language_that_is_not_there_says_which_are(folder):
    with pytest.raises(FileNotFoundError, match="expert.czech.bin is missing.*catalan, tamil"):
        load_released(folder, ["cs"])


@pytest.mark.parametrize("name", ["pytorch_model.bin", "expert.catalan.bin"])
def test_truncated_file_is_named(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes()[:5000])
    with pytest.raises(ValueError, match=f"{name} can't be read"):
        load_released(folder, ["catalan"])


def test_nothing_that_is_pickled_runs(folder):
    an_object = {"x": Path("/")}  # as an attack would have it
    torch.save(an_object, folder / "expert.catalan.bin")
    with pytest.raises(ValueError, match="more than tensors"):
        load_released(folder, ["catalan"])


@pytest.mark.parametrize("content", ["a text", [torch.ones(2)], {"x": 3}, {4: torch.ones(2)}])
def test_file_that_holds_no_tensors_by_name_is_refused(folder, content):
    torch.save(content, folder / "expert.catalan.bin")
    with pytest.raises(ValueError, match="catalan.bin can't be read: it is no dict of tensors"):
        load_released(folder, ["catalan"])


@pytest.mark.parametrize("name", ["pytorch_model.bin", "expert.catalan.bin"])
def test_weights_that_are_not_finite_are_refused(folder, name):
    state = torch.load(folder / name, weights_only=True)
    key = sorted(state)[0]
    state[key] = torch.full_like(state[key], torch.nan)
    torch.save(state, folder / name)
    with pytest.raises(ValueError, match=rf"{name} has weights that are not finite .*{key}"):
        load_released(folder, ["catalan"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clsr_gate_dim": "64"}, "config.json: gate_dim is '64'"),
        ({"skip_gate_prob": -1}, "config.json: skip_gate is -1"),
        ({"d_model": "x"}, "released can't be loaded"),
        ({"vocab_size": 7}, "does not fit Whisper: size mismatch"),
    ],
)
def test_wrong_values_in_its_configuration_are_named(folder, change, message):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        load_released(folder, ["catalan"])


def test_damaged_configuration_is_named_and_left_where_it_is(folder):
    for name in ("generation_config.json", "config.json"):
        (folder / name).write_text("{")
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            load_released(folder, ["catalan"])
        assert (folder / name).read_text() == "{"
        (folder / "generation_config.json").unlink(missing_ok=True)


def test_other_folders_and_models_are_refused(folder, tmp_path):
    for other in (tmp_path, PARITY / "whisper"):
        with pytest.raises(ValueError, match="config.json is not that of a released.*load_experts"):
            load_released(other, ["catalan"])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"clsr_gate_dim": 32}))
    with pytest.raises(ValueError, match="ca experts in"):
        load_released(folder, ["catalan"])
    (folder / "config.json").write_text(json.dumps(config | {"encoder_layers": 1}))
    with pytest.raises(ValueError, match="does not fit Whisper.*unknown"):
        load_released(folder, ["catalan"])


# ---- the hub


def test_from_the_hub_only_what_is_needed(monkeypatch, folder):
    asked = {}

    def download(name, revision, allow_patterns):
        asked.update(name=name, revision=revision, files=allow_patterns)
        return folder

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    model = load_released("naver/multilingual-distilwhisper-3k", "tamil", revision="main")
    assert expert_languages(model) == ["ta"] and model.name_or_path == asked["name"]
    assert asked["files"] == [
        "config.json",
        "generation_config.json",
        "pytorch_model.bin",
        "expert.tamil.bin",
    ]


@pytest.mark.parametrize(
    ("reached", "message"),
    [
        (True, "the hub has experts for catalan, czech slovak, thai$"),
        (False, "the hub can't be asked, and its cache here has experts for catalan, tamil$"),
    ],
)
def test_language_that_is_not_on_the_hub_lists_those_that_are(
    monkeypatch, folder, reached, message
):
    def listed(name, revision):
        assert (name, revision) == ("naver/multilingual-distilwhisper-3k", "main")
        if not reached:
            raise LocalEntryNotFoundError("offline")
        return [
            "README.md",
            "expert.thai.bin",
            "expert.czech slovak.bin",
            "pytorch_model.bin",
            "expert.catalan.bin",
        ]

    # The cache holds Catalan and Tamil.
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: folder)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", listed)
    with pytest.raises(FileNotFoundError, match=f"expert.czech.bin is missing; {message}"):
        load_released("naver/multilingual-distilwhisper-3k", ["tamil", "cs"], revision="main")


def test_settings_of_generate_come_from_the_folder_or_from_the_releases_student(
    monkeypatch, folder
):
    asked = []

    def from_pretrained(name, **options):
        asked.append((name, options))
        return GenerationConfig()

    monkeypatch.setattr(GenerationConfig, "from_pretrained", from_pretrained)
    embeddings = torch.zeros(51865, 32)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    state["model.decoder.embed_tokens.weight"] = embeddings
    state["proj_out.weight"] = embeddings
    torch.save(state, folder / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 51865}))
    load_released(folder, ["catalan"])
    (folder / "generation_config.json").write_text("{}")
    load_released(folder, ["catalan"])
    student = "openai/whisper-small"
    assert asked == [(student, {"revision": REVISIONS[student]}), (folder, {})]


def test_no_network_says_what_to_do(tmp_path):
    with no_hub(tmp_path), pytest.raises(OSError, match="'naver/nothing'.*check the network"):
        load_released("naver/nothing", ["ta"])


def test_repository_or_revision_that_is_not_there_is_named(tmp_path):
    with hub_stand_in(tmp_path) as hub:
        with pytest.raises(FileNotFoundError, match="'naver/nothing' is no folder here.*spelling"):
            load_released("naver/nothing", ["ta"])
        hub.add("naver/released", {"config.json": b"{}"})
        with pytest.raises(FileNotFoundError, match="'naver/released' has no revision 'v9'"):
            load_released("naver/released", ["ta"], revision="v9")


def test_a_checkpoint_from_the_hub_is_read_from_its_cache(folder, tmp_path):
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with hub_stand_in(tmp_path) as hub:
        commit = hub.add("naver/released", files)
        with pytest.raises(FileNotFoundError, match="expert.czech.bin is missing; the hub has.*ta"):
            load_released("naver/released", ["cs"])
        model = load_released("naver/released", ["ta"])
        assert "expert.catalan.bin" not in hub.downloads()
    assert expert_languages(model) == ["ta"]
    assert model.config._commit_hash == commit


def test_a_checkpoint_is_fetched_at_the_commit_that_is_pinned(monkeypatch, folder):
    asked = []

    def download(name, revision, allow_patterns):
        asked.append(revision)
        return folder

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    name = "naver/multilingual-distilwhisper-28k"
    assert PUBLISHED["28k"] == name
    load_released(name, "tamil")
    load_released(name, "tamil", revision="main")
    assert asked == [PINNED[name], "main"]
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in PINNED.values())


def test_a_folder_in_the_hubs_cache_says_its_commit(folder, tmp_path):
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with hub_stand_in(tmp_path) as hub:
        commit = hub.add("naver/released", files)
        fetched = released_folder("naver/released", ["ta"])
        assert load_released(fetched, ["ta"]).config._commit_hash == commit
    assert load_released(folder, ["ta"]).config._commit_hash is None


def test_a_folder_has_no_revisions_and_a_bad_name_is_refused(folder):
    with pytest.raises(ValueError, match="is a folder here, and a folder has no revisions"):
        load_released(folder, ["catalan"], revision="main")
    with pytest.raises(FileNotFoundError, match="no such folder, and not a hub id"):
        load_released("nowhere", ["catalan"])
