"""The sizes of Common Voice: decoded once, in several processes, each the same as by itself."""

import errno
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from damage import damaged
from made_corpora import cv_row, make_common_voice, pack, write_sound

from distilwhisper_lib.data.corpora import (
    archives,
    common_voice,
    decoding,
    items,
    loading,
    preparing,
    shards,
)
from distilwhisper_lib.data.corpora.common_voice import read_common_voice
from distilwhisper_lib.data.corpora.loading import load_corpus, prepare_largest
from distilwhisper_lib.data.corpora.registry import BUILDER, FEATURES, corpus_folder
from distilwhisper_lib.data.corpora.reports import corpus_report, is_prepared
from distilwhisper_lib.data.corpora.shards import load_shards, write_shards
from distilwhisper_lib.experiments import jobs as jobs_module
from distilwhisper_lib.experiments.jobs import Job, check_jobs, make_jobs, run_job, waits_for
from distilwhisper_lib.files import REPOSITORY, cache_dir

SIZES = {"common-voice-3k": (12, 4), "common-voice-10k": (25, 7), "common-voice-28k": (60, 7)}
SMALLEST, MIDDLE, LARGEST = SIZES
IN_TWO_TABLES = (110, 120, 130, 200, 301)

pytestmark = pytest.mark.filterwarnings("ignore:common-voice-.* lines are left out")


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Use small sizes, shards of 5 clips, and the test's own folders."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(common_voice, "SIZES", SIZES)
    monkeypatch.setattr(shards, "SHARD", 5)
    monkeypatch.setenv("LAB_DATA", str(tmp_path / "data"))


@pytest.fixture
def folder(tmp_path):
    """Return a release of 82 clips: ties, clips that cannot be used, clips in two tables."""
    folder = make_common_voice(tmp_path / "data" / "common-voice")
    draw = random.Random(5)
    for table, first, count in (("train", 100, 50), ("dev", 200, 12), ("test", 300, 9)):
        lines = []
        for number in range(first, first + count):
            lines.append(cv_row("ca", number, draw.randint(2, 6), draw.randint(0, 2)))
            if number % 17 == 5:
                sound(folder, number).write_bytes(b"no sound" * number)
            elif number % 17 != 3:  # else there is none
                write_sound(sound(folder, number), 0.2 + number % 7 / 10, 150 + number)
        append(folder / f"{table}.tsv", lines)
    twice = [cv_row("ca", number, 2, 0) for number in IN_TWO_TABLES]
    append(folder / "test.tsv", [*twice, "cut off"])
    return folder


def sound(folder: Path, number: int) -> Path:
    return folder / "clips" / f"common_voice_ca_{number}.mp3"


def append(path: Path, lines: list[str]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(lines)


def by_itself(name: str, place: Path) -> tuple[list[dict], list[str]]:
    """Prepare a size alone, in shards of its own; return its rows and fingerprints."""
    reading = read_common_voice(name, "ca", None)
    chosen = list(preparing.first_of_each_id(reading.items).values())
    written = write_shards(chosen, place, FEATURES, name, BUILDER)
    rows = load_shards(place, name, "ca").to_list()
    return rows, [shard["fingerprint"] for shard in written]


def store() -> Path:
    """Return the folder of the decoded clips that all sizes share."""
    return corpus_folder("common-voice", "ca")


def decoded_files(monkeypatch) -> list[str]:
    """Return a list that gets the name of each file that this process decodes."""
    names: list[str] = []
    original = items.read_audio

    def noting(path):
        names.append(Path(path).name)
        return original(path)

    monkeypatch.setattr(items, "read_audio", noting)
    return names


# ---- the sizes share their clips


@pytest.mark.parametrize("order", [(LARGEST, MIDDLE, SMALLEST), (SMALLEST, MIDDLE, LARGEST)])
@pytest.mark.parametrize("packed", [True, False])
def test_each_size_is_bit_for_bit_what_it_is_by_itself_and_its_clips_are_decoded_once(
    folder, tmp_path, monkeypatch, order, packed
):
    alone = {name: by_itself(name, tmp_path / name) for name in SIZES}
    source = pack(folder, tmp_path / "ca.tar.gz", root=folder.parent.parent) if packed else None
    names = decoded_files(monkeypatch)
    for name in order:
        rows, prints = alone[name]
        data = load_corpus(name, "ca", source)
        assert data.to_list() == rows
        assert data.features == FEATURES
        assert (data.info.dataset_name, data.info.config_name) == (name, "ca")
        report = corpus_report(name, "ca")
        assert report["shards"] == prints
        assert (report["corpus"], report["kept"]) == (name, len(rows))
        assert report["items"] == report["kept"] + sum(report["dropped"].values())
    assert len(alone[SMALLEST][0]) < len(alone[MIDDLE][0]) < len(alone[LARGEST][0])

    # One that is in two tables is a training clip of one size and a test clip of another.
    twice = {f"common_voice_ca_{number}.mp3" for number in IN_TWO_TABLES}
    again = {name for name, count in Counter(names).items() if count > 1}
    assert again <= twice
    assert max(Counter(names).values()) <= 2


def test_the_smaller_sizes_are_prepared_with_the_largest(folder, monkeypatch):
    load_corpus(LARGEST, "ca")
    shutil.rmtree(folder)
    names = decoded_files(monkeypatch)
    large = load_corpus(LARGEST, "ca")
    for name in (MIDDLE, SMALLEST):
        assert is_prepared(name, "ca")
        assert set(load_corpus(name, "ca")["id"]) < set(large["id"])
    assert not names


def test_an_archive_is_read_once_for_all_sizes(folder, tmp_path, monkeypatch):
    pack(folder, tmp_path / "packed" / "common-voice" / "ca.tar.gz", root=folder.parent.parent)
    monkeypatch.setenv("LAB_DATA", str(tmp_path / "packed"))
    passes = []
    original = archives.unpack
    monkeypatch.setattr(archives, "unpack", lambda *given: passes.append(1) or original(*given))
    prepare_largest([SMALLEST, "fleurs", LARGEST, MIDDLE], "ca")
    assert len(passes) == 2  # for the tables, and for the clips
    for name in SIZES:
        load_corpus(name, "ca")
    assert len(passes) == 2


def test_a_size_with_a_list_of_its_own_is_prepared_by_its_list(folder, tmp_path):
    middle = load_corpus(MIDDLE, "ca")
    train = [row["id"] for row in middle if row["split"] == "train"]
    listed = [*train[::3], *train[1::3]]
    append(folder / "ids-3k.csv", ["split,id\n", *(f"train,{name}\n" for name in listed)])
    shutil.rmtree(cache_dir() / "corpora" / f"{SMALLEST}-ca")
    load_corpus(LARGEST, "ca")
    assert not is_prepared(SMALLEST, "ca")
    data = load_corpus(SMALLEST, "ca")
    assert {row["id"] for row in data if row["split"] == "train"} == set(listed)
    assert data.to_list() == by_itself(SMALLEST, tmp_path / "alone")[0]


def test_where_the_largest_cannot_be_prepared_the_needed_one_still_is(folder, capsys):
    append(folder / "ids-28k.csv", ["split,id\n", "train,12\n"])  # row numbers are refused
    prepare_largest(SIZES, "ca")
    assert not is_prepared(LARGEST, "ca")
    assert f"{LARGEST} in ca cannot be prepared: " in capsys.readouterr().err
    assert len(load_corpus(SMALLEST, "ca")) > 0


def test_a_sound_that_was_put_right_is_decoded_anew_whatever_its_size(folder, monkeypatch):
    number = 6  # the most voted
    first = load_corpus(SMALLEST, "ca")[0]
    assert first["id"].endswith(f"_{number}")
    content = bytearray(sound(folder, number).read_bytes())
    content[len(content) // 2] ^= 255
    sound(folder, number).write_bytes(content)
    shutil.rmtree(corpus_folder(SMALLEST, "ca"))
    names = decoded_files(monkeypatch)
    second = load_corpus(SMALLEST, "ca")[0]
    assert names == [f"common_voice_ca_{number}.mp3"]
    assert second["id"] == first["id"]
    assert second["audio"]["bytes"] != first["audio"]["bytes"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "deleted"])
def test_clips_of_a_damaged_part_are_decoded_anew_and_all_sizes_are_whole(
    folder, tmp_path, monkeypatch, damage
):
    load_corpus(LARGEST, "ca")
    whole = {name: load_corpus(name, "ca").to_list() for name in SIZES}
    loading._OPENED.clear()  # as in another process
    path = min(store().glob("clips-*.arrow"))
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(damaged(path.read_bytes(), damage))
    names = decoded_files(monkeypatch)
    for name in (LARGEST, MIDDLE, SMALLEST):
        assert load_corpus(name, "ca").to_list() == whole[name]
    assert 1 <= len(names) <= shards.SHARD


def test_a_size_that_an_earlier_version_has_prepared_is_read(folder, tmp_path):
    rows, _ = by_itself(SMALLEST, tmp_path / "alone")
    load_corpus(SMALLEST, "ca")
    prepared = corpus_folder(SMALLEST, "ca")
    report = (prepared / "report.json").read_bytes()
    shutil.rmtree(cache_dir() / "corpora")
    (tmp_path / "alone" / "report.json").write_bytes(report)
    prepared.parent.mkdir()
    (tmp_path / "alone").rename(prepared)
    loading._OPENED.clear()
    assert load_corpus(SMALLEST, "ca").to_list() == rows
    assert not store().exists()


def test_three_sizes_that_are_asked_for_at_once_decode_each_clip_once(folder, monkeypatch):
    names = decoded_files(monkeypatch)
    found = {}

    def load(name: str) -> None:
        found[name] = len(load_corpus(name, "ca"))

    threads = [threading.Thread(target=load, args=[name]) for name in SIZES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found[SMALLEST] < found[MIDDLE] < found[LARGEST]
    again = {name for name, count in Counter(names).items() if count > 1}
    assert again <= {f"common_voice_ca_{number}.mp3" for number in IN_TWO_TABLES}


# ---- several processes


def use_processes(monkeypatch, number: int) -> None:
    monkeypatch.setattr(decoding, "CLIPS_EACH", 1)
    monkeypatch.setattr(decoding, "cores", lambda: number)


def test_as_many_processes_as_cores_but_few_for_few_clips(monkeypatch):
    monkeypatch.setattr(decoding, "cores", lambda: 16)
    found = [decoding.processes_for(clips) for clips in (0, 1_999, 2_000, 28_000)]
    assert found == [1, 1, 2, 16]
    monkeypatch.setattr(decoding, "cores", lambda: 500)
    assert decoding.processes_for(10**6) == decoding.MOST_PROCESSES  # each takes memory


def test_another_process_decodes_too_and_the_corpus_is_the_same(folder, tmp_path, monkeypatch):
    rows, prints = by_itself(LARGEST, tmp_path / "alone")
    use_processes(monkeypatch, 2)
    original = shards.read_rows
    here = []

    def waiting(chosen, *given):  # the other process has begun, and has decoded a part
        deadline = time.monotonic() + 60
        while not list(store().glob("clips-*.json")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        here.append(len(chosen))
        return original(chosen, *given)

    monkeypatch.setattr(shards, "read_rows", waiting)
    assert load_corpus(LARGEST, "ca").to_list() == rows
    assert corpus_report(LARGEST, "ca")["shards"] == prints
    assert len(here) < len(list(store().glob("clips-*.json")))


def test_a_process_that_ends_is_told_and_the_next_run_goes_on(folder, monkeypatch):
    use_processes(monkeypatch, 2)
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "WORKER", "distilwhisper_lib.no_such_module")
        with pytest.raises(
            RuntimeError, match="has ended with exit status 1: run it again, it goe"
        ):
            load_corpus(LARGEST, "ca")
    assert not is_prepared(LARGEST, "ca")
    kept = set(store().glob("clips-*.json"))
    assert kept
    monkeypatch.setattr(decoding, "cores", lambda: 1)
    names = decoded_files(monkeypatch)
    assert len(load_corpus(LARGEST, "ca")) > len(names) > 0
    assert kept < set(store().glob("clips-*.json"))


def test_what_goes_wrong_in_another_process_is_raised_here(tmp_path):
    (tmp_path / "file").touch()
    chosen = [items.Item("a", tmp_path / "a.wav", "Un", "ca", "s", "r", "", "test")]
    schema = FEATURES.arrow_schema
    below = shards._question(shards.Part(tmp_path / "file" / "x.arrow", chosen), schema)
    with pytest.raises(OSError, match="the folder .*file cannot be made") as caught:
        list(decoding.answers([below, below], lambda index: {}, 2))
    assert caught.value.errno == errno.EEXIST
    with pytest.raises(RuntimeError, match="KeyError: 'schema'"):
        list(decoding.answers([{"items": []}] * 2, lambda index: {}, 2))


KILLED = """
import sys, time
sys.path.insert(0, "tests")
from distilwhisper_lib.data.corpora import common_voice, decoding, shards
from test_preparing import LARGEST, SIZES
common_voice.SIZES = SIZES
shards.SHARD = 5
decoding.CLIPS_EACH = 1
decoding.cores = lambda: 2
shards.read_rows = lambda *_: time.sleep(100)  # in this process alone
from distilwhisper_lib.data.corpora.loading import load_corpus
load_corpus(LARGEST, "ca")
"""


def test_what_several_processes_have_decoded_before_a_kill_is_kept(folder, tmp_path, monkeypatch):
    rows, _ = by_itself(LARGEST, tmp_path / "alone")
    run = subprocess.Popen([sys.executable, "-c", KILLED], cwd=REPOSITORY)
    deadline = time.monotonic() + 120
    while len(list(store().glob("clips-*.json"))) < 2:
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.kill()
    run.wait()
    time.sleep(1)  # for the other process, which ends by itself
    kept = {path: path.stat().st_mtime_ns for path in store().glob("clips-*")}

    names = decoded_files(monkeypatch)
    assert load_corpus(LARGEST, "ca").to_list() == rows
    assert 1 <= len(names) <= len(rows) - shards.SHARD
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not list(store().glob(".*part*"))


def test_a_process_ends_with_the_one_that_asks_it():
    script = (
        "import time; from distilwhisper_lib.data.corpora import decoding;"
        "worker = decoding._Worker(); print('begun', flush=True); time.sleep(100)"
    )
    asking = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,  # the other process has it too, until it ends
    )
    assert asking.stdout.readline() == b"begun\n"
    asking.send_signal(signal.SIGKILL)
    asking.communicate(timeout=120)  # it would never end by itself


# ---- the jobs of the grid


def test_a_job_prepares_the_largest_size_that_the_grid_has_in_its_language(monkeypatch):
    asked = []
    monkeypatch.setattr(
        jobs_module, "prepare_largest", lambda names, code: asked.append((sorted(names), code))
    )
    monkeypatch.setattr(jobs_module, "_work", lambda job: {"rows": [], "record": {}})
    monkeypatch.setattr(Job, "contents", lambda job: None)
    jobs = make_jobs("paper", ["ca", "cs"], rows=["student"])
    by_name = {job.name: job for job in jobs}
    run_job(by_name["cs-3k-student"], jobs)
    run_job(by_name["ca-3k-student"], jobs)
    run_job(by_name["ca-10k-student"])
    assert asked == [
        ([MIDDLE, SMALLEST], "cs"),
        ([MIDDLE, LARGEST, SMALLEST], "ca"),
        ([MIDDLE], "ca"),
    ]

    monkeypatch.setattr(jobs_module, "is_prepared", lambda name, code: True)
    run_job(by_name["ca-28k-student"], jobs)
    assert len(asked) == 3


def test_the_largest_size_is_looked_at_first(monkeypatch):
    seen = []
    monkeypatch.setattr(
        jobs_module, "find_problems", lambda lab, steps: seen.append(lab.preset.corpus) or []
    )
    check_jobs(make_jobs("paper", ["ca"], rows=["student"]))
    assert seen == [LARGEST, MIDDLE, SMALLEST]


def test_the_teachers_distributions_wait_for_those_of_the_next_smaller_size():
    jobs = make_jobs("paper", ["ca", "cs"], ["28k", "3k", "10k"], [77], ["distilwhisper-released"])
    by_name = {job.name: job for job in jobs}

    def names(job: str) -> list[str]:
        return [need.name for need in waits_for(by_name[job], jobs)]

    assert names("ca-28k-teacher-outputs") == ["ca-10k-teacher-outputs"]
    assert names("cs-10k-teacher-outputs") == ["cs-3k-teacher-outputs"]
    assert names("ca-3k-teacher-outputs") == []
    assert names("ca-28k-seed77-distilwhisper-released") == ["ca-28k-teacher-outputs"]
    in_pairs = [by_name["ca-28k-teacher-outputs"], by_name["ca-3k-teacher-outputs"]]
    assert waits_for(in_pairs[0], in_pairs) == in_pairs[1:]


def test_sizes_that_do_not_share_distributions_do_not_wait(monkeypatch):
    preset = replace(jobs_module.get_preset("paper"), train_margin_seconds=0.5)
    monkeypatch.setattr(jobs_module, "get_preset", lambda name: preset)
    jobs = [Job("paper", "ca", size, "teacher-outputs") for size in ("3k", "10k")]
    assert [waits_for(job, jobs) for job in jobs] == [[], []]
