# %% [markdown]
# # 05 Comparison
#
# **Goal:** put all systems side by side on all tests: the paper's table in miniature, with all that is needed to
# say what it shows and what it does not.
#
# **You will be able to**
# - read a table of WER with intervals, and the paired difference of two systems,
# - say what a system has forgotten over languages and tasks,
# - use one model with experts for two languages, also within one batch,
# - look at which layers and positions go to the experts,
# - weigh quality against training time and storage, and keep conclusions within what was measured.
#
# **Prerequisites:** notebooks 01 to 04. What they have trained and transcribed is used again; anything missing is
# computed here.
#
# | preset | time | memory |
# |---|---|---|
# | smoke | a minute | 1 GB |
# | laptop (2 cores) | 9 min after notebooks 01 to 04 | 4 GB |
# | colab (one GPU) | not measured yet | not measured yet |

# %% tags=["setup"]

# %% [markdown]
# ## 1. The table
#
# `compare` scores every system on every test, always by greedy `generate` on the same clips and with the same
# normaliser, and writes `comparison.csv`, `paired.csv`, `predictions.csv` and `run.json` into the results folder.
# `main_table` shows the part that corresponds to the paper's main table: WER and CER in-domain and out-of-domain.
#
# **Predict:** sort the seven rows by in-domain WER before you run the cell.

# %%
import json

import numpy as np
import pandas as pd
import torch

from distilwhisper_lib import (
    DOMAINS, METHODS, comparison, compared_methods, count_parameters, plots, trained_methods,
)

table = comparison.compare(lab)
main = comparison.main_table(table, lab.preset.language)
main

# %% [markdown]
# In brackets the 95 % bootstrap interval over utterances; *loops* is the share of outputs that repeat themselves,
# which make WER jump (notebook 01); the last column is the mean WER over the languages that were never trained on,
# with experts switched off (each language: `comparison.csv`). **Read:** in-domain the stand-in is lowest; then come
# fine-tuning, LoRA and our variant, within two and a half points. A teacher helps the experts, and the gates and
# budget of our variant help them further; without a teacher they gain little (one clip on which they loop holds 3.8
# points of their 63.1). Out-of-domain our variant has the lowest WER, with the stand-in and fine-tuning within a point and
# a half of it, the lowest CER (43.2; the next is the stand-in's 45.5, and their intervals overlap) and the fewest loops
# (one clip). In the last column fine-tuning and LoRA have lost what the experts keep.

# %%
figures, main_language = lab.results / "figures", lab.preset.language
label = {name: method.label for name, method in METHODS.items()}
plots.save_figure(plots.plot_comparison(table, main_language), figures / "comparison.png")

# %% [markdown]
# *Figure: WER of every system with its 95 % interval, one panel for each domain.*
#
# The paper's own figures belong beside these, so here are the columns for them. They are empty: we have not had
# the paper's tables in a form that we could check, and a figure from memory is worse than none. If you fill them
# in from your copy, keep them apart from ours: the paper has whisper-small as student and whisper-large-v2 as
# teacher, trains on Common Voice 13 and tests out-of-domain on FLEURS, for eight languages, with an extension of
# our normaliser that splits some scripts into letters (authors' release).

# %%
theirs = ["paper: Common Voice 13 (in-domain)", "paper: FLEURS (out-of-domain)"]
main.filter(like="WER").join(pd.DataFrame("", index=main.index, columns=theirs))

# %% [markdown]
# The gap with which it all began (notebook 01), and how the systems were trained (03 and 04), for the report:

# %%
gap = table[table["system"].isin(["student", "teacher"])]
plots.save_figure(plots.plot_gap(gap), figures / "gap.png")

# %% [markdown]
# *Figure: WER of student and teacher on every test, with 95 % intervals.*

# %%
logs = {name: lab.run_log(name) for name in trained_methods()}
plots.save_figure(plots.plot_curves(logs, ("ce", "eval_loss")), figures / "curves.png")

# %% [markdown]
# *Figure: smoothed cross-entropy in training (left) and plain cross-entropy on validation after each epoch
# (right), a line for each trained system.*

# %% [markdown]
# ## 2. Differences, not overlaps
#
# Two intervals that overlap do not mean that two systems are alike. Both were scored on the same utterances: a
# hard one is hard for both. So we resample the utterances for both together, and look at the interval of the
# *difference* (paired bootstrap). Negative: DistilWhisper makes fewer errors.
#
# **Predict:** are these intervals wider or narrower than those of the table?

# %%
differences = comparison.paired(lab)


def sentence(row):
    """Say what a paired difference shows: decided only if the 95 % interval excludes zero."""
    first, other = label[row["first"]], label[row["other"]]
    outcome = f"{first if row.difference < 0 else other} is better" if row.low * row.high > 0 else "not decided"
    return f"{row.test_set}: {first} - {other} = {row.difference:+.1f} [{row.low:+.1f}, {row.high:+.1f}]: {outcome}"


print(*(sentence(row) for _, row in differences.iterrows()), sep="\n")

# %% [markdown]
# Distillation alone: the pooled budget with a teacher and without one, everything else alike.

# %%
distilled = comparison.paired(lab, against=("clsr-ft",), first="distilwhisper-released")
print(*(sentence(row) for _, row in distilled.iterrows()), sep="\n")

# %% [markdown]
# These lines are computed from your own run; read *them*, not a text that was written before it. What they say,
# exactly:
#
# - The interval covers the choice of *utterances*. It does not cover the choice of clips for training, nor the
#   seed: another seed gives another model. "Better" here means: this one trained model on this kind of utterance.
# - *Not decided* does not mean *equal*. It means that these test sets are too small to tell, or the systems too
#   close.
# - There are several comparisons. Each 95 % interval misses the truth one time in twenty, so that among many of
#   them some "decided" by luck is to be expected (exercise 5.1).
#
# **Read:** in the reference run our variant is decidedly better, in both domains, than the student, than experts without a
# teacher and than the pooled budget. Against fine-tuning and LoRA nothing is decided in either domain: in-domain it is two
# points behind the one and one behind the other; out-of-domain two ahead of fine-tuning and 20 ahead of LoRA, but loops make
# these intervals wide. Distillation alone is decided out-of-domain, not in-domain.
# The paper's claim of being better than both is *not* repeated here. Section 8 asks whether longer training changes that.
#
# ### What hangs on a few loops
#
# A clip on which a system loops can hold fifty errors. So here is the same once more, without the clips on which either of
# the two loops. That is no fairer, for loops are errors; it shows which verdicts hang on them.
#
# **Predict:** which of the decided differences stay?

# %%
from distilwhisper_lib import paired_difference

for row in [*differences.itertuples(), *distilled.itertuples()]:
    one, two = (comparison.counts(lab, name, f"{main_language}/{row.test_set}") for name in (row.first, row.other))
    calm = ~(one["loop"] | two["loop"])
    without = paired_difference(one[calm], two[calm]) | {"first": row.first, "other": row.other, "test_set": row.test_set}
    print(f"{sentence(pd.Series(without))}; clips left out: {(~calm).sum()}")

# %% [markdown]
# **Read:** in-domain what was decided for our variant stays decided, but its lead over experts without a teacher shrinks from
# 13 points to 9, and that over the pooled budget from 6 to 3.5. Out-of-domain verdicts do hang on loops: of 29 points against
# the student and of 20 against LoRA one is left, and fine-tuning is five points ahead, decided. So what our variant does better
# than these three there is that it loops less. That is a gain, but one that is seen on a handful of clips. Its lead over the
# other experts is decided either way. And distillation alone (the last two lines) is worth five points in-domain, decided once
# the two clips are out on which one or the other loops; out-of-domain two are left of 18, which is not decided.
#
#
# How large must a difference be, to be seen here?

# %%
widths = (differences["high"] - differences["low"]) / 2
single = table[(table["language"] == main_language) & table["test_set"].isin(DOMAINS)]
for name, rows in single.groupby("test_set", sort=False):
    half = ((rows["wer_high"] - rows["wer_low"]) / 2).median()
    paired = widths[differences["test_set"] == name].median()
    print(f"{name}: {rows['n'].iloc[0]} utterances; half the interval of a WER {half:.1f} points, "
          f"of a paired difference {paired:.1f} points")

# %% [markdown]
# In-domain the paired interval is narrower than that of a WER, as predicted by most. Out-of-domain it is not: each system
# loops on other clips, and that does not cancel out. A difference smaller than half the paired interval of its domain will
# mostly come out as *not decided*; to halve the interval you need four times as many utterances.

# %% [markdown]
# ## 3. Harder sound
#
# The same in-domain clips with noise (5 dB) and with reverberation, which no system was trained on.
#
# **Predict:** does what was learnt on clean clips carry over?

# %%
def with_interval(row):
    """Return a WER with its 95 % interval as text."""
    return f"{row.wer:.1f} [{row.wer_low:.1f}, {row.wer_high:.1f}]"


sound = table[(table["language"] == main_language) & table["test_set"].isin(["in-domain", "noise", "reverberation"])]
sound = sound.assign(wer=sound.apply(with_interval, axis=1), loops=sound["loops"].map("{:.1f} %".format))
sound.pivot(index="system", columns="test_set", values=["wer", "loops"]).reindex(compared_methods()).rename(index=label)

# %% [markdown]
# Compare within a column: the columns have different numbers of clips. **Read:** under noise and echo fine-tuning, LoRA
# and our variant are within two and a half points of each other, and what they learnt carries over. The points that our
# variant is behind on clean sound are not seen there. Experts without a teacher have gained less than half as much.

# %% [markdown]
# ## 4. What is forgotten: languages and tasks
#
# The adapted systems on languages that they were not trained on, and on another task of the language that they
# *were* trained on: speech translation into English, for which Whisper has a token of its own.
#
# **Predict:** which rows are exactly zero, and why?

# %%
plots.save_figure(plots.plot_forgetting(table), figures / "forgetting.png")

# %% [markdown]
# *Figure: a row for each system, a column for each other language (WER) and for translation (BLEU): change
# against the student in points; red is worse, and BLEU is worse when it falls.*
#
# Zero by construction: the experts are switched off for other languages and for translation, and the frozen
# student is what remains. Fine-tuning and LoRA are on. For LoRA that is a choice (it could be switched off as
# well, notebook 04); for fine-tuning it is not. So the rows of zeros are a property of *switchable* adaptation,
# not evidence that experts are the better adapter. **Read:** fine-tuning loses in every other language, 24 points on
# average, LoRA 35, and LoRA least in Dutch, which comes from the same game; translation hardly moves, for it is near
# zero for all. Are these losses more than the luck of 48 clips? In pairs, clip by clip (negative: the student is better):

# %%
lost = comparison.paired(lab, against=("fine-tuning", "lora"), first="student", tests=("retention",))
print(*(sentence(row) for _, row in lost.assign(test_set=lost["language"]).iterrows()), sep="\n")

# %% [markdown]
# **Read:** yes: all ten are decided, by 12 to 61 points.

# %%
columns = ["bleu", "bleu_low", "bleu_high", "chrf", "chrf_low", "chrf_high", "loops", "n"]
translation = table[table["task"] == "translate"].set_index("system")
print(translation["bleu_signature"].iloc[0], translation["chrf_signature"].iloc[0], sep="\n")
translation[columns].rename(index=label).round(1)

# %% [markdown]
# Each game line has one English reference, written for the game and not word by word, and the lines are short:
# BLEU is low and its interval wide; chrF, which counts characters, is steadier. In these rows all experts are off, so that
# the student's translation is kept, neither better nor worse. In the authors' release the encoder uses its experts for
# translation and the decoder does not. (So its code reads; as released this path fails, because variables are used before
# they are set.) The encoder's experts may help to understand Czech; the decoder's, which write Czech, stay off.
#
# **Predict:** our variant with all of its experts off, with those of the encoder alone, and with all on: in which order?

# %%
modes = {False: "off", "encoder": "the encoder's", True: "all"}
rows = {mode: comparison.score(lab, "distilwhisper", f"{main_language}/translation", experts)
        for experts, mode in modes.items()}
pd.DataFrame(rows).T.rename_axis("experts that are on")[columns].astype(float).round(1)

# %% [markdown]
# **Read:** with all experts on, hardly anything is translated: the decoder's have learnt to write Czech, and write it
# whatever the task says. With the encoder's alone the model translates again, as the release intends. But it gains
# nothing by them: chrF and BLEU are lower, within wide intervals, and four of the 48 outputs loop instead of one. The
# student translates so little of this speech that there is little to build on.

# %% [markdown]
# ## 5. A second language in the same model
#
# Experts are added, not merged: the second language gets its own in every block, and the first keeps its own. One
# model, one copy of Whisper, a language chosen for each clip.
#
# **Predict:** what does the second language's training do to the first one's WER?

# %%
second = table[table["test_set"] == "second-language"]
columns = ["language", "n", "wer", "wer_low", "wer_high", "cer", "loops"]
second.set_index("system")[columns].rename(index=label).round(1)

# %% [markdown]
# Nothing: the first language's experts are other tensors. The clips of the second language are short (mean about
# one second at the laptop preset), so that a WER is made of few words. **Read:** the experts close half of
# the gap between student and stand-in, from two minutes of speech.
#
# Now both languages in one batch: a list with a language for each row, for the experts and for the decoder's
# tokens.

# %%
from distilwhisper_lib import expert_languages, load_experts, set_language, use_window

both = lab.student()
for code in (main_language, lab.preset.second_language):
    load_experts(both, lab.train("distilwhisper", code) / "model")
tests = [f"{main_language}/in-domain", f"{lab.preset.second_language}/second-language"]
first, other = (lab.test_clips(key) for key in tests)
languages = [main_language, lab.preset.second_language] * 3
clips = [clip for i in range(3) for clip in (first[i], other[i])]
features = lab.collator(clips)["input_features"].to(lab.device)  # (B, 80, F)
print("experts for", expert_languages(both), "- rows:", languages)


# %%
@torch.no_grad()
def transcribe_rows(features, languages):
    """Greedy texts, each row with its own language's experts: (B, 80, F) -> list of B texts."""
    set_language(both, languages)
    with use_window(both, features.shape[-1]):
        ids = both.generate(input_features=features, language=languages, task="transcribe", do_sample=False,
                            num_beams=1, max_new_tokens=min(40, lab.preset.max_new_tokens))
    return lab.processor.batch_decode(ids, skip_special_tokens=True)


together = transcribe_rows(features, languages)
alone = [transcribe_rows(features[i : i + 1], [code])[0] for i, code in enumerate(languages)]
texts = pd.DataFrame({"language": languages, "in a mixed batch": together, "one by one": alone})
texts.assign(equal=texts["in a mixed batch"] == texts["one by one"])

# %% [markdown]
# Each row is routed through its own language's experts, so that a mixed batch gives what the clips give one by
# one. (Sums in another order may differ in the last digit; a text could differ where two words are equally
# likely.)

# %% [markdown]
# ## 6. What the gates have learnt
#
# For each position and layer, a gate sends h either to the shared block (g = 0) or to the expert (g = 1). The
# gate budget b asks for a share in training; where it is spent is learnt. We run test clips through the models
# teacher-forced, so that every model reads the same positions, and look at `last_gates`, padding left out.
#
# **Predict:** with one budget pooled over both stacks, which stack decides the mean: the encoder with its
# hundreds of positions, or the decoder with some tens?

# %%
from distilwhisper_lib import autocast, last_gates, position_masks

in_domain = lab.test_clips(tests[0])
batch = lab.collator([in_domain[i] for i in range(min(24, len(in_domain)))])
batch = {name: value.to(lab.device) if torch.is_tensor(value) else value for name, value in batch.items()}


@torch.no_grad()
def gates_of(system):
    """Gates of a teacher-forced pass over `batch`, NaN at padding: {"encoder": (L, B, S), "decoder": (L, B, T)}."""
    model = lab.model(system).eval()
    with use_window(model, batch["input_features"].shape[-1]), autocast(lab.device):
        model(input_features=batch["input_features"], decoder_input_ids=batch["decoder_input_ids"])
    gates = {stack: torch.stack(layers).float() for stack, layers in last_gates(model).items()}
    masks = position_masks(batch, gates["encoder"].shape[-1])
    return {stack: g.masked_fill(~masks[stack], torch.nan).cpu() for stack, g in gates.items()}


# %%
gates = {name: gates_of(name) for name in trained_methods() if METHODS[name].has_experts}
shares = {name: {stack: g.nanmean((1, 2)).tolist() for stack, g in found.items()} for name, found in gates.items()}
plots.save_figure(plots.plot_gate_layers(shares, budgets=(0.5, 0.8)), figures / "gates.png")

# %% [markdown]
# *Figure: share of positions that go to the expert, by layer, encoder on the left and decoder on the right; the
# dotted line is the budget of 0.5, the dashed one that of 0.8.*
#
# In training the budget holds the *mean* of the noisy gates (soft, and in our variant hard); in evaluation a gate is 0 or
# 1, and the shares of the layers may be anything. A layer without a bar never uses its expert, so that this expert was
# trained for nothing. **Read:** pooled, the encoder's many positions pay the whole budget, and the decoder's experts are
# hardly used; with 0.8 in each stack nearly every layer is open.

# %%
means = {name: {stack: 100 * g.nanmean().item() for stack, g in found.items()} for name, found in gates.items()}
pd.DataFrame(means).T.rename(index=label).add_suffix(" (%)").round(1)

# %% [markdown]
# Now position by position, in the decoder, for one clip. The label of a column is the token that the decoder
# *reads* there; what it predicts is the next one.

# %%
tokenizer = lab.processor.tokenizer
lengths = (batch["labels"] != -100).sum(1)  # (B,)
row = (lengths - 20).abs().argmin().item()  # a clip of about 20 tokens
ids = batch["decoder_input_ids"][row, : lengths[row]].tolist()[:40]
names = [tokenizer.decode([i]).strip("<|> ").replace("\ufffd", "·") or "·" for i in ids]
matrix = gates["distilwhisper"]["decoder"][:, row, : len(ids)]  # (L, T)
plots.plot_gate_positions(matrix, [name.replace("$", r"\$") for name in names])

# %% [markdown]
# *Figure: decoder layers from top to bottom, tokens from left to right; dark is the expert, light the shared
# block.*
#
# And over the whole batch, by the kind of token:


# %%
def kind_of(token, position):
    """Return the kind of a token, given as the tokenizer writes it ("Ġ" stands for a space)."""
    if token.startswith("<|"):
        return "1 prefix: start, language, task"
    if not any(letter.isalnum() for letter in tokenizer.convert_tokens_to_string([token])):
        return "4 punctuation and part letters"
    return "2 first piece of a word" if position == 4 or token.startswith("Ġ") else "3 later piece of a word"

# %%
labelled = (batch["labels"] != -100).cpu()  # (B, T)
tokens = tokenizer.convert_ids_to_tokens(batch["decoder_input_ids"].cpu()[labelled].tolist())
kinds = pd.Series(map(kind_of, tokens, labelled.nonzero()[:, 1].tolist()), name="token read")
by_token = pd.DataFrame(gates["distilwhisper"]["decoder"][:, labelled].T.numpy())  # (positions, layers)
by_token.columns = [f"layer {i + 1}" for i in by_token]
result = (100 * by_token).groupby(kinds).mean()
result.insert(0, "positions", kinds.value_counts())
result.round(0)

# %% [markdown]
# Shares in per cent. If a layer has the same share in all rows, its gate has become a switch for the whole layer;
# if the rows differ, it looks at what it reads. **Read:** in the reference run nearly all gates have become switches: one
# layer is closed for text and all others are open at every piece of it; only at the prefix does that layer choose by token.
# So routing by token, which the method allows, is hardly used after so little training with so high a budget.

# %% [markdown]
# ## 7. Cost against quality
#
# What does each system cost? Time to train, from `run.json`; for distillation also the teacher's pass over the
# training clips; size of the files for one language; and the parameters that are *active*, those that a position
# goes through. With experts a position goes through the gate and one of two blocks of the same size.
#
# **Predict:** which system is the cheapest in each of the three?

# %%
from distilwhisper_lib import expert_parameters

steps = {step["step"]: step["seconds"] for step in lab.steps()}
teacher_pass = steps.get(f"teacher outputs {main_language}", np.nan)
base = count_parameters(lab.student())["total"]


def cost(name):
    """Return what a trained system costs, in seconds, MB and million parameters."""
    folder = lab.train(name)
    model, run = lab.model(name), json.loads((folder / "run.json").read_text())
    extra = sum(p.numel() for key, p in expert_parameters(model) if ".gates." in key)
    extra += sum(p.numel() for key, p in model.named_parameters() if "lora_" in key)
    return {"system": name, "seconds": run["seconds"], "teacher pass (s)": teacher_pass if METHODS[name].distils else 0,
            "stored_mb": sum(f.stat().st_size for f in (folder / "model").glob("*.safetensors")) / 1e6,
            "trained (million)": run["trained_parameters"] / 1e6, "active (million)": (base + extra) / 1e6}


# %%
student = {"system": "student", "seconds": 0, "teacher pass (s)": 0, "stored_mb": 0, "trained (million)": 0,
           "active (million)": base / 1e6}
costs = pd.DataFrame([student, *(cost(name) for name in trained_methods())])
quality = table[(table["language"] == main_language) & (table["test_set"] == "in-domain")]
costs = costs.merge(quality[["system", "wer", "wer_low", "wer_high"]], on="system")
plots.save_figure(plots.plot_cost(costs), figures / "cost.png")

# %% [markdown]
# *Figure: in-domain WER against minutes of training (left) and megabytes stored for each language (right); low
# and left is good. The teacher's pass is not counted; points that would cover each other are drawn side by side.*

# %%
shown = costs.assign(wer=costs.apply(with_interval, axis=1)).drop(columns=["wer_low", "wer_high"])
shown = shown.set_index("system").rename(index=label)
shown.rename(columns={"seconds": "training (s)", "stored_mb": "stored (MB)", "wer": "in-domain WER"}).round(1)

# %% [markdown]
# The stored size of experts is that of a copy of all feed-forward blocks: about a third of this student, nearly half of
# whisper-small. What makes them cheap is the column *active (million)*: at inference a position does hardly more than in
# the student. LoRA's extra is zero after merging. The time of the teacher's own training is not in the table: with a real
# teacher, somebody else has paid it. **Read:** training takes about six minutes for every system, and the teacher's pass
# adds 24 s. LoRA's file is the smallest (16 MB), fine-tuning's the largest (290 MB), and between their WERs nothing is
# decided (notebook 04). Experts lie between them in size.

# %% [markdown]
# ## 8. Longer training, and more than one seed
#
# The course trains for four epochs, so that all of it fits into an hour, and every figure above comes from one run of each
# system. The seed draws the new gates, the adapters, dropout and the order of the clips: one run is one draw, and the
# intervals know nothing of it. So all five systems were trained for ten epochs, the paper's number, on the same clips: at
# three learning rates each, and at the best of these on validation with a second seed. The tests are whole here: 305 clips
# in-domain and 263 out-of-domain. It was done once, in some ten hours of one core, by
#
# ```python
# rates = LAPTOP.learning_rates | {"fine-tuning": 2.5e-5, "lora": 1e-3, "clsr-ft": 1.5e-4, "distilwhisper-released": 1.5e-4}
# lab = Lab("laptop", epochs=10, test_clips=None, learning_rates=rates)   # the middle ones of three
# study.tune(lab, trained_methods())
# best = Lab(lab.preset, learning_rates=rates | study.best_rates(lab))
# study.seeds(best, trained_methods(), [77, 78])
# ```
#
# (`Lab`, `LAPTOP` and `trained_methods` from `distilwhisper_lib`, `study` from `distilwhisper_lib.experiments`.) The
# tables are read from `results/reference/laptop/studies/converged`, at every preset. First the trials:

# %%
from distilwhisper_lib import REPOSITORY

converged = REPOSITORY / "results" / "reference" / "laptop" / "studies" / "converged"
trials = pd.read_csv(converged / "tuning.csv")
trials["learning_rate"] = trials["learning_rate"].map("{:g}".format)
trials = trials.assign(wer=trials.apply(with_interval, axis=1)).set_index(["system", "learning_rate"])
trials[["wer", "cer", "loops", "validation_loss"]].rename(index=label).round(2)

# %% [markdown]
# **Read:** the best rate is the middle one of three for LoRA, the highest for fine-tuning and the lowest for all experts, so
# that a better one may lie outside. (Fine-tuning at 1e-4 was worse than at 5e-5 after four epochs and after six: notebook
# 04.) Where the budget is pooled the rate hardly matters. Our variant is ahead on validation, by four points of LoRA and by
# six or seven of the others. It is the best of three on 125 clips, so that some of its lead is luck; the tests, which had no
# part in the choice, will show how much.
#
# **Predict:** how far apart do the WERs of *one* system lie from seed to seed, beside its interval?

# %%
seeds = pd.read_csv(converged / "seeds.csv")
seeds["wer"] = seeds.apply(with_interval, axis=1)
kinds = ["insertions", "deletions", "substitutions"]
columns = ["wer", "cer", *kinds, "loops"]
seeds.set_index(["test_set", "system", "seed"])[columns].sort_index(level=0, sort_remaining=False).rename(index=label).round(1)

# %%
pairs = pd.read_csv(converged / "seeds-paired.csv")
pairs = pairs[(pairs["first"] == "distilwhisper") | (pairs["other"] == "clsr-ft")]  # the last two: distillation alone
print(*(sentence(row) for _, row in pairs.iterrows()), sep="\n")

# %% [markdown]
# The differences are over both seeds together: an utterance is still one unit of resampling, with the errors of both runs.
# So the interval still covers the choice of utterances; how far seeds lie apart is what the table above shows.
#
# **Read:** in-domain ten epochs bring fine-tuning, LoRA and our variant level: the points that our variant was behind
# after four are gone, less than a point separates the three, and the intervals leave room for two and a half either way.
# Out-of-domain our variant is seven points ahead of LoRA and five behind fine-tuning, and both intervals only just hold zero.
# So the paper's claim, *better than both in both domains*, is not found here: level in one, between the two in the other.
#
# The experts with the release's settings have had their ten epochs too, and stay seven points and more behind these three
# in-domain. **Distillation** alone (the last two lines) is worth one point in-domain, decided by a hair, and nothing that is
# decided out-of-domain; the points of section 2 were those of two trainings that had not come to their end, and of looping
# clips. **Gates and budget** are worth seven points in both domains, decided in both.
# Two seeds of one system lie up to two points apart in-domain and up to nine out-of-domain, where a few loops make the
# difference.
#
# Why not better than fine-tuning out-of-domain? The kinds of errors say where: in both seeds our variant has some three more
# wrong words in a hundred, and a few more insertions. Two reasons can be given. The **teacher**: the paper's is a large
# Whisper, which knows many voices; ours is a base model that was fine-tuned on the same two actors, and is itself no better
# than fine-tuning out-of-domain (87.1 and 87.6 in the table of section 1). What it does not know it cannot teach. In-domain, where it
# is ahead of all, our variant comes near to it. And **what is trained**: experts change the feed-forward blocks
# only, fine-tuning the attention too, which may matter for voices that sound like none before. The second could be told from
# the first with a larger teacher (`open_lab(teacher=...)`).
#
# And were the systems trained long enough? The cross-entropy on validation after each epoch, as a mean over the seeds:

# %%
curves = pd.read_csv(converged / "seeds-validation.csv")
means = curves.groupby(["system", "epoch"], sort=False, as_index=False)["eval_loss"].mean()
plots.plot_curves({name: rows.to_dict("records") for name, rows in means.groupby("system", sort=False)}, ("eval_loss",))

# %% [markdown]
# *Figure: plain cross-entropy on validation after each epoch, mean over the seeds, a line for each system.*
#
# **Read:** all have had enough: from the eighth epoch on no line falls by more than a hundredth. From the second epoch on
# fine-tuning, from the third on LoRA learn their few hundred clips by heart, and their cross-entropy rises by a third and
# by nearly a quarter. That of the experts does not rise, with a teacher or without, so that it is not the teacher alone
# that keeps them from it. What the teacher does is seen in the level: the pooled budget with it ends 0.06 below that
# without, for its probabilities say more about a clip than the text does. In WER little of that is seen: a model that is
# too sure of itself can still name the right word.

# %% [markdown]
# ### The same seed three times
#
# One kind of luck is left. The table below holds four runs of the whole course on machines with one kind of processor,
# with the same clips, settings and seed (`results/reference/laptop/studies/same-seed.csv`, with their commits). Only one
# thing was left to chance: full fine-tuning trains the decoder's learned positions, whose gradient the processor's cores
# added up in whatever order they came, and a sum in another order is rounded differently. From the third run on the library
# adds up in one order (`deterministic_sums` in `device.py`). The fourth, which is that of section 1, was begun anew in an empty
# folder, many changes of the code later.
#
# **Predict:** which rows are the same in all runs? How far do the others lie apart, and how far the last two runs?

# %%
again = pd.read_csv(converged.parent / "same-seed.csv")
again["wer"] = again.apply(with_interval, axis=1)
again.pivot(index=["test_set", "system"], columns="run", values="wer").rename(index=label)

# %% [markdown]
# **Read:** LoRA and the experts without a teacher leave those positions frozen, and are the same to the last digit.
# Fine-tuning moves by more than two points in-domain, for a difference that began in the eighth digit of a gradient. The
# stand-in is fine-tuned too and moves by one, and all that learn from it move with it: the pooled budget by one in-domain
# and by 29 out-of-domain, where in the first two runs two or three short clips become 30 to 125 words each and in the third
# none does; our variant by half a point and by one and a half. The intervals of section 2 know nothing of this: a difference
# of two points in-domain means little in a single run even where it is decided, and out-of-domain look at the loops first.
# The last two runs are alike in every row, and in more than that: the weights of all trained models have the same SHA-256
# (`run.json` names them). So a run can be repeated; the luck of rounding is fixed by that, not gone.

# %% [markdown]
# ### As many weights for both
#
# One thing was never equal in these tables: LoRA trains 4 million weights here, whole experts 25 million. Experts can be
# as thin as LoRA's adapters: the difference to the shared block as a product of two matrices of rank 64
# (`ExpertSettings(rank=64)`; the system `distilwhisper-low-rank`). Then both train as many, gates aside. What is left
# between them: the gates, the teacher, and that LoRA is always on. Two learning rates were tried for the thin experts;
# then they, the whole ones and LoRA were trained in fp32 on the course's clips
# (`results/reference/laptop/studies/low-rank`). The gates of all experts in these tables were still soft in training.
#
# **Predict:** a sixth of the weights: how many points worse than whole experts?

# %%
thin, whole = 12 * 2 * 64 * (512 + 2048), 12 * (2 * 512 * 2048 + 512 + 2048)  # in whisper-base's twelve layers
print(f"{thin:,} weights at rank 64, {whole:,} in whole experts: {thin / whole:.0%}")
low_rank = converged.parent / "low-rank"
thin_and_whole = pd.read_csv(low_rank / "seeds.csv")
thin_and_whole["wer"] = thin_and_whole.apply(with_interval, axis=1)
thin_and_whole.set_index(["test_set", "system"])[["wer", "cer", "loops"]].sort_index(level=0, sort_remaining=False).rename(index=label).round(1)

# %%
print(*(sentence(row) for _, row in pd.read_csv(low_rank / "seeds-paired.csv").iterrows()), sep="\n")

# %% [markdown]
# **Read:** with a sixth of the weights the thin experts cannot be told from the whole ones in either domain, and their CER is
# lower in-domain; so on this little data whole experts have weights to spare. Against LoRA of the same size: in-domain
# LoRA is better, decided; out-of-domain nothing is, for LoRA loops on some clips there and the interval is wide. So it is
# not their size that keeps the experts behind LoRA in-domain. What could be looked into next: the gate budget, which in
# training sends a fifth of all positions past them, and the weight of the teacher. It is one seed, and of the two rates
# the lower one is the better (`tuning.csv` beside the tables), so that a still lower one might do more.

# %% [markdown]
# ## 9. What we may conclude
#
# The verdicts again, counted over the domains, from your own run:

# %%
outcomes = {}
for other, rows in differences.groupby("other", sort=False):
    better, worse = int((rows["high"] < 0).sum()), int((rows["low"] > 0).sum())
    open_ones = len(rows) - better - worse
    outcomes[label[other]] = {"better in": better, "worse in": worse, "not decided in": open_ones}
pd.DataFrame(outcomes).T.rename_axis("DistilWhisper (our variant) against")

# %%
teacher = lab.preset.teacher or "a stand-in: the student, fine-tuned on other clips of the same corpus"
seed = sorted(int(seed) for seed in table["seed"].unique())
corpora = sorted({test.corpus for test in lab.test_sets.values()})
sizes = {test: int(rows["n"].iloc[0]) for test, rows in single.groupby("test_set", sort=False)}
facts = {"student": lab.preset.student, "teacher": teacher, "seed": seed, "corpora": corpora, "utterances": sizes}
print(*(f"{name}: {value}" for name, value in facts.items()), sep="\n")

# %% [markdown]
# | what one would like to say | may we? |
# |---|---|
# | "this model makes fewer errors than that one on such clips" | yes, where the paired interval excludes zero |
# | "this *method* is better than that one" | not from one seed: train each again with other seeds (`make study ARGS=seeds`) |
# | "the two are equally good" | no: *not decided* is not a proof of equality |
# | "experts keep every other language and task" | yes, and without any measurement: switched off, they leave the student |
# | "experts forget less than LoRA" | only if LoRA stays on; it can be switched off too |
# | "it is so for other languages" | no: one language was compared here, and a second one only tried |
# | "it is so for other speech" | no: one corpus of a game with actors, and phrases of a second one |
# | "it is so with whisper-large-v2 as teacher" | no: where the teacher is a stand-in it has seen the same game, and knows little else |
# | "the paper's figures are (not) reproduced" | no: other models, other data, other sizes. What can be compared is the direction |
# | "the best learning rate, budget and number of epochs were used" | only within what was tried on validation |
#
# A result that is the other way round than the paper's is a result. Say at which size, on which data and with
# which interval it was found.

# %% [markdown]
# ## Exercises

# %% [markdown] tags=["exercise"]
# ### Exercise 5.1: some of many, by hand
#
# ●○○ · 5 minutes · you learn: why several comparisons need more care than one
#
# Suppose that eight pairs of systems are in truth equally good, and that the eight comparisons are independent.
# Each 95 % interval excludes zero by luck with probability 0.05. How likely is it that *at least one* of the
# eight does? Give a number between 0 and 1.

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# Ask first how likely it is that none of them does.
#
# </details>

# %% tags=["stub"]
at_least_one = ...

# %% tags=["solution"]
at_least_one = 1 - 0.95**8

# %% tags=["wrong"]
at_least_one = 8 * 0.05

# %% tags=["check"]
from checks_05 import check_at_least_one
from exercise import check

check(check_at_least_one, at_least_one)

# %% [markdown] tags=["exercise"]
# ### Exercise 5.2: how many utterances would decide it?
#
# ●●○ · 15 minutes · you learn: what a test set must be able to do before you ask it something
#
# An interval gets narrower as the square root of the number of utterances grows. Write
# `utterances_needed(difference, low, high, n)`: with n utterances the paired difference had the 95 % interval
# [low, high]. How many utterances of the same kind would be needed so that half the interval is no wider than the
# difference itself, if the difference stayed the same? Return a whole number, rounded up.
#
# Then the open part: apply it to the rows of `differences`. Which comparisons could this corpus decide at all? (Its
# tests hold 305 and 263 utterances.)

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# Half the interval at m utterances is `(high - low) / 2 * (n / m) ** 0.5`. Set it equal to the size of the
# difference and solve for m.
#
# </details>


# %% tags=["stub"]
def utterances_needed(difference, low, high, n):
    raise NotImplementedError


# %% tags=["solution"]
def utterances_needed(difference, low, high, n):
    import math

    return math.ceil(n * ((high - low) / 2 / difference) ** 2)


# %% tags=["wrong"]
def utterances_needed(difference, low, high, n):
    import math

    return math.ceil(n * (high - low) / 2 / abs(difference))


# %% tags=["check"]
from checks_05 import check_utterances_needed
from exercise import check

check(check_utterances_needed, utterances_needed)

# %% [markdown] tags=["exercise"]
# ### Exercise 5.3: what may be claimed
#
# ●●○ · 15 minutes · you learn: to turn a table into a claim that holds
#
# Write `beaten(differences)`. `differences` is a table as `comparison.paired` returns it: columns first, other,
# test_set, difference, low, high (the other columns don't matter). Return the *set* of systems in `other` that
# `first` beats in **every** test set: the paired interval lies below zero in each of them.
#
# Then the open part: run `beaten(comparison.paired(lab))`, and repeat it with another seed.
# `lab.train("distilwhisper", seed=78)` takes as long as section 7 says; `comparison.counts(lab, "distilwhisper",
# key, seed=78)` scores it. Do the same names come back?

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# Which end of the interval has to be below zero? `groupby("other")` gives the rows of each system.
#
# </details>


# %% tags=["stub"]
def beaten(differences):
    raise NotImplementedError


# %% tags=["solution"]
def beaten(differences):
    return {other for other, rows in differences.groupby("other") if (rows["high"] < 0).all()}


# %% tags=["wrong"]
def beaten(differences):
    return {other for other, rows in differences.groupby("other") if (rows["difference"] < 0).all()}


# %% tags=["check"]
from checks_05 import check_beaten
from exercise import check

check(check_beaten, beaten)

# %% [markdown]
# ## Summary
#
# - One table, one decoder, one normaliser, the same clips: otherwise figures can't be compared.
# - Systems scored on the same clips are compared by the paired interval of their difference; *not decided* is an
#   outcome.
# - Experts and LoRA can be switched off and then leave the student; fine-tuning cannot.
# - Experts of several languages live in one model and serve one batch. A pooled gate budget and one per stack
#   spend the experts in different places.
# - One seed, one corpus and a stand-in teacher bound what may be concluded, whatever the figures are.
#
# ## Glossary
# - *paired bootstrap*: resampling the utterances for both systems together.
# - *retention*: what is kept on languages and tasks that were not trained on.
# - *BLEU, chrF*: overlap of a translation with a reference, in word and in character sequences; higher is better.
# - *active parameters*: those that one position goes through.
# - *seed*: the number that the random choices of a training start from.
#
# ## Where in the library, where in the paper
#
# `lab/comparison.py`, `evaluation/scoring.py` (intervals), `evaluation/testsets.py`, `method/blocks.py` (`last_gates`,
# `set_language`), `lab/plots.py`. In the paper: the main result table, the comparison of gate activations, and
# the translation experiment; the settings are in its section on experiments and in the authors' release.
