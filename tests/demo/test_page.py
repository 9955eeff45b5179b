"""What a visitor of the demo does: the example, a clip, a file, the microphone, a bad file."""

import array
import math
import re
import socket
import wave

import pytest
from conftest import ROOT, Page, start

RATE = 16_000
SYSTEMS = ["student", "teacher", "fine-tuning", "experts"]


def sound(seconds, loud=0.3):
    """Return samples of a tone."""
    return [loud * math.sin(index / 5) for index in range(round(RATE * seconds))]


def write(path, samples):
    """Write a sound file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        numbers = array.array("h", [round(32767 * sample) for sample in samples])
        file.writeframes(numbers.tobytes())
    return path


def rows(page):
    """Return the systems that have a row, in order."""
    found = page.tab.locator("#texts tr[data-system]")
    return [found.nth(index).get_attribute("data-system") for index in range(found.count())]


def wait_for_rows(page, systems):
    """Wait until these systems have a row, in this order."""
    found = (
        "[...document.querySelectorAll('#texts tr[data-system]')].map(row => row.dataset.system)"
    )
    page.tab.wait_for_function(f"wanted => {found}.join() === wanted", arg=",".join(systems))


def test_the_page_opens_with_an_example_that_is_worked_out(page):
    assert rows(page) == SYSTEMS
    texts = page.part("texts")
    assert "Reference" in texts and "WER (%)" in texts and "Struck out" in texts
    assert page.tab.locator("#texts del").count() > 0
    times = page.tab.locator("#texts tr[data-system] td:last-child").all_inner_texts()
    assert all(float(time) > 0 for time in times) and len(times) == len(SYSTEMS)
    pictures = page.tab.locator("#gates img")
    assert pictures.count() == 2
    widths = pictures.evaluate_all("all => all.map(picture => picture.naturalWidth)")
    assert all(width > 500 for width in widths)
    assert "frames that went to the expert, by layer" in page.part("gates")
    assert "tokens that went to the expert, by layer" in page.part("gates")
    can_play = "element => new Promise(done => {element.onloadedmetadata = () => done(true);"
    can_play += "element.onerror = () => done(false); element.load()})"
    assert page.tab.locator("#sound audio").evaluate(can_play)


def test_what_is_not_trained_is_named_with_its_command(page):
    text = page.part("missing")
    assert "LoRA" in text and "DistilWhisper, our variant" in text
    assert "make course PRESET=smoke" in text


def test_a_clip_of_another_test_and_some_systems_are_chosen(page):
    tab = page.tab
    before = page.part("sound")
    tab.get_by_label("Teacher (or stand-in)").uncheck()
    tab.get_by_label("Experts", exact=False).uncheck()
    tab.locator("#test input").click()
    tab.get_by_role("option", name="cs/out-of-domain").click()
    tab.locator("#clip input").click()
    options = tab.get_by_role("option", name="(toy/")
    options.nth(1).wait_for()
    chosen = options.nth(1).inner_text()
    options.nth(1).click()
    tab.locator("#of-clip").click()
    name = re.search(r"\(([^()]+)\)\s*$", chosen)[1]
    assert page.wait_for("sound", name) != before
    wait_for_rows(page, ["student", "fine-tuning"])
    assert page.tab.locator("#gates img").count() == 0


def test_a_file_is_transcribed_and_compared_where_it_has_a_reference(page, tmp_path):
    page.choose_file(write(tmp_path / "mine.wav", sound(1)))
    page.wait_for("sound", "mine.wav, 1.0 s")
    wait_for_rows(page, SYSTEMS)
    page.tab.locator("#gates img").nth(1).wait_for()
    assert "WER" not in page.part("texts")

    said = "a <b>tone</b> ${1 + 1} $x$"
    page.tab.locator("#said-in-file textarea, #said-in-file input").fill(said)
    page.tab.locator("#of-file").click()
    assert said in page.wait_for("texts", "Reference")
    wait_for_rows(page, SYSTEMS)
    assert "tone" in page.tab.locator("#texts del").all_inner_texts()


def test_a_file_of_40_s_is_cut(page, tmp_path):
    page.choose_file(write(tmp_path / "speech.wav", sound(40)))
    told = page.wait_for("sound", "speech.wav")
    assert "40.0 s, cut at pauses into 2 pieces of at most 30.0 s" in told
    page.wait_for("gates", "In the first piece")


def test_the_microphone_is_recorded(page):
    tab = page.tab
    tab.get_by_role("tab", name="The microphone").click()
    tab.locator("#recording .record-button").click()
    tab.wait_for_timeout(2_000)
    tab.locator("#recording .stop-button").first.click()
    tab.locator("#recording button[aria-label='Play']").wait_for()
    tab.locator("#of-recording").click()
    seconds = float(re.search(r", (\d+\.\d) s", page.wait_for("sound", "audio.wav"))[1])
    assert 1 <= seconds <= 6
    wait_for_rows(page, SYSTEMS)


def test_what_is_no_sound_is_told_by_its_name(page, tmp_path):
    whole = write(tmp_path / "whole.wav", sound(1)).read_bytes()
    (tmp_path / "notes.txt").write_text("not a sound", encoding="utf-8")
    (tmp_path / "broken.wav").write_bytes(whole[:9000])
    write(tmp_path / "silent.wav", sound(1, loud=0))
    write(tmp_path / "long.wav", sound(121))
    for name, told in {
        "notes.txt": "Files that can be read: .wav",
        "broken.wav": "it is cut off after 0.3 of 1.0 s",
        "silent.wav": "nothing but digital silence",
        "long.wav": "the demo takes up to 120 s",
    }.items():
        page.choose_file(tmp_path / name)
        text = page.wait_for("texts", told)
        assert text.strip().startswith(name)
        assert "Traceback" not in text and str(tmp_path) not in text
        assert page.tab.locator("#texts [role=alert]").count() == 1
        assert not page.part("sound") and not page.part("gates")


def test_no_sound_and_no_system_are_told(page):
    page.tab.get_by_role("tab", name="The microphone").click()
    page.tab.locator("#of-recording").click()
    page.wait_for("texts", "choose a file, or record one")
    for box in page.tab.locator("#systems input").all():
        box.uncheck()
    page.tab.get_by_role("tab", name="A test clip").click()
    page.tab.locator("#of-clip").click()
    page.wait_for("texts", "tick at least one")


def test_a_visitor_who_leaves_does_not_keep_others_waiting(page, tmp_path):
    page.choose_file(write(tmp_path / "speech.wav", sound(100)))
    page.wait_for("sound", "speech.wav")
    page.open()
    page.problems.clear()  # of the page that was left while it waited
    page.tab.get_by_label("Teacher (or stand-in)").uncheck()
    page.tab.locator("#of-clip").click()
    wait_for_rows(page, ["student", "fine-tuning", "experts"])


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_a_telephone_scrolls_in_one_direction(colours, demo, browser):
    size = {"width": 380, "height": 800}
    context = browser.new_context(viewport=size, color_scheme=colours)
    shown = Page(context.new_page(), demo.address).open()
    shown.tab.locator("#gates img").nth(1).wait_for()
    assert shown.tab.evaluate("document.documentElement.scrollWidth") <= size["width"]
    context.close()


def test_page_and_worker_call_this_machine_alone(demo, page):
    noted = demo.calls.read_text(encoding="utf-8").splitlines()
    assert any("127.0.0.1" in line for line in noted), "the calls are not noted"
    elsewhere = [line for line in noted if "127.0.0.1" not in line and "localhost" not in line]
    assert not elsewhere


def test_the_page_is_served_to_this_machine_alone(demo):
    port = int(demo.address.rsplit(":", 1)[1])
    assert demo.address == f"http://127.0.0.1:{port}"
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as other:
        assert other.connect_ex(("127.0.0.2", port)) != 0, "it listens on other addresses"


def test_where_nothing_was_fetched_the_page_says_what_to_do(browser, tmp_path):
    served = start(tmp_path, "laptop", HF_HOME=str(tmp_path / "hub"))
    context = browser.new_context()
    try:
        shown = Page(context.new_page(), served.address).open()
        text = shown.part("missing")
        assert "openai/whisper-base" in text and "fillets in Czech" in text
        assert "make course PRESET=laptop" in text
        assert shown.tab.locator("button:visible").count() == 0
        assert not shown.faults()
    finally:
        context.close()
        served.process.terminate()
        served.process.wait(timeout=20)


def test_the_tests_note_what_leaves_the_page(page):
    page.tab.evaluate("() => { fetch('https://example.invalid/a').catch(() => 0) }")
    page.tab.wait_for_timeout(300)
    assert any("a request leaves the page" in fault for fault in page.faults())
    page.problems.clear()


def test_the_folder_of_the_project_is_as_it_was(demo, page):
    """What is uploaded lies in a temporary folder, not in the project."""
    assert not (ROOT / ".gradio").exists() and not (ROOT / "gradio_cached_examples").exists()
