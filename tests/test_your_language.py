"""Recordings of one's own: written, looked at by the student's loss, tokens compared, more data."""

import numpy as np
import pandas as pd
import pytest
import torch
from made_corpora import make_recordings
from random_data import shake_experts

from distilwhisper_lib import (
    Clips,
    Collator,
    Fidelity,
    attach_experts,
    counts,
    doubtful_clips,
    get_preset,
    language_losses,
    language_scores,
    learning_curve,
    load_corpus,
    open_recordings,
    read_audio,
    statistics,
    teacher_forced_logits,
    text_losses,
    tiny_processor,
    tiny_whisper,
    use_language,
    write_recordings,
)
from distilwhisper_lib.cli.systems import Where
from distilwhisper_lib.lab import own_language
from distilwhisper_lib.whisper.tokens import prefix_tokens


def toy_rows(*splits: str, language: str = "nl") -> list[dict]:
    """Return the toy corpus's rows of some splits."""
    return [row for row in load_corpus("toy", language) if row["split"] in splits]


@pytest.fixture
def recordings(tmp_path):
    """The table of a folder with the toy corpus as recordings."""
    return write_recordings(toy_rows("train", "validation", "test"), tmp_path / "recordings")


@pytest.fixture
def lab(recordings):
    """A laboratory for these recordings at the preset smoke."""
    return open_recordings(recordings.parent, "nl", "smoke")


# ---- a folder of recordings


def test_what_is_written_is_read_back(recordings):
    found = load_corpus("recordings", "nl", recordings.parent)
    rows = toy_rows("train", "validation", "test")
    assert len(found) == len(rows)
    for row, again in zip(rows, found, strict=True):
        assert [again[name] for name in ("text", "speaker", "split")] == [
            row[name] for name in ("text", "speaker", "split")
        ]
        assert np.array_equal(read_audio(again["audio"]), read_audio(row["audio"]))
    assert found[0]["id"] == "recordings/nl/sound/0001"


def test_samples_are_written_and_what_is_not_known_stays_empty(tmp_path):
    sound = np.sin(np.arange(8000) / 9).astype(np.float32) / 2
    table = write_recordings([{"audio": sound, "text": 'a "b", c'}], tmp_path / "new")
    assert table.read_text() == 'path,text,speaker,split\nsound/0001.flac,"a ""b"", c",,\n'
    again = read_audio(tmp_path / "new" / "sound" / "0001.flac")
    assert np.allclose(again, sound, atol=1e-4)
    whole_numbers = (sound * 32_767).astype(np.int16)
    write_recordings([{"audio": whole_numbers, "text": "a"}], tmp_path / "int16")
    assert np.allclose(read_audio(tmp_path / "int16" / "sound" / "0001.flac"), sound, atol=1e-4)
    write_recordings([{"audio": sound, "text": "a", "speaker": "unknown"}], tmp_path / "other")
    assert ",a,," in (tmp_path / "other" / "recordings.csv").read_text()


def test_a_folder_that_exists_and_an_unknown_split_are_refused(tmp_path):
    with pytest.raises(FileExistsError, match="exists: give a new folder"):
        write_recordings([], tmp_path)
    with pytest.raises(ValueError, match="split is 'teacher'"):
        write_recordings(toy_rows("teacher"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_laboratory_is_that_of_the_command_line(recordings, lab):
    of_cli = Where("smoke", recordings=recordings.parent, language="nl").open()
    assert of_cli.preset == lab.preset
    assert of_cli.run_config("experts").name == lab.run_config("experts").name


def test_a_second_table_beside_the_first_can_be_opened(recordings):
    table = pd.read_csv(recordings)
    cleaned = recordings.with_name("cleaned.csv")
    table[table["split"] != "train"].to_csv(cleaned, index=False)
    splits = set(load_corpus("recordings", "nl", cleaned)["split"])
    assert splits == {"validation", "test"}


def test_a_script_without_spaces_gets_a_normaliser_that_keeps_its_marks(tmp_path):
    folder = make_recordings(tmp_path / "th", 20)
    assert open_recordings(folder, "th", "smoke").preset.normaliser == "keep-marks"
    other = open_recordings(folder, "th", "smoke", normaliser="released")
    assert other.preset.normaliser == "released"


# ---- losses of texts


@pytest.fixture(scope="module")
def student():
    """The tiny Whisper and its processor."""
    torch.manual_seed(9)
    return tiny_whisper().eval(), tiny_processor()


def clips_of(processor, language="nl", **options) -> Clips:
    rows = load_corpus("toy", "nl").select(range(5))
    return Clips(rows, processor, language, **options)


def losses_by_hand(model, clips, collator) -> list[float]:
    """Return the loss of each text alone, from the definition."""
    losses = []
    for index in range(len(clips)):
        batch = collator([clips[index]])
        log_p = teacher_forced_logits(model, batch).float().log_softmax(-1)[0]
        labels = batch["labels"][0].tolist()
        losses.append(-sum(log_p[t, token].item() for t, token in enumerate(labels) if t >= 3))
    return losses


@pytest.mark.parametrize("language", ["nl", "de"])
def test_losses_are_those_of_the_definition_under_each_token(student, language):
    model, processor = student
    collator = Collator(processor.tokenizer, None)  # the native window: the same in every batch
    found = text_losses(model, clips_of(processor), collator, ["nl", "de"], batch_size=2)
    assert list(found["language"]) == ["nl", "de"] * 5
    clips = clips_of(processor, language)
    own = found[found["language"] == language]
    assert list(own["id"]) == clips.ids
    assert list(own["tokens"]) == [len(labels) - 3 for labels in clips.labels]
    assert own["loss"].tolist() == pytest.approx(losses_by_hand(model, clips, collator), rel=0.02)


def test_tokens_differ_and_a_clip_is_encoded_once(student):
    model, processor = student
    calls = []
    hook = model.get_encoder().register_forward_hook(lambda *given: calls.append(1))
    codes = ["nl", "de", "ca"]
    try:
        found = text_losses(
            model, clips_of(processor), Collator(processor.tokenizer, 1.0), codes, 3
        )
    finally:
        hook.remove()
    assert len(calls) == 2  # batches of three and of two clips
    assert found.groupby("id")["loss"].nunique().eq(3).all()


def test_experts_that_are_chosen_are_used(student):
    _, processor = student
    model = shake_experts(attach_experts(tiny_whisper(), "nl")).eval()
    collator = Collator(processor.tokenizer, 1.0)
    found = {}
    for language in (None, "nl"):
        with use_language(model, language):
            found[language] = text_losses(model, clips_of(processor), collator, "nl")["loss"]
    assert not np.allclose(found[None], found["nl"], rtol=1e-3)


def test_other_labels_and_languages_are_refused(student):
    model, processor = student
    collator = Collator(processor.tokenizer, 1.0)
    released = clips_of(processor, fidelity=Fidelity(labels_without_language=True))
    with pytest.raises(ValueError, match="do not begin with language, task"):
        text_losses(model, released, collator, "nl")
    with pytest.raises(ValueError, match="Whisper does not know the language 'xx'"):
        text_losses(model, clips_of(processor), collator, ["nl", "xx"])
    with pytest.raises(ValueError, match="batch_size"):
        text_losses(model, clips_of(processor), collator, "nl", batch_size=0)


# ---- comparing tokens


def made_up_losses(**losses: list[float]) -> pd.DataFrame:
    """Return losses of clips a, b, c … with 10 tokens each, by language."""
    rows = []
    for code, numbers in losses.items():
        for name, loss in zip("abcdefgh", numbers, strict=False):
            rows.append({"id": name, "language": code, "tokens": 10, "loss": loss})
    return pd.DataFrame(rows)


def test_tokens_are_compared_in_pairs_the_lowest_loss_first():
    best = [20.0, 30, 25, 28, 22, 31]
    losses = made_up_losses(
        de=[loss + 3 for loss in best], nl=best, af=[20.1, 29.8, 25.2, 27.9, 22.1, 31.0]
    )
    scores = language_scores(losses)
    assert list(scores.index) == ["nl", "af", "de"]
    assert scores.loc["nl", "loss"] == pytest.approx(sum(best) / 60)
    assert scores.loc["nl", ["difference", "low", "high", "p_holm"]].isna().all()
    # three nats more in each clip of ten tokens: whichever clips are drawn
    assert scores.loc["de", ["difference", "low", "high"]].tolist() == pytest.approx([0.3] * 3)
    assert scores.loc["de", "p_holm"] < 0.05
    assert scores.loc["af", "low"] < 0 < scores.loc["af", "high"]
    assert scores.loc["af", "p_holm"] > 0.05


def test_p_values_are_corrected_for_the_number_of_tokens():
    best = [20.0, 30, 25, 28, 22, 31]
    worse = [21.0, 30.4, 25.9, 27.9, 22.8, 31.3]
    alone = language_scores(made_up_losses(nl=best, de=worse)).loc["de", "p_holm"]
    among = language_scores(made_up_losses(nl=best, de=worse, sv=worse)).loc["de", "p_holm"]
    assert among == pytest.approx(2 * alone)


def test_speakers_can_be_drawn_as_a_whole():
    losses = made_up_losses(nl=[20.0, 30, 25, 28], de=[22.0, 33, 24, 27])
    units = dict(zip("abcd", ["Ana", "Ana", "Ben", "Ben"], strict=True))
    scores = language_scores(losses.assign(unit=losses["id"].map(units)))
    assert scores.loc["de", "low"] == pytest.approx(-0.1)  # Ben alone
    assert scores.loc["de", "high"] == pytest.approx(0.25)  # Ana alone


def test_a_single_token_has_a_loss_and_nothing_to_be_compared_with():
    scores = language_scores(made_up_losses(nl=[20.0, 30]))
    assert scores["loss"].tolist() == [2.5] and scores["difference"].isna().all()


# ---- by the laboratory


def test_losses_are_computed_once(lab, monkeypatch):
    found = language_losses(lab, ["nl", "German"])
    assert len(found) == 2 * get_preset("smoke").validation_clips
    assert set(found["language"]) == {"nl", "de"}
    monkeypatch.setattr(own_language, "text_losses", None)
    pd.testing.assert_frame_equal(language_losses(lab, ["nl", "de"]), found)


def test_losses_follow_a_corrected_text(lab, recordings):
    before = language_losses(lab, ["nl"], split="test")
    text = toy_rows("test")[0]["text"]
    recordings.write_text(recordings.read_text().replace(text, text + " nlba"))
    after = language_losses(lab, ["nl"], split="test")
    assert (
        (after["loss"] != before["loss"]).sum() == (after["tokens"] != before["tokens"]).sum() == 1
    )


def test_clips_that_gain_least_by_hearing_come_first(lab, monkeypatch):
    """A stand-in for the student: a text costs 2 nats a token less where its sound is heard."""
    slipped = lab.clips("train").texts[3]

    def losses(model, clips, collator, languages, batch_size, label):
        rows = []
        for index, text in enumerate(clips.texts):
            is_heard = float(clips[index]["features"].std()) > 0
            gain = 2 * (is_heard and text != slipped)
            rows.append({"id": clips.ids[index], "tokens": 4, "loss": 4 * (5.0 - gain)})
        return pd.DataFrame(rows).assign(language=languages[0])

    monkeypatch.setattr(own_language, "text_losses", losses)
    found = doubtful_clips(lab)
    assert found.loc[0, "text"] == slipped and found.loc[0, "split"] == "train"
    assert found["gain"].tolist() == [0.0] + [2.0] * (len(found) - 1)
    assert found["loss"].tolist() == [5.0] + [3.0] * (len(found) - 1)
    assert len(found) == 16 and set(found["split"]) == {"train", "validation", "test"}


def test_doubtful_clips_of_the_tiny_student(lab):
    found = doubtful_clips(lab, ("validation",))
    assert len(found) == 4 and found["gain"].is_monotonic_increasing
    assert found[["loss", "gain"]].notna().all().all()
    with pytest.raises(ValueError, match="unknown split"):
        doubtful_clips(lab, ("dev",))


# ---- more data


def test_a_learning_curve_has_as_many_steps_with_less_data(lab):
    curve = learning_curve(lab, "experts", (0.5, 1.0))
    assert curve["clips"].tolist() == [4, 8]
    assert curve["epochs"].tolist() == [2, 1]
    assert curve["steps"].tolist() == [2, 2]
    assert curve["minutes"].is_monotonic_increasing
    first, whole = curve.to_dict("records")
    assert np.isnan(first["difference"])
    tables = [counts(lab, "experts", "nl/in-domain")]
    assert whole["wer"] == pytest.approx(statistics.rate(tables[0])["wer"])
    assert whole["difference"] == pytest.approx(whole["wer"] - first["wer"])
    assert whole["low"] <= whole["difference"] <= whole["high"]


def test_the_whole_of_a_learning_curve_is_the_training_that_is_there(lab, monkeypatch):
    lab.train("experts")
    learning_curve(lab, "experts", (1.0,))
    runs = list((lab.folder / "runs").glob("*/run.json"))
    assert len(runs) == 1


def test_a_learning_curve_in_characters(tmp_path):
    folder = make_recordings(tmp_path / "th", 40)
    lab = open_recordings(folder, "th", "smoke")
    curve = learning_curve(lab, "experts", (0.5, 1.0))
    first, whole = curve.to_dict("records")
    assert whole["difference"] == pytest.approx(whole["cer"] - first["cer"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("student",), "student is not trained on the clips"),
        (("teacher",), "teacher is not trained on the clips"),
        (("experts", (1.0, 0.5)), "they must rise"),
        (("experts", (0.5, 0.5)), "they must rise"),
        (("experts", (0, 1.0)), "a part is 0"),
        (("experts", (0.5, 2)), "a part is 2"),
        (("experts", 0.5), "parts is 0.5"),
        (("experts", (0.01, 1.0)), "0.01 of 8 training clips"),
        (("experts", (1.0,), "loud"), "unknown test set 'nl/loud'"),
    ],
)
def test_wrong_arguments_of_a_learning_curve_are_told_before_anything_is_trained(
    lab, arguments, message
):
    with pytest.raises(ValueError, match=message):
        learning_curve(lab, *arguments)
    assert not (lab.folder / "runs").exists()


def test_the_token_of_a_language_is_the_second_of_the_decoder_s_inputs(student):
    _, processor = student
    start, token, *_ = prefix_tokens(processor.tokenizer, "nl")
    batch = Collator(processor.tokenizer, 1.0)([clips_of(processor)[0]])
    assert batch["decoder_input_ids"][0, :2].tolist() == [start, token]
