"""The paper's experiments as jobs: the list, killed and failed ones, the table, the script, the estimates."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from filelock import FileLock

from distilwhisper_lib import files, presets
from distilwhisper_lib.data.corpora.loading import corpus_report
from distilwhisper_lib.experiments import estimates, grid
from distilwhisper_lib.experiments import jobs as jobs_module
from distilwhisper_lib.experiments.estimates import CARDS, SHAPES, estimate
from distilwhisper_lib.experiments.jobs import ROWS, Job, make_jobs, run_job
from distilwhisper_lib.files import file_sha256, read_json, short_hash, write_json
from distilwhisper_lib.lab.lab import Lab
from distilwhisper_lib.training.systems import SYSTEMS

SMALL = ["--preset", "smoke", "--seeds", "77", "--sizes", "4"]


CV13 = "cv-corpus-13.0-2023-03-09"


def done(job, about=None, **scores):
    """Make a job look done, with these scores by test set, of the paper's data; about: what its rows say else."""
    rows = [
        {
            "row": job.row,
            "language": job.language,
            "test_set": test.replace("_", "-"),
            "train_clips": job.clips,
            "normaliser": None if test == "translation" else "released",
            "bleu" if test == "translation" else "wer": value,
        }
        | (
            {"corpus": "common-voice-3k", "release": CV13}
            if test == "in_domain"
            else {"corpus": "fleurs"}
        )
        | (about or {})
        for test, value in scores.items()
    ]
    write_json(job.folder / "results.json", {"rows": rows})
    job.note("done")


def fill_in(folder, monkeypatch, figures):
    """Let the table read this copy of the paper's figures: the lines of paper.csv after the first."""
    (folder / "data" / "reference").mkdir(parents=True)
    text = "\n".join(["system,train_clips,test_set,language,wer", *figures]) + "\n"
    (folder / "data" / "reference" / "paper.csv").write_text(text)
    monkeypatch.setattr(grid, "REPOSITORY", folder)


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
    assert {"cs-10k-seed77-lora", "th-28k-seed79-distilwhisper-released-kl", "uk-3k-teacher"} <= {
        j.name for j in jobs
    }


def test_a_size_is_a_corpus_of_common_voice_or_else_a_limit_of_clips():
    assert Job("paper", "ta", "28k", "student").settings().corpus == "common-voice-28k"
    assert Job("paper", "ta", "28k", "student").settings().language == "ta"
    of_smoke = {
        size: Job("smoke", "cs", size, "student").settings().train_clips
        for size in ("4", "3k", "all")
    }
    assert of_smoke == {"4": 4, "3k": 8, "all": 8}  # the preset has 8
    ca = Job("smoke", "ca", "4", "student").settings()
    assert (ca.language, ca.second_language) == ("ca", "cs")


def test_what_the_paper_does_not_have_is_refused():
    with pytest.raises(
        ValueError,
        match=r"no job for the languages cs at 28k: the paper has 3k: ca, cs.*28k: ca, ta",
    ):
        make_jobs("paper", ["cs"], ["28k"])
    with pytest.raises(ValueError, match="unknown system 'lorra': one of student"):
        make_jobs("smoke", rows=["lorra"])
    with pytest.raises(ValueError, match="no job 'cs-4-lora' with these options: `list` shows"):
        grid.main(["run", *SMALL, "--job", "cs-4-lora"])


def test_list_shows_index_need_and_estimates(capsys):
    grid.main(["list", "--languages", "gl", "--sizes", "10k", "--seeds", "77"])
    said = capsys.readouterr().out
    lines = {line.split()[1]: line.split() for line in said.splitlines()[1:9]}
    assert (
        lines["gl-10k-teacher-outputs"][0] == "0"
        and "GB" in said
        and "T4 h" in said
        and "not measured" in said
    )
    assert lines["gl-10k-seed77-distilwhisper-released"][2] == "gl-10k-teacher-outputs"


# ---- a job


def test_whole_grid_runs_and_makes_a_table(capsys, tmp_path, monkeypatch):
    jobs = make_jobs("smoke", sizes=["4"], seeds=[77])
    assert [job.row for job in jobs[:1]] + sorted(job.row for job in jobs[1:]) == [
        "teacher-outputs",
        *sorted(ROWS),
    ]
    for job in jobs:
        run_job(job)
    results = {job.row: read_json(job.folder / "results.json") for job in jobs}
    assert results.pop("teacher-outputs")["rows"] == []
    for found in results.values():
        assert [row["test_set"] for row in found["rows"]] == [
            "in-domain",
            "out-of-domain",
            "translation",
        ]
        assert found["record"]["preset"]["train_clips"] == 4 and found["record"]["steps"]
    translated = {row: found["rows"][2]["experts"] for row, found in results.items()}
    assert (
        translated["clsr-ft"] == translated["distilwhisper-released-kl"] == "encoder"
        and translated["lora"] == ""
    )
    runs = {
        path.name
        for path in (jobs[0].folder.parent.parent / "runs").glob(
            "distilwhisper-released-cs-seed77-*"
        )
    }
    assert len(runs) == 2  # JS and KL
    check_hashes(
        {job.row: read_json(job.folder / "results.json")["record"] for job in jobs}, jobs[0]
    )
    systems, tests = list(grid.PAPER)[: len(ROWS)], list(grid.PAPER)[len(ROWS) :]
    fill_in(
        tmp_path,
        monkeypatch,
        [
            f"{system},{clips},{test},cs,1"
            for system in systems
            for test in tests
            for clips in ("", 4)
        ],
    )
    assert grid.main(["table", *SMALL]) == 0
    assert "out-of-domain" in capsys.readouterr().out
    table = pd.read_csv(files.results_dir("smoke") / "grid.csv")
    assert (
        list(table["row"]) == list(ROWS) * 3
        and table["cs"].notna().all()
        and set(table["corpus"]) == {"toy"}
    )
    assert (
        table["cs paper"].isna().all()
    )  # made-up speech is not the paper's, whatever is filled in
    scores = pd.read_csv(files.results_dir("smoke") / "grid-scores.csv")
    words = scores[scores["test_set"] != "translation"]
    assert (
        len(scores) == len(table)
        and words["wer"].between(words["wer_low"], words["wer_high"]).all()
    )
    check_pairs(jobs, words)


def check_pairs(jobs, scores):
    """Check the differences in pairs against the scores: of all that is done, and only of that."""
    assert grid.main(["pairs", *SMALL]) == 0
    pairs = pd.read_csv(files.results_dir("smoke") / "grid-paired.csv")
    others = ["student", "teacher", "fine-tuning", "lora", "clsr-ft"]
    assert list(pairs["other"].drop_duplicates()) == others and len(pairs) == 2 * len(others)
    wer = scores.set_index(["row", "test_set"])["wer"]
    for row in pairs.itertuples():
        assert row.difference == pytest.approx(
            wer[row.first, row.test_set] - wer[row.other, row.test_set]
        )
        assert row.low <= row.difference <= row.high and (row.size, row.seeds) == (4, 1)
    by_name = {job.row: job for job in jobs}
    by_name["fine-tuning"].note("failed")
    assert set(grid.pairs(jobs)["other"]) == {"student", "teacher", "lora", "clsr-ft"}
    by_name["distilwhisper-released"].note("failed")
    with pytest.raises(ValueError, match="no other system is done beside distilwhisper-released"):
        grid.pairs(jobs)


def check_hashes(records, job):
    """Check that each job's record names its data, the clips of its size, and the weights of its models."""
    lab = Lab(job.settings())
    ids = [short_hash(list(lab.rows("train", limit=limit)["id"])) for limit in (4, 8)]
    data = {"toy/cs": corpus_report("toy", "cs")["fingerprint"], "ids of training clips": ids[0]}
    assert all(record["data"] == data for record in records.values()) and ids[0] != ids[1]
    teacher = {
        "model.safetensors": file_sha256(lab.train_teacher() / "model" / "model.safetensors")
    }
    of_lora = file_sha256(lab.train("lora") / "model" / "adapter_model.safetensors")
    models = {row: record["models"] for row, record in records.items()}
    assert (
        models["teacher-outputs"] == models["teacher"] == {"teacher": teacher}
        and models["student"] == {}
    )  # tiny
    assert models["lora"] == {"lora": {"adapter_model.safetensors": of_lora}}
    by_kl = models["distilwhisper-released-kl"]
    assert by_kl["teacher"] == teacher and len(by_kl["distilwhisper-released-kl"]) == 1
    assert (
        by_kl["distilwhisper-released-kl"]
        != models["distilwhisper-released"]["distilwhisper-released"]
    )


def test_job_that_misses_what_it_needs_says_so_and_is_noted_as_failed():
    job = Job("smoke", "cs", "4", "teacher")
    with pytest.raises(
        RuntimeError, match="needs cs-4-teacher-outputs, which is not done: run that first"
    ):
        run_job(job)
    assert job.state()["state"] == "failed" and job.state()["error"].startswith(
        "RuntimeError: cs-4-teacher needs"
    )


def test_state_running_without_its_process_is_killed_and_with_other_settings_is_waiting(
    monkeypatch,
):
    job = Job("smoke", "cs", "4", "student")
    assert job.state() == {"state": "waiting"}
    job.note("running", pid=1)
    with FileLock(job.folder / "lock"):  # as its process holds it
        assert job.state()["state"] == "running"
    assert job.state()["state"] == "killed"
    done(job)
    assert job.state()["state"] == "done"
    other = replace(presets.SMOKE, max_new_tokens=9)
    monkeypatch.setattr(
        jobs_module, "get_preset", lambda name: replace(presets.SMOKE, minutes="3 min")
    )
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
    teacher, lora, distilled = make_jobs(
        "smoke", sizes=["4"], seeds=[77], rows=("lora", "distilwhisper-released")
    )
    monkeypatch.chdir(files.cache_dir().parent)
    in_the_way = (
        files.cache_dir() / "runs" / "smoke" / "predictions"
    )  # a file where LoRA needs a folder
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
    monkeypatch.setattr(
        grid, "_process", lambda *_: pytest.fail("a job that was done is run again")
    )
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
        done(
            next(job for job in jobs if job.name == command[command.index("--job") + 1]),
            in_domain=50,
        )
        return SimpleNamespace(returncode=0)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.setattr(grid.subprocess, "run", process)
    jobs = make_jobs("smoke", sizes=["4"], seeds=[1, 2], rows=("lora", "clsr-ft"))
    assert grid.run_jobs(jobs, 2)
    assert sorted(seen[:2]) == sorted(seen[2:]) == ["2", "5"]


def test_what_is_meant_for_a_gpu_is_refused_without_one_unless_it_is_asked_for(monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(grid, "run_jobs", lambda jobs, at_once: ran.append(jobs[0].preset) or True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for preset in ("paper", "colab"):
        with pytest.raises(SystemExit):
            grid.main(["run", "--preset", preset])
        said = capsys.readouterr().err
        assert f"sees no GPU here, and the preset {preset} is meant for one" in said
        assert "make setup GPU=1" in said and "--cpu" in said
    with pytest.raises(SystemExit):  # a node of a cluster
        grid.main(["run", "--job", "0"])
    assert not ran
    assert grid.main(["run", "--cpu"]) == grid.main(["run", "--preset", "smoke"]) == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert grid.main(["run", "--preset", "colab"]) == 0
    assert ran == ["paper", "smoke", "colab"]


def test_only_a_process_without_a_gpu_is_told_that_it_may_run_so(monkeypatch):
    commands = []
    ended = SimpleNamespace(returncode=0)
    monkeypatch.setattr(
        grid.subprocess, "run", lambda command, **_: commands.append(command) or ended
    )
    for device in ("", "1"):
        grid._process(Job("paper", "cs", "3k", "student"), device)
    assert ["--cpu" in command for command in commands] == [True, False]


# ---- table, cluster


def test_table_has_blocks_of_test_and_size_deviation_over_seeds_and_your_figures(
    tmp_path, monkeypatch
):
    jobs = make_jobs("paper", ["ca", "cs"], ["3k", "10k"])
    with pytest.raises(ValueError, match="no job that scores anything is done"):
        grid.table(jobs)
    for job in jobs:
        if job.row in ("student", "lora") and job.name != "cs-10k-seed79-lora":
            seed = (job.seed or 77) - 77
            done(job, in_domain=40 + seed, out_of_domain=60, translation=9.5)
    fill_in(
        tmp_path,
        monkeypatch,
        [
            "whisper-small,,FLEURS,ca,1.5",
            "LoRA,3000,Common Voice 13,cs,2.5",
            "LoRA,3000,Common Voice 13,ca,",
        ],
    )
    table = grid.table(jobs)
    assert list(table.columns[:2]) == ["test_set", "train_clips"]
    assert list(table.columns[5:]) == ["row", "ca", "ca paper", "cs", "cs paper", "mean"]
    blocks = [
        (test, clips)
        for test in ("in-domain", "out-of-domain", "translation")
        for clips in (3000, 10_000)
    ]
    assert list(table[["test_set", "train_clips"]].itertuples(index=False, name=None)) == sorted(
        blocks * 2
    )
    assert list(table["row"]) == ["student", "lora"] * 6
    cells = table.set_index(["test_set", "train_clips", "row"])
    assert cells.loc[("in-domain", 3000, "lora"), "cs"] == "41.0 ± 1.0"
    assert cells.loc[("in-domain", 10_000, "lora"), "cs"] == "40.5 ± 0.7"  # of two seeds
    assert cells.loc[("translation", 3000, "student"), "ca"] == "9.5"
    assert cells.loc[("out-of-domain", 10_000, "student"), "ca paper"] == 1.5
    assert cells.loc[("in-domain", 3000, "lora"), "cs paper"] == 2.5
    assert (table["ca paper"] != "").sum() == 2 and (
        table["cs paper"] != ""
    ).sum() == 1  # what is empty stays empty
    assert cells.loc[("in-domain", 10_000, "lora"), "mean"] == "40.8"


def test_mean_is_left_out_where_a_language_is_missing():
    for job in make_jobs("paper", ["ca", "cs"], ["3k"], [77], ["student", "lora"]):
        if job.name != "cs-3k-seed77-lora":
            done(job, in_domain=40)
    table = grid.table(make_jobs("paper")).set_index("row")
    assert (
        table.loc["student", "mean"] == "40.0"
        and table.loc["lora", "mean"] == ""
        and table.loc["lora", "cs"] == ""
    )


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
def test_paper_s_figure_stands_only_beside_its_data_and_normaliser(
    test, about, belongs, tmp_path, monkeypatch
):
    fill_in(
        tmp_path,
        monkeypatch,
        [
            f"{system},{clips},{name},ca,1.5"
            for name in list(grid.PAPER)[len(ROWS) :]
            for system, clips in (("whisper-small", ""), ("LoRA", 3000))
        ],
    )
    jobs = make_jobs("paper", ["ca"], ["3k"], [77], ["student", "lora"])
    for job in jobs:
        done(job, about, **{test: 40})
    table = grid.table(jobs)
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
    table = grid.table(jobs)
    assert list(table["th"]) == [cell] and list(table["ca"]) == ["40.0"]
    assert list(table["mean"]) == [mean]  # no mean of words and characters
    for job, bleu in zip(jobs, (10.0, 20.0), strict=True):
        done(job, {"normaliser": normaliser}, translation=bleu)
    assert list(grid.table(jobs)["mean"]) == ["15.0"]  # of English words


def test_script_for_a_cluster_submits_teacher_outputs_then_the_rest(capsys, tmp_path):
    options = ["--languages", "ca", "th", "--seeds", "77"]
    grid.main(["slurm", *options])
    jobs, script = make_jobs("paper", ["ca", "th"], seeds=[77]), capsys.readouterr().out
    assert jobs[5].row == "teacher-outputs" != jobs[6].row
    (tmp_path / "sbatch").write_text('#!/bin/sh\nfor word; do echo "$word" >&2; done\necho 42\n')
    (tmp_path / "sbatch").chmod(0o755)
    ran = subprocess.run(
        ["bash"],
        input=script,
        text=True,
        capture_output=True,
        check=True,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    first, second = (call.splitlines() for call in ran.stderr.split("--parsable\n")[1:])
    work = f'--wrap=exec {sys.executable} -m {grid.MODULE} run {" ".join(options)} --job "$SLURM_ARRAY_TASK_ID"'
    assert "--array=0-5" in first and work in first and work in second
    assert f"--array=6-{len(jobs) - 1}" in second and "--dependency=afterany:42" in second
    assert any(word.startswith("--time=") for word in first) and "--gpus=1" in first
    assert "--array=0-1)" in grid.slurm(
        make_jobs("smoke", rows=["student", "lora"], seeds=[1]), []
    )  # one array alone


# ---- estimates


def test_parameters_are_those_of_the_real_models():
    small, large = (
        SHAPES["openai/whisper-small"].parameters(),
        SHAPES["openai/whisper-large-v2"].parameters(),
    )
    assert small == {"whisper": 241_734_912, "experts": 114_521_088, "adapter": 11_796_480}
    assert large["whisper"] == 1_543_304_960  # transformers' own count
    assert SHAPES["openai/whisper-small"].trained("experts") == (356_256_000, 114_521_088)


def test_estimates_order_systems_cards_and_sizes_as_they_must():
    found = {name: estimate(name, presets.COLAB, 10_000) for name in ("teacher-outputs", *SYSTEMS)}
    for row in found.values():
        assert row["T4 h"] > row["A100 h"] > row["H100 h"] > 0 and row["GB"] > 1
    assert (
        found["lora"]["T4 h"] < found["fine-tuning"]["T4 h"] and found["student"]["trained M"] == 0
    )
    assert found["clsr-ft"] == found["distilwhisper-released"]  # the teacher's outputs are read
    assert (
        found["clsr-ft"]["PFLOP"] > found["lora"]["PFLOP"]
        and found["teacher"]["GB"] > found["student"]["GB"]
    )
    assert estimate("lora", presets.COLAB, 3000)["T4 h"] < found["lora"]["T4 h"]
    assert estimate("lora", presets.SMOKE, 10) == {}  # no shape that is known


def test_flops_are_near_six_a_parameter_and_position():
    shape = SHAPES["openai/whisper-small"]
    base, added = shape.flops("experts")
    layers = 12 * shape.layers * shape.width**2  # weights of the encoder's layers
    assert 2 * layers * 1500 < base < 3.5 * layers * 1500 and added < base / 2


def test_memory_in_use_holds_keys_and_values_of_all_layers_and_positions(model):
    with torch.no_grad():
        told = model(
            input_features=torch.zeros(2, model.config.num_mel_bins, 3000),
            decoder_input_ids=torch.ones(2, 5, dtype=torch.long),
        ).past_key_values
    kept = [
        sum(tensor.numel() for layer in cache.layers for tensor in (layer.keys, layer.values))
        for cache in (told.cross_attention_cache, told.self_attention_cache)
    ]
    shape = estimates.Shape(
        model.config.d_model, model.config.decoder_layers, model.config.decoder_ffn_dim
    )
    rows = replace(presets.PAPER, eval_batch_size=2, max_new_tokens=5)
    empty = replace(rows, max_new_tokens=0)
    grows = estimates.memory(shape, "nothing", rows) - estimates.memory(shape, "nothing", empty)
    assert grows == 2 * kept[1] and kept[0] == 300 * kept[1]  # two bytes each; 1500 positions to 5
    large = estimates.memory(SHAPES["openai/whisper-large-v2"], "nothing", presets.PAPER, 2)
    assert 2 * 1_543_304_960 + 3.9e9 < large < 2 * 1_543_304_960 + 7e9  # 16 clips


def test_memory_of_what_is_trained_is_that_of_training_or_of_use_whichever_is_more():
    def needed(trains, **changes):
        return estimates.memory(
            SHAPES["openai/whisper-small"], trains, replace(presets.PAPER, **changes)
        )

    assert (
        needed("experts") == needed("experts", eval_batch_size=1) > needed("experts", batch_size=1)
    )
    assert (
        needed("experts", batch_size=1) > needed("nothing") + (6 + 12) * 114_521_088
    )  # use, and what is trained


def test_transcribing_validation_for_the_best_epoch_takes_time():
    last, best = (
        replace(presets.PAPER, keep=keep, validation_clips=1000) for keep in ("last", "best")
    )
    base, added = SHAPES["openai/whisper-small"].flops("experts")
    of_last, of_best = estimate("clsr-ft", last, 3000), estimate("clsr-ft", best, 3000)
    flops, seconds = (
        1e15 * (of_best["PFLOP"] - of_last["PFLOP"]),
        3600 * (of_best["T4 h"] - of_last["T4 h"]),
    )
    assert flops == pytest.approx(10 * 1000 * (base + added))  # epochs, clips
    waiting = (
        10 * 1000 / 16 * estimates.TOKENS * 12 * estimates.LAYER_SECONDS
    )  # batches, words, layers
    assert seconds == pytest.approx(flops / (CARDS["T4"][0] * estimates.UTILISATION) + waiting)
    assert estimate("teacher", best, 3000) == estimate("teacher", last, 3000)  # not trained


def test_thai_and_tamil_have_more_tokens_and_take_longer():
    ca, th, ta = (
        estimate("clsr-ft", replace(presets.PAPER, language=code), 3000)
        for code in ("ca", "th", "ta")
    )
    assert all(ca[name] < th[name] < ta[name] for name in ("PFLOP", "GB", "T4 h"))


def test_estimates_are_printed_as_estimates(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["estimates", "--clips", "3000"])
    estimates.main()
    said = capsys.readouterr().out
    assert said.startswith("Estimates, not measured: 3000 clips") and all(
        f"{card} h" in said for card in CARDS
    )
    assert all(name in said for name in SYSTEMS) and "T4 16 GB" in said
