# %% [markdown]
# # 03 Distillation
#
# **Goal.** Train the experts of notebook 02 with and without a teacher, with losses that you have checked by hand.
#
# **You will be able to**
# - derive the paper's losses (CE, JS and KL, gate budget) and compute each on paper;
# - store a teacher's distributions in less than a sixtieth of the space, and measure what is lost;
# - find two silent mistakes: padding in the loss, and wrong scaling of accumulated gradients;
# - read training curves and gates, and say what the budget decides;
# - stop a training and let it go on, with the same result.
#
# **Prerequisites.** Notebook 02; notebook 01 says what the teacher stand-in is.
#
# | preset | machine | time | memory |
# |---|---|---|---|
# | smoke | 2 cores | under 1 min | 1 GB |
# | laptop | 2 cores | 23 min, nearly all of it four trainings | 5.8 GB |
# | colab | T4 | not measured yet | not measured yet |
#
# Four systems are trained here (section 8), and the teacher where notebook 01 has not trained it yet. What has been
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

from distilwhisper_lib import cross_entropy, js_divergence, kl_divergence

torch.manual_seed(0)
student_logits, teacher_logits = torch.randn(6, 5), 2 * torch.randn(6, 5)  # (N, V)
labels = torch.tensor([0, 3, 1, 1, 4, 2])  # (N,)

q = 0.9 * F.one_hot(labels, 5) + 0.1 / 5  # (N, V)
by_hand = -(q * student_logits.log_softmax(-1)).sum(-1).mean()
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

# %%
def kl(p, q):
    """KL(p || q) per position: (N, V), (N, V) -> (N,)."""
    return (p * (p / q).log()).sum(-1)


t, s = teacher_logits.softmax(-1), student_logits.softmax(-1)
m = (t + s) / 2
js = 0.5 * kl(t, m) + 0.5 * kl(s, m)  # (N,)
assert torch.allclose(kl(t, s).mean(), kl_divergence(teacher_logits, student_logits))
assert torch.allclose(js.mean(), js_divergence(teacher_logits, student_logits))
print(f"KL(t||s) {kl(t, s).mean():.3f}   KL(s||t) {kl(s, t).mean():.3f}   JS {js.mean():.3f} (the same both ways)")

nothing_in_common = torch.tensor([[60.0, 0.0]]), torch.tensor([[0.0, 60.0]])
print(f"nothing in common: KL {kl_divergence(*nothing_in_common):.1f}   JS {js_divergence(*nothing_in_common):.4f}")

# %% [markdown]
# **Read:** KL changes when the two change places, JS does not. With nothing in common KL is as large as the logits make it,
# 60 here. JS is $\log 2 = 0.6931$.
#
# The difference matters where the teacher is sure and the student is sure of something else, as at the first token of a
# clip that the student hears wrongly. A few such positions can make up most of a KL loss. In a JS loss each of them counts
# at most $\log 2$. With two tokens it can be drawn:

# %%
import matplotlib.pyplot as plt

student_p = torch.linspace(0.001, 0.999, 400)
teacher, student = (torch.stack([p, 1 - p], -1).log() for p in (torch.full_like(student_p, 0.9), student_p))
curves = {"KL(t || s)": [kl_divergence(a[None], b[None]) for a, b in zip(teacher, student, strict=True)],
          "JS(t, s)": [js_divergence(a[None], b[None]) for a, b in zip(teacher, student, strict=True)]}
fig, ax = plt.subplots(figsize=(6, 4))
for (name, values), colour in zip(curves.items(), ("#ff9f1c", "#10427a"), strict=True):
    ax.plot(student_p, values, color=colour, label=name)
ax.axhline(float(torch.tensor(2.0).log()), color="#7f7f7f", linestyle=":", label="log 2")
ax.set(xlabel="the student's probability of a token that the teacher gives 0.9", ylabel="nats", ylim=(0, 4))
ax.legend()
fig.tight_layout()

# %% [markdown]
# *The figure shows KL and JS over the student's probability of a token to which the teacher gives 0.9. Both touch zero at
# 0.9. To the left KL rises steeply, and JS stays below log 2.*
#
# Near agreement both curves are flat, with $KL \approx 4 \, JS$. Training does not see a curve: it sees the gradient with
# respect to the student's logits. For KL this gradient is $s - t$: the more the student misses, the harder the pull, up to
# 1. In the gradient of JS each token's part has the student's own probability $s_v$ as a factor. So JS hardly pulls at a
# token that the student finds impossible, whatever the teacher says.

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
# **Read:** These clips were in no training of either model. The teacher's cross-entropy is well under half of the
# student's. Its likeliest token is right at 83 % of the positions, the student's at 59 %. That is what there is to learn.
# (The tokens for language and task count as well.)
#
# Now the same with less and less of the teacher. Two things are compared with the full JS: its value, and the direction of
# its gradient with respect to the student's logits, because training sees gradients only. Directions are compared by their
# cosine; 1 is the same direction.

# %%
import pandas as pd


def gradient(divergence, *teacher) -> torch.Tensor:
    """Gradient of a divergence with respect to the student's logits, as one long vector."""
    logits = student_logits.clone().requires_grad_(True)
    return torch.autograd.grad(divergence(*teacher, logits), logits)[0].flatten()


whole, size, rows = gradient(js_divergence, teacher_logits), teacher_logits.shape[-1], []
for k in (1, 4, 16, 64, 256, 1024):
    stored = top_k_log_probs(teacher_logits, k)  # token ids (N, k), log-probabilities (N, k + 1)
    kept = 100 * float(top_k_divergence(*stored, student_logits)) / full["JS"]
    assert kept < 101  # a lower bound, up to rounding
    cosine = F.cosine_similarity(whole, gradient(top_k_divergence, *stored), dim=0)
    rows.append({"k": k, "JS kept, %": kept, "gradient, cosine": float(cosine), "bytes a token": 4 * k + 2 * (k + 1)})
print(f"all {size:,} tokens: {2 * size:,} bytes in fp16")
table = pd.DataFrame(rows).set_index("k")
table.round(3)

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
# **Read:** The teacher is mostly sure, so it needs little room: 4 tokens keep 93 % of JS, 16 tokens 97 %, the preset's 256
# tokens 99 %. The **gradient** needs fewer: with 4 tokens its cosine is 0.998.
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
# **Read:** Outside the top 256 lies 0.5 % of the teacher's mass, nearly all of it in the half of the positions where it is
# less sure: honest doubt. For both models the product is far below `0.1`.
#
# That is why the stand-in is fine-tuned without label smoothing. With it, a tenth of its mass would lie on tokens that
# nobody would say (Müller et al., *When does label smoothing help?*, 2019), and the student would learn that too.
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
# **Read:** The files take 31 MB per 1,000 clips instead of 2,103 MB, less than a sixtieth.
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
# **Read:** The two differ by less than one per cent.
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
pd.DataFrame(rows).set_index("more padding").map("{:.5f}".format)

# %% [markdown]
# **Read:** The first column falls from 0.178 to 0.094 by padding alone. The second column stays.
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
# says: half of KL(t || m)
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

# %% tags=["check"]
from checks_03 import check_masked_js
from exercise import check

check(check_masked_js, masked_js)

# %% [markdown]
# ## 6. Common trap: accumulation
#
# **Why.** Where memory is short, a batch of 8 is computed as 4 batches of 2, and the gradients are added up: **gradient
# accumulation**. The recipe of the release accumulates two batches of 8. The result should be that of one large batch. Is
# it?
#
# We take a tiny random Whisper, so that it takes no time, and one training step on the same eight clips: once with
# transformers' `Trainer` as it comes, once with this project's `LabTrainer`.
#
# **Predict:** by what factor does the gradient's norm change from 1 x 8 to 4 x 2?

# %% tags=["predict"]
prediction = ...  # a factor

# %%
import tempfile

from transformers import PrinterCallback, Trainer, TrainingArguments

from distilwhisper_lib import Clips, Collator, Objective, load_processor, load_whisper, make_trainer

processor, scratch = load_processor("tiny"), tempfile.mkdtemp()
eight = Clips(lab.rows("train", limit=8), processor, lab.preset.language)
collator = Collator(processor.tokenizer, None)  # Whisper's own 30 s window


def step_arguments(batch_size: int, accumulation: int) -> TrainingArguments:
    """One training step; the log holds the gradient's norm."""
    return TrainingArguments(output_dir=scratch, per_device_train_batch_size=batch_size, max_steps=1, logging_steps=1,
                             gradient_accumulation_steps=accumulation, save_strategy="no", report_to=[],
                             disable_tqdm=True, remove_unused_columns=False, use_cpu=True)

# %%
def stock_trainer(arguments):
    def collate(items):
        return {name: collator(items)[name] for name in ("input_features", "decoder_input_ids", "labels")}

    return Trainer(load_whisper("tiny"), arguments, collate, eight)


def our_trainer(arguments):
    objective = Objective(label_smoothing=0.0, budget=None)  # plain cross-entropy
    return make_trainer(load_whisper("tiny"), arguments, objective, eight, eight, collator)


# %%
rows = []
for name, build in (("transformers' Trainer", stock_trainer), ("LabTrainer", our_trainer)):
    for batch_size, accumulation in ((8, 1), (2, 4)):
        trainer = build(step_arguments(batch_size, accumulation))
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        log = trainer.state.log_history[0]
        rows.append({"trainer": name, "batches": f"{accumulation} x {batch_size}", "loss": log["loss"],
                     "gradient norm": float(log["grad_norm"])})
table = pd.DataFrame(rows).set_index(["trainer", "batches"])
table.round(4)

# %% [markdown]
# **Read:** With the stock `Trainer`, loss and gradient of `4 x 2` are four times those of `1 x 8`. With `LabTrainer` both
# are equal.
#
# The `Trainer` believes that Whisper divides its loss by the number of tokens of *all* accumulated batches. But Whisper
# takes the mean of each batch for itself, so four means are added up. Adam hides the mistake, because it divides the
# gradient by its own size. Gradient clipping (at norm 1, the default) and the logged loss do not hide it.
#
# Dividing by four is not quite right either. Batches have different numbers of tokens, and a mean of means gives a token in
# a short batch more weight. `LabTrainer` multiplies each batch's loss by its share of the tokens. By hand:

# %%
def gradient_norm(batches, weights):
    """Norm of the gradient of the weighted sum of the batches' mean losses."""
    model = load_whisper("tiny")
    for batch, weight in zip(batches, weights, strict=True):
        logits = model(input_features=batch["input_features"], decoder_input_ids=batch["decoder_input_ids"]).logits
        (weight * cross_entropy(*labelled(logits, batch["labels"]))).backward()
    return float(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm())


whole = collator([eight[i] for i in range(8)])
quarters = [collator([eight[i] for i in (j, j + 1)]) for j in (0, 2, 4, 6)]
tokens = [int((quarter["labels"] != IGNORED).sum()) for quarter in quarters]
print("label tokens of the four batches:", tokens)
print(f"8 at once {gradient_norm([whole], [1]):.4f}   added up {gradient_norm(quarters, [1] * 4):.4f}   "
      f"mean of means {gradient_norm(quarters, [1 / 4] * 4):.4f}   "
      f"by tokens {gradient_norm(quarters, [n / sum(tokens) for n in tokens]):.4f}")

# %% [markdown]
# **Read:** "By tokens" is the batch of eight, to the last digits shown. "Mean of means" is close, but not the same: 2.5163
# instead of 2.4992.
#
# (One term has no such rule: the gate budget is the absolute value of a mean, and no sum over parts of a batch gives that
# back. It is exact where all parts lie on the same side of $b$.)
#
# ## 7. The sum of the losses
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
from distilwhisper_lib import total_loss

ce, gate, kd = torch.tensor(2.0), torch.tensor(0.1), torch.tensor(0.2)
weighted = total_loss(ce, gate, kd)
assert torch.isclose(weighted, 0.5 * ((ce + gate) / 1.41**2 + kd))
print(f"L = {weighted:.4f}; relative to CE, JS weighs {0.5 / (0.5 / 1.41**2):.2f} times as much")
print(f"without a teacher: {total_loss(ce, gate):.4f}")

# %% [markdown]
# **Read:** A nat of JS weighs 1.99 times as much as a nat of CE. But JS is at most $0.69$ nats, and CE has no limit.
#
# The answer is no. Adam divides the gradient by its own running size, so a common factor cancels out; only the relation of
# the parts stays. One step of training does see the scale: gradients above norm 1 are clipped, and with a smaller loss
# fewer are.
#
# As the scales differ, never compare `loss` between a run with and one without distillation. Compare `ce`, or the
# validation CE.
#
# ## 8. Training, with and without a teacher
#
# **Why.** What does the teacher add to the experts? Four systems answer it: the same student, the same clips in the same
# order, the same number of steps. They are two pairs, and within a pair only the teacher differs:
#
# | | without the teacher | with the teacher (JS) |
# |---|---|---|
# | settings of the release | **CLSR-FT**, in the code `clsr-ft` | **DistilWhisper, pooled budget**, `distilwhisper-released` |
# | our variant | **our variant without teacher**, `experts` | **DistilWhisper, our variant**, `distilwhisper` |
#
# The pairs differ in several settings. The release's were made for thousands of steps. Ours were chosen on validation;
# notebook 07 shows what each of them does.
#
# | setting | release | our variant |
# |---|---|---|
# | budget (notebook 02, section 8) | 0.5, pooled | 0.8, in each stack |
# | gates in training (notebook 02, section 7) | soft | hard |
# | noise rises to | 5 | 1 |
# | dropout of experts, of gates | 0.3, 0.1 | 0.1, 0 |
# | a layer skips its expert for a batch | with probability 0.2 | never |
# | learning rate at preset laptop | 0.0003 | 0.0001 |
#
# Why hard gates, and why less noise? To have a mean of 0.8, a soft gate must move its logit $G$ away from 0, where it
# starts. How far depends on the noise:

# %%
eps, logit = torch.randn(20_000), torch.linspace(0, 8, 161)
for alpha in (0.0, 1.0, 5.0):
    means = torch.sigmoid(logit[:, None] + alpha * eps).mean(1)  # (161,)
    print(f"alpha = {alpha:.0f}: a mean gate of 0.8 needs G = {logit[int((means < 0.8).sum())]:.1f}")

# %% [markdown]
# **Read:** Without noise a logit of 1.4 is enough, and noise of strength 1 hardly changes that. Noise of strength 5 asks for
# 4.4.
#
# How far can $G$ come? In a step of Adam a weight moves by about the learning rate. So steps times rate limit the way, and
# here there are few steps. With the release's noise a budget of 0.8 may still be missed when training ends.
#
# With less noise a soft gate can get there. But evaluation rounds a gate of 0.8 to 1: the expert has its whole weight
# there, and had four fifths of it in training. A hard gate is 0 or 1 in both. A gap of another kind remains: in
# training the noise shuts some gates that are open in evaluation. Section 10 looks at it.
#
# The next cell is the longest of the notebook.
#
# **Predict:** which of the four ends with the lowest validation CE?

# %% tags=["predict"]
prediction = ...  # the name of a system

# %%
import json

del teacher, student, model, heard, pair, teacher_logits, student_logits, logits  # training needs their memory
names = ("clsr-ft", "distilwhisper-released", "experts", "distilwhisper")
folders = {name: lab.train(name) for name in names}
runs = {name: json.loads((folder / "run.json").read_text()) for name, folder in folders.items()}
logs = {name: run["log"] for name, run in runs.items()}

# %%
facts = ("steps", "epochs", "learning_rate", "trained_parameters", "seconds", "peak_memory_gb")
table = pd.DataFrame({name: {fact: run[fact] for fact in facts} for name, run in runs.items()})
measured = {name: [row["eval_loss"] for row in log if "eval_loss" in row] for name, log in logs.items()}
table.loc["best validation CE"] = {name: min(values) for name, values in measured.items()}
table.loc["last validation CE"] = {name: values[-1] for name, values in measured.items()}
table.map("{:,.6g}".format)

# %% [markdown]
# **Read:** All four train the same number of parameters for the same number of steps. The teacher costs 10 to 14 % more
# time, for the divergence over the stored tokens. In either pair it lowers the last validation CE, by 0.06 nats. The lowest
# is that of `distilwhisper`.
#
# The curves show the way there. With label smoothing training CE cannot fall below 1.4: that is the entropy of $q$. The
# last point of an epoch is the mean of fewer batches, so that it may jump.

# %%
from distilwhisper_lib import plot_curves

plot_curves(logs, keys=("ce", "eval_loss", "kd", "budget"))

# %% [markdown]
# *The figure shows four panels over the epochs: the smoothed training CE, the validation CE, the divergence to the
# teacher (only where there is one), and the budget loss.*
#
# **Read:** Training CE falls in all four. On validation our variant lies below the release's settings after every
# epoch, with the teacher and without it. But the release's settings come near in six epochs, and still fall. Our
# variant's budget loss ends well above zero: it has not reached its budget.
#
# CE is that of *forced* texts. The WER of what `generate` writes is in notebook 05.

# %%
plot_curves(logs, keys=("gate_encoder", "gate_decoder"))

# %% [markdown]
# *The figure shows the mean gate of the encoder (left) and of the decoder (right) over training, a line for each system.*
#
# **Read:** Soft gates start at one half, because $G = 0$. With the pooled budget the encoder's mean stays near 0.5. The
# decoder's falls below 0.4: it has few positions, so that it hardly counts in the pooled mean.
#
# **Read:** Our variant's mean falls to one half and rises again to two thirds, short of the budget of `0.8`.
#
# Hard gates start open, all of them ($0 \geq 0$), but only for the first step, which has no noise yet. From the second step
# on there is a little. As $G$ is still next to zero, about half of the gates are shut, by chance. (The first point of the
# curve is the mean of five steps.) These are the noisy gates of training; section 10 looks at those of evaluation.
#
# ## 9. A run that is stopped goes on
#
# **Why.** A laptop sleeps, Colab disconnects, and a long training should not start again. After every epoch a
# **checkpoint** is written: the trained weights, Adam's moments and the random numbers, and a mark once all of it is on
# disk. The next call of `lab.train` goes on from the last marked checkpoint and removes a half-written one. The order
# of the clips depends on seed and epoch alone. So the result should be the same as without the stop.
#
# We train a tiny model for three epochs of four batches, and pull the plug at the eighth batch.
#
# **Predict:** how many of the twelve batches does the next call have to train on?

# %% tags=["predict"]
prediction = ...  # a number from 0 to 12

# %%
from dataclasses import replace
from pathlib import Path

from distilwhisper_lib import Lab, train_run

small = replace(lab.preset, student="tiny", batch_size=2, accumulation=1, margin_seconds=1.0)
config = Lab(small).run_config("clsr-ft", learning_rate=1e-3, epochs=3, seed=1)
tiny_collator = Collator(processor.tokenizer, small.margin_seconds)
one = Clips(lab.rows("validation", limit=1), processor, lab.preset.language)


def train_tiny(folder: Path, collator) -> Path:
    """Three epochs of four steps, on the eight clips of section 6; validated on a single clip."""
    return train_run(config, folder, eight, one, collator)


# %%
def counting(batches: list, plug: int | None = None):
    """A collator that adds the ids of each training batch to `batches`; at batch number `plug` it fails instead."""

    def collate(items):
        if len(items) == small.batch_size:  # training: a batch of validation is the one clip
            if len(batches) + 1 == plug:
                raise KeyboardInterrupt(f"the plug was pulled at batch {plug}")
            batches.append([item["id"] for item in items])
        return tiny_collator(items)

    return collate

# %%
stopped, whole_run = Path(scratch) / "stopped", Path(scratch) / "whole"
before, after, without = [], [], []  # the training batches of three calls: until the stop, after it, without one
try:
    train_tiny(stopped, counting(before, plug=8))
except KeyboardInterrupt as interruption:
    print(interruption)
for path in sorted(stopped.rglob("*")):
    if path.is_file():
        print(f"{path.relative_to(stopped)!s:50} {path.stat().st_size / 1000:8.1f} kB")
assert any(stopped.rglob("complete"))

# %% [markdown]
# **Read:** The checkpoint of step 4, the end of the first epoch, is whole: it holds the file `complete`. There is no
# `run.json`, so the run is not over.
#
# The same call again goes on from there: of the first epoch nothing is computed again, of the second all. And once more
# without any stop, to compare:

# %%
train_tiny(stopped, counting(after))
train_tiny(whole_run, counting(without))
assert before == without[:7] and after == without[4:]  # the same clips in the same order, from step 4 on
print(f"batches: {len(before)} until the stop, {len(after)} after it; {len(without)} without a stop")
name = f"model/experts.{lab.preset.language}.safetensors"
print("after:", *sorted(path.name for path in stopped.iterdir()))
print("the same experts to the last bit:", (stopped / name).read_bytes() == (whole_run / name).read_bytes())

# %%
import shutil

shutil.rmtree(scratch)

# %% [markdown]
# **Read:** There were 7 batches until the stop and 8 after it, where 12 are enough without a stop. The experts are the same
# to the last bit.
#
# A `KeyboardInterrupt` is a polite stop. The project's tests do the same with `SIGKILL`, which leaves no time for
# anything. To stop a training of your own, interrupt the kernel or close the laptop. To go on, run the cell again.
#
# ## 10. What the budget has done
#
# **Why.** After training the gates are hard: a position goes through the expert or it does not. A trained expert whose gate
# is shut is never used. So we run a batch of validation clips through the trained models and count the open gates, layer by
# layer, over sound and text only.
#
# **Predict:** the pooled budget wants half of the gates open. In which layers will they be? And with 0.8 in each stack?

# %% tags=["predict"]
prediction = ...  # for each of the two: encoder or decoder, low or high layers

# %%
from distilwhisper_lib import last_gates, position_masks

validation = lab.clips("validation", None, lab.preset.validation_clips)
heldout = lab.collator([validation[i] for i in range(min(16, len(validation)))])


def open_shares(model) -> dict[str, list[float]]:
    """Share of open gates of each layer over the sound and the text of `heldout`."""
    logits_of(model, heldout)
    gates = last_gates(model)  # {"encoder": [(B, S) per layer], "decoder": [(B, T) per layer]}
    masks = position_masks(heldout, gates["encoder"][0].shape[1])
    return {stack: [float(g[masks[stack].to(g.device)].float().mean()) for g in layers]
            for stack, layers in gates.items()}


shares = {name: open_shares(lab.model(name)) for name in names}

# %%
from distilwhisper_lib import plot_gate_layers

plot_gate_layers(shares, budgets=(0.5, 0.8))

# %% [markdown]
# *The figure shows the share of positions that go through the expert, for each encoder and decoder layer, a bar for each
# system; the lines are the budgets of training: dotted 0.5, over both stacks together, for the first two systems; dashed
# 0.8, in each stack, for our variant with and without the teacher.*

# %%
mean = {name: {stack: sum(layers) / len(layers) for stack, layers in found.items()} for name, found in shares.items()}
pd.DataFrame(mean).T.round(2)

# %% [markdown]
# **Read:** With the pooled budget 71 % and 61 % of the encoder's gates are open, and 5 % of the decoder's: its experts
# have been trained and are hardly ever used. The encoder has more open gates than in training, where its mean was near
# 0.5, because evaluation rounds soft gates.
#
# **Read:** With a budget in each stack all of the encoder's gates are open, and 84 to 85 % of the decoder's. The figure
# shows where: five of its layers are open, and the second is nearly always shut. In training about a third of these
# gates were shut.
#
# Mostly it was the **noise** that shut them. A gate with $G = 0.5$ is open in evaluation. Noise of strength 1 shuts it
# with probability $P(\varepsilon < -0.5) = 0.31$. So the experts were trained with some of them missing at random, as
# by dropout.
#
# It is the decoder that writes the language. If its experts matter, the two pairs should differ in the comparison
# (notebook 05). How many gates are open is the budget's doing; in which layers, is learnt. Notebook 05 looks at single
# tokens.

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
# - A loss must not depend on padding, and a step must not depend on accumulation: count labelled tokens in both.
# - Systems are compared with the same clips, order and number of steps. A stopped run goes on to the same bits.
# - A budget says how many gates are open, pooled or in each stack. Where experts are really used, the hard gates show after
#   training.
#
# ## Glossary
#
# - **nat**: unit of information with the natural logarithm; 1 nat = 1.44 bits.
# - **label smoothing**: part of the label's mass spread over all tokens.
# - **distillation** (KD): training a student to give a teacher's distribution.
# - **KL, JS**: Kullback-Leibler and Jensen-Shannon divergence.
# - **tail**: the mass of all tokens that are not stored, as one class.
# - **teacher forcing**: the decoder reads the right text so far, not its own.
# - **gradient accumulation**: one step from the gradients of several batches.
# - **gradient clipping**: a gradient whose norm is above a limit is scaled down to it.
# - **checkpoint**: all that training needs to go on.
#
# ## Where in the library, where in the paper
#
# - `distilwhisper_lib/method/losses.py` (all losses); `training/`: `teacher.py` (cached teacher distributions),
#   `trainer.py` (`LabTrainer`), `callbacks.py` (resuming); `data/batches.py` (masks, order of the clips).
# - Paper: section 3 (losses, budget) and 4 (settings). Constants, label smoothing and the mean over padded positions:
#   the authors' release (`DistillationTrainer.py`, `DistilWhisper.py`).
