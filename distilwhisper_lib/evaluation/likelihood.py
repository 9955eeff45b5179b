"""How well texts fit sounds: the teacher-forced loss of their tokens, under any language token."""

import pandas as pd
import torch
from torch.nn import functional as F
from tqdm import tqdm

from ..data.batches import Clips, Collator, length_batches
from ..device import autocast, device_of, weights_cast_once
from ..method.losses import IGNORED
from ..whisper.tokens import language_codes, prefix_tokens
from ..whisper.unwrap import unwrap
from ..whisper.window import use_window
from .statistics import CAPPED, difference, holm, rate

PREFIX = 3  # labels before the text: language, task, no timestamps
AS_PER_CENT = 100  # `rate` and `difference` give errors in per cent of words


# ---- losses of clips


def text_losses(
    model,
    clips: Clips,
    collator: Collator,
    languages: str | list[str],
    batch_size: int = 16,
    label: str | None = None,
) -> pd.DataFrame:
    """Return the loss of each clip's text under each language token.

    The decoder reads the right text so far and predicts the next token. The loss of a text is the
    sum of -log p over its tokens and the end, in nats. The tokens of language and task are given,
    and do not count. The encoder does not see the language, so each clip is encoded once.

    Args:
        model: A Whisper, on its device.
        clips: With their texts.
        collator: Makes log-mel features of a list of clips.
        languages: Codes or names of the tokens to try.
        batch_size: Clips in a batch.
        label: The text beside the progress bar; None: no bar.

    Returns:
        A row per clip and language, in the order of the clips: id, language, tokens, loss.

    Raises:
        ValueError: For an unknown language, a batch size below 1, or labels that do not begin with
            language, task and no timestamps.
    """
    codes = language_codes(languages)
    tokens = [prefix_tokens(collator.tokenizer, code)[1] for code in codes]
    model.eval()
    found: dict[int, list[dict]] = {}
    batches = length_batches(clips.durations, batch_size)
    for indices in tqdm(batches, desc=label, unit="batch", disable=label is None):
        batch = collator([clips[index] for index in indices])
        _check_prefix(batch, collator)
        counts = (batch["labels"][:, PREFIX:] != IGNORED).sum(1).tolist()
        losses = _losses_of_batch(model, batch, tokens).tolist()  # (languages, B)
        for place, index in enumerate(indices):
            found[index] = [
                {
                    "id": clips.ids[index],
                    "language": code,
                    "tokens": counts[place],
                    "loss": of_language[place],
                }
                for code, of_language in zip(codes, losses, strict=True)
            ]
    return pd.DataFrame([row for index in sorted(found) for row in found[index]])


def _check_prefix(batch: dict, collator: Collator) -> None:
    """Raise ValueError unless the decoder's inputs begin as `prefix_tokens` says."""
    start, *_, no_timestamps = prefix_tokens(collator.tokenizer, "en")
    inputs = batch["decoder_input_ids"]
    if not bool(((inputs[:, 0] == start) & (inputs[:, PREFIX] == no_timestamps)).all()):
        raise ValueError(
            "the labels do not begin with language, task and no timestamps: make the clips without "
            "a fidelity that changes labels"
        )


@torch.no_grad()
def _losses_of_batch(model, batch: dict, tokens: list[int]) -> torch.Tensor:
    """Return the loss of each text under each language token, in nats: (languages, B)."""
    whisper = unwrap(model)
    device, dtype = device_of(model), model.dtype
    features = batch["input_features"].to(device, dtype)
    inputs = batch["decoder_input_ids"].to(device).clone()  # (B, T)
    labels = batch["labels"].to(device)[:, PREFIX:]  # (B, T - 3)
    losses = []
    with use_window(model, features.shape[-1]), autocast(device, dtype), weights_cast_once(model):
        heard = whisper.get_encoder()(features)
        for token in tokens:
            inputs[:, 1] = token
            logits = model(encoder_outputs=heard, decoder_input_ids=inputs).logits[:, PREFIX:]
            each = F.cross_entropy(
                logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
            )  # (B, T - 3)
            losses.append(each.sum(1))
    return torch.stack(losses).cpu()


# ---- comparing language tokens


def language_scores(losses: pd.DataFrame) -> pd.DataFrame:
    """Compare language tokens by the loss of the same texts under each, the lowest first.

    Args:
        losses: As `text_losses` gives them; with a column `unit`, such as the speaker, clips of a
            unit are drawn together.

    Returns:
        A row per language: loss, loss_low and loss_high, in nats a token with the 95 % bootstrap
        interval; difference, low and high, the paired difference to the first row; and p_holm, its
        p value, corrected for the number of rows. The first row has no difference.

    Raises:
        ValueError: For fewer than two clips, or where the languages differ in their clips.
    """
    tables = {
        str(code): rows.rename(columns={"tokens": "words", "loss": CAPPED}).drop(columns="language")
        for code, rows in losses.groupby("language", sort=False)
    }
    rows = []
    for code, table in tables.items():
        own = rate(table)
        numbers = {"loss": own["wer"], "loss_low": own["wer_low"], "loss_high": own["wer_high"]}
        rows.append({"language": code, **{k: v / AS_PER_CENT for k, v in numbers.items()}})
    scores = pd.DataFrame(rows).set_index("language").sort_values("loss", kind="stable")

    first, *others = scores.index
    against = {code: difference(tables[code], tables[first]) for code in others}
    for code, found in against.items():
        for name in ("difference", "low", "high"):
            scores.loc[code, name] = found[name] / AS_PER_CENT
    corrected = holm({code: found["p"] for code, found in against.items()})
    scores["p_holm"] = pd.Series(corrected, dtype=float)
    return scores.reindex(
        columns=["loss", "loss_low", "loss_high", "difference", "low", "high", "p_holm"]
    )
