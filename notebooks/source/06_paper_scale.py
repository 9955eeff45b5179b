# %% [markdown]
# # 06 At paper scale
#
# **Goal:** run the paper's experiment on the paper's kind of data: one language on a Colab GPU, from nothing to the
# table, and a plan for all eight.
#
# **You will be able to**
# - get Common Voice and FLEURS, read them without a loading script, and rebuild the paper's choice of clips;
# - compute and store a large teacher's outputs once, with a newer teacher too, and free its memory;
# - go on after a runtime was cut off, with everything kept on a mounted drive;
# - score the authors' published experts beside your own;
# - plan the whole grid of the paper: jobs, hours, memory, and one command that can be stopped.
#
# **Prerequisites:** notebooks 03 and 05.
#
# The outputs that are stored in this notebook, and the numbers under **Read**, are of the preset `laptop`. We have not run
# it at full size.
#
# | preset | time | memory |
# |---|---|---|
# | smoke | a minute | 1 GB |
# | laptop (2 cores) | half a minute after notebooks 01 to 05; whisper-base and the course's own speech | 5 GB |
# | colab (one GPU of 16 GB) | not measured yet; estimates in section 7 | at most 10 GB by calculation (section 7) |
#
# On Colab the course starts with [notebook 00](00_setup.ipynb). This one asks for a runtime with a GPU. Keep everything on
# a drive: run this cell **before** the first one. If the runtime is cut off, the next one finds what was done (section 5,
# [Colab](../docs/colab.md)).
#
# ```python
# import os
# from google.colab import drive
#
# drive.mount("/content/drive")
# folder = "/content/drive/MyDrive/distilwhisper-lab"
# os.environ["LAB_PRESET"] = "colab"
# os.environ["LAB_CACHE"] = f"{folder}/cache"
# os.environ["LAB_RESULTS"] = f"{folder}/results"
# os.environ["LAB_DATA"] = f"{folder}/data"
# ```

# %% tags=["setup"]

# %% [markdown]
# ## 1. What is larger
#
# **Why.** A run at the paper's size is the same program with other settings, and all of them are fields of a preset. So
# we put three presets side by side: this course's `laptop`, `colab` for one GPU, and `paper`, whose jobs section 7 plans.

# %%
import pandas as pd

from distilwhisper_lib import get_preset

FIELDS = ["student", "teacher", "corpus", "other_corpus", "epochs", "batch_size", "accumulation", "margin_seconds",
          "max_new_tokens", "normaliser", "top_k"]
presets = {name: get_preset(name) for name in ("laptop", "colab", "paper")}
pd.DataFrame({name: {field: str(getattr(preset, field)) for field in FIELDS} for name, preset in presets.items()})

# %% [markdown]
# **Read:** Student and teacher are larger: whisper-small learns from large-v2. At `laptop` the teacher is `None`, which
# means the stand-in. `margin_seconds` is `None` for the two larger presets: Whisper's native window. There are more
# epochs, but as many stored tokens a position (`top_k`) in all three.
#
# `colab` shows the course's own speech here; section 3 puts other corpora into it.
#
# ### First, a row without training
#
# **Why.** The authors have published their experts for whisper-small. What these gain over plain Whisper can be measured
# before anything is trained, on FLEURS, which needs no account. One command does it for all eight languages. It says how
# long it takes by estimate, and goes on where it was stopped:
#
# ```sh
# make grid ARGS=published    # one language: make grid ARGS="published --languages ca"
# ```
#
# The cell does the same for this notebook's language. Where the student is another Whisper, the experts are made up:
# untrained ones, written in the authors' format and read by the same loader.
#
# **Predict:** how many words more or fewer does Whisper get wrong with untrained experts?

# %% tags=["predict"]
prediction = ...  # a difference of WER, in points

# %%
import shutil
import tempfile
from pathlib import Path

from distilwhisper_lib import Lab, attach_experts, compare_published, published_sources, save_released, show

code, scratch = lab.preset.language, Path(tempfile.mkdtemp())
if lab.preset.student == "openai/whisper-small":
    untrained_lab, sources = Lab("paper", language=code), published_sources(code)  # out-of-domain is FLEURS there
else:
    untrained_lab = Lab(lab.preset, test_clips=16)
    made_up = attach_experts(untrained_lab.student(), code)
    sources = {"(made up)": save_released(made_up, scratch / "released")}
first = compare_published(untrained_lab, sources)
shutil.rmtree(scratch)
columns = ["n", "wer", "wer_low", "wer_high", "difference", "difference_low", "difference_high"]
show(first.set_index("system")[[column for column in columns if column in first]])

# %% [markdown]
# **Read:** At `laptop` the experts are made up, so this is a check of the path and no result. Untrained experts say what
# plain Whisper says: the same WER, and no difference. At `colab` each row is one of the authors' checkpoints.
# `difference` is its WER less the student's on the same clips, with a 95 % interval: negative means fewer errors.
#
# ## 2. The data
#
# **Why.** A result can be repeated only on the same clips. So the first step is to get the two corpora, and to rebuild
# the paper's choice of clips from its rule.
#
# - **Common Voice** (CC0) left the hub in October 2025. With an account at Mozilla Data Collective you download your
#   language as a `.tar.gz` (tens of gigabytes for a large language). Put it into the folder of `LAB_DATA`, under
#   `common-voice/`. The paper used release 13.0. What is offered there is the newest one, `cv-corpus-27.0-2026-09-11`
#   when this was written ([which release](../data/common-voice/README.md#which-release)). Each release has its own
#   training clips and its own test, so every row of results names its release (column `release`).
# - **FLEURS** (CC BY 4.0) is open to everybody. Its tables and archives are fetched from the hub when they are asked
#   for, at a fixed commit, without a loading script.
#
# A release of Common Voice is a folder with tables and MP3 files. The table of a made-up one:

# %%
import io

TABLE = """path	sentence	up_votes	down_votes
a.mp3	Dobrý den.	2	0
b.mp3	Kde je ta ryba?	3	1
c.mp3	Nevím.	3	0
d.mp3	To je loď.	2	0
e.mp3	Plavu domů.	5	2
f.mp3	Ano.	0	1
"""
table = pd.read_csv(io.StringIO(TABLE), sep="\t", quoting=3)
table

# %% [markdown]
# The paper trains on the $N$ clips with the **most up-votes**, among equals those with the **fewest down-votes**, and
# leaves the test set as it is. In Common Voice most clips have two up-votes and no down-vote. So most ties are left, and
# the order of the file decides them.
#
# **Predict:** which three clips are chosen for $N = 3$?

# %% tags=["predict"]
prediction = ...  # three names of clips

# %%
ranked = table.sort_values(["up_votes", "down_votes"], ascending=[False, True], kind="stable")
by_hand = list(ranked["path"][:3])
print(by_hand)

# %% [markdown]
# **Read:** `e.mp3` comes first, with the most up-votes. Of the two with three up-votes `c.mp3` comes before `b.mp3`, for
# it has no down-vote.
#
# The library reads a release, or the archive as it was downloaded, by the same rule. We write the made-up release as a
# folder, with clips of this course as MP3, and let the library choose.

# %%
import tempfile
from pathlib import Path

import soundfile

from distilwhisper_lib import read_audio

release = Path(tempfile.mkdtemp()) / "cv-corpus-0.0-2026-01-01" / "cs"
(release / "clips").mkdir(parents=True)
for split in ("train", "dev", "test"):
    (release / f"{split}.tsv").write_text("client_id\t" + TABLE.replace("\n", "\nme\t").removesuffix("me\t"))
sounds = lab.rows("train", limit=len(table))["audio"]
for name, sound in zip(table["path"], sounds, strict=True):
    soundfile.write(release / "clips" / name, read_audio(sound), 16_000, format="MP3")

# %%
from distilwhisper_lib import most_voted, read_common_voice

assert [row["path"] for row in most_voted(table.to_dict("records"), 3)] == by_hand
reading = read_common_voice("common-voice-3k", "cs", release.parent)
print("release", reading.about["release"], "- malformed rows:", reading.flaws or "none")
pd.DataFrame([{"id": item.id, "split": item.split, "text": item.text} for item in reading.items]).head(8)

# %% [markdown]
# **Read:** All six clips are training clips, in the order of their votes: `common-voice-3k` takes up to $3,000$. Our
# made-up release has the same table for each split, so the clips come again as validation.
#
# `load_corpus("common-voice-3k", "cs")` decodes the chosen clips once. It writes `ids.csv` and `report.json` beside them:
# everyone who has the release can train on the same clips, and see which were left out and why. Damaged clips are named in
# a warning; a damaged archive stops the run with a message that says what to do.

# %% [markdown] tags=["exercise"]
# ### Exercise 6.1: the paper's choice (code)
#
# ●○○ · 10 minutes · *you learn to rebuild a training set from its rule*
#
# Write `choose(table, n)`: `table` has the columns path, up_votes and down_votes, in the order of the file. Return the
# list of the `n` paths with the most up-votes; among equals those with the fewest down-votes; among equals still the
# earlier ones.

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# `sort_values` takes a list of columns, and for `ascending` a list too: `[False, True]`. Sorted by several columns pandas
# keeps the order of equals; sorted by a single one only with `kind="stable"`.
#
# </details>

# %% tags=["stub"]
def choose(table, n):
    raise NotImplementedError

# %% tags=["solution"]
def choose(table, n):
    # The down-votes decide only among clips with as many up-votes, so they are the second key. A stable sort keeps the
    # order of the file among equals, so that everyone gets the same clips.
    ranked = table.sort_values(["up_votes", "down_votes"], ascending=[False, True], kind="stable")
    return list(ranked["path"].head(n))

# %% tags=["also"]
def choose(table, n):
    rows = sorted(table.itertuples(), key=lambda row: (-row.up_votes, row.down_votes))  # stable
    return [row.path for row in rows[:n]]

# %% tags=["also"]
def choose(table, n):
    ranked = table.sort_values("down_votes", kind="stable").sort_values("up_votes", ascending=False, kind="stable")
    return ranked["path"][:n]  # a column

# %% tags=["wrong"]
def choose(table, n):
    return list(table.sort_values(["up_votes", "down_votes"], ascending=False, kind="stable")["path"].head(n))

# %% tags=["wrong"]
# says: the earlier rows
def choose(table, n):
    return list(table.sort_values("up_votes", ascending=False, kind="stable")["path"].head(n))

# %% tags=["wrong"]
# says: most up-votes
def choose(table, n):
    return list(table.sort_values(["up_votes", "down_votes"], kind="stable")["path"].head(n))

# %% tags=["wrong"]
# says: most up-votes
def choose(table, n):
    table["score"] = table["up_votes"] - table["down_votes"]
    return list(table.sort_values("score", ascending=False, kind="stable")["path"].head(n))

# %% tags=["wrong"]
# says: most up-votes
def choose(table, n):
    return list(table.sort_values(["down_votes", "up_votes"], ascending=[True, False], kind="stable")["path"].head(n))

# %% tags=["wrong"]
# says: the earlier rows
def choose(table, n):
    ranked = table.sort_values(["up_votes", "down_votes", "path"], ascending=[False, True, True])
    return list(ranked["path"].head(n))  # among equals by name

# %% tags=["wrong"]
# says: 8 clips instead of 5
def choose(table, n):
    return list(table.sort_values(["up_votes", "down_votes"], ascending=[False, True], kind="stable")["path"])

# %% tags=["wrong"]
# says: 5 clips instead of 3
def choose(table, n):
    return list(table.sort_values(["up_votes", "down_votes"], ascending=[False, True], kind="stable")["path"].head(5))

# %% tags=["wrong"]
# says: the earlier rows
def choose(table, n):
    table["score"] = 1000 * table["up_votes"] - table["down_votes"]
    ranked = table.sort_values("score", ascending=False, kind="quicksort")
    return list(ranked["path"].head(n))

# %% tags=["wrong"]
# says: list of paths
def choose(table, n):
    return table.sort_values(["up_votes", "down_votes"], ascending=[False, True], kind="stable").head(n)

# %% tags=["wrong"]
# says: which are texts
def choose(table, n):
    return list(table.sort_values(["up_votes", "down_votes"], ascending=[False, True], kind="stable").index[:n])

# %% tags=["wrong"]
# says: `return` missing
def choose(table, n):
    table.sort_values(["up_votes", "down_votes"], ascending=[False, True], inplace=True)

# %% tags=["check"]
from checks_06 import check_choose
from exercise import check

check(check_choose, choose)

# %% [markdown]
# ## 3. This notebook's data
#
# **Why.** This notebook should run everywhere, but only a GPU can train on the paper's kind of data. `with_paper_data`
# changes the preset `colab` alone. Where a release of Common Voice is found, it is for training, and FLEURS is the
# out-of-domain test and the test of translation; elsewhere FLEURS is for training. The other presets stay with the
# course's own speech.

# %%
from distilwhisper_lib import Lab, with_paper_data

lab = Lab(with_paper_data(lab.preset))
language = lab.preset.language
print(f"trained on {lab.preset.corpus}, scored with the normaliser {lab.preset.normaliser!r}")
tests = {key: test for key, test in lab.test_sets.items() if test.name in ("in-domain", "out-of-domain")}
pd.DataFrame({key: {"corpus": test.corpus, "split": test.split, "clips": len(lab.test_rows(key))}
              for key, test in tests.items()}).T

# %% [markdown]
# **Read:** At `laptop` nothing has changed: training and both tests are the course's own speech, `fillets`.
#
# ## 4. The teacher, once
#
# **Why.** whisper-large-v2 has 1.5 billion parameters, 3.1 GB in half precision. It is frozen, so it says the same about a
# clip in every epoch. Therefore it runs **once** over the training clips. Its $k$ likeliest tokens at each position are
# stored, its memory is freed, and every later run that distils reads the files.
#
# **Predict:** how many megabytes do 1,000 clips take?

# %% tags=["predict"]
prediction = ...  # megabytes

# %%
outputs = lab.teacher_distributions()
size = outputs.size()
print(f"{len(outputs)} clips, k = {lab.preset.top_k}: {size['bytes'] / 1e6:.1f} MB, "
      f"{size['bytes_per_1000_clips'] / 1e6:.1f} MB for 1,000 clips")

# %% [markdown]
# **Read:** 1,000 clips take 31 MB: a hundredth of the large teacher's weights.
#
# How many tokens $k$ are enough? Notebook 03 has looked at the value of JS and at its gradient. Here is the error of JS
# for the teacher and the clips of **this** run. It is measured on one batch of validation clips, against all tokens.

# %%
import matplotlib.pyplot as plt

from distilwhisper_lib import comparison

curve = comparison.top_k_curve(lab)
fig, ax = plt.subplots(figsize=(6, 4))
ax.plot(curve["k"], 100 * curve["error"], "o-", color="#10427a")
ax.axvline(lab.preset.top_k, color="#7f7f7f", linestyle=":", label=f"this preset's k = {lab.preset.top_k}")
ax.set_xscale("log", base=2)
ax.set(xlabel="k, words stored per position", ylabel="error of JS (% of it)", ylim=(0, None))
ax.legend()
fig.tight_layout()
curve.assign(error=100 * curve["error"], outside=100 * curve["outside"]).round(2)

# %% [markdown]
# *The figure shows the error of JS against k, the number of tokens stored per position: the share of the full JS that is
# missing when only the k likeliest tokens and the sum of the rest are stored. It falls steeply at first, then slowly.*

# %% [markdown]
# **Read:** With one token a position more than a fifth of JS is missing, with the preset's `top_k` about 1 %. Four times
# as many bytes remove less than half of that.
#
# `top_k` is a choice between error and bytes. A teacher that is less sure needs a larger $k$: more of its probability lies
# outside the likeliest tokens.
#
# **Newer teachers.** large-v3 and its turbo variant hear 128 mel bands instead of 80. Their vocabulary has one language
# more, so every token after it has another number than in whisper-small. The library gives each model the features of its
# own extractor, writes the labels with each one's tokenizer, and maps the teacher's tokens to the student's by their
# **text**. A teacher whose tokens are not the student's is refused.
#
# To use one, write `lab = open_lab("colab", teacher="openai/whisper-large-v3")` into the last line of the first cell
# (without a `name`, for section 3 changes only the preset that is called `colab`).

# %% [markdown] tags=["exercise"]
# ### Exercise 6.2: another vocabulary (code)
#
# ●●○ · 10 minutes · *you learn why token numbers of two models must not be mixed*
#
# Write `to_student(ids, teacher_tokens, student_tokens)`. Both vocabularies are lists of strings: the token's number is
# its place. Return the student's number for each of the teacher's `ids`, and -1 for a token that the student does not
# have.

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# A dictionary from the student's strings to their numbers, then `.get(string, -1)`.
#
# </details>

# %% tags=["stub"]
def to_student(ids, teacher_tokens, student_tokens):
    raise NotImplementedError

# %% tags=["solution"]
def to_student(ids, teacher_tokens, student_tokens):
    # Only the text of a token means the same in both; a token that is new in one moves the numbers of all later ones. The
    # student cannot say a token that it lacks: -1 keeps its place.
    number = {token: i for i, token in enumerate(student_tokens)}
    return [number.get(teacher_tokens[i], -1) for i in ids]

# %% tags=["also"]
def to_student(ids, teacher_tokens, student_tokens):
    found = []
    for i in ids:
        token = teacher_tokens[i]
        found.append(student_tokens.index(token) if token in student_tokens else -1)
    return tuple(found)

# %% tags=["also"]
import numpy as np


def to_student(ids, teacher_tokens, student_tokens):
    number = {token: i for i, token in enumerate(student_tokens)}
    table = np.array([number.get(token, -1) for token in teacher_tokens])
    return table[ids]

# %% tags=["wrong"]
def to_student(ids, teacher_tokens, student_tokens):
    return [i if i < len(student_tokens) else -1 for i in ids]

# %% tags=["wrong"]
# says: becomes -1
def to_student(ids, teacher_tokens, student_tokens):
    return [student_tokens.index(teacher_tokens[i]) for i in ids]

# %% tags=["wrong"]
# says: places stay the same
def to_student(ids, teacher_tokens, student_tokens):
    return [student_tokens.index(teacher_tokens[i]) for i in ids if teacher_tokens[i] in student_tokens]

# %% tags=["wrong"]
# says: not in the student's vocabulary
def to_student(ids, teacher_tokens, student_tokens):
    number = {token: i for i, token in enumerate(student_tokens)}
    return [number.get(teacher_tokens[i], 0) for i in ids]

# %% tags=["wrong"]
# says: not in the student's vocabulary
def to_student(ids, teacher_tokens, student_tokens):
    number = {token: i for i, token in enumerate(student_tokens)}
    return [number.get(teacher_tokens[i]) for i in ids]  # None

# %% tags=["wrong"]
# says: two other vocabularies
def to_student(ids, teacher_tokens, student_tokens):
    return [-1 if i == 3 else i - (i > 3) for i in ids]  # one language more, in this place

# %% tags=["wrong"]
# says: whole texts are equal
def to_student(ids, teacher_tokens, student_tokens):
    found = []
    for i in ids:
        places = [n for n, token in enumerate(student_tokens) if teacher_tokens[i] in token]  # within another token
        found.append(places[0] if places else -1)
    return found

# %% tags=["wrong"]
# says: whole texts are equal
def to_student(ids, teacher_tokens, student_tokens):
    number = {token.strip(): i for i, token in reversed(list(enumerate(student_tokens)))}
    return [number.get(teacher_tokens[i].strip(), -1) for i in ids]  # "the" and " the" are two tokens

# %% tags=["wrong"]
# says: texts of the tokens
def to_student(ids, teacher_tokens, student_tokens):
    return [teacher_tokens[i] for i in ids]

# %% tags=["wrong"]
# says: becomes -1
def to_student(ids, teacher_tokens, student_tokens):
    number = {token: i for i, token in enumerate(teacher_tokens)}
    return [number[student_tokens[i]] for i in ids]  # the other direction

# %% tags=["wrong"]
# says: list of numbers
def to_student(ids, teacher_tokens, student_tokens):
    number = {token: i for i, token in enumerate(student_tokens)}
    return {i: number.get(teacher_tokens[i], -1) for i in ids}

# %% tags=["wrong"]
# says: list of numbers
def to_student(ids, teacher_tokens, student_tokens):
    for i in ids:
        print(student_tokens.index(teacher_tokens[i]) if teacher_tokens[i] in student_tokens else -1)

# %% tags=["check"]
from checks_06 import check_to_student
from exercise import check

check(check_to_student, to_student)

# %% [markdown]
# ## 5. A runtime that is cut off
#
# **Why.** Colab may end a session at any time. With `LAB_CACHE` on a drive you lose only the epoch, or the batch, that was
# being computed: run the notebook again from the top. We show it on eight clips in batches of two, with a teacher that
# breaks down at its third batch.
#
# **Predict:** how many batches does the second call compute?

# %% tags=["predict"]
prediction = ...  # a number of batches

# %%
from distilwhisper_lib import cache_teacher_distributions

eight, scratch = lab.clips("train", None, 8), Path(tempfile.mkdtemp())
teacher, ran = lab.student(), []  # any Whisper will do here


def count_or_fail(module, inputs):
    ran.append(1)
    if len(ran) == 3:
        raise KeyboardInterrupt("the runtime was cut off")


handle = teacher.register_forward_pre_hook(count_or_fail)
for call in ("first", "second"):
    ran_before = len(ran)
    try:
        cache_teacher_distributions(teacher, eight, lab.train_collator, scratch, lab.preset.top_k, batch_size=2)
    except KeyboardInterrupt as stop:
        print(stop)
    print(f"{call} call: {len(ran) - ran_before} forward passes begun, {len(list(scratch.glob('*.safetensors')))} files")
handle.remove()
del teacher  # a second student in memory, which section 6 can do without

# %% [markdown]
# **Read:** The first call breaks at its third batch, with two files on disk. The second computes the two batches that are
# missing, and no others.
#
# Training goes on at its last whole epoch ([appendix](90_appendix_trainer.ipynb), sections 4 and 5), and transcription at
# its last whole batch.
#
# Mind the space on a drive. With experts for whisper-small an epoch's checkpoint takes 1.4 GB (by calculation), and there
# are two of them while one is written. Training deletes the older one, but files in Google Drive's bin still use your
# quota: 14 GB after ten epochs. Empty the bin between runs.
#
# ## 6. Train, and the table
#
# **Why.** Now everything comes together: a student, a teacher and our variant, trained on this notebook's data and scored
# in both domains. One call trains what is not there yet. To have the whole comparison, put the other names in: each is
# one more training.

# %%
from distilwhisper_lib import plots

systems = ["student", "teacher", "distilwhisper"]  # also: "fine-tuning", "lora", "clsr-ft", "distilwhisper-released"
rows = [comparison.score(lab, system, key) for system in systems for key in tests]
main = comparison.main_table(pd.DataFrame(rows), language)
main

# %%
plots.plot_comparison(pd.DataFrame(rows), language)

# %% [markdown]
# *The figure shows WER of student, teacher and our variant in both domains, with 95 % intervals. In-domain the student
# lies to the right of the other two.*
#
# **Read:** In-domain our variant closes more than half of the gap between student and teacher, and its interval lies
# below the student's. Out-of-domain its interval overlaps with both.
#
# Intervals of single scores say little where they overlap. What decides is the paired difference (notebook 05).
#
# ### The published experts
#
# Section 1 has scored the authors' experts (3,000, 10,000 and 28,000 clips a language) beside plain Whisper; now they
# stand beside ours. The library loads them without running anything that is pickled in their files, and makes an ordinary
# transformers Whisper with experts. They are scored on the same tests, with the same decoder and normaliser: one more row
# of the table. To compare with as many clips as yours, train on Common Voice and choose the number in `PUBLISHED`.

# %%
from distilwhisper_lib import (
    load_released, paired_difference, released_folder, set_language, short_hash, summarise, transcribe
)

PUBLISHED = "naver/multilingual-distilwhisper-3k"


def published_counts(model, commit, key):
    p, clips = lab.preset, lab.test_clips(key)
    depends = [PUBLISHED, commit, clips.digests, p.margin_seconds, p.max_new_tokens, p.eval_batch_size]
    path = lab.folder / "predictions" / f"published-{key.replace('/', '-')}-{short_hash(depends)}.csv"
    said = transcribe(model, clips, lab.collator, p, path, language, label=f"published: {key}")
    return comparison.counts_of(clips, list(said["prediction"]), p.normaliser)

# %%
published = []
if lab.preset.student == "openai/whisper-small":
    folder = released_folder(PUBLISHED, [language])  # named by its commit
    model = load_released(folder, [language]).to(lab.device)
    set_language(model, language)
    for key, test in tests.items():
        theirs = published_counts(model, folder.name, key)
        about = {"system": PUBLISHED, "revision": folder.name, "language": language, "test_set": test.name}
        about |= {"normaliser": lab.preset.normaliser}
        published.append(about | summarise(theirs))
        d = paired_difference(comparison.counts(lab, "distilwhisper", key), theirs)
        print(f"{key}: our variant less the published experts {d['difference']:+.1f} [{d['low']:+.1f}, {d['high']:+.1f}]")
    del model
else:
    print(f"{PUBLISHED} belongs to whisper-small; this preset's student is {lab.preset.student}: run it at colab")
comparison.main_table(pd.DataFrame(rows + published), language)

# %% [markdown]
# **Read:** The table is the one above and, at `colab`, a last row with the published experts. Each printed line is a
# paired difference of WER in points, with its 95 % interval. Negative means that ours makes fewer errors.

# %% [markdown]
# ## 7. The whole paper
#
# **Why.** The paper has eight languages with 3,000 and 10,000 clips, three of them with 28,000, and five trained systems. We
# add three seeds. That is too much for one notebook. It is a list of jobs, each a process of its own:
#
# ```sh
# make grid ARGS=list     # the jobs, with estimated hours and memory
# make grid ARGS=run      # goes on where it was stopped; ARGS="run --gpus 4"
# make grid ARGS=status   # done, running, failed and why
# make grid ARGS=slurm    # what is not done, as jobs of Slurm; or ARGS=snakefile, for Snakemake
# make grid ARGS=table    # the paper's table; your copy of its figures beside it
# ```
#
# **Predict:** how many trainings are that, and how many days on one A100?

# %% tags=["predict"]
prediction = ...  # (trainings, days)

# %%
from distilwhisper_lib import ROWS, listing, make_jobs

planned = make_jobs("paper", None, None, [77, 78, 79], ROWS)
jobs = listing(planned)
trainings = sum(job.seed is not None for job in planned)
print(f"{len(jobs)} jobs, {trainings} of them trainings; the largest takes {jobs['GB'].max():.0f} GB")
hours = jobs[[column for column in jobs if column.endswith(" h")]].rename(columns=lambda name: name.removesuffix(" h"))
hours.sum().div(24).round(1).rename("days, one GPU (estimate)")

# %%
from distilwhisper_lib import compared_methods, estimate

small = get_preset("colab")
rows = {name: estimate(name, small, 3_000) for name in ("teacher-outputs", *compared_methods(small))}
pd.DataFrame(rows).T[["trained M", "GB", "T4 h", "A100 h"]].round(2)

# %% [markdown]
# **Read:** Most of the jobs are trainings. By the estimate one A100 needs a third of a T4's days. In the second table
# experts need the most memory, and LoRA the least of what is trained.
#
# The second table is `colab`: one language, 3,000 clips, a T4 with 16 GB. All of this is **estimated** from the number of
# floating-point operations and an assumed utilisation; nothing was measured. Your own `run.json` will say what it took.
#
# The paper's own figures are not in this project: we had no copy that could be checked. Fill in
# `data/reference/paper.csv` from yours; `grid table` puts them beside your results. Then score with
# `normaliser="released"`, as the preset `paper` does: its WER of Thai counts letters, and its WER of Tamil pieces of words
# (notebook 01).

# %% [markdown] tags=["exercise"]
# ### Exercise 6.3: what fits into memory (by hand)
#
# ●●○ · 10 minutes · *you learn what training takes before anything is computed*
#
# In fp32 training with Adam a trained parameter takes 16 bytes: 4 for itself, 4 for its gradient, 8 for Adam's two
# means. A frozen one takes 4. whisper-small has 241.7 million parameters; experts and gates for one language are 114.5
# million.
#
# How many gigabytes (10⁹ bytes) do **fine-tuning** and **experts** take for this, without activations? Two decimals.
# (The table above counts activations and copies in half precision as well. With them experts take more: their feed-forward
# blocks are there twice.)

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# Fine-tuning trains all 241.7 million and has no others. Experts train 114.5 million, and the 241.7 million stay,
# frozen.
#
# </details>

# %% tags=["stub"]
fine_tuning_gb = ...
experts_gb = ...

# %% tags=["solution"]
# A frozen parameter has no gradient, hence no means of it either: 4 bytes instead of 16. So what counts is how much is
# trained, not how large the model is.
fine_tuning_gb = 16 * 241.7e6 / 1e9
experts_gb = (4 * 241.7e6 + 16 * 114.5e6) / 1e9
print(f"fine-tuning {fine_tuning_gb:.2f} GB, experts {experts_gb:.2f} GB")

# %% tags=["also"]
fine_tuning_gb = 3.87
experts_gb = 2.80

# %% tags=["wrong"]
fine_tuning_gb = 16 * 241.7e6 / 1e9
experts_gb = 16 * (241.7e6 + 114.5e6) / 1e9

# %% tags=["wrong"]
# says: the frozen Whisper is there
experts_gb = 16 * 114.5e6 / 1e9

# %% tags=["wrong"]
# says: has no gradient
experts_gb = (8 * 241.7e6 + 16 * 114.5e6) / 1e9

# %% tags=["wrong"]
# says: GiB
fine_tuning_gb = 16 * 241.7e6 / 2**30

# %% tags=["wrong"]
# says: weights alone
fine_tuning_gb = 4 * 241.7e6 / 1e9

# %% tags=["wrong"]
# says: 16 bytes each
fine_tuning_gb = 12 * 241.7e6 / 1e9  # one of the means is forgotten

# %% tags=["wrong"]
# says: two means are missing
fine_tuning_gb = 8 * 241.7e6 / 1e9

# %% tags=["wrong"]
# says: that is for transcribing
experts_gb = 4 * (241.7e6 + 114.5e6) / 1e9

# %% tags=["wrong"]
# says: which are frozen
experts_gb = (4 * 241.7e6 + 12 * 114.5e6) / 1e9

# %% tags=["wrong"]
# says: in gigabytes
fine_tuning_gb = 16 * 241.7

# %% tags=["wrong"]
# says: fine_tuning_gb must be a number
fine_tuning_gb = "3.87 GB"

# %% tags=["wrong"]
# says: experts_gb must be a number
experts_gb = [0.97, 1.83]

# %% tags=["check"]
from checks_06 import check_memory
from exercise import check

check(check_memory, fine_tuning_gb, experts_gb)

# %% [markdown]
# ## Summary
#
# - The paper's training sets are a rule over votes, and the rule can be rebuilt on any release; the release is part of
#   the result.
# - A large teacher is needed once. Its outputs are small, go on after a stop, and serve every later run that distils.
# - Token numbers belong to a tokenizer: newer teachers are mapped by the text of their tokens.
# - The paper's grid is a list of jobs that can be stopped at any point; what it will cost is an estimate until it is
#   measured.
#
# ## Glossary
#
# - **Common Voice**: read sentences from volunteers, with votes of listeners.
# - **FLEURS**: read sentences in 102 languages that say the same.
# - **utilisation**: the share of a GPU's peak arithmetic that a program reaches.
#
# ## Where in the library, where in the paper
#
# - `data/corpora/` (`common_voice`, `fleurs`, `recorded`), `training/teacher.py`, `experiments/` (`grid`, `estimates`),
#   `presets.py`.
# - Paper: the sections on data and on experimental settings, and the table of results by number of clips.
