"""The commands and their options; each command calls the library when it runs."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from ..programs import run_program
from .answers import Answer, answered, print_json

EPILOG = (
    "Exit status: 0 done, 1 a problem with the input or the result, 2 wrong usage. "
    "More: docs/command-line.md."
)

# Of all errors of usage; typer gives it no public name of its own
UsageError = typer.BadParameter.__base__


class Commands(typer.core.TyperGroup):
    """The commands; with `--json` wrong usage is answered as JSON too."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """Run a command as typer does; an error of usage is printed here where JSON is wanted."""
        arguments = sys.argv[1:] if args is None else list(args)
        try:
            return super().main(arguments, *rest, **options)
        except SystemExit as ended:
            if "--json" in arguments and isinstance(ended.__context__, UsageError):
                print_json({"error": ended.__context__.format_message()})
            raise


app = typer.Typer(
    name="distilwhisper",
    cls=Commands,
    help="Experts for Whisper in your own language: check recordings, train, transcribe, share.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# ---- options that several commands have

Recordings = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="A folder of recordings with recordings.csv."),
]
Corpus = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="A corpus of the project instead, such as fillets."),
]
Language = Annotated[
    str | None,
    typer.Option(
        metavar="LANGUAGE",
        help="Code or English name. Else: the folder's name, or the preset's language.",
    ),
]
PresetName = Annotated[
    str,
    typer.Option("--preset", metavar="NAME", help="How much: smoke, toy, laptop, colab or paper."),
]
Student = Annotated[
    str | None, typer.Option(metavar="MODEL", help="Whisper to adapt. Else: the preset's.")
]
Teacher = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="Larger Whisper to learn from. Else: the preset's."),
]
Normaliser = Annotated[
    str | None, typer.Option(metavar="NAME", help="Of texts before they are compared.")
]
Tests = Annotated[
    list[str] | None,
    typer.Option("--test", metavar="NAME", help="May be repeated. Else: in-domain."),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON object on standard output, and nothing else there."
    ),
]


@contextmanager
def wrong_usage() -> Iterator[None]:
    """Make a ValueError of the block, which checks options, one of wrong usage: exit status 2."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def main() -> None:
    """Run the command line."""
    run_program(lambda: app(prog_name="distilwhisper"))


@app.command(epilog=EPILOG)
@answered
def check(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Recordings with their table recordings.csv."),
    ],
    language: Annotated[
        str | None,
        typer.Option(metavar="LANGUAGE", help="Code or English name. Else: the folder's name."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 also for warnings and clips left out.")
    ] = False,
    as_json: Json = False,
) -> Answer:
    """Look at a folder of recordings before training.

    Shows clips, minutes, speakers and splits, names each clip that is left out with the reason, and
    warns of what makes a test worth little: one speaker, speakers or texts in two splits, clips
    that are short, long, quiet, silent or clipped.

    Example: distilwhisper check recordings/gl
    """
    from .folder_check import check_folder, language_of

    if folder.exists():
        with wrong_usage():
            language = language_of(folder, language)
    return check_folder(folder, language, strict)


@app.command(epilog=EPILOG)
@answered
def train(
    recordings: Recordings = None,
    corpus: Corpus = None,
    language: Language = None,
    preset: PresetName = "laptop",
    systems: Annotated[
        list[str] | None,
        typer.Option(
            "--system",
            metavar="NAME",
            help="experts (without teacher), distilwhisper, lora, fine-tuning …; may be repeated. "
            "Else: experts.",
        ),
    ] = None,
    student: Student = None,
    teacher: Teacher = None,
    to: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="New folder for a copy of the experts."),
    ] = None,
    as_json: Json = False,
) -> Answer:
    """Train experts, or another method, on speech.

    What is trained already is found again; a stopped training goes on. distilwhisper learns from a
    teacher: give --teacher with recordings.

    Example: distilwhisper train --recordings recordings/gl --to my-experts
    """
    from .systems import Where, check_to_train
    from .systems import train as train_systems

    names = list(dict.fromkeys(systems or ["experts"]))
    with wrong_usage():
        where = Where(preset, recordings, corpus, language, student, teacher)
        check_to_train(names, to)
    return train_systems(where, names, to)


@app.command(epilog=EPILOG)
@answered
def evaluate(
    recordings: Recordings = None,
    corpus: Corpus = None,
    language: Language = None,
    preset: PresetName = "laptop",
    systems: Annotated[
        list[str] | None,
        typer.Option(
            "--system",
            metavar="NAME",
            help="student (plain Whisper), teacher, experts …; may be repeated. Else: student.",
        ),
    ] = None,
    tests: Tests = None,
    student: Student = None,
    teacher: Teacher = None,
    normaliser: Normaliser = None,
    as_json: Json = False,
) -> Answer:
    """Score systems on a test, with intervals.

    Shows WER and CER; for scripts without spaces between words CER alone. Systems are trained
    before, by `distilwhisper train` with the same data and preset.

    Example: distilwhisper evaluate --recordings recordings/gl --system student --system experts
    """
    from .systems import Where, check_to_score
    from .systems import evaluate as evaluate_systems

    names = list(dict.fromkeys(systems or ["student"]))
    with wrong_usage():
        where = Where(preset, recordings, corpus, language, student, teacher, normaliser)
        check_to_score(names)
    return evaluate_systems(where, names, tests or ["in-domain"])


@app.command(epilog=EPILOG)
@answered
def transcribe(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Recordings of any length.")],
    experts: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of experts, or their name on the hub. Else: plain Whisper.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Whisper by hub id, or its folder. Else: the one of the experts, or whisper-base.",
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(
            metavar="LANGUAGE",
            help="Code or English name; auto: detected, and its experts are used. Else: that of "
            "experts for one language, or auto.",
        ),
    ] = None,
    to: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Where the transcripts are written."),
    ] = Path("transcripts"),
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help="txt, srt, vtt or json; may be repeated. Else: all four.",
        ),
    ] = None,
    piece_seconds: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Longest piece, 2 to 30; subtitles are as long. Else: 30, with experts 6.",
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Pieces that are transcribed together.")
    ] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace other transcripts.")] = (
        False
    ),
    as_json: Json = False,
) -> Answer:
    """Transcribe recordings into text, subtitles and JSON.

    A long recording is cut at pauses. The time that is needed is told after the first piece. A
    stopped call goes on where it was.

    Example: distilwhisper transcribe talk.m4a --experts my-experts --to texts
    """
    from .formats import FORMATS
    from .long import Settings, transcribe_files

    with wrong_usage():
        settings = Settings(
            model=model,
            experts=experts,
            language=language,
            piece_seconds=piece_seconds,
            batch_size=batch_size,
            formats=tuple(dict.fromkeys(formats or FORMATS)),
            folder=to,
            overwrite=overwrite,
        )
    return transcribe_files(files, settings)


@app.command(epilog=EPILOG)
@answered
def compare(
    recordings: Recordings = None,
    corpus: Corpus = None,
    language: Language = None,
    preset: PresetName = "laptop",
    systems: Annotated[
        list[str] | None,
        typer.Option(
            "--system", metavar="NAME", help="Two or more; the first is compared with the others."
        ),
    ] = None,
    tests: Tests = None,
    student: Student = None,
    teacher: Teacher = None,
    normaliser: Normaliser = None,
    as_json: Json = False,
) -> Answer:
    """Compare systems on the same clips.

    Shows their error rates and the differences of the first to each other one, with 95 % intervals.

    Example: distilwhisper compare --recordings recordings/gl --system experts --system student
    """
    from .systems import Where, check_to_score
    from .systems import compare as compare_systems

    names = list(dict.fromkeys(systems or []))
    with wrong_usage():
        where = Where(preset, recordings, corpus, language, student, teacher, normaliser)
        check_to_score(names, at_least=2)
    return compare_systems(where, names, tests or ["in-domain"])


@app.command(epilog=EPILOG)
@answered
def share(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Experts, as train writes them.")
    ],
    consent: Annotated[
        bool,
        typer.Option("--consent", help="The people who were recorded have agreed to it."),
    ] = False,
    licence: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Licence of the recordings, such as cc-by-4.0; the experts get it too.",
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="New folder, or a file that ends in .zip."),
    ] = None,
    hub: Annotated[
        str | None,
        typer.Option(metavar="USER/NAME", help="Repository of the hub; needs `hf auth login`."),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="For the card: what evaluate --json has printed."),
    ] = None,
    spoken: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The language that is spoken, where it borrows the token of another one.",
        ),
    ] = None,
    as_json: Json = False,
) -> Answer:
    """Make experts ready for others, with a model card.

    Nothing is shared without the speakers' consent and the licence of the recordings. On a terminal
    both are asked for where they are missing.

    Example: distilwhisper share my-experts --consent --licence cc-by-4.0 --to my-experts.zip
    """
    from .share import check_permission
    from .share import share as share_experts

    if sys.stdin.isatty() and not as_json:
        consent = consent or typer.confirm("Have the people who were recorded agreed to it?")
        if licence is None:
            licence = typer.prompt("Licence of the recordings", default="", show_default=False)
    with wrong_usage():
        check_permission(consent, licence)
        if (to is None) == (hub is None):
            raise ValueError("give either --to FOLDER (or FILE.zip) or --hub USER/NAME")
    return share_experts(
        folder,
        consent=consent,
        licence=licence,
        to=to,
        hub=hub,
        scores=scores,
        spoken=spoken,
    )
