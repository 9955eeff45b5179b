"""The demo's page, in Gradio: `make demo` starts it, in an environment of its own (.venv-demo).

It is served to this machine alone and asks no other machine for anything. What is computed comes
from a worker process in the course's environment.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from threading import Event
from typing import Any

from ..programs import Failed, number_option, run_program
from . import markup
from .client import Worker, WorkerError

ADDRESS = "127.0.0.1"
LARGEST_FILE = "200mb"
SHOWN = 60  # characters of a clip's text in the list of clips

# Read by Gradio when it is imported
SETTINGS = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_SSR_MODE": "False",
    "HF_HUB_OFFLINE": "1",
}

# Fonts of the reader's system: no file is fetched for them
FONT = ("system-ui", "sans-serif")
FONT_MONO = ("ui-monospace", "monospace")

TITLE = "DistilWhisper Lab: demo"


def main(arguments: list[str] | None = None) -> None:
    """Serve the page until Ctrl-C."""
    parser = argparse.ArgumentParser(description="The demo, as `make demo` starts it.")
    parser.add_argument("--python", required=True, help="the course's Python, which runs models")
    parser.add_argument(
        "--port",
        type=number_option(whole=True, low=1024, high=65535),
        help="of the page; the first free one from 7860 on unless given",
    )
    options = parser.parse_args(arguments)
    os.environ.update(SETTINGS)

    worker = Worker([options.python, "-m", "distilwhisper_lib.demo.worker"])
    with tempfile.TemporaryDirectory(prefix="distilwhisper-demo-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        try:
            serve(worker, options.port)
        except KeyboardInterrupt:
            print("The demo has ended.")
        finally:
            worker.close()


def serve(worker: Worker, port: int | None) -> None:
    """Work out the example, then serve the page until the process is stopped."""
    print("The demo: looking for trained systems", flush=True)
    try:
        (about,) = worker.ask(ask="about")
        example = None
        if not about["missing"]:
            print("The demo: working out the example", flush=True)
            usual = [system["name"] for system in about["systems"] if system["usual"]]
            example = list(worker.ask(ask="clip", systems=usual, **about["example"]))
    except WorkerError as error:
        raise Failed(f"error: {error}") from None

    page = build(worker, about, example)
    try:
        address = launch(page, port)
        print(f"The demo: {address} (Ctrl-C ends it)", flush=True)
        Event().wait()
    finally:
        page.close(verbose=False)


def launch(page: Any, port: int | None) -> str:
    """Start to serve a page to this machine alone; returns its address.

    Raises:
        Failed: Where the port is taken.
    """
    import gradio as gr

    try:
        _, address, _ = page.launch(
            server_name=ADDRESS,
            server_port=port,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            max_file_size=LARGEST_FILE,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            theme=gr.themes.Default(font=FONT, font_mono=FONT_MONO),
            css=markup.CSS,
        )
    except OSError as error:
        place = f"port {port} is" if port else "the ports from 7860 on are"
        advice = 'give another one: make demo ARGS="--port 8000"'
        raise Failed(f"error: {place} taken: {advice}") from error
    return address


# ---- the page


def build(worker: Worker, about: dict[str, Any], example: list[dict[str, Any]] | None) -> Any:
    """Return the page.

    Args:
        worker: Computes.
        about: What it can offer.
        example: Its answers for the example; None where nothing can be shown.
    """
    import gradio as gr

    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(f"# {TITLE}\n\n{_introduction(about)}")
        gr.HTML(markup.missing(about), elem_id="missing")
        if example is None:
            return page

        shown = Shown(about["normaliser"])
        for answer in example:
            shown.add(answer)
        systems = gr.CheckboxGroup(
            [(system["label"], system["name"]) for system in about["systems"]],
            value=[system["name"] for system in about["systems"] if system["usual"]],
            label="Systems",
            elem_id="systems",
        )
        with gr.Tab("A test clip"):
            with gr.Row():
                tests = list(about["tests"])
                first = tests[0]
                test = gr.Dropdown(tests, value=first, label="Test", elem_id="test", scale=1)
                clips = _choices(about, first)
                clip = gr.Dropdown(clips, value=clips[0][1], label="Clip", elem_id="clip", scale=3)
            of_clip = gr.Button("Transcribe the clip", variant="primary", elem_id="of-clip")
        with gr.Tab("A file of yours"):
            file = gr.File(label="Sound file", elem_id="file", height=140)
            of_file = _own_sound("file")
        with gr.Tab("The microphone"):
            recording = gr.Audio(
                sources=["microphone"],
                type="filepath",
                editable=False,
                label="Recording",
                elem_id="recording",
            )
            of_recording = _own_sound("recording")

        parts = [
            gr.HTML(shown.sound, elem_id="sound"),
            gr.HTML(shown.texts, elem_id="texts"),
            gr.HTML(shown.gates, elem_id="gates"),
        ]

        def list_clips(test: str) -> Any:
            choices = _choices(about, test)
            return gr.Dropdown(choices, value=choices[0][1])

        def ask_clip(test: str, clip: str, systems: list[str]) -> Iterator[tuple[str, str, str]]:
            question = {"ask": "clip", "test": test, "clip": clip, "systems": systems}
            yield from answered(worker, question, about["normaliser"])

        def ask_own(
            path: str | None, reference: str, systems: list[str]
        ) -> Iterator[tuple[str, str, str]]:
            if path is None:
                yield "", markup.problem("There is no sound yet: choose a file, or record one."), ""
                return
            question = {"ask": "file", "path": path, "reference": reference, "systems": systems}
            yield from answered(worker, question, about["normaliser"])

        test.change(list_clips, test, clip)
        of_clip.click(ask_clip, [test, clip, systems], parts, show_progress="minimal")
        for source, (reference, button) in ((file, of_file), (recording, of_recording)):
            inputs = [source, reference, systems]
            button.click(ask_own, inputs, parts, show_progress="minimal")
    return page


def _own_sound(name: str) -> tuple[Any, Any]:
    """Return what stands below a sound of one's own: a box for its text, and the button."""
    import gradio as gr

    label = "What is said (optional: errors are then marked)"
    reference = gr.Textbox(label=label, max_lines=4, elem_id=f"said-in-{name}")
    text = f"Transcribe the {name}"
    return reference, gr.Button(text, variant="primary", elem_id=f"of-{name}")


def _introduction(about: dict[str, Any]) -> str:
    language = "a made-up language" if about["made_up"] else about["language"]
    text = (
        f"One sound in {language}, and what each system of the preset `{about['preset']}` writes. "
        "Below: which frames and tokens went to the expert. Nothing leaves this machine."
    )
    if about["made_up"]:
        text += (
            "\n\nThese systems have heard made-up speech alone: what they write of a voice means "
            "nothing. `make demo PRESET=laptop` has systems for people's speech."
        )
    return text


def _choices(about: dict[str, Any], test: str) -> list[tuple[str, str]]:
    """Return the clips of a test as (shown, id)."""
    choices = []
    for name, text in about["tests"][test]:
        begin = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
        choices.append((f"{begin} ({name})", name))
    return choices


class Shown:
    """The three parts of the page that answers fill.

    Args:
        normaliser: Of the texts that are compared.
    """

    def __init__(self, normaliser: str):
        self.normaliser = normaliser
        self.sound = ""
        self.texts = ""
        self.gates = ""
        self._about: dict[str, Any] = {}
        self._texts: list[dict[str, Any]] = []
        self._gates: list[dict[str, Any]] = []

    def add(self, answer: dict[str, Any]) -> None:
        """Show one more answer of `Demo.work`."""
        if answer["kind"] == "sound":
            self._about = answer
            self.sound = markup.sound(answer)
        elif answer["kind"] == "text":
            self._texts.append(answer)
        else:
            self._gates.append(answer)
            self.gates = markup.gates(self._gates, self._about["pieces"])
        self.texts = markup.texts(self._texts, self._about["reference"], self.normaliser)


def answered(
    worker: Worker, question: dict[str, Any], normaliser: str
) -> Iterator[tuple[str, str, str]]:
    """Yield sound, texts and gates as HTML, as far as they are known; problems as a sentence."""
    shown = Shown(normaliser)
    yield "", markup.note("The systems listen …"), ""
    try:
        for answer in worker.ask(**question):
            shown.add(answer)
            yield shown.sound, shown.texts, shown.gates
    except WorkerError as error:
        yield shown.sound, shown.texts + markup.problem(str(error)), shown.gates


if __name__ == "__main__":
    run_program(main)
