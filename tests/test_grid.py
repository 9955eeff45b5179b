"""The paper's experiments as jobs: the list, killed and failed ones, the table, the script, the estimates."""

import os
import signal
import subprocess
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
from distilwhisper_lib import presets
from distilwhisper_lib.experiments import estimates, grid, jobs as jobs_module
from distilwhisper_lib.experiments.estimates import CARDS, SHAPES, estimate
from distilwhisper_lib.experiments.jobs import ROWS, Job, make_jobs, read_json, run_job
from distilwhisper_lib.record import write_json
from distilwhisper_lib.systems import SYSTEMS
from filelock import FileLock

SMALL = ["--preset", "smoke", "--seeds", "77", "--sizes", "4"]


def done(job, **scores):
    """Make a job look done, with these scores by test set."""
    rows = [{"row": job.row, "language": job.language, "test_set": test.replace("_", "-"), "train_clips": job.clips,
             "normaliser": None if test == "translation" else "released",
             "bleu" if test == "translation" else "wer": value} for test, value in scores.items()]  # fmt: skip
    write_json(job.folder / "results.json", {"rows": rows})
    job.note("done")


# ---- the list


def test_paper_s_jobs_are_all_languages_sizes_seeds_and_systems_and_the_needed_come_first():
    jobs = make_jobs("paper")
    pairs = 8 + 8 + 3
    assert len(jobs) == len({job.name for job in jobs}) == pairs * (1 + 2 + 3 * 5)
    assert {job.language for job in jobs if job.size == "28k"} == {"ca", "ta", "th"}
    assert [job.row for job in jobs[:pairs]] == ["teacher-outputs"] * pairs
    for number, job in enumerate(jobs):
        assert all(jobs.index(need) < number for need in job.needs)
        assert bool(job.needs) == (job.row == "teacher" or job.row.startswith("distilwhisper"))
    assert {"cs-10k-seed77-lora", "th-28k-seed79-distilwhisper-released-kl", "uk-3k-teacher"} <= {j.name for j in jobs}


def test_a_size_is_a_corpus_of_common_voice_or_else_a_limit_of_clips():
    assert Job("paper", "ta", "28k", "student").settings().corpus == "common-voice-28k"
    assert Job("paper", "ta", "28k", "student").settings().language == "ta"
    of_smoke = {size: Job("smoke", "cs", size, "student").settings().train_clips for size in ("4", "3k", "all")}
    assert of_smoke == {"4": 4, "3k": 8, "all": 8}  # the preset has 8
    ca = Job("smoke", "ca", "4", "student").settings()
    assert (ca.language, ca.second_language) == ("ca", "cs")


def test_what_the_paper_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"no job for the languages cs at 28k: the paper has 3k: ca, cs.*28k: ca, ta"):
        make_jobs("paper", ["cs"], ["28k"])
    with pytest.raises(ValueError, match="unknown system 'lorra': one of student"):
        make_jobs("smoke", rows=["lorra"])
    with pytest.raises(ValueError, match="no job 'cs-4-lora' with these options: `list` shows"):
        grid.main(["run", *SMALL, "--job", "cs-4-lora"])


def test_list_shows_index_need_and_estimates(capsys):
    grid.main(["list", "--languages", "gl", "--sizes", "10k", "--seeds", "77"])
    said = capsys.readouterr().out
    lines = {line.split()[1]: line.split() for line in said.splitlines()[1:9]}
    assert lines["gl-10k-teacher-outputs"][0] == "0" and "GB" in said and "T4 h" in said and "not measured" in said
    assert lines["gl-10k-seed77-distilwhisper-released"][2] == "gl-10k-teacher-outputs"


# ---- a job


def test_whole_grid_runs_and_makes_a_table(capsys):
    jobs = make_jobs("smoke", sizes=["4"], seeds=[77])
    assert [job.row for job in jobs[:1]] + sorted(job.row for job in jobs[1:]) == ["teacher-outputs", *sorted(ROWS)]
    for job in jobs:
        run_job(job)
    results = {job.row: read_json(job.folder / "results.json") for job in jobs}
    assert results.pop("teacher-outputs")["rows"] == []
    for found in results.values():
        assert [row["test_set"] for row in found["rows"]] == ["in-domain", "out-of-domain", "translation"]
        assert found["record"]["preset"]["train_clips"] == 4 and found["record"]["steps"]
    translated = {row: found["rows"][2]["experts"] for row, found in results.items()}
    assert translated["clsr-ft"] == translated["distilwhisper-released-kl"] == "encoder" and translated["lora"] == ""
    runs = {path.name for path in (jobs[0].folder.parent.parent / "runs").glob("distilwhisper-released-cs-seed77-*")}
    assert len(runs) == 2  # JS and KL
    assert grid.main(["table", *SMALL]) == 0
    assert "out-of-domain" in capsys.readouterr().out
    table = pd.read_csv(presets.results_dir(presets.SMOKE) / "grid.csv")
    assert list(table["row"]) == list(ROWS) * 3 and table["cs"].notna().all() and table["cs paper"].isna().all()


def test_job_that_misses_what_it_needs_says_so_and_is_noted_as_failed():
    job = Job("smoke", "cs", "4", "teacher")
    with pytest.raises(RuntimeError, match="needs cs-4-teacher-outputs, which is not done: run that first"):
        run_job(job)
    assert job.state()["state"] == "failed" and job.state()["error"].startswith("RuntimeError: cs-4-teacher needs")


def test_state_running_without_its_process_is_killed_and_with_other_settings_is_waiting(monkeypatch):
    job = Job("smoke", "cs", "4", "student")
    assert job.state() == {"state": "waiting"}
    job.note("running", pid=1)
    with FileLock(job.folder / "lock"):  # as its process holds it
        assert job.state()["state"] == "running"
    assert job.state()["state"] == "killed"
    done(job)
    assert job.state()["state"] == "done"
    other = replace(presets.SMOKE, max_new_tokens=9)
    monkeypatch.setattr(jobs_module, "get_preset", lambda name: replace(presets.SMOKE, minutes="3 min"))
    assert job.state()["state"] == "done"  # a remark on the preset changes no result
    monkeypatch.setattr(jobs_module, "get_preset", lambda name: other)
    assert job.state() == {"state": "waiting"}


# ---- the runner


def kill_when_running(job):
    """Send SIGKILL to the job's process as soon as it has begun."""
    deadline = time.monotonic() + 120
    while job.state()["state"] != "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(job.state()["pid"], signal.SIGKILL)


def in_this_process(command, run=subprocess.run, **options):
    """Stand for subprocess.run: do a job here, anything else as it is."""
    if "--job" not in command:
        return run(command, **options)
    name = command[command.index("--job") + 1]
    run_job(next(job for job in make_jobs("smoke", sizes=["4"], seeds=[77]) if job.name == name))
    return SimpleNamespace(returncode=0)


def test_killed_and_failed_jobs_stop_only_what_needs_them_and_run_goes_on(monkeypatch, capsys):
    command = [*SMALL, "--systems", "lora", "distilwhisper-released"]
    teacher, lora, distilled = make_jobs("smoke", sizes=["4"], seeds=[77], rows=("lora", "distilwhisper-released"))
    monkeypatch.chdir(presets.cache_dir().parent)
    in_the_way = presets.cache_dir() / "runs" / "smoke" / "predictions"  # a file where LoRA needs a folder
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()
    killer = threading.Thread(target=kill_when_running, args=[teacher], daemon=True)
    killer.start()
    assert grid.main(["run", *command, "--gpus", "2"]) == 1
    assert teacher.state()["error"] == "killed by signal 9" and teacher.state()["exit_code"] == -9
    assert lora.state()["exit_code"] == 1 and "predictions" in lora.state()["error"]
    assert distilled.state()["state"] == "waiting"
    capsys.readouterr()
    assert grid.main(["status", *command]) == 0
    said = capsys.readouterr().out
    folder = "cache/runs/smoke/jobs/cs-4-teacher-outputs"
    assert f"cs-4-teacher-outputs: failed killed by signal 9 (log: {folder}/log.txt)" in said
    assert "cs-4-seed77-distilwhisper-released: blocked by cs-4-teacher-outputs: failed" in said
    assert "Traceback" in (lora.folder / "log.txt").read_text()
    in_the_way.unlink()
    monkeypatch.setattr(grid.subprocess, "run", in_this_process)
    assert grid.main(["run", *command]) == 0
    monkeypatch.setattr(grid, "_process", lambda *_: pytest.fail("a job that was done is run again"))
    assert grid.main(["run", *command]) == 0
    capsys.readouterr()
    grid.main(["status", *command])
    assert "done" in (said := capsys.readouterr().out) and "failed" not in said


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    seen, lock = [], threading.Barrier(2, timeout=20)

    def process(command, env, **_):
        lock.wait()  # two at once
        seen.append(env["CUDA_VISIBLE_DEVICES"])
        lock.wait()
        done(next(job for job in jobs if job.name == command[command.index("--job") + 1]), in_domain=50)
        return SimpleNamespace(returncode=0)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.setattr(grid.subprocess, "run", process)
    jobs = make_jobs("smoke", sizes=["4"], seeds=[1, 2], rows=("lora", "clsr-ft"))
    assert grid.run_jobs(jobs, 2)
    assert sorted(seen[:2]) == sorted(seen[2:]) == ["2", "5"]


# ---- table, cluster


def test_table_has_blocks_of_test_and_size_deviation_over_seeds_and_your_figures(tmp_path, monkeypatch):
    jobs = make_jobs("paper", ["ca", "cs"], ["3k", "10k"])
    with pytest.raises(ValueError, match="no job that scores anything is done"):
        grid.table(jobs)
    for job in jobs:
        if job.row in ("student", "lora") and job.name != "cs-10k-seed79-lora":
            seed = (job.seed or 77) - 77
            done(job, in_domain=40 + seed, out_of_domain=60, translation=9.5)
    (tmp_path / "data" / "reference").mkdir(parents=True)
    (tmp_path / "data" / "reference" / "paper.csv").write_text(
        "system,train_clips,test_set,language,wer\nwhisper-small,,FLEURS,ca,1.5\nLoRA,3000,Common Voice 13,cs,2.5\n"
        "LoRA,3000,Common Voice 13,ca,\n")  # fmt: skip
    monkeypatch.setattr(grid, "REPOSITORY", tmp_path)
    table = grid.table(jobs)
    assert list(table.columns[4:]) == ["row", "ca", "ca paper", "cs", "cs paper", "mean"]
    blocks = [(test, clips) for test in ("in-domain", "out-of-domain", "translation") for clips in (3000, 10_000)]
    assert list(table[["test_set", "train_clips"]].itertuples(index=False, name=None)) == sorted(blocks * 2)
    assert list(table["row"]) == ["student", "lora"] * 6
    cells = table.set_index(["test_set", "train_clips", "row"])
    assert cells.loc[("in-domain", 3000, "lora"), "cs"] == "41.0 ± 1.0"
    assert cells.loc[("in-domain", 10_000, "lora"), "cs"] == "40.5 ± 0.7"  # of two seeds
    assert cells.loc[("translation", 3000, "student"), "ca"] == "9.5"
    assert cells.loc[("out-of-domain", 10_000, "student"), "ca paper"] == 1.5
    assert cells.loc[("in-domain", 3000, "lora"), "cs paper"] == 2.5
    assert (table["ca paper"] != "").sum() == 2 and (table["cs paper"] != "").sum() == 1  # what is empty stays empty
    assert cells.loc[("in-domain", 10_000, "lora"), "mean"] == "40.8"


def test_mean_is_left_out_where_a_language_is_missing():
    for job in make_jobs("paper", ["ca", "cs"], ["3k"], [77], ["student", "lora"]):
        if job.name != "cs-3k-seed77-lora":
            done(job, in_domain=40)
    table = grid.table(make_jobs("paper")).set_index("row")
    assert table.loc["student", "mean"] == "40.0" and table.loc["lora", "mean"] == "" and table.loc["lora", "cs"] == ""


@pytest.mark.parametrize(("normaliser", "cell"), [("released", "70.0"), ("keep-marks", "20.0")])
def test_thai_is_scored_by_characters_unless_it_is_split_into_letters_as_released(normaliser, cell):
    job = make_jobs("paper", ["th"], ["3k"], [77], ["student"])[-1]
    row = {"row": "student", "language": "th", "test_set": "in-domain", "train_clips": 3000, "normaliser": normaliser,
           "wer": 70.0, "cer": 20.0}  # fmt: skip
    write_json(job.folder / "results.json", {"rows": [row]})
    job.note("done")
    assert list(grid.table([job])["th"]) == [cell]


def test_script_for_a_cluster_submits_teacher_outputs_then_the_rest(capsys):
    options = ["--languages", "ca", "th", "--seeds", "77"]
    grid.main(["slurm", *options])
    script = capsys.readouterr().out
    jobs = make_jobs("paper", ["ca", "th"], seeds=[77])
    assert "--array=0-5)" in script and f'--array=6-{len(jobs) - 1} --dependency="afterany:$teacher")' in script
    assert f'grid run {" ".join(options)} --job "$SLURM_ARRAY_TASK_ID"' in script and "--time=" in script
    assert jobs[5].row == "teacher-outputs" != jobs[6].row
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    assert "--array=0-1)" in grid.slurm(make_jobs("smoke", rows=["student", "lora"], seeds=[1]), [])  # one array alone


# ---- estimates


def test_parameters_are_those_of_the_real_models():
    small, large = SHAPES["openai/whisper-small"].parameters(), SHAPES["openai/whisper-large-v2"].parameters()
    assert small == {"whisper": 241_734_912, "experts": 114_521_088, "adapter": 11_796_480}
    assert large["whisper"] == 1_543_304_960  # transformers' own count
    assert SHAPES["openai/whisper-small"].trained("experts") == (356_256_000, 114_521_088)


def test_estimates_order_systems_cards_and_sizes_as_they_must():
    found = {name: estimate(name, presets.COLAB, 10_000) for name in ("teacher-outputs", *SYSTEMS)}
    for row in found.values():
        assert row["T4 h"] > row["A100 h"] > row["H100 h"] > 0 and row["GB"] > 1
    assert found["lora"]["T4 h"] < found["fine-tuning"]["T4 h"] and found["student"]["trained M"] == 0
    assert found["clsr-ft"] == found["distilwhisper-released"]  # the teacher's outputs are read
    assert found["clsr-ft"]["PFLOP"] > found["lora"]["PFLOP"] and found["teacher"]["GB"] > found["student"]["GB"]
    assert estimate("lora", presets.COLAB, 3000)["T4 h"] < found["lora"]["T4 h"]
    assert estimate("lora", presets.SMOKE, 10) == {}  # no shape that is known


def test_flops_are_near_six_a_parameter_and_position():
    shape = SHAPES["openai/whisper-small"]
    base, added = shape.flops("experts")
    layers = 12 * shape.layers * shape.width**2  # weights of the encoder's layers
    assert 2 * layers * 1500 < base < 3.5 * layers * 1500 and added < base / 2


def test_estimates_are_printed_as_estimates(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["estimates", "--clips", "3000"])
    estimates.main()
    said = capsys.readouterr().out
    assert said.startswith("Estimates, not measured: 3000 clips") and all(f"{card} h" in said for card in CARDS)
    assert all(name in said for name in SYSTEMS) and "T4 16 GB" in said
