# %% [markdown]
# # 03 Distillation
#
# **Goal.** Train the experts of notebook 02 with and without a teacher, with losses that you have checked by hand.
#
# **You will be able to**
# - derive the paper's losses (CE, JS and KL, gate budget) and compute each on paper;
# - store a teacher's distributions in less than a sixtieth of the space, and measure what is lost;
# - find a silent mistake: padding in the loss;
# - write one training step by hand, equal to the library's;
# - read training curves, transcripts and gates, and say what the budget decides.
#
# **Prerequisites.** Notebook 02; notebook 01 says what the teacher stand-in is.
#
# | preset | machine | time | memory |
# |---|---|---|---|
# | smoke | 2 cores | under 1 min | 1 GB |
# | toy | 2 cores | under 1 min | 1 GB |
# | laptop | 2 cores | 7 min, most of it two trainings | 5.8 GB |
# | colab | T4 | not measured yet | not measured yet |
#
# Two systems are trained here (section 7), and the teacher where notebook 01 has not trained it yet. What has been
# trained once is kept: a second run of this notebook takes a minute or two.

# %% tags=["setup"]

# %% [markdown]
# ## 1. What was said: cross-entropy
#
# **Why.** To train the experts we need a number that says how wrong the student is. The usual one is **cross-entropy**
# (CE). The paper adds two more losses: the gate budget of notebook 02, and a divergence to the teacher (section 2).
#
# In training the decoder reads the right text so far and predicts the next token. (This is **teacher forcing**, notebook
# 01; it has nothing to do with the teacher model.) At each position it gives a distribution $s$ over $V$ tokens, the
# softmax of its logits. The label says which token is right. CE is $-\log s_{label}$, in **nats**: the logarithm is the
# natural one.
#
# The authors' release uses **label smoothing**: a tenth of the label's mass is spread over the whole vocabulary,
# $q = 0.9 \cdot \mathrm{onehot} + 0.1 / V$. Then no logit has to go to infinity:
#
# $$CE = -\sum_v q_v \log s_v$$
#
# We compute it from the definition, on six positions of a vocabulary of five, with random logits. A student that gives
# every token one fifth has $CE = \log 5 = 1.61$.
#
# **Predict:** is the CE of random logits smaller or larger than that?

# %% tags=["predict"]
prediction = ...  # "smaller" or "larger"

# %%
import torch
from torch.nn import functional as F

torch.manual_seed(0)
student_logits, teacher_logits = torch.randn(6, 5), 2 * torch.randn(6, 5)  # (N, V)
labels = torch.tensor([0, 3, 1, 1, 4, 2])  # (N,)

# %% [markdown]
# **Build:** the cross-entropy with smoothed labels.

# %% tags=["build"]
from checks_03 import built_smoothed_ce
from exercise import check_if_built, is_open


def smoothed_ce(logits, labels, smoothing):
    """Return the mean cross-entropy, in nats, of logits (N, V) and labels (N,)."""
    raise NotImplementedError  # your code here


check_if_built(built_smoothed_ce, smoothed_ce)

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# `F.one_hot(labels, V)` is a matrix of zeros and ones; mix it with $1 / V$ to get $q$. `logits.log_softmax(-1)` is
# $\log s$. Sum over the tokens, take the mean over the positions.
# </details>

# %% tags=["fold"]
if is_open(smoothed_ce):

    def smoothed_ce(logits, labels, smoothing):
        """Return the mean cross-entropy, in nats, of logits (N, V) and labels (N,)."""
        size = logits.shape[-1]
        q = (1 - smoothing) * F.one_hot(labels, size) + smoothing / size  # (N, V)
        return -(q * logits.log_softmax(-1)).sum(-1).mean()

# %%
from distilwhisper_lib import cross_entropy

by_hand = smoothed_ce(student_logits, labels, 0.1)
assert torch.allclose(by_hand, cross_entropy(student_logits, labels, label_smoothing=0.1))
print(f"CE {by_hand:.4f} nats, the same as the library's")

# %% [markdown]
# **Read:** Larger: random logits prefer tokens that have nothing to do with the label. The library gives the same number.
#
# ## 2. What else could have been said: KL and JS
#
# **Why.** A label names one token. A teacher's distribution $t$ says how likely *every* token was: that "dům" and "dum" are
# nearly the same, or that after a name anything may come. **Distillation** trains the student to have the same
# distribution. So we need a measure of how far $s$ is from $t$.
#
# Two measures, per position:
#
# $$KL(t \,\|\, s) = \sum_v t_v \log\frac{t_v}{s_v} \qquad
# JS(t, s) = \tfrac12 KL(t \,\|\, m) + \tfrac12 KL(s \,\|\, m), \quad m = \tfrac12 (t + s)$$
#
# **KL** (Kullback-Leibler) takes the teacher's side: a token that the teacher finds likely must not be missed, and the
# price of missing it has no limit. **JS** (Jensen-Shannon) compares both with their average $m$. As $m_v \geq t_v / 2$, no
# term of $KL(t \| m)$ has a ratio above 2. So JS is at most $\log 2$, and it is symmetric. The authors' released models are
# trained with JS at temperature 1; KL is an option.
#
# **Predict:** what are KL and JS of two distributions that have no token in common?

# %% tags=["predict"]
prediction = ...  # (KL, JS)

# %% tags=["build"]
from checks_03 import built_js, built_kl


def kl(p, q):
    """Return KL(p || q) of each position: (N, V), (N, V) -> (N,)."""
    raise NotImplementedError  # your code here


def js(t, s):
    """Return JS(t, s) of each position: (N, V), (N, V) -> (N,)."""
    raise NotImplementedError  # your code here


check_if_built(built_kl, kl)
check_if_built(built_js, js)

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# `(p / q).log()` is the logarithm of the ratio, token by token. `js` calls `kl` twice, with the average of both.
# </details>

# %% tags=["fold"]
if is_open(kl):

    def kl(p, q):
        """Return KL(p || q) of each position."""
        return (p * (p / q).log()).sum(-1)


if is_open(js):

    def js(t, s):
        """Return JS(t, s) of each position."""
        m = (t + s) / 2
        return 0.5 * kl(t, m) + 0.5 * kl(s, m)

# %%
from distilwhisper_lib import js_divergence, kl_divergence

t, s = teacher_logits.softmax(-1), student_logits.softmax(-1)
assert torch.allclose(kl(t, s).mean(), kl_divergence(teacher_logits, student_logits))
assert torch.allclose(js(t, s).mean(), js_divergence(teacher_logits, student_logits))
print(f"KL(t||s) {kl(t, s).mean():.3f}   KL(s||t) {kl(s, t).mean():.3f}   JS {js(t, s).mean():.3f} (the same both ways)")

nothing_in_common = torch.tensor([[60.0, 0.0]]), torch.tensor([[0.0, 60.0]])
print(f"nothing in common: KL {kl_divergence(*nothing_in_common):.1f}   JS {js_divergence(*nothing_in_common):.4f}")

# %% [markdown]
# **Read:** With nothing in common KL grows with the logits, without end; JS is $\log 2 = 0.6931$. So one position at which
# the student is sure of something else counts at most $\log 2$ in a JS loss. In a KL loss there is no limit.
#
# Training sees gradients alone. With two tokens, of which the teacher gives the first 0.9, both can be drawn: the value
# over the student's probability of that token, and the pull on the student's logit over the logit.

# %%
import matplotlib.pyplot as plt

teacher = torch.tensor([0.9, 0.1]).log()
logit = torch.linspace(-8, 8, 401, requires_grad=True)  # of the first token; that of the other is 0
student = torch.stack([logit, torch.zeros_like(logit)], dim=-1)  # (401, 2)
probability = logit.sigmoid().detach()

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
pulls = {}
for name, divergence, colour in (("KL(t || s)", kl_divergence, "#ff9f1c"), ("JS(t, s)", js_divergence, "#10427a")):
    values = torch.stack([divergence(teacher[None], row[None]) for row in student])
    pulls[name] = -torch.autograd.grad(values.sum(), logit, retain_graph=True)[0]
    left.plot(probability, values.detach(), color=colour, label=name)
    right.plot(logit.detach(), pulls[name], color=colour, label=name)
left.axhline(float(torch.tensor(2.0).log()), color="#7f7f7f", linestyle=":", label="log 2")
left.set(xlabel="student's probability of the token", ylabel="divergence in nats", ylim=(0, 4))
right.set(xlabel="student's logit of the token", ylabel="pull on the logit")
left.legend()
fig.tight_layout()
far = {name: float(pull[torch.argmin((logit - -6).abs())]) for name, pull in pulls.items()}
print("pull at a logit of -6:", ", ".join(f"{name} {pull:.3f}" for name, pull in far.items()))

# %% [markdown]
# *The picture: on the left both divergences over the student's probability; they touch zero at 0.9, and to the left KL
# rises without bound while JS stays below log 2. On the right the pull on the logit: KL's grows to a constant for a student
# that is far away, JS's falls back to zero.*
#
# **Read:** Far from the teacher KL pulls with a constant force, and JS lets go. JS is the gentler teacher: what the student
# is sure of stays, right or wrong.

# %% [markdown] tags=["exercise"]
# ### Exercise 3.1: JS by hand (by hand)
#
# ●○○ · 5 minutes · *you learn to compute the loss that you are going to train with*
#
# A teacher says $t = (0.8, 0.2)$, a student $s = (0.4, 0.6)$. Compute $JS(t, s)$ in nats, to three decimals, with
# pencil and calculator. And what is the largest JS that any two distributions over 51,865 tokens can have?

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# $m = (0.6, 0.4)$. Then $KL(t \| m) = 0.8 \ln\frac{0.8}{0.6} + 0.2 \ln\frac{0.2}{0.4}$, and the same for $s$. Natural
# logarithms. For the second question: does $V$ occur in the argument for the bound?
#
# </details>

# %% tags=["stub"]
js_nats = ...
largest_js = ...

# %% tags=["solution"]
# JS compares both distributions with their average m, so neither of its two KL terms can become infinite. It is half of
# their sum.
from math import log

kl_t = 0.8 * log(0.8 / 0.6) + 0.2 * log(0.2 / 0.4)
kl_s = 0.4 * log(0.4 / 0.6) + 0.6 * log(0.6 / 0.4)
js_nats = (kl_t + kl_s) / 2
# m is at least half of t, so t / m is at most 2, and its logarithm at most log 2, whatever V is. That limit is reached
# where t and s have no token in common.
largest_js = log(2)
print(f"KL(t||m) {kl_t:.4f}, KL(s||m) {kl_s:.4f}, JS {js_nats:.4f}; at most {largest_js:.4f}")

# %% tags=["also"]
js_nats = 0.086
largest_js = 0.693

# %% tags=["wrong"]
from math import log2

js_nats = (0.8 * log2(0.8 / 0.6) + 0.2 * log2(0.2 / 0.4) + 0.4 * log2(0.4 / 0.6) + 0.6 * log2(0.6 / 0.4)) / 2
largest_js = 1.0

# %% tags=["wrong"]
# says: sum of both KL terms
js_nats = kl_t + kl_s

# %% tags=["wrong"]
# says: KL(t || s)
js_nats = 0.8 * log(0.8 / 0.4) + 0.2 * log(0.2 / 0.6)

# %% tags=["wrong"]
# says: KL(s || t)
js_nats = 0.4 * log(0.4 / 0.8) + 0.6 * log(0.6 / 0.2)

# %% tags=["wrong"]
# says: half of KL(t || m)
js_nats = kl_t

# %% tags=["wrong"]
# says: three decimals
js_nats = 0.09

# %% tags=["wrong"]
# says: base 10
from math import log10

js_nats = (kl_t + kl_s) / 2 * log10(2.718281828)

# %% tags=["wrong"]
# says: bound in bits
largest_js = 1

# %% tags=["wrong"]
# says: both KL terms together
largest_js = 2 * log(2)

# %% tags=["wrong"]
# says: t / m be at a token
largest_js = 0.5

# %% tags=["wrong"]
# says: largest entropy
largest_js = log(51865)

# %% tags=["wrong"]
# says: no largest value
largest_js = float("inf")

# %% tags=["wrong"]
# says: js_nats must be a number
js_nats = "0.086 nats"

# %% tags=["wrong"]
# says: largest_js must be a number
largest_js = log

# %% tags=["wrong"]
# says: js_nats must be a number
js_nats = (kl_t, kl_s)

# %% tags=["wrong"]
# says: m comes second
js_nats = (0.6 * log(0.6 / 0.8) + 0.4 * log(0.4 / 0.2) + 0.6 * log(0.6 / 0.4) + 0.4 * log(0.4 / 0.6)) / 2

# %% tags=["wrong"]
# says: with their average
js_nats = (0.8 * log(0.8 / 0.4) + 0.2 * log(0.2 / 0.6) + 0.4 * log(0.4 / 0.8) + 0.6 * log(0.6 / 0.2)) / 2

# %% tags=["wrong"]
# says: square root
js_nats = ((kl_t + kl_s) / 2) ** 0.5

# %% tags=["check"]
from checks_03 import check_js_by_hand
from exercise import check

check(check_js_by_hand, js_nats, largest_js)

# %% [markdown]
# ## 3. On real logits: how much of the vocabulary matters
#
# **Why.** A teacher says the same of a clip in every epoch, so its distributions can be computed **once** and stored. But
# all $V$ probabilities of every token would take gigabytes for a thousand clips. The library stores the $k$ likeliest
# tokens, and the mass of **all others** together as one number, the **tail**. How large must $k$ be?
#
# JS is then computed over $k + 1$ classes. Merging classes can only lower a divergence, so this is a lower bound.
#
# **Predict:** how large must $k$ be to keep 90 % of JS? And to keep the direction in which JS pulls the student?

# %% tags=["predict"]
prediction = ...  # (k for 90 % of JS, k for its direction)

# %%
from distilwhisper_lib import labelled, top_k_divergence, top_k_log_probs, use_window

clips = lab.clips("train", None, lab.preset.train_clips)
batch = lab.collator([clips[i] for i in range(8)])
teacher, student = lab.teacher(), lab.student()


def logits_of(model, batch):
    """Logits (N, V) and labels (N,) of the labelled positions of a batch, by teacher forcing."""
    features, inputs = batch["input_features"].to(lab.device), batch["decoder_input_ids"].to(lab.device)
    with torch.no_grad(), use_window(model, features.shape[-1]):
        logits = model(input_features=features, decoder_input_ids=inputs).logits
    return labelled(logits, batch["labels"].to(lab.device))

# %%
teacher_logits, labels = logits_of(teacher, batch)
student_logits, _ = logits_of(student, batch)
for name, logits in (("teacher", teacher_logits), ("student", student_logits)):
    right = (logits.argmax(-1) == labels).float().mean()
    print(f"{name}: CE {cross_entropy(logits, labels):.2f} nats, right token {right:.0%}")
full = {"JS": float(js_divergence(teacher_logits, student_logits)),
        "KL": float(kl_divergence(teacher_logits, student_logits))}
print(", ".join(f"{name} {value:.4f}" for name, value in full.items()))

# %% [markdown]
# **Read, at `laptop`:** These clips were in no training of either model. The teacher's cross-entropy is well under half
# of the student's. Its likeliest token is right at 82 % of the positions, the student's at 59 %. That is what there is to
# learn. (The tokens for language and task count as well.)
#
# Now the same with less and less of the teacher. Two things are compared with the full JS: its value, and the direction of
# its gradient with respect to the student's logits, because training sees gradients only. Directions are compared by their
# cosine; 1 is the same direction.

# %%
import pandas as pd

from distilwhisper_lib import show


def gradient(divergence, *teacher) -> torch.Tensor:
    """Gradient of a divergence with respect to the student's logits, as one long vector."""
    logits = student_logits.clone().requires_grad_(True)
    return torch.autograd.grad(divergence(*teacher, logits), logits)[0].flatten()


whole = gradient(js_divergence, teacher_logits)
size = teacher_logits.shape[-1]
rows = []
for k in (1, 4, 16, 64, 256, 1024):
    stored = top_k_log_probs(teacher_logits, k)  # token ids (N, k), log-probabilities (N, k + 1)
    kept = 100 * float(top_k_divergence(*stored, student_logits)) / full["JS"]
    assert kept < 101  # a lower bound, up to rounding
    cosine = F.cosine_similarity(whole, gradient(top_k_divergence, *stored), dim=0)
    rows.append({"k": k, "JS kept, %": kept, "gradient, cosine": float(cosine), "bytes a token": 4 * k + 2 * (k + 1)})
print(f"all {size:,} tokens: {2 * size:,} bytes in fp16")
table = pd.DataFrame(rows).set_index("k")
show(table, digits={"gradient, cosine": 3})

# %%
fig, ax = plt.subplots(figsize=(6, 4))
ax.plot(table.index, table["JS kept, %"], "o-", color="#10427a", label="value of JS")
ax.plot(table.index, 100 * table["gradient, cosine"], "o-", color="#ff9f1c", label="its gradient's direction (cosine)")
ax.axvline(lab.preset.top_k, color="#7f7f7f", linestyle=":", label=f"this preset's k = {lab.preset.top_k}")
ax.set_xscale("log", base=2)
ax.set(xlabel="k, tokens stored per position", ylabel="% of the full divergence", ylim=(0, 102))
ax.legend(loc="lower right")
fig.tight_layout()

# %% [markdown]
# *The figure shows how much of JS and of its gradient's direction is left when only k tokens are stored; the preset's k
# is the dotted line.*
#
# **Read, at `laptop`:** The teacher is mostly sure, so it needs little room: 4 tokens keep 93 % of JS, 16 tokens 98 %,
# the preset's 256 tokens 99 %. The **gradient** needs fewer: with 4 tokens its cosine is 0.998.
#
# What is lost is how both models spread the rest over tens of thousands of tokens. Each of these gets next to no gradient.
#
# How large is the rest? The next cell prints the mass outside the top $k$. Then it looks at the *median* token of each
# position, one that nobody would say there, and multiplies its probability by $V$. If all tokens were equally likely, the
# product would be 1. A model trained with label smoothing of 0.1 learns to give every token at least $0.1 / V$: the product
# is near 0.1.

# %%
tail = top_k_log_probs(teacher_logits, lab.preset.top_k)[1][:, -1].exp().sort().values  # (N,), surest position first
half = len(tail) // 2
print(f"mass outside the top {lab.preset.top_k}: {tail.mean():.1%} on average, "
      f"{tail[:half].mean():.1%} in the surer half of the positions, {tail[half:].mean():.1%} in the other")
for name, logits in (("teacher", teacher_logits), ("student", student_logits)):
    print(f"{name}: V x median probability {float(size * logits.softmax(-1).median(-1).values.mean()):.3f}")

# %% [markdown]
# **Read, at `laptop`:** Outside the top 256 lies 0.5 % of the teacher's mass, nearly all of it in the half of the positions
# where it is less sure: honest doubt. For both models the product is far below `0.1`: neither spreads its mass as label
# smoothing would.
#
# We fine-tune the stand-in without label smoothing, so that it stays so. With it, a tenth of its mass would lie on tokens
# that nobody would say (Müller et al., *When does label smoothing help?*, 2019), and the student would learn that too.
#
# ## 4. Stored once
#
# **Why.** Without stored distributions the teacher would have to run beside the student in every epoch.
# `lab.teacher_distributions()` runs it over all training clips at the first call. It writes one file per batch, so that a
# stopped run goes on at the batch where it was.
#
# **Predict:** how many times smaller are these files than all probabilities in fp16?

# %% tags=["predict"]
prediction = ...  # a factor

# %%
outputs = lab.teacher_distributions()
stored = sum(path.stat().st_size for path in outputs.folder.glob("*.safetensors"))
tokens = sum(len(label) for label in clips.labels)
print(f"{len(outputs)} clips, {tokens:,} label tokens, k = {lab.preset.top_k}")
print(f"stored: {1000 * stored / len(outputs) / 1e6:.1f} MB per 1,000 clips")
print(f"all probabilities in fp16: {1000 * 2 * size * tokens / len(outputs) / 1e6:,.0f} MB per 1,000 clips")

# %% [markdown]
# **Read, at `laptop`:** The files take 31 MB per 1,000 clips instead of 2,103 MB, less than a sixtieth.
#
# Training asks for a batch by the ids of its clips, and gets the labelled positions in the order of the student's
# logits. The stored numbers are rounded (fp16, and computed in mixed precision), so we compare with what the teacher
# has just said:

# %%
token_ids, log_probs = outputs.lookup(batch["ids"], batch["labels"])
now = top_k_divergence(*top_k_log_probs(teacher_logits, lab.preset.top_k), student_logits)
kept = top_k_divergence(token_ids.to(lab.device), log_probs.to(lab.device), student_logits)
print(f"JS over the stored outputs {kept:.4f}, over those of a moment ago {now:.4f}")

# %% [markdown]
# **Read, at `laptop`:** The two differ by about one per cent.
#
# ## 5. Common trap: padding in the loss
#
# **Why.** Clips have labels of different length, so the shorter ones of a batch are **padded**. Padding says nothing. Yet
# the release flattens the logits to $(B \cdot T, V)$ and averages the divergence over **all** positions, the padded ones as
# well. We pad the same batch a little more, as a longer neighbour would, and look at the loss.
#
# **Predict:** nothing that was said has changed. Does the loss?

# %% tags=["predict"]
prediction = ...  # "yes" or "no"

# %%
from distilwhisper_lib import IGNORED

few, heard = lab.collator([clips[i] for i in range(4)]), {}
for model in (teacher, student):
    with torch.no_grad(), use_window(model, few["input_features"].shape[-1]):
        heard[model] = model.get_encoder()(few["input_features"].to(lab.device))


def padded_logits(model, extra: int):
    """Logits (B, T + extra, V) of the batch with `extra` more padded positions."""
    inputs = F.pad(few["decoder_input_ids"], (0, extra), value=lab.processor.tokenizer.eos_token_id).to(lab.device)
    with torch.no_grad():
        return model(encoder_outputs=heard[model], decoder_input_ids=inputs).logits

# %%
rows = []
for extra in (0, 5, 20, 60):
    pair = [padded_logits(model, extra) for model in (teacher, student)]  # (B, T, V) each
    padded = F.pad(few["labels"], (0, extra), value=IGNORED).to(lab.device)
    everywhere = js_divergence(*(logits.flatten(0, 1) for logits in pair))  # as released
    masked = js_divergence(*(labelled(logits, padded)[0] for logits in pair))  # labelled positions only
    rows.append({"more padding": extra, "over all positions": float(everywhere), "labelled only": float(masked)})
show(pd.DataFrame(rows).set_index("more padding"), digits=5)

# %% [markdown]
# **Read, at `laptop`:** The first column falls from 0.174 to 0.092 by padding alone. The second column stays.
#
# (It may rise as well: at padded positions both models say what nobody has taught them.)
#
# So over all positions a clip counts for more or less according to its neighbours in the batch. And what both models say
# after the end of a sentence is trained as if it meant something. Our losses take `labelled` positions only. That is one of
# the few places where we leave the release, on purpose.

# %% [markdown] tags=["exercise"]
# ### Exercise 3.2: A loss that ignores padding (code)
#
# ●●○ · 10 minutes · *you learn to write a distillation loss that can be trusted with batches*
#
# Write `masked_js(teacher_logits, student_logits, labels)`: the mean JS (nats, temperature 1) over the positions
# whose label is not -100. Logits have shape (B, T, V), labels (B, T). Use torch only. The result must not change when
# padding grows, and it must survive a teacher that is completely sure.

# %% [markdown] tags=["hint"]
# <details><summary>Hint 1</summary>
#
# Boolean indexing takes padding out first: `keep = labels != -100`, then `teacher_logits[keep]` has shape (N, V).
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# A sure teacher has probabilities of exactly zero, and `0 * log(0)` is NaN. Work with `log_softmax`, and
# `torch.logaddexp(log_t, log_s) - log(2)` for the logarithm of $m$.
#
# </details>

# %% tags=["stub"]
def masked_js(teacher_logits, student_logits, labels):
    raise NotImplementedError

# %% tags=["solution"]
import math

import torch


def masked_js(teacher_logits, student_logits, labels):
    # Padding goes out first, so that the mean counts labelled positions alone. Logarithms are never those of a
    # probability: one that is rounded to zero would give NaN.
    keep = labels != -100
    log_t, log_s = (logits[keep].log_softmax(-1) for logits in (teacher_logits, student_logits))  # (N, V)
    log_m = torch.logaddexp(log_t, log_s) - math.log(2)
    both = log_t.exp() * (log_t - log_m) + log_s.exp() * (log_s - log_m)
    return 0.5 * both.sum(-1).mean()

# %% tags=["also"]
from torch.nn import functional as F


def masked_js(teacher_logits, student_logits, labels):
    total, count = 0, 0
    for t, s, row in zip(teacher_logits, student_logits, labels, strict=True):
        log_t, log_s = t.log_softmax(-1), s.log_softmax(-1)
        log_m = torch.logaddexp(log_t, log_s) - math.log(2)
        js = F.kl_div(log_m, log_t, reduction="none", log_target=True) / 2
        js = js + F.kl_div(log_m, log_s, reduction="none", log_target=True) / 2
        total = total + js.sum(-1)[row != -100].sum()
        count += (row != -100).sum()
    return total / count

# %% tags=["also"]
def masked_js(teacher_logits, student_logits, labels):
    t, s = teacher_logits.softmax(-1), student_logits.softmax(-1)
    m = (t + s) / 2
    tiny = 1e-20  # keeps the logarithms finite
    js = 0.5 * (t * ((t + tiny).log() - (m + tiny).log()) + s * ((s + tiny).log() - (m + tiny).log())).sum(-1)
    mask = (labels != -100).to(js.dtype)
    return (js * mask).sum() / mask.sum()

# %% tags=["wrong"]
import torch


def masked_js(teacher_logits, student_logits, labels):
    t, s = teacher_logits.softmax(-1), student_logits.softmax(-1)
    m = (t + s) / 2
    js = 0.5 * (t * (t / m).log() + s * (s / m).log()).sum(-1)  # (B, T)
    return (js * (labels != -100)).mean()

# %% tags=["wrong"]
# says: padded ones included
def masked_js(teacher_logits, student_logits, labels):
    log_t, log_s = teacher_logits.log_softmax(-1), student_logits.log_softmax(-1)
    log_m = torch.logaddexp(log_t, log_s) - math.log(2)
    both = log_t.exp() * (log_t - log_m) + log_s.exp() * (log_s - log_m)
    return 0.5 * both.sum(-1).mean()

# %% tags=["wrong"]
# says: mean of means
def masked_js(teacher_logits, student_logits, labels):
    log_t, log_s = teacher_logits.log_softmax(-1), student_logits.log_softmax(-1)
    log_m = torch.logaddexp(log_t, log_s) - math.log(2)
    js = 0.5 * (log_t.exp() * (log_t - log_m) + log_s.exp() * (log_s - log_m)).sum(-1)  # (B, T)
    mask = labels != -100
    return ((js * mask).sum(1) / mask.sum(1)).mean()

# %% tags=["wrong"]
# says: the sum over the positions
def masked_js(teacher_logits, student_logits, labels):
    keep = labels != -100
    log_t, log_s = (logits[keep].log_softmax(-1) for logits in (teacher_logits, student_logits))
    log_m = torch.logaddexp(log_t, log_s) - math.log(2)
    return 0.5 * (log_t.exp() * (log_t - log_m) + log_s.exp() * (log_s - log_m)).sum()

# %% tags=["wrong"]
# says: no gradient reaches the student
@torch.no_grad()
def masked_js(teacher_logits, student_logits, labels):
    keep = labels != -100
    log_t, log_s = (logits[keep].log_softmax(-1) for logits in (teacher_logits, student_logits))
    log_m = torch.logaddexp(log_t, log_s) - math.log(2)
    return 0.5 * (log_t.exp() * (log_t - log_m) + log_s.exp() * (log_s - log_m)).sum(-1).mean()

# %% tags=["wrong"]
# says: no .item()
def masked_js(teacher_logits, student_logits, labels):
    keep = labels != -100
    log_t, log_s = (logits[keep].log_softmax(-1) for logits in (teacher_logits, student_logits))
    log_m = torch.logaddexp(log_t, log_s) - math.log(2)
    return 0.5 * (log_t.exp() * (log_t - log_m) + log_s.exp() * (log_s - log_m)).sum(-1).mean().item()

# %% tags=["wrong"]
# says: its gradient is not
def masked_js(teacher_logits, student_logits, labels):
    keep = labels != -100
    log_t, log_s = (logits[keep].log_softmax(-1) for logits in (teacher_logits, student_logits))
    log_m = torch.logaddexp(log_t, log_s.detach()) - math.log(2)  # m taken for a constant
    log_p = log_s.exp().detach()
    return 0.5 * (log_t.exp() * (log_t - log_m) + log_p * (log_s - log_m)).sum(-1).mean()

# %% tags=["wrong"]
# says: HALF
def masked_js(teacher_logits, student_logits, labels):
    keep = labels != -100
    log_t, log_s = (logits[keep].log_softmax(-1) for logits in (teacher_logits, student_logits))
    log_m = torch.logaddexp(log_t, log_s) - math.log(2)
    return (log_t.exp() * (log_t - log_m) + log_s.exp() * (log_s - log_m)).sum(-1).mean()

# %% tags=["wrong"]
# says: in bits
def masked_js(teacher_logits, student_logits, labels):
    keep = labels != -100
    log_t, log_s = (logits[keep].log_softmax(-1) for logits in (teacher_logits, student_logits))
    log_m = torch.logaddexp(log_t, log_s) - math.log(2)
    js = 0.5 * (log_t.exp() * (log_t - log_m) + log_s.exp() * (log_s - log_m)).sum(-1)
    return js.mean() / math.log(2)

# %% tags=["wrong"]
# says: its gradient is not
def masked_js(teacher_logits, student_logits, labels):
    keep = labels != -100
    log_t, log_s = (logits[keep].log_softmax(-1) for logits in (teacher_logits, student_logits))
    log_m = torch.logaddexp(log_t, log_s) - math.log(2)
    kl_s = (log_s.exp() * (log_s - log_m)).sum(-1).detach()  # "the second term is a constant"
    return 0.5 * ((log_t.exp() * (log_t - log_m)).sum(-1) + kl_s).mean()

# %% tags=["wrong"]
# says: a mean over the vocabulary
def masked_js(teacher_logits, student_logits, labels):
    keep = labels != -100
    log_t, log_s = (logits[keep].log_softmax(-1) for logits in (teacher_logits, student_logits))
    log_m = torch.logaddexp(log_t, log_s) - math.log(2)
    return 0.5 * (log_t.exp() * (log_t - log_m) + log_s.exp() * (log_s - log_m)).mean()

# %% tags=["wrong"]
# says: the last axis
def masked_js(teacher_logits, student_logits, labels):
    keep = labels != -100
    log_t, log_s = (logits.log_softmax(1)[keep] for logits in (teacher_logits, student_logits))  # over time
    log_m = torch.logaddexp(log_t, log_s) - math.log(2)
    return 0.5 * (log_t.exp() * (log_t - log_m) + log_s.exp() * (log_s - log_m)).sum(-1).mean()

# %% tags=["wrong"]
# says: that is KL(t || s)
def masked_js(teacher_logits, student_logits, labels):
    keep = labels != -100
    log_t, log_s = (logits[keep].log_softmax(-1) for logits in (teacher_logits, student_logits))
    return (log_t.exp() * (log_t - log_s)).sum(-1).mean()  # KL, not JS

# %% tags=["wrong"]
# says: exactly zero
def masked_js(teacher_logits, student_logits, labels):
    keep = labels != -100
    t, s = teacher_logits[keep].softmax(-1), student_logits[keep].softmax(-1)
    m = (t + s) / 2
    return 0.5 * (t * (t / m).log() + s * (s / m).log()).sum(-1).mean()

# %% tags=["wrong"]
# says: one number
def masked_js(teacher_logits, student_logits, labels):
    keep = labels != -100
    log_t, log_s = (logits[keep].log_softmax(-1) for logits in (teacher_logits, student_logits))
    log_m = torch.logaddexp(log_t, log_s) - math.log(2)
    return 0.5 * (log_t.exp() * (log_t - log_m) + log_s.exp() * (log_s - log_m)).sum(-1)

# %% tags=["wrong"]
# says: return a tensor
def masked_js(teacher_logits, student_logits, labels):
    keep = labels != -100
    log_t, log_s = (logits[keep].log_softmax(-1) for logits in (teacher_logits, student_logits))
    log_m = torch.logaddexp(log_t, log_s) - math.log(2)
    print(0.5 * (log_t.exp() * (log_t - log_m) + log_s.exp() * (log_s - log_m)).sum(-1).mean())

# %% tags=["wrong"]
# says: a label is 0
def masked_js(teacher_logits, student_logits, labels):
    keep = labels > 0  # 0 is a token
    log_t, log_s = (logits[keep].log_softmax(-1) for logits in (teacher_logits, student_logits))
    log_m = torch.logaddexp(log_t, log_s) - math.log(2)
    return 0.5 * (log_t.exp() * (log_t - log_m) + log_s.exp() * (log_s - log_m)).sum(-1).mean()

# %% tags=["wrong"]
# says: m comes second
from torch.nn import functional as F


def masked_js(teacher_logits, student_logits, labels):
    keep = labels != -100
    log_t, log_s = (logits[keep].log_softmax(-1) for logits in (teacher_logits, student_logits))
    log_m = torch.logaddexp(log_t, log_s) - math.log(2)
    of_t = F.kl_div(log_t, log_m, reduction="batchmean", log_target=True)  # the order of its arguments
    return 0.5 * (of_t + F.kl_div(log_s, log_m, reduction="batchmean", log_target=True))

# %% tags=["wrong"]
# says: that of the logits
def masked_js(teacher_logits, student_logits, labels):
    keep = labels != -100
    t, s = teacher_logits[keep], student_logits[keep]
    log_t, log_s, log_m = t.log_softmax(-1), s.log_softmax(-1), ((t + s) / 2).log_softmax(-1)
    return 0.5 * (log_t.exp() * (log_t - log_m) + log_s.exp() * (log_s - log_m)).sum(-1).mean()

# %% tags=["wrong"]
# says: log 2 has to be subtracted
def masked_js(teacher_logits, student_logits, labels):
    keep = labels != -100
    log_t, log_s = (logits[keep].log_softmax(-1) for logits in (teacher_logits, student_logits))
    log_m = torch.logaddexp(log_t, log_s)  # of the sum, not of the average
    return 0.5 * (log_t.exp() * (log_t - log_m) + log_s.exp() * (log_s - log_m)).sum(-1).mean()

# %% tags=["wrong"]
# says: logarithm of a negative number
def masked_js(teacher_logits, student_logits, labels):
    t, s = teacher_logits[labels != -100], student_logits[labels != -100]  # without softmax
    m = (t + s) / 2
    return 0.5 * (t * (t / m).log() + s * (s / m).log()).sum(-1).mean()

# %% tags=["check"]
from checks_03 import check_masked_js
from exercise import check

check(check_masked_js, masked_js)

# %% [markdown]
# ## 6. The sum of the losses, and one step by hand
#
# **Why.** CE, gate budget and JS are added up to one loss, so their weights decide what counts. The release has two
# constants for that, $\sigma_1 = 1.41$ and $\sigma_2 = 1$:
#
# $$L = \frac12\left(\frac{CE + L_{gate}}{\sigma_1^2} + \frac{JS}{\sigma_2^2}\right) \;\propto\;
# CE + L_{gate} + 1.99\, JS$$
#
# Without a teacher the loss is $CE + L_{gate}$.
#
# **Predict:** the weighted sum is about a quarter as large as the sum on the right. Does a run with Adam learn four times
# more slowly?

# %% tags=["predict"]
prediction = ...  # "yes" or "no"

# %%
from distilwhisper_lib import gate_budget_loss, last_gates, position_masks, total_loss

ce, gate, kd = torch.tensor(2.0), torch.tensor(0.1), torch.tensor(0.2)
weighted = total_loss(ce, gate, kd)
assert torch.isclose(weighted, 0.5 * ((ce + gate) / 1.41**2 + kd))
print(f"L = {weighted:.4f}; relative to CE, JS weighs {0.5 / (0.5 / 1.41**2):.2f} times as much")
print(f"without a teacher: {total_loss(ce, gate):.4f}")

# %% [markdown]
# **Read, at `laptop`:** A nat of JS weighs 1.99 times as much as a nat of CE. But JS is at most $0.69$ nats, and CE has
# no limit.
#
# The answer is no. Adam divides the gradient by its own running size, so a common factor cancels out; only the relation of
# the parts stays. One step of training does see the scale: gradients above norm 1 are clipped, and with a smaller loss
# fewer are.
#
# As the scales differ, never compare `loss` between a run with and one without distillation. Compare `ce`, or the
# validation CE.
#
# **Build:** the loss of one batch, from the parts above and the gate budget of notebook 02.

# %% tags=["build"]
from checks_03 import built_step_loss


def step_loss(model, batch, outputs):
    """Return the loss of a batch: smoothed CE, the gate budget of 0.8 in each stack, and JS over the stored tokens."""
    raise NotImplementedError  # your code here


check_if_built(built_step_loss, step_loss)

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# Seven lines: the logits in the batch's window (`use_window`); the labelled ones (`labelled`); `cross_entropy` with
# `label_smoothing=0.1`; `position_masks(batch, frames // 2)`; `gate_budget_loss(last_gates(model), masks, 0.8,
# per_stack=True)`; `top_k_divergence(*outputs.lookup(batch["ids"], batch["labels"]), logits)`; `total_loss`.
# </details>

# %% tags=["fold"]
if is_open(step_loss):

    def step_loss(model, batch, outputs):
        """Return the loss of a batch."""
        features, inputs = batch["input_features"], batch["decoder_input_ids"]
        frames = features.shape[-1]
        with use_window(model, frames):
            logits = model(input_features=features, decoder_input_ids=inputs).logits
        logits, labels = labelled(logits, batch["labels"])
        ce = cross_entropy(logits, labels, label_smoothing=0.1)
        budget = gate_budget_loss(last_gates(model), position_masks(batch, frames // 2), 0.8, per_stack=True)
        kd = top_k_divergence(*outputs.lookup(batch["ids"], batch["labels"]), logits)
        return total_loss(ce, budget, kd)

# %%
import tempfile

from distilwhisper_lib import get_method, make_trainer
from transformers import TrainingArguments

method, config = get_method("distilwhisper"), lab.run_config("distilwhisper")
ready = method.prepare(lab.student(), lab.preset.language, config).to(lab.device).train()
on_device = {name: value.to(lab.device) if torch.is_tensor(value) else value for name, value in batch.items()}
arguments = TrainingArguments(output_dir=tempfile.mkdtemp(), report_to=[], remove_unused_columns=False)
trainer = make_trainer(ready, arguments, config.objective, clips, clips, lab.collator, teacher=outputs)

torch.manual_seed(1)
mine = step_loss(ready, on_device, outputs)
torch.manual_seed(1)  # the same dropout and the same noise
theirs = trainer.compute_loss(ready, on_device)
torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
print(f"loss {mine:.4f}, the same as the library's")

# %% [markdown]
# One step: backward, and Adam on what has a gradient.
#
# **Predict:** which of Whisper's own weights have a gradient?

# %% tags=["predict"]
prediction = ...  # "all", "those of the decoder" or "none"

# %%
mine.backward()
parts = {"experts": [], "gates": [], "Whisper": []}
for name, weight in ready.named_parameters():
    part = "experts" if ".experts." in name else "gates" if ".gates." in name else "Whisper"
    parts[part].append(weight)
for part, weights in parts.items():
    learning = sum(weight.numel() for weight in weights if weight.grad is not None)
    print(f"{part:8} {sum(weight.numel() for weight in weights):12,} weights, {learning:12,} with a gradient")

torch.optim.AdamW(parts["experts"], lr=1e-4).step()  # gates stay: at G = 0 the smallest step would shut half of them
torch.manual_seed(1)
with torch.no_grad():
    print(f"loss of the same batch: {mine:.4f} before the step, {step_loss(ready, on_device, outputs):.4f} after it")

# %% [markdown]
# **Read:** Whisper has no gradient at all: it is frozen. One step on one batch lowers the loss of that batch.
#
# A training is some hundred such steps. `LabTrainer` adds what a long run needs: batches whose gradients are added up, mixed
# precision, checkpoints from which a stopped run goes on, and a check that no number is infinite
# ([appendix](90_appendix_trainer.ipynb)).
#
# ## 7. Training, with and without a teacher
#
# **Why.** What does the teacher add to the experts? Two systems answer it: the same student, the same clips in the same order,
# the same number of steps. Only the teacher differs:
# - `experts`: CE and the gate budget;
# - `distilwhisper`: the same, and JS to the teacher.
#
# Both are **our variant**: a budget of 0.8 in each stack, gates that are hard in training too (notebook 02), noise of
# strength 1 on the gates, dropout of 0.1 on the expert, none on the gate, and no skipped gates. The release pools a budget
# of 0.5 over both stacks, trains soft gates with noise that rises to 5, and has the dropouts and the skip gate of notebook
# 02. Its settings were made for thousands of steps; here there are some hundred. Notebook 07 takes the differences one by
# one. The presets `toy`, `colab` and `paper` train the released settings as well.
#
# This is the longest cell of the notebook.
#
# **Predict:** which of the two ends with the lower validation CE?

# %% tags=["predict"]
prediction = ...  # "experts" or "distilwhisper"

# %%
import json

del teacher, student, model, heard, pair, ready, trainer, parts, mine, theirs  # training needs their memory
names = ("experts", "distilwhisper")
folders = {name: lab.train(name) for name in names}
runs = {name: json.loads((folder / "run.json").read_text()) for name, folder in folders.items()}
logs = {name: run["log"] for name, run in runs.items()}

# %%
rows = []
for name, run in runs.items():
    validation_ce = [entry["eval_loss"] for entry in run["log"] if "eval_loss" in entry]
    budget_loss = [entry["budget"] for entry in run["log"] if "budget" in entry]
    rows.append({
        "system": name,
        "steps": run["steps"],
        "trained weights": run["trained_parameters"],
        "seconds": round(run["seconds"]),
        "best validation CE": min(validation_ce),
        "last validation CE": validation_ce[-1],
        "last budget loss": budget_loss[-1],
    })
show(pd.DataFrame(rows).set_index("system"), digits=2)

# %% [markdown]
# **Read, at `laptop`:** Both train the same number of weights for the same number of steps. The teacher costs 11 % more
# time, for the divergence over the stored tokens. It lowers the last validation CE by less than a tenth of a nat.
#
# The curves show the way there. With label smoothing training CE cannot fall below the entropy of $q$: 1.4 with
# Whisper's vocabulary, 1.1 with the smaller one of `toy`. The last point of an epoch is the mean of fewer batches, so that
# it may jump.

# %%
from distilwhisper_lib import plot_curves

plot_curves(logs, keys=("ce", "eval_loss", "kd", "budget"))

# %% [markdown]
# *The figure shows four panels over the epochs: the smoothed training CE, the validation CE, the divergence to the
# teacher (only where there is one), and the budget loss.*
#
# **Read, at `laptop`:** Training CE falls in both. The budget loss ends above 0.1, as the table says: neither system has
# reached its budget.

# %%
plot_curves(logs, keys=("gate_encoder", "gate_decoder"))

# %% [markdown]
# *The figure shows the mean gate of the encoder (left) and of the decoder (right) over training, a line for each system.*
#
# **Read, at `laptop`:** The mean falls to one half and rises again to two thirds, short of the budget of `0.8`.
#
# Hard gates start open, all of them ($0 \geq 0$), but only for the first step, which has no noise yet. From the second step
# on there is a little. As $G$ is still next to zero, about half of the gates are shut, by chance. These are the noisy gates
# of training; section 9 looks at those of evaluation.
#
# ## 8. What they write now
#
# **Why.** A loss is not what a user sees. We let all of them transcribe the in-domain test, and look at the first clips side by
# side: what was said, what the student made of it, and what it writes with experts.
#
# **Predict:** of the first four clips, how many will be right to the last letter with the experts?

# %% tags=["predict"]
prediction = ...  # 0 to 4

# %%
from distilwhisper_lib import METHODS, comparison

key = f"{lab.preset.language}/in-domain"
systems = ("student", *names, "teacher")
written = {name: comparison.counts(lab, name, key) for name in systems}
english = lab.test_rows(key)["translation_en"]

rows = []
for i in range(4):
    rows.append({"clip": i + 1, "who": "reference", "text": written["student"]["text"].iloc[i]})
    rows.append({"clip": i + 1, "who": "in English", "text": english[i]})
    for name in systems:
        clip = written[name].iloc[i]
        errors = clip["insertions"] + clip["deletions"] + clip["substitutions"]
        rows.append({"clip": i + 1, "who": METHODS[name].label, "text": clip["prediction"], "errors": errors})
show(pd.DataFrame(rows).set_index(["clip", "who"]))

# %% [markdown]
# **Read, at `laptop`:** Of the four clips the student gets none right, with the experts it is one. In the third clip the
# experts make more word errors than the student, 7 instead of 5.
#
# So single clips do not rank systems. The whole test does, with an interval:

# %%
scores = pd.DataFrame([comparison.score(lab, name, key) for name in systems], index=systems)
show(scores[["n", "wer", "wer_low", "wer_high", "cer", "loops"]])

# %%
differences = comparison.paired(lab, ["student", "experts"], tests=["in-domain"])
columns = ["first", "other", "difference", "low", "high", "p"]
show(differences[columns].set_index(["first", "other"]), digits={"low": 2, "high": 2, "p": 3})

# %% [markdown]
# A negative difference means fewer errors for the first system; it is *decided* where its interval excludes zero.
# `p` is small where the interval is far from zero (notebook 05, section 4).
#
# **Read, at `laptop`:** With experts and teacher the student makes fewer errors, and that is decided. What the teacher
# adds is not.
#
# This is one training of each. Whether the teacher helps is asked again with more trainings in notebook 05.
#
# ## 9. What the gates have learnt
#
# **Why.** In use the gates have no noise: a position goes through the expert or it does not. A trained expert whose gate is
# shut is never used. We run validation clips through the trained models and count the open gates, layer by layer, over sound
# and text only.
#
# **Predict:** the budget is 0.8 in each stack. Will all layers be open at about four positions of five, or four layers of
# five at all positions?

# %% tags=["predict"]
prediction = ...  # "positions" or "layers"

# %%
validation = lab.clips("validation", None, lab.preset.validation_clips)
heldout = lab.collator([validation[i] for i in range(min(16, len(validation)))])


def gates_of(model, batch):
    """Gates of every layer, NaN at padding: {"encoder": (L, B, S), "decoder": (L, B, T)}."""
    logits_of(model, batch)
    gates = {stack: torch.stack(layers).float().cpu() for stack, layers in last_gates(model).items()}
    masks = position_masks(batch, gates["encoder"].shape[-1])
    return {stack: gates[stack].masked_fill(~masks[stack].cpu(), torch.nan) for stack in gates}


shares = {}
for name in names:
    gates = gates_of(lab.model(name).eval(), heldout)
    shares[name] = {stack: found.nanmean((1, 2)).tolist() for stack, found in gates.items()}

# %%
from distilwhisper_lib import plots

plots.save_figure(plots.plot_gate_layers(shares, budgets=(0.8,)), lab.results / "figures" / "gates.png")

# %% [markdown]
# *The figure shows the share of positions that go through the expert, for each encoder and decoder layer, a bar for each
# system; the line is the budget of training, 0.8 in each stack.*

# %%
rows = []
for name, by_stack in shares.items():
    encoder, decoder = (sum(layers) / len(layers) for layers in (by_stack["encoder"], by_stack["decoder"]))
    rows.append({"system": name, "open in the encoder, %": 100 * encoder, "open in the decoder, %": 100 * decoder})
show(pd.DataFrame(rows).set_index("system"))

# %% [markdown]
# **Read, at `laptop`:** Layers: all of the encoder's gates are open, and 84 to 85 % of the decoder's. Five of the
# decoder's layers are open, and the second is nearly always shut. In training about a third of these gates were shut.
#
# Mostly it was the **noise** that shut them. A gate with $G = 0.5$ is open in evaluation. Noise of strength 1 shuts it
# with probability $P(\varepsilon < -0.5) = 0.31$. So the experts were trained with some of them missing at random, as
# by dropout.
#
# Now one clip of the test, position by position: first the decoder's gates over the tokens that it reads, then the encoder's
# gates under the sound.

# %%
test = lab.test_clips(key)
short = min(range(len(test)), key=lambda i: abs(len(test.labels[i]) - 16))  # a clip of about 16 tokens
one = lab.collator([test[short]])
gates = gates_of(lab.model("distilwhisper").eval(), one)
tokenizer = lab.processor.tokenizer
read = one["decoder_input_ids"][0].tolist()
tokens = [tokenizer.decode([token]).strip().replace("\ufffd", "·") or "·" for token in read]
plots.plot_gate_positions(gates["decoder"][:, 0], tokens)

# %% [markdown]
# *The figure shows decoder layers from top to bottom, the tokens that are read from left to right; dark is the expert, light
# the shared block.*

# %%
heard_positions = int(gates["encoder"][0, 0].isfinite().sum())
frames = min(2 * heard_positions, one["input_features"].shape[-1])
text = tokenizer.decode(read, skip_special_tokens=True)
plots.plot_gates_over_sound(one["input_features"][0, :, :frames], gates["encoder"][:, 0], text)

# %% [markdown]
# *The figure shows the log-mel of the clip (above) and the encoder's gates by layer (below), on one axis of time.*
#
# **Read, at `laptop`:** The gates have become switches of whole layers: what a position hears or reads hardly changes
# them. The exception is the decoder's second layer, whose expert is used at one token alone, that of the language.
#
# So routing by token, which the method allows, is hardly used here. The budget sets the mean of the noisy gates in training;
# without noise more gates can be open than it asks. In which layers, is learnt.

# %% [markdown] tags=["exercise"]
# ### Exercise 3.3: How many tokens must be stored? (experiment)
#
# ●●○ · 15 minutes · *you learn what a good k depends on*
#
# `made_up_logits(sharpness)` from `checks_03` gives logits of a teacher and a student, (100, 2000) each; the greater
# the sharpness, the surer both are. Write `kept(teacher_logits, student_logits, k)`: top-k JS divided by full JS.
# Then find, for sharpness 3 and for sharpness 6, the smallest **power of two** $k$ that keeps at least 95 %, and put
# the two into `smallest_k`. What does that say about a teacher in a language that it hardly knows?

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# The library has all parts: `top_k_log_probs(teacher_logits, k)` gives `token_ids, log_probs`, tail included;
# `top_k_divergence(token_ids, log_probs, student_logits)` is the top-k JS. Powers of two: `2**i for i in range(12)`.
#
# </details>

# %% tags=["stub"]
def kept(teacher_logits, student_logits, k):
    raise NotImplementedError


smallest_k = {3: ..., 6: ...}

# %% tags=["solution"]
from checks_03 import made_up_logits

from distilwhisper_lib import js_divergence, top_k_divergence, top_k_log_probs


def kept(teacher_logits, student_logits, k):
    # All other tokens are one class, the tail. Merging tokens can only lower JS, so the share is at most 1.
    token_ids, log_probs = top_k_log_probs(teacher_logits, k)
    return float(top_k_divergence(token_ids, log_probs, student_logits) / js_divergence(teacher_logits, student_logits))


smallest_k = {
    sharpness: next(2**i for i in range(12) if kept(*made_up_logits(sharpness), 2**i) >= 0.95) for sharpness in (3, 6)
}
print(smallest_k, "- an unsure teacher spreads its mass, so it needs a larger k")

# %% [markdown] tags=["answer"]
# **The question: a model answer.** An unsure teacher spreads its probability over many tokens. With a fixed k more of it falls
# into the tail. Of the tail only the sum is stored: which of its tokens the teacher prefers is lost. So where a teacher hardly
# knows the language, a larger k must be stored to keep as much of JS. A good k is therefore looked for in the language that the
# teacher knows least, not in English.

# %% tags=["also"]
def kept(teacher_logits, student_logits, k):
    top = top_k_divergence(*top_k_log_probs(teacher_logits, k), student_logits)
    return top / js_divergence(teacher_logits, student_logits)  # a tensor


smallest_k = {6: 16, 3: 256}

# %% tags=["wrong"]
from checks_03 import made_up_logits

from distilwhisper_lib import js_divergence


def kept(teacher_logits, student_logits, k):
    top, token_ids = teacher_logits.topk(k, -1)  # without the tail: both are made to sum to one again
    return float(js_divergence(top, student_logits.gather(-1, token_ids)) / js_divergence(teacher_logits, student_logits))


smallest_k = {
    sharpness: next(2**i for i in range(12) if kept(*made_up_logits(sharpness), 2**i) >= 0.95) for sharpness in (3, 6)
}

# %% tags=["wrong"]
# says: upside down
def kept(teacher_logits, student_logits, k):
    top = top_k_divergence(*top_k_log_probs(teacher_logits, k), student_logits)
    return float(js_divergence(teacher_logits, student_logits) / top)

# %% tags=["wrong"]
# says: not per cent
def kept(teacher_logits, student_logits, k):
    top = top_k_divergence(*top_k_log_probs(teacher_logits, k), student_logits)
    return 100 * float(top / js_divergence(teacher_logits, student_logits))

# %% tags=["wrong"]
# says: those of the teacher
def kept(teacher_logits, student_logits, k):
    top = top_k_divergence(*top_k_log_probs(student_logits, k), teacher_logits)  # the student's k
    return float(top / js_divergence(teacher_logits, student_logits))

# %% tags=["wrong"]
# says: the share is
def kept(teacher_logits, student_logits, k):
    return float(teacher_logits.softmax(-1).topk(k, -1).values.sum(-1).mean())  # mass, not divergence

# %% tags=["wrong"]
# says: first power of two
smallest_k = {3: 256, 6: 8}

# %% tags=["wrong"]
# says: first power of two
smallest_k = {3: 16, 6: 256}  # exchanged

# %% tags=["wrong"]
# says: first power of two
smallest_k = {3: 235, 6: 15}  # the smallest k, whatever it is

# %% tags=["wrong"]
# says: must be a dictionary
smallest_k = (256, 16)

# %% tags=["wrong"]
# says: as its keys
smallest_k = {"3": 256, "6": 16}

# %% tags=["wrong"]
# says: must be a number
smallest_k = {3: "256", 6: "16"}

# %% tags=["wrong"]
# says: still open
smallest_k = {3: 256, 6: ...}

# %% tags=["wrong"]
# says: `return` missing
def kept(teacher_logits, student_logits, k):
    print(top_k_divergence(*top_k_log_probs(teacher_logits, k), student_logits))

# %% tags=["check"]
from checks_03 import check_smallest_k
from exercise import check

check(check_smallest_k, kept, smallest_k)

# %% [markdown]
# ## Summary
#
# - CE asks for the right token, JS for the teacher's whole distribution. JS is symmetric and at most log 2, KL is neither
#   symmetric nor bounded.
# - A teacher's top k, and one number for the rest, give nearly the same gradient as all of its probabilities, in less
#   than a sixtieth of the space. They are computed once.
# - A loss must not depend on padding: it counts labelled tokens alone.
# - One step is CE, gate budget and JS, added up; Whisper itself gets no gradient.
# - Systems are compared with the same clips, order and number of steps, and by what they write, not by their losses.
# - A budget sets the mean of the gates in training, pooled or in each stack. Where experts are really used, the hard gates
#   show after training.
#
# ## Glossary
#
# - **nat**: unit of information with the natural logarithm; 1 nat = 1.44 bits.
# - **label smoothing**: part of the label's mass spread over all tokens.
# - **distillation** (KD): training a student to give a teacher's distribution.
# - **KL, JS**: Kullback-Leibler and Jensen-Shannon divergence.
# - **tail**: the mass of all tokens that are not stored, as one class.
# - **teacher forcing**: the decoder reads the right text so far, not its own.
# - **gradient clipping**: a gradient whose norm is above a limit is scaled down to it.
#
# ## Where in the library, where in the paper
#
# - `distilwhisper_lib/method/losses.py` (all losses); `training/`: `teacher.py` (cached teacher distributions),
#   `trainer.py` (`LabTrainer`); `data/batches.py` (masks, order of the clips).
# - Paper: its parts on the method (losses, budget) and on settings. Constants, label smoothing and the mean over padded
#   positions: the authors' release (`DistillationTrainer.py`, `DistilWhisper.py`).
