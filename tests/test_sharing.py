"""Experts on the hub: pushed, found, described; the hub is a stand-in on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hub_stand_in import hub_stand_in, no_hub, send_there
from huggingface_hub import ModelCard
from safetensors.torch import load

from distilwhisper_lib.files import read_json
from distilwhisper_lib.lab import card as card_module
from distilwhisper_lib.lab import lab as lab_module
from distilwhisper_lib.lab.card import Difference, first_sentence, model_card
from distilwhisper_lib.lab.comparison import score
from distilwhisper_lib.lab.lab import Lab
from distilwhisper_lib.method import sharing
from distilwhisper_lib.method.attach import attach_experts
from distilwhisper_lib.method.blocks import expert_languages, expert_parameters
from distilwhisper_lib.method.card import plain_card
from distilwhisper_lib.method.fingerprint import base_fingerprint
from distilwhisper_lib.method.languages import set_language
from distilwhisper_lib.method.loading import load_experts
from distilwhisper_lib.method.sharing import experts_folder, push_experts
from distilwhisper_lib.method.storage import save_experts
from distilwhisper_lib.presets import PRESETS
from distilwhisper_lib.whisper.loading import load_whisper

NAME = "user/whisper-tiny-experts"
CHANGES = {"train_clips": 4, "teacher_clips": 4, "validation_clips": 2, "test_clips": 3}
TESTS = ("in-domain", "out-of-domain", "noise", "reverberation")

DESCRIPTION = {
    "format": 2,
    "base_model": "openai/whisper-base",
    "revision": "e37978b90ca9030d5170a5c07aadb050351a65bb",
    "base_fingerprint": "ab12cd34",
    "languages": ["cs", "ca"],
    "settings": {"gate_dim": 64, "hard": True},
    "form": "fp16",
}


@pytest.fixture
def hub(tmp_path):
    """A hub with nothing on it; "user" is logged in."""
    with hub_stand_in(tmp_path) as hub:
        hub.log_in("user")
        yield hub


def with_experts(*languages, seed=1):
    """Return a tiny Whisper with experts that are not those of another seed."""
    model = attach_experts(load_whisper("tiny"), list(languages)).eval()
    draw = torch.Generator().manual_seed(seed)
    for _, parameter in expert_parameters(model):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
    return model


def logits_of(model, language):
    set_language(model, language)
    draw = torch.Generator().manual_seed(2)
    features = torch.randn(1, 80, 3000, generator=draw)  # (B, mel bands, frames)
    with torch.no_grad():
        return model(features, decoder_input_ids=torch.tensor([[256, 257, 258]])).logits


def loaded(name, languages=None, revision=None):
    """Return a tiny Whisper with the experts of a repository."""
    return load_experts(load_whisper("tiny"), name, languages, revision=revision)


def front_matter(card):
    return yaml.safe_load(str(card).split("---\n")[1])


def text_of(card):
    """Return a card's text below its title."""
    return str(card).split("\n# ", 1)[1].split("\n\n", 1)[1]


# ---- push, then load


def test_pushed_experts_give_the_same_logits_when_they_are_loaded(hub):
    model = with_experts("cs", "ca")
    push_experts(model, NAME, form="fp32")
    again = loaded(NAME)
    assert expert_languages(again) == ["cs", "ca"]
    for language in ("cs", "ca", None):
        assert torch.equal(logits_of(again, language), logits_of(model, language))


def test_a_push_is_one_commit_of_experts_and_card_without_whisper(hub):
    push_experts(with_experts("cs"), NAME)
    files = hub.files(NAME)
    assert set(files) == {
        ".gitattributes",
        "README.md",
        "base_fingerprint.safetensors",
        "experts.json",
        "experts.cs.safetensors",
    }
    kinds = {name.split(".")[2] for name in load(files["experts.cs.safetensors"])}
    assert kinds == {"experts", "gates"}
    _, message = hub.repositories[NAME].messages
    assert message == "Experts for Czech (tiny)"


def test_a_pinned_revision_gives_the_older_experts_after_a_second_push(hub):
    older = with_experts("cs", seed=1)
    newer = with_experts("cs", seed=2)
    address = push_experts(older, NAME, form="fp32", commit_message="the first")
    push_experts(newer, NAME, form="fp32", commit_message="the second")

    assert address.startswith(f"{hub.address}/{NAME}/commit/")
    commit = address.rsplit("/", 1)[1]
    pinned = loaded(NAME, revision=commit)
    assert torch.equal(logits_of(pinned, "cs"), logits_of(older, "cs"))
    assert torch.equal(logits_of(loaded(NAME), "cs"), logits_of(newer, "cs"))
    assert hub.repositories[NAME].messages[1:] == ["the first", "the second"]


def test_the_same_experts_again_are_no_commit(hub):
    model = with_experts("cs")
    first = push_experts(model, NAME)
    assert push_experts(model, NAME) == first
    assert len(hub.repositories[NAME].messages) == 2


def test_a_push_to_a_branch_makes_it_and_leaves_the_main_branch(hub):
    older = with_experts("cs", seed=1)
    push_experts(older, NAME, form="fp32")
    newer = with_experts("cs", seed=2)
    for _ in range(2):  # the second time the branch is there
        push_experts(newer, NAME, form="fp32", revision="trial")
    assert torch.equal(logits_of(loaded(NAME), "cs"), logits_of(older, "cs"))
    trial = loaded(NAME, revision="trial")
    assert torch.equal(logits_of(trial, "cs"), logits_of(newer, "cs"))


def test_a_repository_loses_no_language_by_a_push(hub):
    push_experts(with_experts("cs", "ca"), NAME)
    before = hub.files(NAME)
    model = with_experts("nl")
    with pytest.raises(ValueError, match=r"experts for ca, cs too.*load_experts\(model, 'user/"):
        push_experts(model, NAME)
    assert hub.files(NAME) == before
    load_experts(model, experts_folder(NAME))
    push_experts(model, NAME)
    assert expert_languages(loaded(NAME)) == ["nl", "cs", "ca"]


def test_a_private_repository_is_for_its_owner_alone(hub):
    push_experts(with_experts("cs"), NAME, private=True)
    hub.log_out()
    with pytest.raises(FileNotFoundError, match="no such repository that you may read.*log in"):
        experts_folder(NAME)
    hub.log_in("other")
    with pytest.raises(FileNotFoundError, match="no such repository that you may read.*log in"):
        experts_folder(NAME)
    hub.log_in("user", "read")
    assert expert_languages(loaded(NAME)) == ["cs"]


def test_the_path_of_a_local_whisper_is_not_pushed(hub, tmp_path):
    folder = tmp_path / "home-of-somebody" / "my-whisper"
    load_whisper("tiny").save_pretrained(folder)
    model = attach_experts(load_whisper(folder), ["cs"])
    push_experts(model, NAME)
    files = hub.files(NAME)
    assert json.loads(files["experts.json"])["base_model"] == "my-whisper"
    assert not any(b"home-of-somebody" in content for content in files.values())
    assert expert_languages(loaded(NAME)) == ["cs"]


# ---- what is fetched


def test_only_the_wanted_languages_file_is_fetched(hub):
    push_experts(with_experts("cs", "ca"), NAME)
    hub.add(NAME, hub.files(NAME) | {"pytorch_model.bin": b"pickled"})
    hub.requests.clear()
    folder = experts_folder(NAME, "catalan")
    assert hub.downloads() == [
        "base_fingerprint.safetensors",
        "experts.ca.safetensors",
        "experts.json",
    ]
    assert not (folder / "experts.cs.safetensors").exists()
    experts_folder(NAME, ["cs", "ca"])
    assert sorted(path.name for path in folder.iterdir()) == [
        "base_fingerprint.safetensors",
        "experts.ca.safetensors",
        "experts.cs.safetensors",
        "experts.json",
    ]


def test_all_files_are_of_one_commit_though_another_is_pushed_meanwhile(hub, monkeypatch):
    push_experts(with_experts("cs", seed=1), NAME)
    commit = hub.repositories[NAME].find("main")
    check = sharing.check_languages

    def push_then_check(*arguments):
        push_experts(with_experts("cs", seed=2), NAME)
        return check(*arguments)

    monkeypatch.setattr(sharing, "check_languages", push_then_check)
    assert experts_folder(NAME).name == commit


def test_what_was_fetched_is_there_without_network(hub, monkeypatch):
    push_experts(with_experts("cs", "ca"), NAME)
    folder = experts_folder(NAME, "cs")
    send_there(monkeypatch, "http://127.0.0.1:9", hub.home)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # tries again
    assert experts_folder(NAME, "cs") == folder
    assert experts_folder(NAME, "cs", revision=folder.name) == folder
    with pytest.raises(OSError, match="can't be fetched from the hub"):
        experts_folder(NAME, "ca")


def test_a_folder_is_returned_as_it_is(tmp_path, monkeypatch):
    save_experts(with_experts("cs"), tmp_path / "user" / "name")
    monkeypatch.chdir(tmp_path)
    with no_hub(tmp_path):
        assert experts_folder("user/name") == Path("user/name")
        assert experts_folder(tmp_path / "user" / "name") == tmp_path / "user" / "name"
        with pytest.raises(ValueError, match="'user/name' is a folder here.*no revisions.*'main'"):
            experts_folder("user/name", revision="main")


# ---- errors of load


def test_language_that_is_not_there_says_which_are(hub):
    push_experts(with_experts("cs", "ca"), NAME)
    with pytest.raises(FileNotFoundError, match="no experts for nl; it has cs, ca"):
        experts_folder(NAME, ["cs", "dutch"])


@pytest.mark.parametrize("logged_in", [True, False])
def test_repository_and_revision_that_are_not_there_are_named(hub, logged_in):
    push_experts(with_experts("cs"), NAME)
    if not logged_in:
        hub.log_out()
    with pytest.raises(FileNotFoundError, match="'user/nothing' is no folder here.*spelling"):
        experts_folder("user/nothing")
    for revision in ("v7", "0" * 40):
        with pytest.raises(FileNotFoundError, match=f"has no revision '{revision}'.*a branch"):
            experts_folder(NAME, revision=revision)


def test_repository_without_experts_is_named(hub):
    hub.add("user/plain", {"model.safetensors": b""})
    with pytest.raises(FileNotFoundError, match="'user/plain' on the hub holds no experts that"):
        experts_folder("user/plain")


def test_repository_that_lacks_a_file_is_named(hub):
    push_experts(with_experts("cs"), NAME)
    files = hub.files(NAME)
    hub.add(NAME, {"experts.json": files["experts.json"]})
    with pytest.raises(FileNotFoundError, match="lacks experts.cs.safetensors, which"):
        experts_folder(NAME)


def test_experts_json_names_no_file_but_those_of_languages(hub):
    push_experts(with_experts("cs"), NAME)
    description = json.loads(hub.files(NAME)["experts.json"]) | {"languages": ["../../secret"]}
    hub.add(NAME, {"experts.json": json.dumps(description).encode()})
    with pytest.raises(ValueError, match=r"experts.json is damaged \(unknown language '../../sec"):
        experts_folder(NAME)


@pytest.mark.parametrize("name", ["nowhere", "./no/where", "a/b/c", Path("user/name")])
def test_name_that_is_neither_folder_nor_hub_id_is_refused(name, tmp_path):
    with no_hub(tmp_path), pytest.raises(FileNotFoundError, match="no such folder, and not a hub"):
        experts_folder(name)


def test_token_that_the_hub_does_not_accept_is_said(hub):
    push_experts(with_experts("cs"), NAME)
    hub.tokens.clear()
    with pytest.raises(OSError, match="does not accept your token; log in again"):
        experts_folder(NAME)


def test_without_network_the_error_says_what_to_do(tmp_path):
    with no_hub(tmp_path), pytest.raises(OSError, match="check the network.*give its path instead"):
        experts_folder(NAME)


# ---- errors of push


def test_without_a_token_nothing_is_asked_of_the_hub(hub):
    hub.log_out()
    with pytest.raises(OSError, match="no token.*hf auth login, or give it as token=.*HF_TOKEN"):
        push_experts(with_experts("cs"), NAME)
    assert not hub.requests
    push_experts(with_experts("cs"), NAME, token=hub.make_token("user"))
    assert NAME in hub.repositories


@pytest.mark.parametrize(
    ("name", "right", "message"),
    [
        ("user/new", "read", "nothing was committed to 'user/new', your token may not write there"),
        ("other/new", "write", 'your token may not write there.*namespace "other".*another name'),
        ("other/there", "write", "your token may not write there"),
    ],
)
def test_token_that_may_not_write_is_said(hub, name, right, message):
    before = {".gitattributes": b""}
    hub.add("other/there", before)
    hub.log_in("user", right)
    model = with_experts("cs")
    expected = logits_of(model, "cs")
    with pytest.raises(OSError, match=message):
        push_experts(model, name)
    assert hub.files("other/there") == before
    assert torch.equal(logits_of(model, "cs"), expected)


def test_token_that_is_not_valid_is_said(hub):
    with pytest.raises(OSError, match="does not accept your token.*make another one"):
        push_experts(with_experts("cs"), NAME, token="hf_old")


@pytest.mark.parametrize("name", ["experts", "user/my experts", "a/b/c", "user/a--b", ""])
def test_bad_name_for_a_repository_is_refused(hub, name):
    with pytest.raises(ValueError, match="is no name for a repository, like user/name"):
        push_experts(with_experts("cs"), name)
    assert not hub.requests


def test_push_without_network_says_what_to_do(tmp_path):
    with no_hub(tmp_path), pytest.raises(OSError, match="nothing was committed.*check the network"):
        push_experts(with_experts("cs"), NAME, token="hf_user")


def test_model_without_experts_is_refused(hub):
    with pytest.raises(ValueError, match="no experts are attached"):
        push_experts(load_whisper("tiny"), NAME)
    assert not hub.requests


def test_metadata_that_the_hub_does_not_accept_are_said(hub):
    with pytest.raises(ValueError, match='nothing was committed(.|\n)*"license" must be one of'):
        push_experts(with_experts("cs"), NAME, card="---\nlicense: gpl\n---\n# Experts\n")
    assert set(hub.files(NAME)) == {".gitattributes"}


# ---- cards


def test_card_of_ones_own_names_the_repository(hub):
    push_experts(with_experts("cs"), NAME, card='load_experts(model, "user/name")\n')
    assert hub.files(NAME)["README.md"].decode() == f'load_experts(model, "{NAME}")\n'
    card = "https://example.org/some-user/names\n"
    push_experts(with_experts("cs"), NAME, card=card)
    assert hub.files(NAME)["README.md"].decode() == card


def test_without_a_card_the_experts_tell_what_they_know(hub):
    model = with_experts("cs", "ca")
    push_experts(model, NAME)
    card = hub.files(NAME)["README.md"].decode()
    assert front_matter(card) == {
        "language": ["cs", "ca"],
        "library_name": "distilwhisper-lab",
        "pipeline_tag": "automatic-speech-recognition",
        "tags": ["whisper", "distilwhisper"],
    }
    assert text_of(card).startswith("No word error rate was given for these experts")
    for part in (
        "# Experts for Czech and Catalan (tiny)",
        f'load_experts(model, "{NAME}")',
        'set_language(model, "cs")',
        base_fingerprint(model),
        "| experts and gates | gate_dim | 64 |",
        "The experts: not stated.",
    ):
        assert part in card


def test_card_names_the_base_model_on_the_hub():
    card = plain_card(DESCRIPTION)
    metadata = front_matter(card)
    assert metadata["base_model"] == "openai/whisper-base"
    assert metadata["base_model_relation"] == "adapter"
    assert "license" not in metadata
    assert DESCRIPTION["revision"] in str(card) and "ab12cd34" in str(card)


def test_card_names_a_whisper_in_a_folder_without_its_path():
    for path in ("/somebody/my-whisper", "somebody/my-whisper"):
        card = plain_card(DESCRIPTION | {"base_model": path, "revision": None})
        assert "base_model" not in front_matter(card)
        assert "a local folder, my-whisper" in str(card) and "somebody" not in str(card)


def difference(test="in-domain", other="LoRA", wer=40.0, other_wer=50.0, low=-12.0, high=-8.0):
    return Difference(test, other, wer, other_wer, low, high)


def test_the_alternatives_of_a_card_are_those_of_its_table():
    assert {"lora-teacher", "fine-tuning-teacher"} <= set(card_module.alternatives(PRESETS["toy"]))
    assert "lora-teacher" not in card_module.alternatives(PRESETS["smoke"])
    assert "experts-open" not in card_module.alternatives(PRESETS["toy"])


def test_first_sentence_says_it_where_the_experts_lose():
    lost = difference(other_wer=35.24, low=3.0, high=6.0)
    unclear = difference("out-of-domain", "plain Whisper", 80.0, 81.0, low=-3.0, high=1.0)
    won = difference(other="Fine-tuning")
    assert first_sentence([lost, unclear, won]) == (
        "These experts do not have the lowest word error rate (WER): lower is that of LoRA on "
        "in-domain (35.2 %; these experts 40.0 %); there is no clear difference to plain Whisper "
        "on out-of-domain (81.0 %; these experts 80.0 %)."
    )
    assert first_sentence([unclear, won]).startswith(
        "These experts are not clearly better than the alternatives: there is no clear difference"
    )


def test_first_sentence_where_the_experts_win_or_nothing_is_known():
    won = [difference(), difference("out-of-domain"), difference(other="Fine-tuning")]
    assert first_sentence(won) == (
        "These experts have a lower word error rate (WER) than LoRA and Fine-tuning (in-domain "
        "and out-of-domain)."
    )
    assert "compared with no other method" in first_sentence([])
    assert first_sentence([], is_scored=False).startswith("No word error rate (WER) was measured")


# ---- the card of a run


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("lab")


@pytest.fixture
def lab(shared, monkeypatch):
    """A lab with trained experts and LoRA; the tests of this module share its folders."""
    monkeypatch.setenv("LAB_CACHE", str(shared / "cache"))
    monkeypatch.setenv("LAB_RESULTS", str(shared / "results"))
    lab = Lab("smoke", **CHANGES)
    lab.train("distilwhisper")
    lab.train("lora")
    return lab


def test_card_needs_a_trained_method_with_experts(lab):
    with pytest.raises(ValueError, match="lora has no experts to share: methods with some are"):
        model_card(lab, "lora")
    with pytest.raises(FileNotFoundError, match=r"clsr-ft is not trained on 'cs'.*lab.train"):
        model_card(lab, "clsr-ft")
    with pytest.raises(FileNotFoundError, match="with these settings"):
        model_card(lab, epochs=7)


def test_card_takes_stored_scores_alone_unless_told_to_transcribe(lab, monkeypatch):
    def refuse(*_, **__):
        pytest.fail("a card trains nothing")

    monkeypatch.setattr(lab_module, "train_run", refuse)
    card = model_card(lab)
    assert text_of(card).startswith("No word error rate (WER) was measured")
    assert "Not measured." in str(card) and "model-index" not in front_matter(card)

    computed = model_card(lab, compute=True)
    monkeypatch.setattr(lab_module, "transcribe", refuse)
    again = model_card(Lab("smoke", **CHANGES))
    assert str(again) == str(computed) and "model-index" in front_matter(again)


def test_card_of_a_run_tells_data_settings_scores_and_limits(lab):
    card = str(model_card(lab, compute=True))
    for part in (
        "# Experts for Czech (tiny)",
        "- Training clips: 4 (",
        "(`toy`)",
        "Method: DistilWhisper, our variant (`distilwhisper`). Student: tiny, frozen.",
        "Teacher: a stand-in, tiny fine-tuned on 8 other clips.",
        "| training | learning_rate | 0.001 |",
        "| loss | divergence | js |",
        "| method | in-domain (3 clips) | out-of-domain (3 clips) |",
        "| plain Whisper | ",
        "| stand-in teacher | ",
        "| LoRA | ",
        "**these experts** | ",
        "- Not compared with Fine-tuning: ",
        "One run with seed 77",
        "The experts: not stated. The training data: not stated.",
        base_fingerprint(load_whisper("tiny")),
        'load_experts(model, "user/name")',
    ):
        assert part in card, part
    assert text_of(card).startswith("These experts ")


def test_metadata_of_a_run_hold_languages_base_model_and_results(lab, monkeypatch):
    folder = lab.train("distilwhisper") / "model"
    description = read_json(folder / "experts.json")
    known = {name: DESCRIPTION[name] for name in ("base_model", "revision")}
    monkeypatch.setattr(card_module, "read_description", lambda _: description | known)
    card = model_card(lab, licence="mit", compute=True)

    metadata = front_matter(card)
    assert metadata["language"] == ["cs"] and metadata["license"] == "mit"
    assert metadata["base_model"] == "openai/whisper-base"
    read = ModelCard(str(card)).data.eval_results
    scores = [score(lab, "distilwhisper", f"cs/{name}") for name in TESTS]
    assert len(read) == len(scores)
    for result, expected in zip(read, scores, strict=True):
        assert (result.metric_type, result.dataset_config) == ("wer", "cs")
        assert result.metric_value == pytest.approx(expected["wer"], abs=0.01)
        assert result.metric_args["clips"] == expected["n"]
        assert result.metric_args["low"] <= result.metric_value <= result.metric_args["high"]
        assert expected["test_set"] in result.dataset_name


def test_licence_is_asked_for_or_the_corpuss_but_never_invented(lab, monkeypatch):
    assert "license" not in front_matter(model_card(lab))
    with pytest.raises(ValueError, match="the corpus toy states no licence: give one"):
        model_card(lab, licence="corpus")
    monkeypatch.setattr(card_module, "_corpus_card", lambda _: ("A corpus", "cc0-1.0"))
    card = model_card(lab, licence="corpus")
    assert front_matter(card)["license"] == "cc0-1.0"
    assert "The experts: cc0-1.0. The training data: cc0-1.0." in str(card)
    assert "license" not in front_matter(model_card(lab))


@pytest.mark.parametrize(
    ("corpus", "licence"),
    [("common-voice-10k", "cc0-1.0"), ("fillets", "gpl-2.0"), ("recordings", None), ("toy", None)],
)
def test_licence_of_a_corpus_is_that_of_its_card(corpus, licence):
    assert card_module._corpus_card(corpus)[1] == licence


def test_card_of_the_second_language_is_of_its_own_run_and_test(lab):
    lab.train("distilwhisper", "ca")
    card = model_card(lab, language="ca", compute=True)
    assert front_matter(card)["language"] == ["ca"]
    assert "second-language (3 clips)" in str(card) and "in-domain" not in str(card)
    assert "- Not compared with Fine-tuning and LoRA: " in str(card)


def test_card_of_a_run_is_accepted_and_pushed(lab, tmp_path):
    with hub_stand_in(tmp_path) as hub:
        hub.log_in("user")
        card = model_card(lab, compute=True, licence="mit")
        push_experts(lab.model("distilwhisper"), NAME, card=card)
        pushed = hub.files(NAME)["README.md"].decode()
        assert pushed == str(card).replace("user/name", NAME)
        assert expert_languages(loaded(NAME)) == ["cs"]


# ---- the stand-in


def test_another_process_finds_the_stand_in_by_the_environment(hub):
    hub.add(NAME, {"experts.json": b"{}"})
    code = f"import huggingface_hub as h; print(h.snapshot_download({NAME!r}))"
    environment = {**os.environ, **hub.environment()}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert (Path(done.stdout.strip()) / "experts.json").read_bytes() == b"{}"
    assert Path(done.stdout.strip()).is_relative_to(hub.home)
