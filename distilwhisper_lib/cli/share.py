"""Experts for others: a folder, a zip or a repository of the hub, with a model card."""

import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..files import atomic_file, atomic_folder, expanded, read_json
from ..method.card import (
    PLACEHOLDER_ID,
    base_name,
    base_section,
    card_data,
    language_names,
    library_section,
    loading_section,
    settings_table,
    title_end,
    what_they_are,
    write_card,
)
from ..method.loading import load_experts
from ..method.sharing import push_experts, without_path
from ..method.storage import (
    BASE_FILE,
    DESCRIPTION_FILE,
    check_file,
    expert_file,
    read_description,
    write_description,
)
from ..training.methods import METHODS
from ..whisper.loading import load_whisper
from ..whisper.tokens import language_code
from .answers import Answer

CARD = "README.md"
OTHER_ARCHIVES = (".gz", ".tgz", ".tar", ".bz2", ".xz", ".7z", ".rar")
# What is asked for: on the command line, as an argument, and what it says
CONSENT = "--consent (consent=True): the people who were recorded have agreed to it"
LICENCE = "--licence (licence=): how the recordings may be used, such as cc-by-4.0"


def share(
    folder: Path,
    *,
    consent: bool,
    licence: str | None,
    to: Path | None = None,
    hub: str | None = None,
    scores: Path | None = None,
    spoken: str | None = None,
) -> Answer:
    """Make experts ready for others, or push them to the hub.

    Args:
        folder: With experts, as `save_experts` or `distilwhisper train` has written it.
        consent: Whether the people who were recorded have agreed.
        licence: Of the recordings.
        to: A new folder, or a file that ends in .zip.
        hub: "user/name".
        scores: What `distilwhisper evaluate --json` or `compare --json` has printed, for the card.
        spoken: Name of the language that is spoken, where it borrows the token of another one.

    Raises:
        ValueError: Without consent or licence, for neither or both of `to` and `hub`, for scores of
            another language, and for a spoken language where the experts are for several.
        FileExistsError: Where `to` exists.
        OSError: Where the hub cannot be reached.
    """
    check_permission(consent, licence)
    folder = expanded(folder)
    to = None if to is None else expanded(to)
    scores = None if scores is None else expanded(scores)
    if (to is None) == (hub is None):
        raise ValueError("give either --to FOLDER (or FILE.zip) or --hub USER/NAME")
    if to is not None and to.exists():
        raise FileExistsError(f"{to} exists: give another name, or remove it first")
    if to is not None and to.suffix.lower() in OTHER_ARCHIVES:
        raise ValueError(f"{to}: the only archive that is written is a zip: give FILE.zip")
    description = read_description(folder)
    for name in _weights(folder, description):
        check_file(folder / name, description)
    if spoken is not None and (not spoken.strip() or len(description["languages"]) > 1):
        raise ValueError(
            f"{spoken!r} cannot be the spoken language: a name is needed, and experts for one "
            f"language; these are for {language_names(description['languages'])}"
        )
    of_scores = _read_scores(scores, description)
    is_zip = to is not None and to.suffix.lower() == ".zip"
    name = None if to is None else to.stem if is_zip else to.name
    card = experts_card(description, str(licence), of_scores, spoken, name)

    if hub is not None:
        model = load_experts(load_whisper(description["base_model"]), folder)
        form = description.get("form", "fp32")
        # what was brought to a low rank is kept exactly as it is, not approximated again
        form = "fp16" if form == "low-rank" else form
        shared = push_experts(model, hub, card=card, form=form)
    elif to is not None and is_zip:
        _write_zip(to, lambda part: _write_folder(part, folder, description, card))
        shared = str(to)
    else:
        with atomic_folder(Path(to or ""), new=True) as part:
            _write_folder(part, folder, description, card)
        shared = str(to)

    problems = []
    if of_scores is not None and "experts" not in of_scores:
        problems = [f"{scores} does not say which experts it is of: it is taken for these"]
    content = {"shared": shared, "languages": description["languages"], "licence": licence}
    names = spoken or language_names(description["languages"])
    told = f"experts for {names}, with a model card: {shared}"
    return Answer(content, told, problems=problems)


def check_permission(consent: bool, licence: str | None) -> None:
    """Raise ValueError unless the speakers agree and the licence of the recordings is stated."""
    missing = [] if consent else [CONSENT]
    missing += [] if licence and licence.strip() else [LICENCE]
    if missing:
        raise ValueError("nothing is shared yet. Missing is " + ", and ".join(missing))


# ---- the files


def _weights(folder: Path, description: dict[str, Any]) -> list[str]:
    """Return the names of the files beside experts.json."""
    names = [expert_file(folder, code).name for code in description["languages"]]
    return names + ([BASE_FILE] if (folder / BASE_FILE).is_file() else [])


def _write_folder(part: Path, folder: Path, description: dict[str, Any], card: Any) -> None:
    """Write experts with their card into a new folder, without a path of this machine."""
    part.mkdir()
    for file in _weights(folder, description):
        shutil.copyfile(folder / file, part / file)
    write_description(part / DESCRIPTION_FILE, without_path(description))
    (part / CARD).write_text(str(card), encoding="utf-8")


def _write_zip(to: Path, write: Callable[[Path], None]) -> None:
    """Write a zip whose only folder has its name."""
    with TemporaryDirectory(prefix="share-experts-") as temporary, atomic_file(to) as part:
        folder = Path(temporary) / to.stem
        write(folder)
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.iterdir()):
                archive.write(path, f"{to.stem}/{path.name}")


# ---- the card


def experts_card(
    description: dict[str, Any],
    licence: str,
    scores: dict[str, Any] | None,
    spoken: str | None = None,
    folder: str | None = None,
) -> Any:
    """Return the model card of experts.

    Args:
        description: Content of experts.json.
        licence: Of the recordings.
        scores: Of the evaluation; None: the card says that there are none.
        spoken: Name of the language that is spoken, where its token is that of another one.
        folder: Name of the folder that they are in, alone or in a zip; None: a repository.
    """
    place, source = ("folder", f"path/to/{folder}") if folder else ("repository", PLACEHOLDER_ID)
    is_id = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", licence)
    id_of_hub = licence.lower() if is_id else None
    metadata = card_data(description, id_of_hub)
    title, borrowed = f"# Experts for {title_end(description)}", []
    if spoken is not None:
        token = language_names(description["languages"])
        title = f"# Experts for {spoken}, with the token of {title_end(description)}"
        borrowed = [
            f"The recordings are in {spoken}, and so are the texts that come out. Whisper is told "
            f"{token} ({description['languages'][0]}): set this language wherever one is asked "
            f"for. With these experts nothing is known about speech in {token} itself."
        ]
        del metadata["language"]  # the hub would list them under the language of the token
    parts = [
        title,
        f"{_first_sentence(scores)}\n\n{what_they_are(description, place)}",
        *borrowed,
        loading_section(description, source),
        *([_scores_section(scores)] if scores else []),
        f"## Training data\n\nRecordings whose licence is: {licence}. The one who shares these "
        "experts states that the people who were recorded have agreed to it.",
        f"## Settings\n\n{settings_table({'experts and gates': description['settings']})}",
        base_section(description),
        f"## Licence\n\nThe experts: {licence}, as the recordings.",
        library_section(),
    ]
    return write_card(metadata, parts)


def _first_sentence(scores: dict[str, Any] | None) -> str:
    """Return whether an error rate is known."""
    if scores is None:
        return "No error rate was given for these experts."
    others = {row["system"] for row in scores["scores"]} - set(scores["these"])
    beside = ", beside those of the systems compared" if others else ""
    return f"Error rates of these experts stand below{beside}."


def _read_scores(path: Path | None, description: dict[str, Any]) -> dict[str, Any] | None:
    """Return the scores in a file that `evaluate --json` has printed; None for no file.

    With an entry more, "these": the systems in it that are the experts of the description.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where it holds something else, or scores of another language or Whisper, or of
            other experts.
    """
    if path is None:
        return None
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: write it by `distilwhisper evaluate --json`")
    failed = read_json(path, strict=True).get("error")
    if failed:
        raise ValueError(f"{path} holds no scores, for `distilwhisper evaluate` failed: {failed}")
    found = read_json(path, strict=True, needs=("scores", "language", "student"))
    rows = found["scores"]
    if not isinstance(rows, list) or not all(_is_row(row) for row in rows):
        raise ValueError(f"{path} holds other scores: write it by `distilwhisper evaluate --json`")
    of_experts = {row["system"] for row in rows if row["system"] in METHODS}
    of_experts = {name for name in of_experts if METHODS[name].has_experts}
    if not of_experts:
        raise ValueError(
            f"{path} holds no scores of experts: write it by `distilwhisper evaluate --system "
            "student --system experts --json`"
        )
    if language_code(found["language"]) not in description["languages"]:
        known = ", ".join(description["languages"])
        raise ValueError(f"{path} has scores of {found['language']!r}, the experts are for {known}")
    if not _is_the_same_model(found["student"], description["base_model"]):
        raise ValueError(
            f"{path} has scores of {found['student']}, the experts are for {base_name(description)}"
        )
    if "experts" not in found:  # written by a program of one's own
        return found | {"these": sorted(of_experts)}
    scored = found["experts"]
    these = [
        name for name, hashes in scored.items() if hashes and hashes == description.get("sha256")
    ]
    if not these:
        raise ValueError(
            f"{path} has scores of other experts ({', '.join(scored)}): "
            "score these by `distilwhisper evaluate --json`, with the system, the data and the "
            "options that they were trained with"
        )
    return found | {"these": these}


def _is_the_same_model(one: str, other: str) -> bool:
    """Return whether two names of models are equal, or lead to the same folder."""
    folders = [expanded(name).resolve() for name in (one, other)]
    return one == other or (folders[0] == folders[1] and folders[0].is_dir())


def _is_row(row: Any) -> bool:
    """Return whether a row of scores has what the card shows."""
    rates = [f"{rate}{end}" for rate in ("wer", "cer") for end in ("", "_low", "_high")]
    return (
        isinstance(row, dict)
        and all(isinstance(row.get(name), str) for name in ("test", "system"))
        and all(isinstance(row.get(name), int | float | None) for name in [*rates, "n"])
        and isinstance(row.get("wer"), int | float)
    )


def _scores_section(scores: dict[str, Any]) -> str:
    """Return the scores as a table."""
    lines = [
        "## Error rates",
        "",
        f"In per cent, with 95 % intervals; texts normalised by `{scores.get('normaliser')}`.",
        "",
        "| test | system | WER | CER | clips |",
        "| --- | --- | --- | --- | --- |",
    ]
    is_unspaced = scores.get("main_rate") == "cer"
    for row in scores["scores"]:
        wer = "not meaningful" if is_unspaced else _with_interval(row, "wer")
        cells = [row["test"], row["system"], wer, _with_interval(row, "cer"), str(row["n"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _with_interval(row: dict[str, Any], rate: str) -> str:
    low, high = row[f"{rate}_low"], row[f"{rate}_high"]
    interval = "" if low is None or high is None else f" [{low:.1f}, {high:.1f}]"
    return f"{row[rate]:.1f}{interval}"
