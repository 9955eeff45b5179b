# %% [markdown]
# # 01 · The gap: how far the student is behind, and what its errors are
#
# **Goal.** Measure student and teacher on every test, with intervals, and know what stands behind the numbers.
#
# **You will be able to**
# - compute WER and CER by hand and say what they do not tell;
# - put a 95 % bootstrap interval on a WER, and compare two systems on the same clips;
# - say what the teacher stand-in of this course is, and put a real larger Whisper in its place;
# - take errors apart: deletions, insertions, loops, wrong words, by length of the clip and by speaker;
# - recognise two ways to get a wrong WER: a normaliser that cuts words to pieces, and teacher forcing.
#
# **Prerequisites.** Notebook 00. A little numpy.
#
# | preset | machine | time | memory |
# |---|---|---|---|
# | smoke | 2 cores | under a minute | 1 GB |
# | toy | 2 cores | under a minute | 1 GB |
# | laptop | 2 cores | 14 min, half of it training the teacher stand-in, once | 4.4 GB |
# | colab | T4 | not measured yet | not measured yet |

# %% tags=["setup"]

# %% [markdown]
# ## 1. The score
#
# **Why.** "How many words are wrong" is not a count of differing words: one missing word would shift all that follow.
# The **word error rate** (WER) looks for the cheapest way to turn what should have been written, the **reference**, into
# what was written, the **hypothesis**, with three moves: **substitution** (another word), **deletion** (a word is
# missing) and **insertion** (a word too many). It divides the number of moves by the number of words in the reference.
# The **character error rate** (CER) does the same with letters.
#
# The cheapest way is found in a table: cell *(i, j)* holds the cost of turning the first *i* words of the reference into
# the first *j* words of the hypothesis. In its first column all words are deleted, in its first row all are inserted. Any
# other cell is reached from three neighbours, by one move each; the cheapest of the three counts.
#
# **Build:** the table.

# %% tags=["build"]
import numpy as np
from checks_01 import built_edit_table
from exercise import check_if_built, is_open


def edit_table(reference, hypothesis):
    """Return the edit-distance table (R + 1, H + 1) of two lists of R and H items."""
    raise NotImplementedError  # your code here


check_if_built(built_edit_table, edit_table)

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# From the cell above, a deletion; from the cell on the left, an insertion; from the cell above on the left, a substitution,
# which costs nothing where the two items are equal. Two loops, over `enumerate(reference, 1)` and
# `enumerate(hypothesis, 1)`.
# </details>

# %% tags=["fold"]
if is_open(edit_table):

    def edit_table(reference, hypothesis):
        """Return the edit-distance table (R + 1, H + 1) of two lists of R and H items."""
        table = np.zeros((len(reference) + 1, len(hypothesis) + 1), int)
        table[:, 0] = range(len(reference) + 1)  # all deleted
        table[0] = range(len(hypothesis) + 1)  # all inserted
        for i, r in enumerate(reference, 1):
            for j, h in enumerate(hypothesis, 1):
                deletion = table[i - 1, j] + 1
                insertion = table[i, j - 1] + 1
                substitution = table[i - 1, j - 1] + (r != h)
                table[i, j] = min(deletion, insertion, substitution)
        return table

# %% [markdown]
# **Predict:** *kde je ta ryba* ("where is that fish") comes out as *kde jeta ryby*. How many word errors? Is the CER higher
# or lower than the WER?

# %% tags=["predict"]
prediction = ...  # (word errors, "higher" or "lower")

# %%
import pandas as pd

from distilwhisper_lib import show

reference, hypothesis = "kde je ta ryba", "kde jeta ryby"
words = edit_table(reference.split(), hypothesis.split())
show(pd.DataFrame(words, index=["", *reference.split()], columns=["", *hypothesis.split()]))

# %%
import jiwer

letters = edit_table(list(reference), list(hypothesis))
wer, cer = words[-1, -1] / len(reference.split()), letters[-1, -1] / len(reference)
assert wer == jiwer.wer(reference, hypothesis) and cer == jiwer.cer(reference, hypothesis)
print(f"WER {100 * wer:.0f} %: {words[-1, -1]} of {len(reference.split())} words")
print(f"CER {100 * cer:.0f} %: {letters[-1, -1]} of {len(reference)} characters, spaces included")

# %% [markdown]
# **Read:** The corner at the bottom right is the number of errors: three. A lost space made *je ta* into one word: one character for
# CER, but a deletion and a substitution for WER. The wrong ending of *ryby* costs one character, and one whole word. Which
# of *je* and *ta* was "deleted" the table leaves open: kinds of error are one reading of it, not what the model "meant".
#
# Over a whole test, errors and words are both summed up before dividing. The mean of the clips' own rates is another
# number, in which a clip of one word weighs as much as one of twenty:

# %%
pairs = [("ano", "ale ano no"), ("podívej se na tu starou loď pod námi", "podívej se na tu starou loď pod námi")]
own = [jiwer.wer(reference, hypothesis) for reference, hypothesis in pairs]
total = jiwer.wer([r for r, _ in pairs], [h for _, h in pairs])
print(f"WER of each clip: {[f'{100 * rate:.0f} %' for rate in own]}, their mean {100 * np.mean(own):.0f} %, "
      f"WER of the test {100 * total:.0f} %")

# %% [markdown]
# **Read:** The first clip alone has a WER of 200 %: insertions are errors too, so there is no upper end.

# %% [markdown] tags=["exercise"]
# ### Exercise 1.1: a WER by hand
#
# ●○○ · 5 minutes, by hand · you learn to see the three kinds of error
#
# Reference: *podívej se na tu starou loď*. Hypothesis: *podívej na tu tu stará loď*. How many substitutions, deletions and
# insertions, and what is the WER in per cent? Write
# `answer = {"substitutions": …, "deletions": …, "insertions": …, "wer": …}`.

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# Write the two sentences one above the other so that as many words as possible stand above themselves, with gaps
# where a word is missing.
# </details>

# %% tags=["stub"]
answer = ...

# %% tags=["solution"]
# podívej se na tu  *  starou loď
# podívej *  na tu  tu stará  loď
# No way costs less than three errors. Three substitutions (se, na and starou) cost the same, so they are as right.
answer = {"substitutions": 1, "deletions": 1, "insertions": 1, "wer": 100 * 3 / 6}

# %% tags=["also"]
# podívej se na tu starou loď
# podívej na tu tu stará  loď
answer = {"substitutions": 3, "deletions": 0, "insertions": 0, "wer": 50}

# %% tags=["wrong"]
answer = {"substitutions": 4, "deletions": 0, "insertions": 0, "wer": 100 * 4 / 6}  # word by word, in order

# %% tags=["wrong"]
# says: in per cent
answer = {"substitutions": 1, "deletions": 1, "insertions": 1, "wer": 0.5}

# %% tags=["wrong"]
# says: too few
answer = {"substitutions": 1, "deletions": 0, "insertions": 1, "wer": 100 * 2 / 6}

# %% tags=["wrong"]
# says: as many deletions as insertions
answer = {"substitutions": 1, "deletions": 2, "insertions": 0, "wer": 50.0}

# %% tags=["wrong"]
# says: the number of errors
answer = {"substitutions": 1, "deletions": 1, "insertions": 1, "wer": 3}

# %% tags=["wrong"]
# says: words in the reference
answer = {"substitutions": 1, "deletions": 1, "insertions": 1, "wer": 100 * 3 / 7}

# %% tags=["wrong"]
# says: must be a dictionary
answer = (1, 1, 1, 50.0)

# %% tags=["wrong"]
# says: lacks deletions, wer
answer = {"substitutions": 1, "insertions": 1}

# %% tags=["wrong"]
# says: substitutions must be a number
answer = {"substitutions": "1", "deletions": "1", "insertions": "1", "wer": "50 %"}

# %% tags=["wrong"]
# says: wer must be a number
answer = {"substitutions": 1, "deletions": 1, "insertions": 1, "wer": None}

# %% tags=["check"]
from checks_01 import check_wer_by_hand
from exercise import check

check(check_wer_by_hand, answer)

# %% [markdown]
# ## 2. The student, measured
#
# **Why.** Everything later is compared with this. `lab.transcribe` decodes a test greedily, with the same settings for
# every system, and keeps the texts; `comparison.counts` sets each beside its reference, after a **normaliser** has put
# both in lower case and taken the punctuation out, and counts.
#
# There are two domains: `in-domain` is the voice that the systems will be trained on, `out-of-domain` another one, both in
# rooms of the game that no training has seen. (At `toy` and `smoke` a domain is another pitch. At `colab` both leads are
# trained on, and the other characters are the out-of-domain test.) And there is a **stress test**, other characters with
# effects on their voices. (Where a preset has none, as `toy`, the out-of-domain test stands in below.)
#
# **Predict:** WER of the student on Czech voices it does not know: 15, 40 or 65 %? And on strange voices with effects?

# %% tags=["predict"]
prediction = ...  # (15, 40 or 65; and for the stress test)

# %%
from distilwhisper_lib import comparison

language = lab.preset.language
inside, outside = f"{language}/in-domain", f"{language}/out-of-domain"
if outside not in lab.test_sets:  # a language whose corpus has no other voices
    outside = f"{language}/noise"
stress = f"{language}/other-characters"
tests = [key for key in (inside, outside, stress) if key in lab.test_sets]
hardest = tests[-1]
student = {key: comparison.counts(lab, "student", key) for key in tests}
test_rows = lab.test_rows(inside)
english = dict(zip(test_rows["id"], test_rows["translation_en"], strict=True))


def first_clips(counts, n=5):
    """Return the first clips of a table of counts, as they are read best."""
    table = counts.head(n).assign(english=counts["id"].map(english))
    errors = table[["substitutions", "deletions", "insertions", "words"]].astype(int)
    return show(pd.concat([table[["text", "english", "prediction"]], errors], axis=1))


first_clips(student[inside])

# %%
columns = ["n", "wer", "wer_low", "wer_high", "cer", "loops"]
scores = pd.DataFrame([comparison.score(lab, "student", key) for key in tests], index=tests)
show(scores[columns])

# %% [markdown]
# **Read, at `laptop`:** `n` is the number of clips; then come WER with its 95 % interval, CER, and the share of clips
# whose text loops, in per cent. The intervals of the two leads overlap. In the stress test errors are far more frequent,
# and the interval is wide. CER is less than half of WER in both domains: most wrong words are nearly right.
#
# ## 3. The teacher, and its stand-in
#
# **Why.** DistilWhisper learns from a larger Whisper; the paper takes whisper-large-v2 to teach whisper-small. Without a
# connection to the model hub there is no larger Whisper on your machine. So this course makes a **teacher stand-in**:
# the student's own weights, fine-tuned once on the split `teacher` of both languages that we adapt to. That is several
# times as much speech as the compared systems train on, and none of them sees it. It holds both leads, so that the
# stand-in knows the out-of-domain voice too. So it knows more Czech than the student, as a large Whisper would, and that
# is what distillation needs. How much more it knows, and by which data, must be said with each result: the systems that are
# distilled profit from speech that fine-tuning and LoRA never hear. The study (notebook 05) therefore compares all
# methods with and without the same teacher.
#
# What it is *not*: it is not larger, has not heard thousands of hours, knows no third language better (rather worse), and
# has been tuned to the very game that we test on. A large Whisper would be better in other ways and on other speech. So we
# always call it a stand-in, and no number of this course speaks about whisper-large-v2. (At `toy` there is a real teacher:
# a larger toy Whisper, which comes with the project. Nothing is trained, and what is said of the stand-in does not hold for
# it, though the tables call it so.)
#
# With the hub within reach, one setting puts a real one in its place; it is fetched and used, and nothing is trained:
#
# ```python
# from distilwhisper_lib import open_lab
# lab = open_lab(teacher="openai/whisper-small")   # or -medium, -large-v2: better, and slower
# ```
#
# **Predict:** which tests will the stand-in win, and on which might it be worse than the student it was made from?

# %% tags=["predict"]
prediction = ...  # two lists of tests

# %%
teacher = {key: comparison.counts(lab, "teacher", key) for key in tests}  # trains the stand-in at first
first_clips(teacher[inside])

# %% [markdown]
# **Read:** The same five clips. Count the words that are right in both tables, and look at what is still wrong: whole words,
# or their endings?
#
# ## 4. The gap, with intervals
#
# **Why.** A test of some hundred clips is a sample. With other clips of the same kind the WER would be another, and a
# difference smaller than this scatter means nothing. The **bootstrap** estimates the scatter without any theory: draw as
# many clips again from the test, with replacement (some twice, some not at all), compute the WER, and repeat. Between the
# 2.5th and the 97.5th percentile of these rates lies the 95 % interval.
#
# What is drawn matters. The words of one clip stand or fall together, so we do not draw words. And the clips of one room of
# the game share its sound and its story: ten clips of a hard room are not ten pieces of news. So the library draws whole
# **units**: rooms here, clips where a corpus has no rooms (`unit` in the table of counts).
#
# **Build:** the bootstrap. The next cell sums errors and words up by unit and draws the numbers of the units; you turn
# these draws into an interval.

# %% tags=["build"]
from checks_01 import built_interval


def interval(errors, words, draws):
    """Return (low, high), the 95 % interval of the WER in per cent.

    `errors` and `words` (units,) are the sums of each unit, `draws` (resamples, units) holds numbers of units.
    """
    raise NotImplementedError  # your code here


check_if_built(built_interval, interval)

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# `errors[draws]` has the shape of `draws`: the errors of the drawn units. Sum errors and words along a row before you
# divide; then `np.percentile(rates, [2.5, 97.5])`.
# </details>

# %% tags=["fold"]
if is_open(interval):

    def interval(errors, words, draws):
        """Return (low, high), the 95 % interval of the WER in per cent."""
        rates = 100 * errors[draws].sum(axis=1) / words[draws].sum(axis=1)  # (resamples,)
        low, high = np.percentile(rates, [2.5, 97.5])
        return low, high

# %% [markdown]
# **Predict:** will the interval over rooms be wider or narrower than that over clips?

# %% tags=["predict"]
prediction = ...  # "wider" or "narrower"

# %%
def bootstrap(counts, drawn, resamples=2000, seed=0):
    """Return the 95 % interval of the WER, with what the column `drawn` names drawn together."""
    scored = counts.dropna(subset=["words"])  # a reference of punctuation alone can't be scored
    scored = scored.assign(errors=scored[["insertions", "deletions", "substitutions"]].sum(axis=1))
    sums = scored.groupby(drawn, sort=False)[["errors", "words"]].sum()
    draws = np.random.default_rng(seed).integers(0, len(sums), (resamples, len(sums)))
    return interval(sums["errors"].to_numpy(), sums["words"].to_numpy(), draws)


row = comparison.score(lab, "student", inside)
assert np.allclose(bootstrap(student[inside], "unit"), (row["wer_low"], row["wer_high"]))  # the library's
for drawn in ("unit", "id"):
    low, high = bootstrap(student[inside], drawn)
    print(f"WER {row['wer']:.1f}; {student[inside][drawn].nunique()} drawn by {drawn}: [{low:.1f}, {high:.1f}]")

# %% [markdown]
# (At `toy` each clip is a unit of its own, so that both intervals are the same.)
#
# Now every test, for both: the two domains, noise and reverberation, translation into English, the languages that nobody
# will train (`retention`), and the second language. In brackets stands the 95 % interval of the WER. This is the first
# table of the comparison that notebook 05 completes.

# %%
def pivot(table, index, columns, values):
    """Return a table of scores, the WERs with their 95 % intervals."""
    wer = table.apply(lambda r: f"{r.wer:.1f} [{r.wer_low:.1f}, {r.wer_high:.1f}]", axis=1)
    return show(table.assign(wer=wer).pivot_table(values, index, columns, aggfunc="first", sort=False))


jobs = [job for job in comparison.plan(lab) if job["name"] in ("student", "teacher")]
gap = pd.DataFrame([comparison.score(lab, **job) for job in jobs])
heard = gap[gap["task"] == "transcribe"]
pivot(heard, ["language", "test_set"], "system", ["wer", "cer", "loops"])

# %%
from distilwhisper_lib import plots

plots.plot_gap(heard)

# %% [markdown]
# *The figure shows, for each test, the WER of the student and of the teacher stand-in as two bars with 95 % intervals.*
#
# **Read, at `laptop`:** In Czech the stand-in is ahead in both domains, and the intervals are apart: here is something to
# be learned. In the stress test a few looping clips hold many errors, so that the intervals are wide. In the languages it
# was not tuned on, look for those in which it is *worse* than the student. That is forgetting, and it is the reason why
# one does not simply fine-tune.
#
# Translation is scored with BLEU (runs of one to four words shared with the reference) and chrF (runs of characters),
# both from 0 to 100; higher is better:

# %%
translation = gap[gap["task"] == "translate"].set_index("system")
show(translation[["n", "bleu", "bleu_low", "bleu_high", "chrf", "chrf_low", "chrf_high", "loops"]].astype(float))

# %% [markdown]
# **Read, at `laptop`:** The student translates a little of this Czech, and the intervals of student and stand-in overlap.
# (That decides nothing: notebook 05, section 2.) The stand-in was only ever asked to *transcribe*; see where it still obeys
# the token `<|translate|>`, and where it writes Czech although English was asked for:

# %%
translated = {name: comparison.counts(lab, name, f"{language}/translation") for name in ("student", "teacher")}
texts = {name: table.set_index("id")["prediction"] for name, table in translated.items()}
table = pd.DataFrame({"reference": translated["student"].set_index("id")["text"], **texts}).head(5)
show(table.reset_index(drop=True), longest=120)

# %% [markdown] tags=["exercise"]
# ### Exercise 1.2: the paired bootstrap
#
# ●●○ · 15 minutes, code · you learn why two overlapping intervals do not mean "no difference"
#
# Both systems heard the same clips, and a hard clip is hard for both. So resample the *difference*: draw clips, compute
# both WERs on the same drawn clips, subtract, and take the 2.5th and the 97.5th percentile of the differences.
#
# Write `paired_interval(first, second, words, draws)`: `first` and `second` are the word errors of each clip `(n,)` of two
# systems, `words` the words of each reference `(n,)`, `draws` clip numbers `(resamples, n)`. Return `(low, high)`, the
# 95 % interval of WER(first) − WER(second) in points.

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# `first[draws]` has the shape `(resamples, n)`: the errors of the drawn clips. Sum over the clips before you divide.
# </details>

# %% tags=["stub"]
import numpy as np


def paired_interval(first, second, words, draws):
    raise NotImplementedError  # your code here

# %% tags=["solution"]
import numpy as np


def paired_interval(first, second, words, draws):
    # Both systems are scored on the same drawn clips, so what makes a clip hard for both cancels out. Sums come before
    # the division, since a long clip counts more than a short one in a WER.
    total = words[draws].sum(axis=1)  # (resamples,)
    difference = 100 * (first[draws].sum(axis=1) - second[draws].sum(axis=1)) / total
    low, high = np.percentile(difference, [2.5, 97.5])
    return low, high

# %% tags=["also"]
def paired_interval(first, second, words, draws):
    differences = []
    for clips in draws:
        one = 100 * first[clips].sum() / words[clips].sum()
        other = 100 * second[clips].sum() / words[clips].sum()
        differences.append(one - other)
    return list(np.quantile(differences, [0.025, 0.975]))

# %% tags=["also"]
def paired_interval(first, second, words, draws):
    total = words[draws].sum(axis=1)
    difference = np.sort(100 * (first[draws].sum(axis=1) - second[draws].sum(axis=1)) / total)
    number = len(difference)
    return difference[int(0.025 * number)], difference[int(0.975 * number)]  # without a point between two

# %% tags=["wrong"]
import numpy as np


def paired_interval(first, second, words, draws):
    difference = 100 * (first - second) / words  # a mean of the clips' own rates
    return np.percentile(difference[draws].mean(axis=1), [2.5, 97.5])

# %% tags=["wrong"]
# says: within each resample
def paired_interval(first, second, words, draws):
    total = words[draws].sum(axis=1)
    one = np.percentile(100 * first[draws].sum(axis=1) / total, [2.5, 97.5])
    other = np.percentile(100 * second[draws].sum(axis=1) / total, [2.5, 97.5])
    return one[0] - other[1], one[1] - other[0]

# %% tags=["wrong"]
# says: sign is the other way round
def paired_interval(first, second, words, draws):
    difference = 100 * (second - first)[draws].sum(axis=1) / words[draws].sum(axis=1)
    return np.percentile(difference, [2.5, 97.5])

# %% tags=["wrong"]
# says: in points
def paired_interval(first, second, words, draws):
    difference = (first - second)[draws].sum(axis=1) / words[draws].sum(axis=1)
    return np.percentile(difference, [2.5, 97.5])

# %% tags=["wrong"]
# says: for np.quantile
def paired_interval(first, second, words, draws):
    difference = 100 * (first - second)[draws].sum(axis=1) / words[draws].sum(axis=1)
    return np.percentile(difference, [0.025, 0.975])

# %% tags=["wrong"]
# says: 90 % interval
def paired_interval(first, second, words, draws):
    difference = 100 * (first - second)[draws].sum(axis=1) / words[draws].sum(axis=1)
    return np.percentile(difference, [5, 95])

# %% tags=["wrong"]
# says: divides by the words
def paired_interval(first, second, words, draws):
    return np.percentile((first - second)[draws].mean(axis=1), [2.5, 97.5])

# %% tags=["wrong"]
# says: each row of `draws`
def paired_interval(first, second, words, draws):
    difference = 100 * (first - second)[draws].sum(axis=0) / words[draws].sum(axis=0)  # wrong axis
    return np.percentile(difference, [2.5, 97.5])

# %% tags=["wrong"]
# says: each row of `draws`
def paired_interval(first, second, words, draws):
    difference = 100 * (first - second)[draws].sum(axis=1) / words.sum()  # the words of all clips
    return np.percentile(difference, [2.5, 97.5])

# %% tags=["wrong"]
# says: 2 numbers are asked for
def paired_interval(first, second, words, draws):
    difference = 100 * (first - second)[draws].sum(axis=1) / words[draws].sum(axis=1)
    print(np.percentile(difference, [2.5, 97.5]))

# %% tags=["wrong"]
# says: yours are 500
def paired_interval(first, second, words, draws):
    return 100 * (first - second)[draws].sum(axis=1) / words[draws].sum(axis=1)

# %% tags=["wrong"]
# says: then the percentiles
def paired_interval(first, second, words, draws):
    difference = 100 * (first - second)[draws].sum(axis=1) / words[draws].sum(axis=1)
    return difference.mean() - 1.96 * difference.std(), difference.mean() + 1.96 * difference.std()

# %% tags=["wrong"]
# says: each row of `draws`
def paired_interval(first, second, words, draws):
    difference = 100 * (first - second)[draws].sum(axis=1) / first[draws].sum(axis=1)  # per error, not per word
    return np.percentile(difference, [2.5, 97.5])

# %% tags=["check"]
from checks_01 import check_paired_interval
from exercise import check

check(check_paired_interval, paired_interval)

# %% [markdown]
# The library's version, on student and stand-in, draws units as above; `share` is the share of resamples in which the first
# system was not better. Notebook 05 compares all systems in this way.

# %%
from distilwhisper_lib import paired_difference

show(pd.DataFrame({key: paired_difference(teacher[key], student[key]) for key in tests}).T, digits={"share": 3})

# %% [markdown]
# ## 5. What goes wrong
#
# **Why.** Two systems with the same WER can fail in different ways: one leaves words out, another writes fifty words that
# nobody said. What helps against the one does nothing against the other.
#
# **Predict:** which kind of error is the most frequent one in-domain? Which grows most in the stress test?

# %% tags=["predict"]
prediction = ...  # "deletions", "substitutions" or "insertions": two answers

# %%
systems = {"student": student, "stand-in": teacher}
plots.plot_error_kinds({f"{name}, {key}": table[key] for key in tests for name, table in systems.items()})

# %% [markdown]
# *The figure shows a bar for student and stand-in on each test, made of deletions, substitutions and insertions in per cent
# of the reference's words.*
#
# **Read, at `laptop`:** In both domains most errors are wrong words. In the stress test insertions grow most, and most of
# them come from a few clips: **loops**. A text counts as a loop if it can be compressed to less than $1 / 2.4$ of its
# length (the measure and threshold of OpenAI's own decoder). By hand:

# %%
import zlib

from distilwhisper_lib import LOOP_RATIO, is_loop, word_errors

for text in ("Podívej se na tu starou loď pod námi.", "Podívej se. " * 12):
    ratio = len(text.encode()) / len(zlib.compress(text.encode()))
    assert is_loop(text) == (ratio > LOOP_RATIO)
    print(f"{ratio:4.1f}  loop: {is_loop(text)!s:5}  {text[:50]}")

# %%
def loop_share(counts):
    """Return the share of looping clips, and the share of all word errors that are in them, in per cent."""
    errors, loop = word_errors(counts), counts["loop"]
    return {"clips that loop": 100 * loop.mean(), "errors in them": 100 * errors[loop].sum() / max(1, errors.sum())}


shares = {(name, key): loop_share(table[key]) for name, table in systems.items() for key in tests}
show(pd.DataFrame(shares).T)

# %% [markdown]
# **Read:** Compare the two columns. Where a few per cent of the clips hold a large part of all errors, WER can fall by many
# points because three clips stopped looping, and rise by as many by chance. So the tables that compare systems have the
# share of loops in a column beside it. (Notebook 00 has shown that a window that is too short makes more of them.)
#
# Which words are confused? The alignment tells:

# %%
from collections import Counter

from distilwhisper_lib import normalise


def confusions(counts):
    """Return how often each (reference, hypothesis) pair was substituted, one word for one."""
    found = Counter()
    for reference, hypothesis in zip(counts["text"].map(normalise), counts["prediction"].map(normalise), strict=True):
        if not reference:
            continue
        r, h = reference.split(), hypothesis.split()
        for part in jiwer.process_words(reference, hypothesis).alignments[0]:
            if part.type == "substitute":
                wanted = r[part.ref_start_idx : part.ref_end_idx]
                written = h[part.hyp_start_idx : part.hyp_end_idx]
                found.update(zip(wanted, written, strict=True))
    return found

# %%
most = {}
for name, table in systems.items():
    pairs = confusions(table[inside]).most_common(8)
    most[name] = [f"{wanted} → {written} ({times})" for (wanted, written), times in pairs]
show(pd.DataFrame({name: pd.Series(pairs) for name, pairs in most.items()}))

# %% [markdown]
# **Read, at `laptop`:** The most frequent confusions are words that sound nearly alike: short ones, and longer ones that
# lose a letter. None occurs more than four times. Look also for a Czech word written as in a neighbouring language (Slovak or Polish spelling), and for endings: a model that hears well and knows little
# Czech makes these.
#
# ### By length of the clip, and by speaker

# %%
plots.plot_wer_by({"student": student[inside], "teacher": teacher[inside]}, by="length")

# %% [markdown]
# *The figure shows WER with its interval for clips of growing length, student beside stand-in, in-domain.*
#
# **Read, at `laptop`:** Length matters less than one would think, and the stand-in is ahead at every length of more than
# a few clips. `n` is the number of clips behind a bar: a bar of one clip says nothing.

# %%
plots.plot_wer_by({"student": student[hardest], "teacher": teacher[hardest]}, by="speaker")

# %% [markdown]
# *The figure shows WER with its interval for the ten most frequent characters of the stress test and for all others, student beside stand-in; what goes
# beyond 250 is cut off.*
#
# **Read, at `laptop`:** The stress test is not one thing: some characters are hardly harder for the student than the leads,
# and one, *cyan*, is beyond the end of the axis, because of clips that loop. A mean over all hides that.
#
# ### The worst ones

# %%
def worst(counts, n=6):
    """Return the n clips with the most word errors per word."""
    table = counts.assign(wer=100 * word_errors(counts) / counts["words"]).nlargest(n, "wer")
    return show(table[["speaker", "duration", "wer", "text", "prediction"]].reset_index(drop=True), longest=90)


worst(student[hardest])

# %%
worst(teacher[hardest])

# %% [markdown]
# **Read, at `laptop`:** The worst are loops, which only the limit of new tokens stops, and short clips of which every
# word is wrong. Not every bad score is the model's fault: shouting, singing, several voices at once, and subtitles that
# say something else than the voice are in the data too.
#
# ## 6. Harder sound
#
# **Why.** Noise and echo are the other way to leave the domain: same voice, same words, other sound. The tests `noise` (as
# loud as 5 dB below the voice) and `reverberation` (an echo that takes 0.6 s to fall by 60 dB) are made from in-domain clips.
#
# **Predict:** which of the two costs more, and does it cost both systems the same?

# %% tags=["predict"]
prediction = ...  # ("noise" or "echo", "both alike" or "not alike")

# %%
from distilwhisper_lib import add_noise, add_reverberation, log_mel, read_audio

audio = read_audio(lab.test_rows(inside)[0]["audio"])
sounds = {"clean": audio, "with noise": add_noise(audio, 5, seed=0), "with echo": add_reverberation(audio, 0.6, seed=0)}
pictures = [log_mel(sound, lab.processor.feature_extractor) for sound in sounds.values()]
plots.plot_log_mel(np.concatenate(pictures, axis=1), "the same clip: " + ", then ".join(sounds))

# %% [markdown]
# *The figure shows three log-mels of one clip, one after another: clean, with noise that fills the dark places, and with
# echo that smears each sound to the right.*
#
# The changed tests hold fewer clips than `in-domain`. So the scores on the same clips without a change, `clean`, stand
# beside them:

# %%
from distilwhisper_lib import summarise

changed = heard[heard["test_set"].isin(["noise", "reverberation"])]
ids = comparison.counts(lab, "student", f"{language}/noise")["id"]
clean = [{"system": name, "test_set": "clean"} | summarise(table[inside][table[inside]["id"].isin(ids)])
         for name, table in (("student", student), ("teacher", teacher))]
both = pd.concat([pd.DataFrame(clean), changed])
wer = both.pivot(index="system", columns="test_set", values="wer")
for name in ("noise", "reverberation"):
    costs = {system: f"{wer.loc[system, name] - wer.loc[system, 'clean']:+.1f}" for system in wer.index}
    print(f"{name} changes WER by {costs['student']} points for the student, {costs['teacher']} for the teacher")
pivot(both, "system", "test_set", ["n", "wer", "loops"])

# %% [markdown]
# **Read, at `laptop`:** The stand-in was trained on clean clips only. It loses more points than the student to both noise
# and echo, and yet it stays ahead. Look at the loops before you believe a difference: in a test of so few clips one loop
# can move WER by ten points.

# %% [markdown]
# ## 7. Common trap: the normaliser on Tamil and Thai
#
# **Why.** A WER is a WER of *normalised* text. Whisper's basic normaliser takes out every character that Unicode calls a
# symbol, a punctuation sign or a **mark**. Most vowel signs of Tamil and some of Thai are marks, and so are the tone signs of
# Thai. Two of the paper's eight languages are Tamil and Thai. The wrong result first: two Tamil words, one of them with one wrong vowel.

# %%
tamil, misheard = "வணக்கம் நண்பர்களே", "வணக்கம் நண்பர்களோ"  # "hello friends"; the last vowel is wrong
for name in ("none", "whisper-basic"):
    reference, hypothesis = normalise(tamil, name), normalise(misheard, name)
    wer = 100 * jiwer.wer(reference, hypothesis)
    print(f"{name:14} {len(reference.split())} words, WER {wer:3.0f} %:  {reference}")

# %% [markdown]
# Two words became five pieces, and the wrong vowel, a mark, disappeared with the right one: a WER of 0 % for a wrong
# word. And Thai, which writes no spaces between words ("hello, my name is Somchai"):

# %%
thai = "สวัสดีครับ ผมชื่อสมชาย"
print("whisper-basic:", len(normalise(thai).split()), "words:", normalise(thai))

# %% [markdown]
# What to do: keep the marks, and where a language writes no spaces, report CER and call it CER. Czech is not affected: its
# letters with hooks and accents are single characters, not letters plus marks.

# %%
import unicodedata


def keep_marks(text):
    """Lower case, and a space for each symbol and punctuation sign; marks stay."""
    text = unicodedata.normalize("NFKC", text.lower())
    return " ".join("".join(" " if unicodedata.category(c)[0] in "SP" else c for c in text).split())


assert all(keep_marks(text) == normalise(text, "keep-marks") for text in (tamil, misheard, thai))  # the library's
print("Tamil: WER", 100 * jiwer.wer(keep_marks(tamil), keep_marks(misheard)), "%,", keep_marks(tamil))
print("Thai: ", len(keep_marks(thai).split()), "words, so CER:", keep_marks(thai))
texts = student[inside]["text"]
same = sum(keep_marks(text) == normalise(text) for text in texts)
print(f"{same} of the {len(texts)} references in {language!r} come out alike with both normalisers")

# %% [markdown]
# The authors' release normalises with Whisper's rule and, on top of it, puts a space around every Thai character: its Thai
# "WER" is in fact near to a CER, and its Tamil WER is one over fragments. Such numbers can be compared with each other and
# with nothing else. The result files (`comparison.csv`) name the normaliser in a column.
#
# ## 8. Common trap: WER with teacher forcing
#
# **Why.** There is a cheap way to get texts from a model: one forward pass with the *reference* as the decoder's input, and
# the likeliest token at each position. No `generate`, no loop over tokens, and a trainer has the logits anyway. (The
# authors' released LoRA script computes its WER in this way.) But at each position the model has seen the right words
# before it: after each mistake it is put back on the right way. The wrong result first, for 16 ordinary clips and for the
# 16 clips of the stress test on which `generate` has the highest error rates.
#
# **Predict:** is the wrong number too low, too high, or about right? For which of the two sets is it most wrong?

# %% tags=["predict"]
prediction = ...  # ("too low", "too high" or "about right"; "ordinary" or "failing")

# %%
import torch

from distilwhisper_lib import count_errors, use_window

model = lab.student()


@torch.no_grad()
def forced_texts(key, ids):
    """Return the texts of clips by teacher forcing: the likeliest token after each prefix of the reference."""
    clips = lab.test_clips(key)
    batch = lab.collator([clips[clips.ids.index(i)] for i in ids])
    features, inputs = batch["input_features"].to(model.device), batch["decoder_input_ids"].to(model.device)
    with use_window(model, features.shape[-1]):
        guesses = model(input_features=features, decoder_input_ids=inputs).logits.argmax(-1).cpu()  # (B, T)
    guesses = guesses.masked_fill(batch["labels"] < 0, model.config.eos_token_id)
    return lab.processor.tokenizer.batch_decode(guesses, skip_special_tokens=True)

# %%
rates = word_errors(student[hardest]) / student[hardest]["words"]
failing = student[hardest].loc[rates.nlargest(16).index, "id"]
sets = {"ordinary": (inside, list(lab.test_rows(inside)["id"])[:16]), "failing": (hardest, list(failing))}
result = {}
for name, (key, ids) in sets.items():
    free = student[key].set_index("id").loc[ids]
    forced = count_errors(list(free["text"]), forced_texts(key, ids))
    result[name] = {"wrong: teacher forcing": summarise(forced)["wer"], "right: generate": summarise(free)["wer"]}
show(pd.DataFrame(result).T)

# %%
key, ids = sets["failing"]
free = student[key].set_index("id").loc[ids]
texts = {"teacher forcing": forced_texts(key, ids), "generate": list(free["prediction"])}
show(pd.DataFrame({"reference": list(free["text"]), **texts}).head(6), longest=100)

# %% [markdown]
# **Read:** On clips where `generate` fails, teacher forcing shows that they are hard, and not that the model loops: it cannot
# loop, cannot stop too early, and writes no more tokens than the reference has. On ordinary clips the number may even look right, because two mistakes pull in
# opposite directions: the model is put back on its way after each error, and where it would have spelled a word in other
# pieces, its guesses and the given pieces collide.
#
# So it measures how well the next token is guessed, and must not stand in a table beside a WER from `generate`. Here every
# system is decoded by `generate`.

# %% [markdown] tags=["exercise"]
# ### Exercise 1.3: what do the results allow us to say?
#
# ●●○ · 10 minutes, reading · you learn to read such a table with care
#
# Which of these statements are right? Write the letters, such as `answer = {"a", "b"}`. (They are about the course's real
# speech; `toy` has neither a stand-in nor a stress test.)
#
# - (a) A WER above 100 % shows that there is a mistake in the scoring.
# - (b) Two systems can differ by ten points of WER on a test although most of their texts are equally good.
# - (c) If the 95 % intervals of two systems on the same test overlap, the data show no difference between them.
# - (d) The student's higher WER in the stress test cannot be explained by the language alone: it is Czech in all tests.
# - (e) Where the stand-in still has half of the student's errors, whisper-large-v2 would have them too.

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# For (b) look at the share of errors that is in looping clips; for (c) at exercise 1.2; for (e) at what the stand-in is
# made of (section 3).
# </details>

# %% tags=["stub"]
answer = ...

# %% tags=["solution"]
# (b): a few loops can hold most errors. (d): model and text are the same, voices and effects are not.
# (a) forgets insertions, (c) that the clips are the same and are compared in pairs, (e) that it is a stand-in.
answer = {"b", "d"}

# %% tags=["also"]
answer = ["B", "D"]

# %% tags=["also"]
answer = "b, d"

# %% tags=["wrong"]
answer = {"b", "c"}

# %% tags=["wrong"]
# says: no upper end
answer = {"a", "b", "d"}

# %% tags=["wrong"]
# says: keeps model and language alike
answer = {"b"}

# %% tags=["wrong"]
# says: the share of loops
answer = ["d"]

# %% tags=["wrong"]
# says: a stand-in shares
answer = ("b", "d", "e")

# %% tags=["wrong"]
# says: letters from a to e
answer = {2, 4}

# %% tags=["wrong"]
# says: letters from a to e
answer = 2

# %% tags=["wrong"]
# says: no statement f
answer = {"b", "f"}

# %% tags=["wrong"]
# says: the share of loops
answer = set()

# %% tags=["check"]
from checks_01 import check_reading
from exercise import check

check(check_reading, answer)

# %% [markdown]
# ## Summary
#
# - WER is the cheapest number of substitutions, deletions and insertions per reference word; CER the same by letters.
# - An interval comes from resampling what stands or falls together, rooms here; two systems are compared in pairs.
# - The teacher stand-in is the student, fine-tuned on speech that the compared systems do not see. It is a stand-in: ahead
#   in the two languages it was tuned on, and with something forgotten elsewhere.
# - Loops are few clips and many errors; WER by kind, length and speaker says more than one number.
# - A normaliser that deletes marks gives a WER that is not one, and so does teacher forcing: it cannot see a loop.
#
# ## Glossary
#
# | word | meaning |
# |---|---|
# | reference, hypothesis | what was said; what the model wrote |
# | substitution, deletion, insertion | another word; a missing word; a word too many |
# | WER, CER | errors per word, or per character, of the reference |
# | normaliser | what is done to both texts before they are compared |
# | bootstrap, interval | scoring resampled units many times; the middle 95 % of these scores |
# | unit | what is resampled together: a room of the game, or a clip |
# | paired | computed on the same resampled units for both systems |
# | teacher stand-in | our replacement for a larger Whisper: the student, fine-tuned on other clips |
# | retention | tests in languages that are not trained: what is kept |
# | teacher forcing | giving the decoder the reference's tokens instead of its own |
#
# ## Where in the library, where in the paper
#
# - `evaluation/`: `transcription.py` (greedy decoding, resumable), `predictions.py` (its table), `scoring.py` (counts,
#   intervals, loops, BLEU), `testsets.py` (the tests); `lab/`: `comparison.py` (plan, tables), `lab.py` (`teacher`, `train_teacher`).
# - Paper: the student/teacher gap is its motivation (languages were chosen for a gap of more than 11 points of WER between
#   whisper-small and whisper-large-v2); Common Voice 13 is its in-domain, FLEURS its out-of-domain test. Decoding there is
#   greedy too; the normaliser is that of the authors' release (section 7). Intervals and loops are ours.
