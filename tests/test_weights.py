"""Models by name, the tiny Whisper, and the short window."""

import logging

import huggingface_hub
import pytest
import torch

from distilwhisper_lib.whisper import loading
from distilwhisper_lib.whisper.hub import REVISIONS
from distilwhisper_lib.whisper.loading import find_weights, load_processor, load_whisper
from distilwhisper_lib.whisper.tiny import CODES, SPECIAL, tiny_whisper
from distilwhisper_lib.whisper.window import use_window


@pytest.fixture
def model():
    return load_whisper("tiny")


@pytest.fixture
def features():
    draw = torch.Generator().manual_seed(1)
    return torch.randn(2, 80, 3000, generator=draw)  # (B, mel bands, frames)


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """A hub that nobody answers at, and an empty cache."""
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        huggingface_hub.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def logits(model, features):
    start = torch.full((len(features), 1), model.config.decoder_start_token_id)
    with torch.no_grad():
        return model(features, decoder_input_ids=start).logits


def test_tiny_is_the_same_every_time_and_leaves_random_numbers_alone(model, features):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    again = load_whisper("tiny")
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(logits(model, features), logits(again, features))
    assert not torch.equal(logits(model, features), logits(tiny_whisper(seed=1), features))


def test_tiny_tokens_stand_in_whispers_order():
    tokenizer = load_processor("tiny").tokenizer
    ids = tokenizer.convert_tokens_to_ids
    assert [ids(token) for token in SPECIAL] == list(range(256, 363))
    assert (ids("<|0.00|>"), ids("<|30.00|>"), len(tokenizer)) == (363, 1863, 1864)
    assert (len(CODES), CODES[0], CODES[-1]) == (99, "en", "su")
    tokenizer.set_prefix_tokens(language="cs", task="transcribe")
    prefix = [
        ids(f"<|{name}|>") for name in ("startoftranscript", "cs", "transcribe", "notimestamps")
    ]
    assert tokenizer("žlutý").input_ids == [
        *prefix,
        *tokenizer("žlutý", add_special_tokens=False).input_ids,
        256,
    ]
    assert (
        tokenizer.decode(tokenizer("žlutý kůň ไทย").input_ids, skip_special_tokens=True)
        == "žlutý kůň ไทย"
    )


@pytest.mark.parametrize("beams", [1, 2])
def test_tiny_generates_quietly_with_languages_and_tasks(model, features, beams, caplog):
    with caplog.at_level(logging.WARNING, logger="transformers"):
        tokens = model.generate(
            features, language=["cs", "nl"], task="translate", max_new_tokens=5, num_beams=beams
        )
    assert tokens.shape == (2, 5)
    assert not caplog.records


def test_generate_may_fill_all_positions_of_the_decoder(model):
    assert model.generation_config.max_length == 448
    assert model.generation_config.max_new_tokens is None


def test_tiny_learns(model, features):
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    labels = torch.tensor([[10, 20, 30, 40, 256], [50, 60, 70, 80, 256]])  # (B, tokens)
    with use_window(model, 100):
        losses = []
        for _ in range(60):
            loss = model(features[..., :100], labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_model_goes_through_a_folder_unchanged(model, features, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="no tokenizer"):
        load_processor(tmp_path)
    load_processor("tiny").save_pretrained(tmp_path)
    again = load_whisper(tmp_path)
    assert torch.equal(logits(model, features), logits(again, features))
    assert not again.training
    assert again.generate(features, language="cs", max_new_tokens=4).shape == (2, 4)
    assert (
        load_processor(tmp_path).tokenizer("kůň").input_ids
        == load_processor("tiny").tokenizer("kůň").input_ids
    )
    assert (again.name_or_path, find_weights(tmp_path).kind) == (str(tmp_path), "folder")


def test_dtype_and_attention_are_as_asked(model, tmp_path):
    model.half().save_pretrained(tmp_path)
    assert load_whisper(tmp_path).dtype == torch.float32  # though the checkpoint is in fp16
    assert load_whisper(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert load_whisper("tiny", attn_implementation="sdpa").config._attn_implementation == "sdpa"
    assert load_whisper("tiny").config._attn_implementation == (
        "sdpa" if torch.cuda.is_available() else "eager"
    )


def test_folder_without_a_checkpoint_says_what_it_lacks(model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks config.json, model.safetensors"):
        load_whisper(tmp_path)
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert load_whisper(tmp_path).dtype == torch.float32
    sorted(tmp_path.glob("model-*.safetensors"))[-1].unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks model-0"):
        load_whisper(tmp_path)


@pytest.mark.parametrize("name", ["whisper", "./nowhere", "a/b/c"])
def test_name_that_means_nothing_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        FileNotFoundError, match="no such folder, and not a hub id|is not a Whisper checkpoint"
    ):
        load_whisper(name)


def test_without_network_the_error_comes_quickly_and_says_what_to_do(no_hub):
    with pytest.raises(OSError, match=r"openai/whisper-small.*check the network.*give the folder"):
        load_whisper("openai/whisper-small")


def test_whisper_base_comes_from_the_mirror_without_network(no_hub, monkeypatch, tmp_path, model):
    def fetch():
        model.save_pretrained(tmp_path / "mirror")
        return tmp_path / "mirror"

    monkeypatch.setattr(loading, "fetch_mirror", fetch)
    loaded = load_whisper("openai/whisper-base")
    assert loaded.name_or_path == "openai/whisper-base"
    assert find_weights("openai/whisper-base").kind == "mirror"


def test_model_that_the_hub_does_not_have_is_named(no_hub, monkeypatch):
    def missing(*_, **__):
        raise huggingface_hub.errors.EntryNotFoundError("no config.json")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", missing)
    with pytest.raises(ValueError, match=r"no/such.*is not on the hub.*spelling"):
        load_whisper("no/such")


def test_model_of_the_hub_is_fetched_once_at_its_commit(no_hub, monkeypatch, model, tmp_path):
    asked = []

    def snapshot(name, revision, allow_patterns, local_files_only=False):
        asked.append((name, revision, local_files_only))
        folder = tmp_path / "hub" / "0123abc"
        if not local_files_only:
            model.save_pretrained(folder)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: None)
    assert load_whisper("openai/whisper-small").config._commit_hash == "0123abc"
    assert find_weights("openai/whisper-small").kind == "hub"
    revision = REVISIONS["openai/whisper-small"]
    assert asked == [("openai/whisper-small", revision, local) for local in (True, False, True)]


def test_whole_window_is_the_plain_model(model, features):
    plain = logits(model, features)
    with use_window(model, 3000):
        assert torch.equal(logits(model, features), plain)


def test_short_window_is_the_first_positions(model, features):
    short = features[..., :200]
    with use_window(model, 200):
        encoded = model.get_encoder()(short).last_hidden_state  # (B, 100, d)
        tokens = model.generate(short, language="cs", task="transcribe", max_new_tokens=4)
        assert logits(model, short).shape[:2] == (2, 1)
    assert encoded.shape[1] == 100 and tokens.shape == (2, 4)
    model.get_encoder().embed_positions.weight.data[100:] = torch.nan  # the rest plays no part
    with use_window(model, 200):
        assert torch.equal(model.get_encoder()(short).last_hidden_state, encoded)


def test_window_closes_after_an_error_and_nests(model, features, tmp_path):
    with pytest.raises(ZeroDivisionError), use_window(model, 200):
        with use_window(model, 100):
            model.get_encoder()(features[..., :100])
        model.get_encoder()(features[..., :200])
        raise ZeroDivisionError
    assert logits(model, features).isfinite().all()
    model.save_pretrained(tmp_path)
    assert load_whisper(tmp_path).config.max_source_positions == 1500


@pytest.mark.parametrize("frames", [201, 3002, 0, -2])
def test_window_that_does_not_fit_is_refused(model, frames):
    with pytest.raises(ValueError, match=f"window of {frames} frames"), use_window(model, frames):
        pass
    assert model.config.max_source_positions == 1500


def test_window_works_below_a_peft_adapter(model, features):
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["fc1", "fc2"]))
    with use_window(adapted, 200):
        assert adapted.generate(
            input_features=features[..., :200], language="cs", max_new_tokens=3
        ).shape == (2, 3)
    assert logits(adapted, features).isfinite().all()
