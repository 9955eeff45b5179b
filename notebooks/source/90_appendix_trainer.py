# %% [markdown]
# # 90 · Appendix: what a trainer does between two steps
#
# **Goal.** See how a trainer adds up small batches and how it goes on after a stop, and what goes wrong there in silence.
#
# **You will be able to**
# - add up the gradients of small batches so that they are those of one large batch, and test it;
# - say why Adam hides a wrong factor, and where it shows;
# - list what a checkpoint must hold, and tell a whole one from a half-written one;
# - stop a training and let it go on, with the same result.
#
# **Prerequisites.** Notebook 03. Nothing that it has trained is needed: everything here is done with a tiny random
# Whisper and eight clips.
#
# | preset | machine | time | memory |
# |---|---|---|---|
# | smoke | 2 cores | under a minute | 1.4 GB |
# | laptop | 2 cores | under a minute | 1.4 GB |
# | colab | T4 | not measured yet | not measured yet |

# %% tags=["setup"]

# %% [markdown]
# ## 1. One step, in four parts
#
# **Why.** Where memory is short, a batch of 8 is computed as 4 batches of 2, and the gradients are added up: **gradient
# accumulation**. The recipe of the release accumulates two batches of 8. The result should be that of one large batch.
# Is it?
#
# We take one training step on the same eight clips, in one part and in four: with transformers' `Trainer` as it comes, and
# with this project's `LabTrainer`.
#
# **Predict:** by what factor does the gradient's norm change from 1 x 8 to 4 x 2, with each of the two?

# %% tags=["predict"]
prediction = ...  # a factor for each of the two

# %%
import tempfile

from transformers import PrinterCallback, Trainer, TrainingArguments

from distilwhisper_lib import Clips, Collator, Objective, load_processor, load_whisper, make_trainer

processor = load_processor("tiny")
eight = Clips(lab.rows("train", limit=8), processor, lab.preset.language)
collator = Collator(processor.tokenizer, None)  # Whisper's own window of 30 s
scratch = tempfile.mkdtemp()


def step_arguments(batch_size, accumulation):
    """Return the arguments of one training step, whose log holds the gradient's norm."""
    return TrainingArguments(
        output_dir=scratch, max_steps=1, per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation,
        logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True, remove_unused_columns=False, use_cpu=True,
    )

# %%
def collate_for_stock(items):
    """Return a batch with the names that Whisper itself takes."""
    batch = collator(items)
    return {name: batch[name] for name in ("input_features", "decoder_input_ids", "labels")}


def stock_trainer(arguments):
    return Trainer(load_whisper("tiny"), arguments, collate_for_stock, eight)


def our_trainer(arguments):
    objective = Objective(label_smoothing=0.0, budget=None)  # plain cross-entropy
    return make_trainer(load_whisper("tiny"), arguments, objective, eight, eight, collator)

# %%
import pandas as pd

from distilwhisper_lib import show

rows = []
for name, build in (("transformers' Trainer", stock_trainer), ("LabTrainer", our_trainer)):
    for batch_size, accumulation in ((8, 1), (2, 4)):
        trainer = build(step_arguments(batch_size, accumulation))
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        log = trainer.state.log_history[0]
        rows.append({"trainer": name, "batches": f"{accumulation} x {batch_size}", "loss": log["loss"],
                     "gradient norm": float(log["grad_norm"])})
logged = pd.DataFrame(rows).set_index(["trainer", "batches"])
show(logged, digits=4)

# %% [markdown]
# **Read:** With the stock `Trainer`, loss and gradient of `4 x 2` are about four times those of `1 x 8`. With `LabTrainer` both
# are equal.
#
# The `Trainer` believes that Whisper divides its loss by the number of tokens of *all* accumulated batches. But Whisper
# takes the mean of each batch for itself, so four means are added up.
#
# ## 2. By tokens
#
# **Why.** Is a division by four enough? The batches have different numbers of label tokens. A mean of four means gives
# each *batch* the same weight; the mean over one batch of eight gives each *token* the same weight.
#
# **Predict:** in a mean of means, the tokens of which batch weigh most: of the one with the most tokens, or with the
# fewest?

# %% tags=["predict"]
prediction = ...  # "most" or "fewest"

# %%
from distilwhisper_lib import IGNORED, cross_entropy, labelled


def mean_loss(model, batch):
    """Return the mean cross-entropy over the label tokens of a batch."""
    logits = model(input_features=batch["input_features"], decoder_input_ids=batch["decoder_input_ids"]).logits
    return cross_entropy(*labelled(logits, batch["labels"]))


def count_tokens(batch):
    """Return the number of label tokens in a batch, without padding."""
    return int((batch["labels"] != IGNORED).sum())


whole = collator([eight[i] for i in range(8)])
quarters = []
for first in (0, 2, 4, 6):
    quarters.append(collator([eight[first], eight[first + 1]]))

# %%
table = pd.DataFrame({"label tokens": [count_tokens(quarter) for quarter in quarters]}, index=[1, 2, 3, 4])
table["weight of a token in a mean of means, %"] = 100 / 4 / table["label tokens"]
table["in one batch of eight, %"] = 100 / count_tokens(whole)
show(table.rename_axis("batch"), digits=3)

# %% [markdown]
# **Read:** With the fewest: its quarter is shared by fewer tokens. In one batch of eight each token has the same weight.
#
# **Build:** the step as it should be. Each batch's loss is weighted by its share of the tokens, its gradient is added to
# what is there, and the weighted losses add up to the loss of all.

# %% tags=["build"]
from checks_90 import built_accumulate
from exercise import check_if_built, is_open


def accumulate(model, batches):
    """Add up the gradient of the mean loss over the tokens of all batches; return that loss as a number."""
    raise NotImplementedError  # your code here


check_if_built(built_accumulate, accumulate)

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# First count the tokens of all batches. Then, for each batch: `count_tokens(batch)` divided by all, times
# `mean_loss(model, batch)`, and `.backward()` of the product, which adds to the gradients of the batches before.
# `.item()` makes a number of it.
# </details>

# %% tags=["fold"]
if is_open(accumulate):

    def accumulate(model, batches):
        """Add up the gradient of the mean loss over the tokens of all batches; return that loss as a number."""
        all_tokens = sum(count_tokens(batch) for batch in batches)
        total = 0.0
        for batch in batches:
            share = count_tokens(batch) / all_tokens
            loss = share * mean_loss(model, batch)
            loss.backward()
            total += loss.item()
        return total

# %% [markdown]
# We hold it against one batch of eight, weight by weight, and against `LabTrainer`, which does the same.

# %%
import torch


def gradient_of(model):
    """Return all gradients of a model as one long vector."""
    parts = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
    return torch.cat(parts)


at_once, in_parts = load_whisper("tiny"), load_whisper("tiny")
mean_loss(at_once, whole).backward()
loss = float(accumulate(in_parts, quarters))
torch.testing.assert_close(gradient_of(in_parts), gradient_of(at_once), rtol=1e-3, atol=1e-5)

norm = float(gradient_of(in_parts).norm())
theirs = logged.loc[("LabTrainer", "4 x 2")]
torch.testing.assert_close([loss, norm], [theirs["loss"], theirs["gradient norm"]], rtol=1e-3, atol=1e-3)
print(f"by tokens: loss {loss:.4f}, gradient norm {norm:.4f}: equal to one batch of eight, and to LabTrainer's step")

# %% [markdown]
# And the mean of means?

# %%
mean_of_means = load_whisper("tiny")
for quarter in quarters:
    (mean_loss(mean_of_means, quarter) / 4).backward()

difference = gradient_of(mean_of_means) - gradient_of(at_once)
print(f"mean of means: gradient norm {gradient_of(mean_of_means).norm():.4f}, by tokens {norm:.4f}")
print(f"the difference of the two gradients has {difference.norm() / norm:.0%} of the gradient's norm")

# %% [markdown]
# **Read:** The mean of means is close, but it is another gradient: the two differ by less than a tenth of the norm.
#
# The release takes it: all accumulated batches weigh the same there (`equal_batches` in `docs/method.md`).
#
# (One term has no such rule: the gate budget is the absolute value of a mean, and no sum over parts of a batch gives that
# back. It is exact where all parts lie on the same side of $b$.)
#
# ## 3. What hides the mistake
#
# **Why.** A gradient of four times its size should ruin a training, or at least be noticed. We train the tiny model for
# ten steps on the eight clips, with the loss as it is and with four times the loss, by plain gradient descent (SGD) and
# by Adam. We also count the steps in which the gradient's norm is above 2: gradient clipping at that limit would cut
# these.
#
# **Predict:** in which of the two does the factor change what is learnt?

# %% tags=["predict"]
prediction = ...  # "SGD", "Adam", "both" or "neither"

# %%
from distilwhisper_lib import use_window

short = Collator(processor.tokenizer, 1.0)  # the longest clip and a second of silence
short_batch = short([eight[i] for i in range(8)])


def ten_steps(make_optimiser, factor):
    """Train a tiny model with `factor` times the loss; return its last loss and how many gradients were large."""
    model = load_whisper("tiny")
    optimiser = make_optimiser(model.parameters())
    large = 0
    for _ in range(10):
        optimiser.zero_grad()
        with use_window(model, short_batch["input_features"].shape[-1]):
            loss = mean_loss(model, short_batch)
        (factor * loss).backward()
        large += int(gradient_of(model).norm() > 2)
        optimiser.step()
    return loss.item(), large

# %%
def sgd(weights):
    return torch.optim.SGD(weights, lr=0.05)


def adam(weights):
    return torch.optim.Adam(weights, lr=0.001)


rows = []
for name, make_optimiser in (("SGD", sgd), ("Adam", adam)):
    for factor in (1, 4):
        last_loss, large = ten_steps(make_optimiser, factor)
        rows.append({"optimiser": name, "factor": factor, "loss of the tenth step": last_loss,
                     "gradients above norm 2": large})
show(pd.DataFrame(rows).set_index(["optimiser", "factor"]), digits=3)

# %% [markdown]
# **Read:** In SGD the factor is a learning rate four times as high. With Adam the loss is the same to the last digit
# shown: Adam divides the gradient by its own running size, and a common factor cancels. So no score gives the mistake
# away. Two things do: the logged loss is four times too large, and more gradients are clipped. All ten are above the
# limit, where two were.
#
# ## 4. A checkpoint, and the plug
#
# **Why.** A laptop sleeps, Colab disconnects, and a long training should not start again. After every epoch a
# **checkpoint** is written: the trained weights, what Adam remembers, the random numbers, and at the very end a mark,
# the file `complete`. What has no mark is not whole.
#
# We train experts in the tiny model for three epochs of four batches, and pull the plug at the eighth batch. The collator,
# which the trainer asks for each batch, notes the clips and pulls it.
#
# **Predict:** which file of the checkpoint is the largest?

# %% tags=["predict"]
prediction = ...  # weights, what Adam remembers, or the log

# %%
from dataclasses import replace
from pathlib import Path

from distilwhisper_lib import Lab, train_run

small = replace(lab.preset, student="tiny", batch_size=2, accumulation=1, margin_seconds=1.0)
config = Lab(small).run_config("experts", learning_rate=1e-3, epochs=3, seed=1)
one = Clips(lab.rows("validation", limit=1), processor, lab.preset.language)


class Counting:
    """A collator that notes the clips of each training batch; at batch number `plug` it fails."""

    def __init__(self, plug=None):
        self.plug = plug
        self.batches = []

    def __call__(self, items):
        if len(items) == small.batch_size:  # a batch of training: that of validation is one clip
            if len(self.batches) + 1 == self.plug:
                raise KeyboardInterrupt(f"the plug was pulled at batch {self.plug}")
            self.batches.append([item["id"] for item in items])
        return short(items)

# %%
stopped = Path(scratch) / "stopped"
before = Counting(plug=8)
try:
    train_run(config, stopped, eight, one, before)
except KeyboardInterrupt as interruption:
    print(interruption)

rows = []
for path in sorted(stopped.rglob("*")):
    if path.is_file():
        rows.append({"file": path.relative_to(stopped).as_posix(), "kB": path.stat().st_size / 1000})
show(pd.DataFrame(rows).set_index("file"))

# %% [markdown]
# **Read:** The largest is `optimizer.pt`: Adam keeps two numbers for each trained weight, so the file is about twice as
# large as that of the weights. The checkpoint of step 4, the end of the first epoch, holds its mark. There is no
# `run.json`: the run is not over.
#
# **Build:** the search for the checkpoint from which a run may go on. Names alone are a trap: sorted as text,
# `checkpoint-12` comes before `checkpoint-4`.

# %% tags=["build"]
from checks_90 import built_newest_whole


def newest_whole(folder):
    """Return the checkpoint (a path) of the highest step that holds a file `complete`; None where there is none."""
    raise NotImplementedError  # your code here


check_if_built(built_newest_whole, newest_whole)

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# `folder.glob("checkpoint-*")` gives the paths in any order. The step is `int(path.name.removeprefix("checkpoint-"))`;
# the mark is there where `(path / "complete").exists()`. Keep the best path so far, and its step.
# </details>

# %% tags=["fold"]
if is_open(newest_whole):

    def newest_whole(folder):
        """Return the checkpoint (a path) of the highest step that holds a file `complete`; None where there is none."""
        newest, highest = None, -1
        for path in folder.glob("checkpoint-*"):
            step = int(path.name.removeprefix("checkpoint-"))
            if (path / "complete").exists() and step > highest:
                newest, highest = path, step
        return newest

# %% [markdown]
# We copy the checkpoint twice: as one of step 12, and as one of step 16 that was killed while it was written. The
# library looks for more than the mark: `complete` holds a hash of each file, and what is damaged is set aside. So in the
# end one byte of the weights of step 12 is changed.
#
# **Predict:** from which step would the run go on before that, and from which one after it?

# %% tags=["predict"]
prediction = ...  # two steps

# %%
import shutil

from distilwhisper_lib import last_complete_checkpoint

copies = Path(scratch) / "copies"
for step in (4, 12, 16):
    shutil.copytree(stopped / "checkpoints" / "checkpoint-4", copies / f"checkpoint-{step}")
(copies / "checkpoint-16" / "complete").unlink()

found = newest_whole(copies)
theirs = Path(last_complete_checkpoint(copies))
assert found == theirs, "the library goes on from another one"
print("goes on from", theirs.name)
print("left:", *sorted(path.name for path in copies.iterdir()))

weights = theirs / "model.safetensors"
content = bytearray(weights.read_bytes())
content[-1] ^= 1
weights.write_bytes(content)
print("one byte changed: goes on from", Path(last_complete_checkpoint(copies)).name)

# %% [markdown]
# **Read:** From step 12, and the half-written checkpoint is removed. After the change the mark is still there, yet the
# library goes back to step 4: it takes no weights but those that it has written.
#
# ## 5. The run goes on
#
# **Why.** `train_run` is called again, with the same arguments. It goes on from the last whole checkpoint. The order of
# the clips depends on seed and epoch alone, so the result should be the same as without the stop, and we compare it with
# a run that was never stopped.
#
# **Predict:** of the twelve batches seven were trained on before the stop. On how many does the second call train?

# %% tags=["predict"]
prediction = ...  # a number from 0 to 12

# %%
whole_run = Path(scratch) / "whole"
after, without = Counting(), Counting()
train_run(config, stopped, eight, one, after)
train_run(config, whole_run, eight, one, without)

assert before.batches == without.batches[:7]  # the same clips in the same order
assert after.batches == without.batches[4:]  # from the checkpoint on
numbers = [len(run.batches) for run in (before, after, without)]
print(f"batches: {numbers[0]} until the stop, {numbers[1]} after it; {numbers[2]} without a stop")
print("in the folder:", *sorted(path.name for path in stopped.iterdir()))

experts = f"model/experts.{lab.preset.language}.safetensors"
same = (stopped / experts).read_bytes() == (whole_run / experts).read_bytes()
print("the same experts to the last bit:", same)

# %%
shutil.rmtree(scratch)

# %% [markdown]
# **Read:** There were 7 batches until the stop and 8 after it, where 12 are enough without a stop: of the first epoch
# nothing is computed again, of the second all. The experts are the same to the last bit.
#
# A `KeyboardInterrupt` is a polite stop. The project's tests do the same with `SIGKILL`, which leaves no time for
# anything. To stop a training of your own, interrupt the kernel or close the laptop. To go on, run the cell again.
#
# ## Summary
#
# - A step must not depend on how its batch is cut: weight each part by its share of the label tokens.
# - The stock `Trainer` adds up the means of Whisper's batches. Adam hides the factor; the logged loss and clipping do not.
# - A checkpoint is the trained weights, Adam's two numbers for each, random numbers and a mark that is written last.
# - A run that goes on gives the same bits, because the order of the clips depends on seed and epoch alone.
#
# ## Glossary
#
# - **gradient accumulation**: one step from the gradients of several batches.
# - **gradient clipping**: a gradient whose norm is above a limit is scaled down to it.
# - **checkpoint**: all that training needs to go on.
# - **mark**: the file `complete`; it says that a checkpoint is whole, and holds the hashes of its files.
#
# ## Where in the library, where in the paper
#
# - `distilwhisper_lib/training/`: `trainer.py` (`LabTrainer`), `run.py` (`train_run`), `callbacks.py` (`MarkComplete`,
#   `last_complete_checkpoint`), `stored.py` (hashes); `data/batches.py` (`EpochOrder`).
# - What is promised about stops and damaged files: `docs/reliability.md`.
# - Paper: its settings. The two accumulated batches of 8: the authors' release.
