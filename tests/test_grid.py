"""The paper's experiments as jobs: the list, killed and failed ones, table, script, estimates."""

import graphlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pandas as pd
import pytest
import torch
from made_models import make_ctc, make_published

from distilwhisper_lib import files, presets
from distilwhisper_lib.data.corpora.registry import corpus_folder
from distilwhisper_lib.data.corpora.reports import corpus_report
from distilwhisper_lib.experiments import estimates, grid, grid_cluster, grid_tables
from distilwhisper_lib.experiments import jobs as jobs_module
from distilwhisper_lib.experiments.estimates import CARDS, estimate
from distilwhisper_lib.experiments.jobs import ROWS, Job, make_jobs, run_job, waits_for
from distilwhisper_lib.files import (
    file_sha256,
    json_files,
    locks,
    read_json,
    short_hash,
    write_json,
)
from distilwhisper_lib.lab.lab import Lab
from distilwhisper_lib.training.methods import Cost, compared_methods, get_method
from distilwhisper_lib.whisper.shapes import SHAPES, WhisperShape
from distilwhisper_lib.whisper.tiny import tiny_processor, tiny_whisper

SMALL = ["--preset", "smoke", "--seeds", "77", "--sizes", "4"]
WHISPER_SMALL = SHAPES["openai/whisper-small"]
CV13 = "cv-corpus-13.0-2023-03-09"


def done(job, about=None, **scores):
    """Make a job look done: scores by test set, on the paper's data unless `about` says else."""
    rows = []
    for test, value in scores.items():
        is_translation = test == "translation"
        row = {
            "row": job.row,
            "language": job.language,
            "test_set": test.replace("_", "-"),
            "train_clips": job.clips,
            "normaliser": None if is_translation else "released",
            "bleu" if is_translation else "wer": value,
            "corpus": "fleurs",
        }
        if test == "in_domain":
            row |= {"corpus": "common-voice-3k", "release": CV13}
        rows.append(row | (about or {}))
    write_json(job.folder / "results.json", {"rows": rows, "record": {}})
    job.note("done")


def fill_in(folder, monkeypatch, figures):
    """Let the table read other figures of the paper: the lines of paper.csv after the first."""
    (folder / "data" / "reference").mkdir(parents=True)
    text = "\n".join(["system,train_clips,test_set,language,wer", *figures]) + "\n"
    (folder / "data" / "reference" / "paper.csv").write_text(text)
    monkeypatch.setattr(grid_tables, "REPOSITORY", folder)


# ---- the list


def test_the_papers_jobs_are_all_languages_sizes_seeds_and_rows_and_needed_ones_come_first():
    jobs = make_jobs("paper")
    settings = 8 + 8 + 3  # languages of each size
    assert len(jobs) == len({job.name for job in jobs}) == settings * (1 + 2 + 3 * 5)
    assert {job.language for job in jobs if job.size == "28k"} == {"ca", "ta", "th"}
    assert [job.row for job in jobs[:settings]] == ["teacher-outputs"] * settings
    for number, job in enumerate(jobs):
        assert all(jobs.index(need) < number for need in job.needs)
        # The teacher is there already: it waits for nothing, and only distillation for its outputs.
        assert bool(job.needs) == job.row.startswith("distilwhisper")
    assert sum(bool(job.needs) for job in jobs) == settings * 3 * 2
    some = {"cs-10k-seed77-lora", "th-28k-seed79-distilwhisper-released-kl", "uk-3k-teacher"}
    assert some <= {job.name for job in jobs}


def test_a_size_is_a_corpus_of_common_voice_or_else_a_limit_of_clips():
    tamil = Job("paper", "ta", "28k", "student").settings()
    assert (tamil.corpus, tamil.language) == ("common-voice-28k", "ta")
    sizes = ("4", "3k", "all")
    limits = [Job("smoke", "cs", size, "student").settings().train_clips for size in sizes]
    assert limits == [4, 8, 8]  # the preset has 8
    catalan = Job("smoke", "ca", "4", "student").settings()
    assert (catalan.language, catalan.second_language) == ("ca", "cs")


def test_what_the_paper_does_not_have_is_refused():
    message = r"no job for the languages cs at 28k: the paper has 3k: ca, cs.*28k: ca, ta"
    with pytest.raises(ValueError, match=message):
        make_jobs("paper", ["cs"], ["28k"])
    with pytest.raises(ValueError, match="unknown system 'lorra': a method .student"):
        make_jobs("smoke", rows=["lorra"])
    with pytest.raises(ValueError, match="no job 'cs-4-lora' with these options: `list` shows"):
        grid.main(["run", *SMALL, "--job", "cs-4-lora"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": ["0"]}, "the size '0' is none: give a number of training clips from 1 on"),
        ({"sizes": ["3m"]}, "the size '3m' is none"),
        ({"sizes": ["-4"]}, "the size '-4' is none"),
        ({"seeds": [-1]}, "a seed is -1: a whole number from 0 to 4294967295 is needed"),
        ({"seeds": [True]}, "a seed is True: a whole number"),
        ({"languages": ["xx"]}, "'xx'"),
        ({"rows": ["lora-kl"]}, "lora-kl: lora learns from no teacher"),
    ],
)
def test_what_is_no_size_seed_language_or_row_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_jobs("smoke", **options)


def test_a_language_is_given_by_code_or_name():
    assert make_jobs("smoke", ["Czech"]) == make_jobs("smoke", ["cs"])


def test_numbers_on_the_command_line_are_checked(capsys):
    for options in (["--gpus", "0"], ["--gpus", "2.5"], ["--seeds", "-1"], ["--seeds", "x"]):
        with pytest.raises(SystemExit) as end:
            grid.main(["run", *SMALL, *options])
        assert end.value.code == 2
        assert "a whole number from" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        grid.main(["list", *SMALL, "--job", "0"])
    assert "--job belongs to the command run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("list --gpus 2", "--gpus belongs to the command run without --job"),
        ("slurm --gpus 2", "--gpus belongs to the command run without --job"),
        ("run --gpus 2 --job 0", "--gpus belongs to the command run without --job"),
        ("status --cpu", "--cpu belongs to the commands run, published, slurm and snakefile"),
        ("pairs --systems lora distilwhisper", "--systems of pairs is of student, .*: not distil"),
    ],
)
def test_an_option_that_a_command_does_not_use_is_refused(line, told, capsys):
    command, *options = line.split()
    with pytest.raises(SystemExit) as end:
        grid.main([command, *SMALL, *options])
    assert end.value.code == 2
    assert re.search(told, capsys.readouterr().err)


def test_estimates_of_a_model_without_a_known_shape_are_refused():
    with pytest.raises(ValueError, match="the student tiny of the preset smoke has no known shape"):
        estimates.main(["--preset", "smoke"])
    for clips in (0, -5, 2.5, True):
        with pytest.raises(ValueError, match=f"clips is {clips}: a whole number from 1 on"):
            estimate("lora", presets.COLAB, clips)


def test_what_would_stop_a_later_job_is_told_before_the_first_one(monkeypatch):
    without_rate = replace(presets.SMOKE, learning_rates={"lora": 1e-3})
    monkeypatch.setattr(jobs_module, "get_preset", lambda name: without_rate)
    monkeypatch.setattr(grid, "run_jobs", lambda *_: pytest.fail("a job was begun"))
    message = (
        r"(?s)nothing was computed.*no learning rate for 'clsr-ft'.*no learning rate for 'teacher'"
    )
    with pytest.raises(ValueError, match=message):
        grid.main(["run", *SMALL, "--systems", "lora", "clsr-ft", "distilwhisper"])


def test_a_child_that_does_not_end_when_asked_is_killed_and_no_other_begins(monkeypatch):
    monkeypatch.setattr(grid, "PATIENCE", 0.2)
    children = grid.Children()
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1); time.sleep(60)"
    codes = []
    thread = threading.Thread(
        target=lambda: codes.append(children.run([sys.executable, "-c", stubborn], os.environ))
    )
    thread.start()
    time.sleep(1)
    children.end()
    thread.join(20)
    assert codes == [-signal.SIGKILL]
    assert children.run(["no such program"], os.environ) == 1


def test_list_shows_index_need_and_estimates(capsys):
    grid.main(["list", "--languages", "gl", "--sizes", "10k", "--seeds", "77"])
    text = capsys.readouterr().out
    lines = {line.split()[1]: line.split() for line in text.splitlines()[1:9]}
    assert lines["gl-10k-teacher-outputs"][0] == "0"
    assert lines["gl-10k-seed77-distilwhisper-released"][2] == "gl-10k-teacher-outputs"
    assert all(part in text for part in ("GB", "T4 h", "not measured"))


def test_help_names_the_command_and_does_nothing_else(capsys, monkeypatch):
    monkeypatch.setattr(grid, "make_jobs", lambda *_: pytest.fail("jobs were made"))
    with pytest.raises(SystemExit) as end:
        grid.main(["--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("usage: make grid ARGS=... ")
    assert not files.cache_dir().exists()


# ---- a job


def test_the_whole_grid_runs_and_makes_a_table(capsys, tmp_path, monkeypatch):
    jobs = make_jobs("smoke", sizes=["4"], seeds=[77])
    assert jobs[0].row == "teacher-outputs"
    assert sorted(job.row for job in jobs[1:]) == sorted(ROWS)
    for job in jobs:
        run_job(job)

    results = {job.row: read_json(job.folder / "results.json") for job in jobs}
    check_hashes({row: found["record"] for row, found in results.items()}, jobs[0])
    assert results.pop("teacher-outputs")["rows"] == []
    for found in results.values():
        tests = [row["test_set"] for row in found["rows"]]
        assert tests == ["in-domain", "out-of-domain", "translation"]
        assert found["record"]["preset"]["train_clips"] == 4
        assert found["record"]["steps"]
    experts = {row: found["rows"][2]["experts"] for row, found in results.items()}
    assert experts["clsr-ft"] == experts["distilwhisper-released-kl"] == "encoder"
    assert experts["lora"] == ""
    folder = jobs[0].folder.parent.parent / "runs"
    assert len(list(folder.glob("distilwhisper-released-cs-seed77-*"))) == 2  # JS and KL

    names = list(grid_tables.PAPER)
    figures = [
        f"{row},{clips},{test},cs,1"
        for row in names[: len(ROWS)]
        for test in names[len(ROWS) :]
        for clips in ("", 4)
    ]
    fill_in(tmp_path, monkeypatch, figures)
    assert grid.main(["table", *SMALL]) == 0
    assert "out-of-domain" in capsys.readouterr().out
    table = pd.read_csv(files.results_dir("smoke") / "grid.csv")
    assert list(table["row"]) == list(ROWS) * 3
    assert table["cs"].notna().all()
    assert set(table["corpus"]) == {"toy"}
    assert table["cs paper"].isna().all()  # made-up speech is not the paper's data

    scores = pd.read_csv(files.results_dir("smoke") / "grid-scores.csv")
    assert len(scores) == len(table)
    assert set(scores["precision"]) == {Lab(jobs[0].settings()).precision}
    transcribed = scores[scores["test_set"] != "translation"]
    assert transcribed["wer"].between(transcribed["wer_low"], transcribed["wer_high"]).all()
    check_pairs(jobs, transcribed)


def check_pairs(jobs, scores):
    """Check the paired differences against the scores: of all that is done, and only of that."""
    assert grid.main(["pairs", *SMALL]) == 0
    pairs = pd.read_csv(files.results_dir("smoke") / "grid-paired.csv")
    others = ["student", "teacher", "fine-tuning", "lora", "clsr-ft"]
    assert list(pairs["other"].drop_duplicates()) == others
    assert len(pairs) == 2 * len(others)
    wer = scores.set_index(["row", "test_set"])["wer"]
    for row in pairs.itertuples():
        difference = wer[row.first, row.test_set] - wer[row.other, row.test_set]
        assert row.difference == pytest.approx(difference)
        assert row.low <= row.difference <= row.high
        assert (row.size, row.seeds) == (4, 1)

    check_pairs_of_another_precision(jobs)

    by_row = {job.row: job for job in jobs}
    by_row["fine-tuning"].note("failed")
    assert set(grid_tables.pairs(jobs)["other"]) == {"student", "teacher", "lora", "clsr-ft"}
    by_row["distilwhisper-released"].note("failed")
    with pytest.raises(ValueError, match="no other method is done beside distilwhisper-released"):
        grid_tables.pairs(jobs)


def check_pairs_of_another_precision(jobs):
    """Check that nothing is trained for pairs where the process computes in another precision."""
    runs = jobs[0].folder.parent.parent / "runs"
    before = sorted(path.name for path in runs.iterdir())
    made_in = Lab(jobs[0].settings()).precision
    other = "no" if made_in == "bf16" else "bf16"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_PRECISION", other)
        with pytest.raises(ValueError, match=f"has '{other}'; .*set LAB_PRECISION={made_in}"):
            grid_tables.pairs(jobs)
    assert sorted(path.name for path in runs.iterdir()) == before


def check_hashes(records, job):
    """Check that the run metadata of each job names its data, its clips and its models' weights."""
    lab = Lab(job.settings())
    ids = [short_hash(list(lab.rows("train", limit=limit)["id"])) for limit in (4, 8)]
    assert ids[0] != ids[1]
    data = {"toy/cs": corpus_report("toy", "cs")["fingerprint"], "ids of training clips": ids[0]}
    assert all(record["data"] == data for record in records.values())

    models = {row: record["models"] for row, record in records.items()}
    teacher_file = lab.train_teacher() / "model" / "model.safetensors"
    teacher = {"model.safetensors": file_sha256(teacher_file)}
    assert models["teacher-outputs"] == models["teacher"] == {"teacher": teacher}
    assert models["student"] == {}  # the tiny Whisper has no files
    of_lora = file_sha256(lab.train("lora") / "model" / "adapter_model.safetensors")
    assert models["lora"] == {"lora": {"adapter_model.safetensors": of_lora}}
    by_kl = models["distilwhisper-released-kl"]
    assert by_kl["teacher"] == teacher
    assert len(by_kl["distilwhisper-released-kl"]) == 1
    by_js = models["distilwhisper-released"]
    assert by_kl["distilwhisper-released-kl"] != by_js["distilwhisper-released"]


def test_a_job_whose_needs_are_not_done_is_noted_as_failed():
    job = Job("smoke", "cs", "4", "teacher")
    message = "needs cs-4-teacher-outputs, which is not done: run that first"
    with pytest.raises(ValueError, match=message):
        run_job(job)
    assert job.state()["state"] == "failed"
    assert job.state()["error"].startswith("ValueError: cs-4-teacher needs")


def test_running_without_its_process_is_killed_and_done_with_other_settings_is_waiting(
    monkeypatch,
):
    job = Job("smoke", "cs", "4", "student")
    assert job.state() == {"state": "waiting"}
    job.note("running", pid=1)
    with files.one_at_a_time(job.folder):  # as its process does
        assert job.state()["state"] == "running"
    assert job.state()["state"] == "killed"
    done(job)
    assert job.state()["state"] == "done"

    remark = replace(presets.SMOKE, minutes="3 min")
    monkeypatch.setattr(jobs_module, "get_preset", lambda name: remark)
    assert job.state()["state"] == "done"  # a remark on the preset changes no result
    other = replace(presets.SMOKE, max_new_tokens=9)
    monkeypatch.setattr(jobs_module, "get_preset", lambda name: other)
    assert job.state() == {"state": "waiting"}


@pytest.mark.parametrize("name", ["results.json", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "emptied", "a letter of a key", "other"])
def test_a_job_with_a_damaged_file_is_done_again(name, damage, capsys):
    job = Job("smoke", "cs", "4", "student")
    run_job(job)
    expected = job.results()["rows"]
    path = job.folder / name
    text = path.read_text()
    key = {"results.json": '"rows"', "state.json": '"state"'}[name]
    changed = {"cut": text[: len(text) // 2], "emptied": "", "other": '{"other": []}'}
    path.write_text(changed.get(damage, text.replace(key, key.replace("t", "u").replace("w", "v"))))
    assert job.state() == {"state": "waiting"}
    assert f"{name} is damaged (" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no job that scores anything is done"):
        grid_tables.all_scores([job])
    run_job(job)
    assert job.done and job.results()["rows"] == expected


def test_a_job_is_done_again_where_models_or_clips_have_changed(tmp_path, monkeypatch):
    student = tmp_path / "student"
    tiny_whisper().save_pretrained(student)
    tiny_processor().save_pretrained(student)
    preset = replace(presets.SMOKE, student=str(student))
    monkeypatch.setattr(jobs_module, "get_preset", lambda name: preset)
    job = Job("smoke", "cs", "4", "student")
    run_job(job)
    assert job.done
    tiny_whisper(seed=1).save_pretrained(student)  # trained further, at the same path
    assert job.state() == {"state": "waiting"}
    run_job(job)
    assert job.done

    report = corpus_folder("toy", "cs") / "report.json"
    facts = read_json(report)
    write_json(report, facts | {"fingerprint": "another"}, sealed=True)  # prepared anew
    assert job.state() == {"state": "waiting"}
    write_json(report, facts, sealed=True)
    assert job.done
    shutil.rmtree(student)  # nobody knows any more what it was
    assert job.done


def test_a_second_process_waits_for_a_job_and_uses_what_the_first_has_made(monkeypatch, capsys):
    job = Job("smoke", "cs", "4", "student")
    inside = threading.Event()
    go_on = threading.Event()
    times = []

    def slow(given):
        times.append(given)
        inside.set()
        go_on.wait(60)
        return {"rows": [], "record": {}}

    monkeypatch.setattr(jobs_module, "_work", slow)
    first = threading.Thread(target=run_job, args=[job])
    second = threading.Thread(target=run_job, args=[job])
    first.start()
    inside.wait(60)
    assert job.state()["state"] == "running"
    second.start()
    second.join(1.5)
    assert second.is_alive()
    assert f"waiting for another process that makes {job.folder}" in capsys.readouterr().err
    go_on.set()
    first.join(60)
    second.join(60)
    assert len(times) == 1 and job.done


def test_a_job_that_runs_elsewhere_is_waited_for_before_those_that_need_it(monkeypatch):
    jobs = make_jobs("smoke", sizes=["4"], seeds=[77], rows=["distilwhisper-released"])
    needed, needs = jobs
    monkeypatch.setattr(jobs_module, "_work", lambda job: {"rows": [], "record": {}})
    inside = threading.Event()

    def slow(job):
        inside.set()
        time.sleep(1)
        return {"rows": [], "record": {}}

    def begin(job, device, children):
        if job == needed:  # another process is at it: this one waits for the lock
            assert job.state()["state"] == "running"
        run_job(job)
        return 0

    monkeypatch.setattr(grid, "_process", begin)
    with monkeypatch.context() as patch:
        patch.setattr(jobs_module, "_work", slow)
        first = threading.Thread(target=run_job, args=[needed])
        first.start()
        inside.wait(60)
    assert grid.run_jobs(jobs, 1)
    first.join(60)
    assert needed.done and needs.done


def test_the_state_of_jobs_is_read_from_a_folder_that_cannot_be_written(monkeypatch):
    job = Job("smoke", "cs", "4", "student")
    run_job(job)
    monkeypatch.setattr(locks, "FileLock", lambda *_, **__: pytest.fail("a lock was taken"))
    monkeypatch.setattr(json_files, "atomic_file", lambda _: pytest.fail("it was written to"))
    assert job.done
    run_job(job)
    assert grid_tables.table([job])["row"].to_list() == ["student"] * 3  # a row per test


def ended_process():
    """Return the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_where_locks_are_not_seen_a_job_runs_as_long_as_it_gives_signs_of_life():
    job = Job("smoke", "cs", "4", "student")
    sign = job.folder / "alive"
    job.note("running", pid=ended_process(), host="node-7")
    assert job.state()["state"] == "killed"
    assert job.state()["error"] == "no sign of life from node-7 for 10 minutes"
    sign.touch()
    assert job.state()["state"] == "running"
    assert grid.explain(job)["why"] == f"on node-7, process {job.state()['pid']}"
    long_ago = time.time() - jobs_module.SILENCE - 5
    os.utime(sign, (long_ago, long_ago))
    assert job.state()["state"] == "killed"

    sign.touch()
    job.note("running", pid=os.getpid(), host=platform.node())  # a file system without locks
    assert job.state()["state"] == "running"
    job.note("running", pid=ended_process(), host=platform.node())
    assert job.state()["state"] == "killed"
    assert job.state()["error"] == "its process is gone"


def test_a_running_job_gives_signs_of_life_and_leaves_none(monkeypatch):
    job = Job("smoke", "cs", "4", "student")
    sign = job.folder / "alive"
    monkeypatch.setattr(jobs_module, "INTERVAL", 0.02)

    def work(given):
        assert given.state()["host"] == platform.node()
        os.utime(sign, (0, 0))
        deadline = time.monotonic() + 60
        while sign.stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return {"rows": [], "record": {}}

    monkeypatch.setattr(jobs_module, "_work", work)
    run_job(job)
    assert job.state()["state"] == "done"
    assert not sign.exists()


def test_a_job_that_runs_on_another_machine_is_waited_for(monkeypatch, capsys):
    job = Job("smoke", "cs", "4", "student")
    monkeypatch.setattr(jobs_module, "INTERVAL", 0.02)
    monkeypatch.setattr(jobs_module, "_work", lambda _: pytest.fail("done twice"))
    job.note("running", pid=1, host="node-7")
    (job.folder / "alive").touch()
    second = threading.Thread(target=run_job, args=[job])
    second.start()
    second.join(0.5)
    assert second.is_alive()
    done(job, in_domain=50)
    second.join(60)
    assert not second.is_alive()
    assert job.done
    assert "cs-4-student runs on node-7: waiting for it" in capsys.readouterr().err


def test_another_whisper_is_scored_as_it_is(tmp_path, monkeypatch):
    row = "whisper-large-v3-turbo"
    tiny_whisper(seed=1).save_pretrained(tmp_path / "turbo")
    tiny_processor().save_pretrained(tmp_path / "turbo")
    assert jobs_module.WHISPERS[row] == "openai/whisper-large-v3-turbo"
    monkeypatch.setitem(jobs_module.WHISPERS, row, str(tmp_path / "turbo"))
    (job,) = make_jobs("smoke", sizes=["4"], rows=[row])
    assert (job.seed, job.needs) == (None, [])
    run_job(job)
    record = job.results()["record"]
    weights = {"model.safetensors": file_sha256(tmp_path / "turbo" / "model.safetensors")}
    assert record["models"] == {row: weights}  # the tiny student has no files
    tests = [scores["test_set"] for scores in job.results()["rows"]]
    assert tests == ["in-domain", "out-of-domain"]

    assert grid.main(["table", *SMALL]) == 0  # it is in the table by itself
    table = pd.read_csv(files.results_dir("smoke") / "grid.csv")
    assert list(table["row"]) == [row, row]
    with pytest.raises(ValueError, match="no other method is done beside distilwhisper-released"):
        grid_tables.pairs([job])


@pytest.mark.parametrize("row", ["mms-1b-all", "published"])
def test_a_model_that_no_lab_knows_is_a_row_of_the_grid(row, tmp_path, monkeypatch):
    if row == "published":
        folder = make_published(tmp_path / "model", ("cs",), noise=0.3)
        monkeypatch.setitem(jobs_module.PUBLISHED, "3k", str(folder))
        weights = ("pytorch_model.bin", "expert.czech.bin")
    else:
        folder = make_ctc(tmp_path / "model")
        monkeypatch.setitem(jobs_module.CTC_ROWS, row, str(folder))
        weights = ("model.safetensors", "adapter.ces.safetensors")
    options = ["--preset", "smoke", "--sizes", "3k", "--systems", "student", row]
    monkeypatch.setattr(grid, "_process", in_this_process)
    assert grid.main(["run", *options]) == 0
    student, job = make_jobs("smoke", sizes=["3k"], rows=["student", row])
    assert (job.seed, job.needs, job.name) == (None, [], f"cs-3k-{row}")
    assert job.results()["record"]["models"] == {
        row: {name: file_sha256(folder / name) for name in weights}
    }
    for own, other in zip(job.results()["rows"], student.results()["rows"], strict=False):
        assert own["test_set"] == other["test_set"] and own["n"] == other["n"]
        assert own["normaliser"] == other["normaliser"] and own["row"] == row
    tests = [scores["test_set"] for scores in job.results()["rows"]]
    assert tests == ["in-domain", "out-of-domain"]
    assert list(grid_tables.table([student, job])["row"]) == ["student", row] * 2 + ["student"]

    (folder / weights[1]).write_bytes((folder / weights[0]).read_bytes())  # another model
    assert job.state() == {"state": "waiting"}
    shutil.rmtree(folder)  # nobody knows any more what it was
    assert job.done and student.done


def test_a_model_that_cannot_be_fetched_is_told_before_the_first_job(tmp_path, monkeypatch):
    monkeypatch.setitem(jobs_module.CTC_ROWS, "mms-1b-all", str(tmp_path / "none"))
    monkeypatch.setattr(grid, "run_jobs", lambda *_: pytest.fail("a job was begun"))
    with pytest.raises(FileNotFoundError, match="no such folder, and not a hub id"):
        grid.main(["run", *SMALL, "--systems", "student", "mms-1b-all"])


def test_published_experts_are_a_row_of_their_sizes_alone_beside_the_papers_figure(
    tmp_path, monkeypatch
):
    with pytest.raises(ValueError, match="no job for the languages cs at 4"):
        make_jobs("smoke", sizes=["4"], rows=["published"])
    jobs = make_jobs("paper", rows=["published"])
    assert len(jobs) == 8 + 8 + 3
    sources = {job.size: job.as_it_is.source for job in jobs}
    assert sources == jobs_module.PUBLISHED

    figures = ["DistilWhisper,3000,FLEURS,ca,1.5", "DistilWhisper,10000,FLEURS,ca,2.5"]
    fill_in(tmp_path, monkeypatch, figures)
    chosen = [job for job in jobs if job.language == "ca"]
    for job in chosen:
        done(job, out_of_domain=40)
    table = grid_tables.table(chosen).set_index("train_clips")
    assert list(table.loc[[3000, 10_000, 28_000], "ca paper"]) == [1.5, 2.5, ""]


# ---- running jobs


def kill_when_running(job):
    """Send SIGKILL to the job's process as soon as it has begun."""
    deadline = time.monotonic() + 120
    while job.state()["state"] != "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(job.state()["pid"], signal.SIGKILL)


def in_this_process(job, device, children):
    """Stand for `grid._process`: do a job in this process."""
    run_job(job)
    return 0


def test_killed_and_failed_jobs_stop_only_what_needs_them_and_run_goes_on(monkeypatch, capsys):
    rows = ("lora", "distilwhisper-released")
    command = [*SMALL, "--systems", *rows]
    teacher, lora, distilled = make_jobs("smoke", sizes=["4"], seeds=[77], rows=rows)
    monkeypatch.chdir(files.cache_dir().parent)
    in_the_way = files.cache_dir() / "runs" / "smoke" / "predictions"  # LoRA needs a folder there
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()
    killer = threading.Thread(target=kill_when_running, args=[teacher], daemon=True)
    killer.start()
    assert grid.main(["run", *command, "--gpus", "2"]) == 1
    assert teacher.state()["error"].startswith("killed by signal 9, most likely because memory")
    assert "lower batch_size and eval_batch_size" in teacher.state()["error"]
    assert teacher.state()["exit_code"] == -9
    assert lora.state()["exit_code"] == 1
    assert "predictions" in lora.state()["error"]
    assert "Traceback" in (lora.folder / "log.txt").read_text()
    assert distilled.state()["state"] == "waiting"

    capsys.readouterr()
    assert grid.main(["status", *command]) == 0
    status = capsys.readouterr().out
    log = "cache/runs/smoke/jobs/cs-4-teacher-outputs/log.txt"
    assert "cs-4-teacher-outputs: failed killed by signal 9, most likely" in status
    assert f"(log: {log})" in status
    assert "cs-4-seed77-distilwhisper-released: blocked by cs-4-teacher-outputs: failed" in status

    in_the_way.unlink()
    monkeypatch.setattr(grid, "_process", in_this_process)
    assert grid.main(["run", *command]) == 0
    again = "a job that was done is run again"
    monkeypatch.setattr(grid, "_process", lambda *_: pytest.fail(again))
    assert grid.main(["run", *command]) == 0
    capsys.readouterr()
    grid.main(["status", *command])
    status = capsys.readouterr().out
    assert "done" in status
    assert "failed" not in status


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    devices = []
    barrier = threading.Barrier(2, timeout=20)
    jobs = make_jobs("smoke", sizes=["4"], seeds=[1, 2], rows=("lora", "clsr-ft"))
    by_name = {job.name: job for job in jobs}

    def run(children, command, environment):
        barrier.wait()  # two at once
        devices.append(environment["CUDA_VISIBLE_DEVICES"])
        barrier.wait()
        done(by_name[command[command.index("--job") + 1]], in_domain=50)
        return 0

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5,")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(grid.Children, "run", run)
    assert grid.run_jobs(jobs, 2)
    assert sorted(devices[:2]) == sorted(devices[2:]) == ["2", "5"]


def test_what_is_meant_for_a_gpu_is_refused_without_one_unless_it_is_asked_for(monkeypatch, capsys):
    ran = []

    def noting(jobs, at_once):
        ran.append(jobs[0].preset)
        return True

    monkeypatch.setattr(grid, "run_jobs", noting)
    monkeypatch.setattr(grid, "check_jobs", lambda jobs: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for preset in ("paper", "colab"):
        with pytest.raises(SystemExit):
            grid.main(["run", "--preset", preset])
        error = capsys.readouterr().err
        assert f"sees no GPU here, and the preset {preset} is meant for one" in error
        assert "make setup GPU=1" in error
        assert "--cpu" in error
    with pytest.raises(SystemExit):  # a node of a cluster
        grid.main(["run", "--job", "0"])
    assert not ran

    student = Job("paper", "ca", "3k", "student")
    done(student, in_domain=40)
    of_student = ["--languages", "ca", "--sizes", "3k", "--systems", "student"]
    assert grid.main(["run", *of_student, "--job", student.name]) == 0  # done: nothing to run
    assert not ran

    assert grid.main(["run", "--cpu"]) == grid.main(["run", "--preset", "smoke"]) == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert grid.main(["run", "--preset", "colab"]) == 0
    assert ran == ["paper", "smoke", "colab"]


def test_only_a_process_without_a_gpu_is_allowed_to_run_without_one(monkeypatch):
    commands = []

    def noting(children, command, environment):
        commands.append(command)
        return 0

    monkeypatch.setattr(grid.Children, "run", noting)
    for device in ("", "1"):
        grid._process(Job("paper", "cs", "3k", "student"), device, grid.Children())
    assert ["--cpu" in command for command in commands] == [True, False]


# ---- table, cluster


def test_the_table_has_a_block_per_test_and_size_deviations_over_seeds_and_the_papers_figures(
    tmp_path, monkeypatch
):
    jobs = make_jobs("paper", ["ca", "cs"], ["3k", "10k"])
    with pytest.raises(ValueError, match="no job that scores anything is done"):
        grid_tables.table(jobs)
    for job in jobs:
        if job.row in ("student", "lora") and job.name != "cs-10k-seed79-lora":
            seed = (job.seed or 77) - 77
            done(job, in_domain=40 + seed, out_of_domain=60, translation=9.5)
    figures = [
        "whisper-small,,FLEURS,ca,1.5",
        "LoRA,3000,Common Voice 13,cs,2.5",
        "LoRA,3000,Common Voice 13,ca,",  # not filled in
    ]
    fill_in(tmp_path, monkeypatch, figures)

    table = grid_tables.table(jobs)
    assert list(table.columns[:2]) == ["test_set", "train_clips"]
    assert list(table.columns[5:]) == ["row", "ca", "ca paper", "cs", "cs paper", "mean"]
    tests = ("in-domain", "out-of-domain", "translation")
    blocks = [(test, clips) for test in tests for clips in (3000, 10_000)]
    found = table[["test_set", "train_clips"]].itertuples(index=False, name=None)
    assert list(found) == sorted(blocks * 2)
    assert list(table["row"]) == ["student", "lora"] * 6

    cells = table.set_index(["test_set", "train_clips", "row"])
    assert cells.loc[("in-domain", 3000, "lora"), "cs"] == "41.0 ± 1.0"
    assert cells.loc[("in-domain", 10_000, "lora"), "cs"] == "40.5 ± 0.7"  # of two seeds
    assert cells.loc[("in-domain", 10_000, "lora"), "mean"] == "40.8"
    assert cells.loc[("translation", 3000, "student"), "ca"] == "9.5"
    assert cells.loc[("out-of-domain", 10_000, "student"), "ca paper"] == 1.5
    assert cells.loc[("in-domain", 3000, "lora"), "cs paper"] == 2.5
    assert (table["ca paper"] != "").sum() == 2
    assert (table["cs paper"] != "").sum() == 1


def test_the_mean_is_left_out_where_a_language_is_missing():
    for job in make_jobs("paper", ["ca", "cs"], ["3k"], [77], ["student", "lora"]):
        if job.name != "cs-3k-seed77-lora":
            done(job, in_domain=40)
    table = grid_tables.table(make_jobs("paper")).set_index("row")
    assert table.loc["student", "mean"] == "40.0"
    assert table.loc["lora", "mean"] == table.loc["lora", "cs"] == ""


@pytest.mark.parametrize(
    ("test", "about", "belongs"),
    [
        ("in_domain", {}, True),
        ("in_domain", {"corpus": "common-voice-28k"}, True),
        ("in_domain", {"release": "cv-corpus-24.0-2025-12-05"}, False),
        ("in_domain", {"release": "unknown"}, False),
        ("in_domain", {"release": "cv-corpus-13.0-delta-2023-03-09"}, False),
        ("in_domain", {"release": "mcv-scripted-ca-v24.0"}, False),
        ("in_domain", {"normaliser": "whisper-basic"}, False),
        ("in_domain", {"corpus": "fillets", "release": None}, False),
        ("in_domain", {"corpus": "fleurs"}, False),
        ("out_of_domain", {}, True),
        ("out_of_domain", {"release": "70bb2e84b976"}, True),
        ("out_of_domain", {"normaliser": "keep-marks"}, False),
        ("out_of_domain", {"corpus": "toy"}, False),
        ("out_of_domain", {"corpus": "common-voice-3k", "release": CV13}, False),
        ("translation", {"normaliser": "released"}, True),
        ("translation", {}, False),
        ("translation", {"normaliser": "released", "corpus": "fillets"}, False),
    ],
)
def test_the_papers_figure_stands_only_beside_its_data_and_normaliser(
    test, about, belongs, tmp_path, monkeypatch
):
    figures = [
        f"{row},{clips},{name},ca,1.5"
        for name in list(grid_tables.PAPER)[len(ROWS) :]
        for row, clips in (("whisper-small", ""), ("LoRA", 3000))
    ]
    fill_in(tmp_path, monkeypatch, figures)
    jobs = make_jobs("paper", ["ca"], ["3k"], [77], ["student", "lora"])
    for job in jobs:
        done(job, about, **{test: 40})
    table = grid_tables.table(jobs)
    assert list(table["row"]) == ["student", "lora"] and list(table["ca"]) == ["40.0", "40.0"]
    assert list(table["ca paper"]) == ([1.5, 1.5] if belongs else ["", ""])


@pytest.mark.parametrize(
    ("normaliser", "cell", "mean"), [("released", "70.0", "55.0"), ("keep-marks", "20.0", "40.0")]
)
def test_thai_is_scored_by_characters_unless_it_is_split_into_letters_as_released(
    normaliser, cell, mean
):
    jobs = make_jobs("paper", ["ca", "th"], ["3k"], [77], ["student"])
    for job, wer in zip(jobs, (40.0, 70.0), strict=True):
        done(job, {"normaliser": normaliser, "cer": 20.0}, in_domain=wer)
    table = grid_tables.table(jobs)
    assert list(table["th"]) == [cell] and list(table["ca"]) == ["40.0"]
    assert list(table["mean"]) == [mean]  # no mean of words and characters
    for job, bleu in zip(jobs, (10.0, 20.0), strict=True):
        done(job, {"normaliser": normaliser}, translation=bleu)
    assert list(grid_tables.table(jobs)["mean"]) == ["15.0"]  # of English words


@pytest.mark.parametrize("is_done", [False, True])
def test_the_script_for_slurm_submits_what_is_not_done_after_what_it_needs(
    is_done, capsys, tmp_path, monkeypatch
):
    options = ["--languages", "ca", "th", "--sizes", "3k", "28k", "--seeds", "77", "78"]
    jobs = make_jobs("paper", ["ca", "th"], ["3k", "28k"], [77, 78])
    grid.main(["slurm", *options])
    script = capsys.readouterr().out
    if is_done:  # after the script was made
        done(Job("paper", "ca", "3k", "teacher-outputs"))
        done(Job("paper", "ca", "3k", "lora", 77), in_domain=40)

    sbatch = tmp_path / "sbatch"
    sbatch.write_text('#!/bin/sh\necho "$*" >> calls\necho "$(wc -l < calls);cluster"\n')
    sbatch.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(files.REPOSITORY),
    }
    subprocess.run(
        ["bash"], input=script, text=True, check=True, env=environment, cwd=tmp_path, timeout=300
    )
    calls = (tmp_path / "calls").read_text().splitlines()
    number = {}
    call_of = {}
    for index, call in enumerate(calls, 1):
        name = re.search(r"--job-name=grid-(\S+)", call)[1]
        number[name] = index
        call_of[name] = call
    assert list(call_of) == [job.name for job in jobs if not job.done]
    assert len(call_of) == len(jobs) - (2 if is_done else 0)

    run = f"{sys.executable} -m distilwhisper_lib grid run {' '.join(options)}"
    for job in jobs:
        if job.done:
            continue
        call = call_of[job.name]
        waiting = [need for need in waits_for(job, jobs) if not need.done]
        after = [f",afterok:{number[need.name]}" for need in waiting]
        assert f"--dependency=singleton{''.join(after)} " in call
        assert call.endswith(f"--wrap=exec {run} --job {job.name}")
        minutes, megabytes = grid_cluster.limits(job)
        assert f"--time={minutes} " in call
        assert f"--mem={megabytes}M " in call
        assert "--gpus=1 " in call
    assert "afterok" in call_of["th-3k-seed77-distilwhisper-released"]
    assert "afterok" not in call_of["th-3k-seed77-clsr-ft"] + call_of["th-3k-teacher"]


def test_the_script_stops_where_it_cannot_be_told_what_is_done(tmp_path):
    script = grid_cluster.slurm(make_jobs("smoke", rows=["student"]), ["--preset", "gone"])
    ran = subprocess.run(
        ["bash"],
        input=f"sbatch() {{ echo submitted >&2; }}\n{script}",
        text=True,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(files.REPOSITORY)},
        cwd=tmp_path,
        timeout=300,
    )
    assert ran.returncode != 0
    assert "unknown preset 'gone'" in ran.stderr
    assert "submitted" not in ran.stderr


def test_without_a_gpu_none_is_asked_for():
    jobs = make_jobs("smoke", rows=["student"])
    for write, asked in ((grid_cluster.slurm, "--gpus=1"), (grid_cluster.snakefile, "gpu=1")):
        assert asked in write(jobs, ["--preset", "smoke"])
        text = write(jobs, ["--preset", "smoke", "--cpu"])
        assert asked not in text
        assert "run --preset smoke --cpu --job" in text
    assert "pending --preset smoke |" in grid_cluster.slurm(jobs, ["--preset", "smoke", "--cpu"])


def test_limits_follow_the_kind_of_a_job():
    def limits(row, size="10k", language="ca"):
        return grid_cluster.limits(Job("paper", language, size, row))

    assert limits("lora", "3k")[0] < limits("lora", "28k")[0]
    assert limits("student")[0] < limits("lora")[0] < limits("clsr-ft")[0]
    assert limits("lora")[1] < limits("clsr-ft")[1]
    assert limits("lora") < limits("lora", language="ta")
    assert limits("whisper-large-v3-turbo") == limits("teacher")
    assert limits("student")[0] <= limits("published")[0] < limits("clsr-ft")[0]
    assert limits("mms-1b-all") != grid_cluster.UNKNOWN
    hours = estimate("clsr-ft", Job("paper", "ca", "10k", "clsr-ft").settings(), 10_000)["T4 h"]
    assert 2 * hours + 1 <= limits("clsr-ft")[0] / 60 <= 2 * hours + 2
    assert grid_cluster.limits(Job("smoke", "cs", "4", "lora")) == grid_cluster.UNKNOWN


def jobs_of(snakefile):
    """Return the table of a Snakefile, which is JSON but for its last comma."""
    table = snakefile[snakefile.index("JOBS = ") + len("JOBS = ") : snakefile.index("\n}\n")]
    return json.loads(table.rstrip(",") + "}")


def test_the_snakefile_has_a_line_for_each_job_that_is_not_done(capsys):
    options = ["--languages", "ca", "th", "--seeds", "77"]
    jobs = make_jobs("paper", ["ca", "th"], seeds=[77])
    done(Job("paper", "ca", "3k", "teacher-outputs"))
    done(Job("paper", "ca", "3k", "student"), in_domain=40)
    assert grid.main(["snakefile", *options]) == 0
    path = files.results_dir("paper") / "Snakefile"
    assert f"--snakefile {os.path.relpath(path)} --executor slurm" in capsys.readouterr().out
    text = path.read_text()
    table = jobs_of(text)

    left = [job for job in jobs if not job.done]
    assert list(table) == [job.name for job in left]
    assert len(left) == len(jobs) - 2
    for job in left:
        needs = [need.name for need in waits_for(job, jobs) if not need.done]
        minutes, megabytes = grid_cluster.limits(job)
        assert table[job.name] == {"needs": needs, "minutes": minutes, "megabytes": megabytes}
    assert table["ca-3k-seed77-distilwhisper-released"]["needs"] == []  # it is done
    of_thai = table["th-3k-seed77-distilwhisper-released"]["needs"]
    assert of_thai == ["th-3k-teacher-outputs"]
    waiting = [name for name, facts in table.items() if facts["needs"]]
    learning = (2 * 3 - 1) * 2  # JS and KL, but for the size whose teacher is done
    larger = 2 * 2 - 1  # teacher's distributions of 10k and 28k, but for those after the done one
    assert len(waiting) == learning + larger

    edges = {name: facts["needs"] for name, facts in table.items()}
    order = list(graphlib.TopologicalSorter(edges).static_order())  # raises for a cycle
    assert set(order) == set(table)  # no need is missing

    head, rules = text.split("localrules:")
    compile(head, "Snakefile", "exec")
    assert f"grid run {' '.join(options)} --job" in head
    assert '"{RUN} {wildcards.job}"' in rules
    assert f"retries: {grid_cluster.RETRIES}" in rules
    again = grid_cluster.snakefile(jobs, options)
    assert (
        again.split("ENDED = ")[1].split("\n")[0] not in text
    )  # nothing counts as done from before


def test_pending_jobs_are_printed_by_name(capsys):
    jobs = make_jobs("smoke", sizes=["4"], seeds=[77], rows=["student", "lora"])
    done(jobs[0], in_domain=40)
    grid.main(["pending", *SMALL, "--systems", "student", "lora"])
    assert capsys.readouterr().out == "cs-4-seed77-lora\n"


# ---- estimates


def cost_of_experts():
    return get_method("clsr-ft").count(WHISPER_SMALL)


def flops_of_experts():
    """Return operations of a forward pass of whisper-small, and what experts add to them."""
    positions = 1500 + estimates.TOKENS
    added = cost_of_experts().layer_flops * WHISPER_SMALL.layers * positions
    return WHISPER_SMALL.forward_flops(estimates.TOKENS), added


def test_parameters_are_those_of_the_real_models():
    assert WHISPER_SMALL.parameters == 241_734_912
    assert SHAPES["openai/whisper-large-v2"].parameters == 1_543_304_960  # transformers' own count
    experts = cost_of_experts()
    assert experts.added == experts.trained == 114_521_088
    assert get_method("lora").count(WHISPER_SMALL).trained == 11_796_480
    assert get_method("fine-tuning").count(WHISPER_SMALL).trained == 241_734_912


def test_estimates_order_methods_cards_and_sizes_as_they_must():
    names = ("teacher-outputs", *compared_methods(presets.COLAB))
    found = {name: estimate(name, presets.COLAB, 10_000) for name in names}
    for row in found.values():
        assert row["T4 h"] > row["A100 h"] > row["H100 h"] > 0
        assert row["GB"] > 1
    assert found["lora"]["T4 h"] < found["fine-tuning"]["T4 h"]
    assert found["student"]["trained M"] == 0
    assert found["clsr-ft"] == found["distilwhisper-released"]  # cached distributions are read
    assert found["clsr-ft"]["PFLOP"] > found["lora"]["PFLOP"]
    assert found["teacher"]["GB"] > found["student"]["GB"]
    assert estimate("lora", presets.COLAB, 3000)["T4 h"] < found["lora"]["T4 h"]
    assert estimate("lora", presets.SMOKE, 10) == {}  # no shape that is known


def test_flops_are_near_two_a_parameter_and_position():
    forward, added = flops_of_experts()
    encoder = 12 * WHISPER_SMALL.layers * WHISPER_SMALL.width**2  # weights of its layers
    assert 2 * encoder * 1500 < forward < 3.5 * encoder * 1500
    assert added < forward / 2


def test_memory_in_use_holds_keys_and_values_of_all_layers_and_positions(model):
    with torch.no_grad():
        caches = model(
            input_features=torch.zeros(2, model.config.num_mel_bins, 3000),
            decoder_input_ids=torch.ones(2, 5, dtype=torch.long),
        ).past_key_values
    sizes = []
    for cache in (caches.cross_attention_cache, caches.self_attention_cache):
        tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
        sizes.append(sum(tensor.numel() for tensor in tensors))

    config = model.config
    shape = WhisperShape(config.d_model, config.decoder_layers, config.decoder_ffn_dim)
    five = replace(presets.PAPER, eval_batch_size=2, max_new_tokens=5)
    one = replace(five, max_new_tokens=1)
    grows = estimates.memory(shape, Cost(), five) - estimates.memory(shape, Cost(), one)
    assert grows == 2 * sizes[1] * 4 / 5  # two bytes each
    assert sizes[0] == 300 * sizes[1]  # 1500 positions to 5

    large = SHAPES["openai/whisper-large-v2"]
    needed = estimates.memory(large, Cost(), presets.PAPER, weight_bytes=2)
    assert 3.9e9 < needed - 2 * large.parameters < 7e9  # 16 clips


def test_memory_is_that_of_training_or_of_use_whichever_is_more():
    def needed(cost, **changes):
        return estimates.memory(WHISPER_SMALL, cost, replace(presets.PAPER, **changes))

    experts = cost_of_experts()
    in_use = needed(experts, batch_size=1)
    assert needed(experts) == needed(experts, eval_batch_size=1) > in_use
    assert in_use > needed(Cost()) + (6 + 12) * experts.trained


def test_transcribing_validation_for_the_best_epoch_takes_time():
    last = replace(presets.PAPER, keep="last", validation_clips=1000)
    best = replace(last, keep="best")
    of_last = estimate("clsr-ft", last, 3000)
    of_best = estimate("clsr-ft", best, 3000)
    flops = 1e15 * (of_best["PFLOP"] - of_last["PFLOP"])
    seconds = 3600 * (of_best["T4 h"] - of_last["T4 h"])
    transcribed = 10 * 1000  # epochs, clips
    assert flops == pytest.approx(transcribed * sum(flops_of_experts()))
    batches = transcribed / 16
    waiting = batches * estimates.TOKENS * 12 * estimates.LAYER_SECONDS  # layers
    assert seconds == pytest.approx(flops / (CARDS["T4"][0] * estimates.UTILISATION) + waiting)
    assert estimate("teacher", best, 3000) == estimate("teacher", last, 3000)  # not trained


def test_thai_and_tamil_have_more_tokens_and_take_longer():
    found = [
        estimate("clsr-ft", replace(presets.PAPER, language=code), 3000)
        for code in ("ca", "th", "ta")
    ]
    for name in ("PFLOP", "GB", "T4 h"):
        catalan, thai, tamil = (row[name] for row in found)
        assert catalan < thai < tamil


def test_estimates_are_printed_as_estimates(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["estimates", "--clips", "3000"])
    estimates.main()
    text = capsys.readouterr().out
    assert text.startswith("Estimates, not measured: 3000 clips")
    assert all(f"{card} h" in text for card in CARDS)
    assert all(name in text for name in compared_methods())
    assert "T4 16 GB" in text
