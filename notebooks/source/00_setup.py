# %% [markdown]
# # 00 · Setup: what Whisper hears, what it writes, and what we are going to test
#
# **Goal.** Have the laboratory running, hear the data, and know exactly what goes into Whisper and what comes out.
#
# **You will be able to**
# - say in five sentences what DistilWhisper is, and which of its claims this course tests;
# - transcribe speech with a real Whisper within five minutes;
# - build the mel filterbank and a log-mel spectrogram by hand, and explain each step;
# - write down the exact token ids that Whisper's decoder is given and must predict, and spot a doubled start token;
# - shorten Whisper's window of 30 seconds without more errors, and say what it saves.
#
# **Prerequisites.** Python and PyTorch; you have seen an encoder-decoder transformer before. No speech processing.
#
# | preset | machine | time | memory |
# |---|---|---|---|
# | smoke | 2 cores | under a minute | 1 GB |
# | toy | 2 cores | under a minute | 1 GB |
# | laptop | 2 cores | 1 min (the first time it also fetches 850 MB of weights and speech) | 2.6 GB |
# | colab | T4 | not measured yet | not measured yet |

# %% tags=["setup"]

# %% [markdown]
# The cell above is the same in every notebook. It defines `lab`, through which the notebooks ask for everything that
# takes long: data, models, training, transcriptions. What `lab` has computed once it keeps on disk, so running a
# notebook again is quick, and a run that was stopped goes on where it was.
#
# **How to work with these notebooks.** Each step has the same shape: *why*, *predict*, run, *read*.
# - At **Predict** write your guess into the line below, then run the next cell. A wrong guess teaches more than none.
# - **Read** says what the output shows; **Read, at `laptop`** what the committed output shows, of real speech. At another
#   preset, such as `toy` with its made-up languages, yours may say something else: ask each time whether the sentence
#   holds. (A [page](../docs/toy-languages.md#beside-real-speech) sets toy and real speech side by side.)
# - At **Build** you write a short function yourself. As soon as you have written something, its cell says whether it is
#   right, or what is wrong. The folded cell below it holds our version; it is used only where yours is still open. Then
#   both are held against the library. That cell stops with an error where yours is wrong. To go on with ours, put
#   `raise NotImplementedError` back, and run the Build cell and the folded one again.
# - **Exercises** have a check that tells you what is wrong. Solutions, each with its reason: `notebooks/solutions`. (The
#   students' edition leaves them out.)
#
# ## 1. A first transcription
#
# **Why.** Before any theory: can the small model write down what is said? The speech is Czech, one of the languages
# that the paper looks at, from the dialogues of a free computer game, *Fish Fillets – Next Generation*: two fish, who
# comment on what they see, and many other characters. (`lab.collator` makes a batch of clips: a **collator** fills the
# shorter ones up, so that all have one length.)
#
# **Predict:** three clips of a few seconds, Whisper's second smallest multilingual model: how many of three texts will
# be right to the last letter?

# %% tags=["predict"]
prediction = ...  # 0, 1, 2 or 3

# %%
from distilwhisper_lib import generate_batch

language = lab.preset.language
test_key = f"{language}/in-domain"
clips, rows = lab.test_clips(test_key), lab.test_rows(test_key)
model = lab.student()
three = [0, 1, 3]
batch = lab.collator([clips[i] for i in three])  # input_features (3, 80, F)
heard = generate_batch(model, lab.processor.tokenizer, batch["input_features"], language, "transcribe", lab.preset)

# %%
import pandas as pd

from distilwhisper_lib import show

chosen = rows.select(three)
show(pd.DataFrame({"what is said": chosen["text"], "in English": chosen["translation_en"], "what the student writes": heard}))

# %% [markdown]
# **Read:** On the left the game's subtitle, on the right what the model wrote. Say both aloud: much of the *sound* is there, and
# hardly a word. The model hears Czech and does not know it well. (At the preset `toy` the language and its sound are made
# up, and the model knows some of the words. At `smoke` the model is random: what it writes means nothing.)
#
# Now listen to the same three clips. (No sound is stored in the notebook's file: the players appear when you run it.)

# %%
from IPython.display import Audio, display

from distilwhisper_lib import SAMPLE_RATE, read_audio

for row in rows.select(three):
    print(row["text"])
    display(Audio(read_audio(row["audio"]), rate=SAMPLE_RATE))

# %% [markdown]
# You have just used the **student** of this course. Everything that follows tries to make it better in one language
# without making it worse in the others.
#
# ## 2. What this course is about
#
# **DistilWhisper in five sentences.** Whisper is one model for 99 languages, and its small versions are far behind the
# large one wherever training data was scarce. DistilWhisper (Ferraz, Boito, Brun and Nikoulina, arXiv 2311.01070)
# freezes a small Whisper and gives each feed-forward block, in encoder and decoder, a second copy per language: the
# **expert**. A tiny **gate** decides for each position and layer whether the expert or the frozen **shared block** is
# used. Experts and gates are trained on transcribed speech of one language with three losses: cross-entropy with the
# text (CE), a **budget** that asks the gates to use the experts for about half of the positions, and **distillation**
# (JS): the student's word probabilities are pulled towards those of a larger Whisper, the **teacher**. Switch the
# experts off, and the old model is there again, bit for bit.
#
# The claims that we take from the paper's abstract, and where we test them:
#
# | claim | tested in |
# |---|---|
# | 1. The small model is well behind the large one in some languages. | `01_baseline_gap` |
# | 2. Experts with distillation gain more in the chosen language than fine-tuning or LoRA … | `03`, `04`, `05` |
# | 3. … on speech like the training data (**in-domain**) and on other speech (**out-of-domain**). | `05_comparison` |
# | 4. Distillation has a part in that, not the experts alone. | `03_distillation`, `05` |
# | 5. What the model could do before is kept: other languages, other tasks. | `02_language_experts`, `05` |
# | 6. At inference the overhead is negligible. | `02`, `05` (parameters that are *stored* are another matter) |
#
# Some results will agree with the paper and some will not. Ours is a miniature: a smaller student, one to two
# hundred training clips of a language instead of 3,000 to 28,000, two languages instead of eight and more, and, without the
# model hub, a *stand-in* for the teacher. Notebook 05 says what may be concluded from it.

# %% [markdown]
# ## 3. The machine and the presets
#
# **Why.** Speech results depend on versions and precision, so every run of this course writes them down. The first
# thing to look at when your numbers differ from those shown here is this cell.

# %%
import importlib.metadata
import platform

from distilwhisper_lib import describe_machine

names = ("torch", "transformers", "datasets", "peft", "jiwer", "sacrebleu", "soundfile")
versions = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}
show(pd.Series(describe_machine() | versions, name="value"))

# %% [markdown]
# **Read:** `precision` says in which number format the matrix products run: `bf16` and `fp16` are faster where the hardware
# computes in them, `no` is plain float32. Times differ between them; texts differ only here and there.
#
# A **preset** is a set of settings. Four of them run the same notebooks, cell by cell: `smoke` to test the code
# (random tiny model, made-up sound), `toy` for the whole paper in minutes (small trained models, toy languages), `laptop`
# for real speech without a GPU, and `colab` for larger models. The fifth, `paper`, is the size of the paper's
# experiments; notebook 06 turns it into a list of jobs.
#
# **Predict:** which settings must differ between a laptop and a GPU, and which must not, if results are to be comparable?

# %% tags=["predict"]
prediction = ...  # "the models", "the clips", "the margins", … : two lists

# %%
from distilwhisper_lib import PRESETS

settings = ["student", "teacher", "corpus", "second_corpus", "language", "second_language", "voice", "epochs",
            "batch_size", "accumulation", "margin_seconds", "max_new_tokens", "test_clips", "retention_clips", "minutes", "memory"]
show(pd.DataFrame({name: vars(preset) for name, preset in PRESETS.items()}).loc[settings])

# %% [markdown]
# **Read:** Models, data and epochs may differ between presets, and do. A comparison is fair only within *one* preset:
# there all systems share the clips, the steps, the decoding and the margins. `voice` is the speaker whose clips are
# trained on; `–` means all speakers.
#
# Batch size times accumulation is the number of clips per update. A teacher of `–` is the stand-in that notebook 01
# introduces; for numbers of clips `–` means all, for `margin_seconds` the native 30 s (section 7). To use a preset, set the
# variable `LAB_PRESET`, or `PRESET` in the first cell; single settings can be changed as well:
#
# ```python
# from distilwhisper_lib import open_lab
# lab = open_lab("laptop", second_language="ro")   # Romanian experts beside the Czech ones
# ```

# %% [markdown]
# ## 4. The speech at a glance
#
# **Why.** Results are about data as much as about models. The clips are split once: `train` for every compared system,
# `teacher` for the teacher stand-in alone, `validation` to choose settings, `test` and `test-other` to report. A split
# by single lines would put the same joke, room and noise on both sides; here whole rooms of the game go to one side.
# With a `voice` in the preset the compared systems learn from this speaker alone; the teacher hears all.
#
# **Predict:** the test `test-other` has the same rooms and the same language as `test`. What may be different in it?

# %% tags=["predict"]
prediction = ...  # a word or two

# %%
from distilwhisper_lib import corpus_of, corpus_report

report = corpus_report(corpus_of(lab.preset, language), language)
splits = [split for split in ("train", "teacher", "validation", "test", "test-other") if split in report["splits"]]
frames = {split: lab.rows(split, every_voice=True).remove_columns("audio").to_pandas() for split in splits}  # no sound yet
amounts = {}
for split, frame in frames.items():
    words = frame["text"].str.split().str.len().sum()
    amounts[split] = {"clips": len(frame), "minutes": frame["duration"].sum() / 60, "words": words,
                      "median seconds": frame["duration"].median(), "speakers": frame["speaker"].nunique()}
show(pd.DataFrame(amounts).T)

# %%
table = pd.concat(frames.values())
table = pd.crosstab(table["speaker"], table["split"], margins=True, margins_name="all")[[*splits, "all"]]
show(table.sort_values("all", ascending=False).head(12))

# %% [markdown]
# **Read:** The speakers are named after the font of their subtitles. At the preset `laptop` one of the two leads, the fish that the player steers,
# `font_small`, is the voice that is trained on. Three tests follow from that:
#
# - **in-domain**: this voice's lines in `test`, in rooms that no training has seen;
# - **out-of-domain**: the other lead's lines in the same rooms: same microphone and kind of text, another speaker;
# - **stress test**: `test-other`, all other characters, many with effects (robots, creatures, talk through a helmet).
#   On these Whisper repeats itself.
#
# (At `toy` a voice is a pitch: `toy-low` is trained on, `toy-high` is the out-of-domain test. There is no stress test, and
# the second language is another made-up one.)
#
# Clips longer than the preset's `max_train_seconds` are left out of `train`, `teacher` and `validation`, for they would
# set the peak of memory.
#
# The second language has a corpus of its own, with other data: spoken descriptions of pictures, about a second each.

# %%
second = [lab.rows(split, lab.preset.second_language).remove_columns("audio").to_pandas()
          for split in ("train", "teacher", "validation", "test")]
show(pd.DataFrame([{"split": f["split"][0], "clips": len(f), "minutes": f["duration"].sum() / 60,
                    "an example": f["text"][0], "in English": f["translation_en"][0]} for f in second]))

# %% [markdown]
# Not everything in the packages could be used. What was left out is counted with its reason; the data cards in `data/`
# say more about licences, splits and known flaws.

# %%
second_corpus = corpus_of(lab.preset, lab.preset.second_language)
reports = [report, corpus_report(second_corpus, lab.preset.second_language)]
left_out = {f"{r['corpus']}, {r['language']}": {"in the package": r["items"], "kept": r["kept"], **r["dropped"]}
            for r in reports}
show(pd.DataFrame(left_out).fillna(0).astype(int))

# %% [markdown]
# From these the **tests** of the course are made. Beside the two domains: harder sound, translation into English (a task
# nobody trains here), and languages that nobody trains here. The last two show what an adaptation destroys.

# %%
tests = pd.DataFrame([vars(test) for test in lab.test_sets.values()], index=list(lab.test_sets))
show(tests[["corpus", "language", "split", "voice", "other_voices", "task", "change", "limit"]])

# %% [markdown]
# ## 5. What Whisper hears: the log-mel spectrogram
#
# **Why.** Whisper never sees the waveform. It sees, 100 times a second, how much energy there is in 80 bands of
# frequency, on a logarithmic scale: a picture of 80 rows. Everything that an encoder, an expert or a gate can use is in
# there.
#
# We build the picture by hand. A **frame** is 400 samples (25 ms), faded in and out by a window, and the next frame
# starts 160 samples (10 ms) later.

# %%
from distilwhisper_lib import plots

audio = read_audio(rows[0]["audio"])  # (n,) float32 at 16 kHz
plots.plot_waveform(audio, rows[0]["text"])

# %% [markdown]
# *The figure shows the waveform of the first clip: bursts of sound, one after another, that die away towards the end.*
#
# Three steps: the spectrum of the frame (Fourier transform: 201 frequencies, 40 Hz apart), the energy in 80 bands (a
# matrix product), the logarithm. The matrix is the **mel filterbank**. A *mel* is a unit of heard pitch: listeners were
# asked which tones sound equally far apart. Up to 1,000 Hz the scale is straight, above it is logarithmic. Whisper's
# version of it, with $f$ in Hz:
#
# $$\mathrm{mel}(f) = \begin{cases} 3f / 200 & f < 1000 \\ 15 + 27 \, \ln(f / 1000) / \ln 6.4 & f \geq 1000 \end{cases}$$
#
# **Predict:** with bands that are equally wide in mel, are the bands at 300 Hz narrower or wider than those at 5,000 Hz?

# %% tags=["predict"]
prediction = ...  # "narrower" or "wider"

# %%
import numpy as np


def mel(hertz):
    """Return the mel values of frequencies."""
    high = 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / np.log(6.4)
    return np.where(hertz < 1000, 3 * hertz / 200, high)


def hertz(mel):
    """Return the frequencies of mel values."""
    high = 1000 * np.exp(np.log(6.4) * (mel - 15) / 27)
    return np.where(mel < 15, 200 * mel / 3, high)


assert np.allclose(hertz(mel(np.array([0.0, 300.0, 1000.0, 8000.0]))), [0, 300, 1000, 8000])

# %% [markdown]
# **Build:** the filterbank. Take 82 points that are equally far apart in mel, from 0 to 8,000 Hz. Band $b$ is a triangle
# over the points $b$, $b + 1$, $b + 2$ (left, centre, right): it rises from 0 at the left point to its peak at the centre
# and falls to 0 at the right point. Its area is the same for every band, so that a wide band does not count more: the
# triangle of height 1 is multiplied by $2 / (\text{right} - \text{left})$, both in Hz.

# %% tags=["build"]
from checks_00 import built_mel_filters
from exercise import check_if_built, is_open


def mel_filters(bands):
    """Return the filterbank (201, bands); its rows are the frequencies 0, 40, 80, … 8000 Hz."""
    raise NotImplementedError  # your code here


check_if_built(built_mel_filters, mel_filters)

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# `hertz(np.linspace(mel(0), mel(8000), bands + 2))` are the points. With `left = points[:-2]` and so on all bands are
# computed at once: a rising line `(f - left) / (centre - left)` and a falling one. The triangle is the smaller of the two,
# and nowhere below 0.
# </details>

# %% tags=["fold"]
if is_open(mel_filters):

    def mel_filters(bands):
        """Return the filterbank (201, bands)."""
        points = hertz(np.linspace(mel(0), mel(8000), bands + 2))
        left, centre, right = points[:-2], points[1:-1], points[2:]
        f = np.linspace(0, 8000, 201)[:, None]  # (201, 1)
        rising = (f - left) / (centre - left)
        falling = (right - f) / (right - centre)
        return np.maximum(0, np.minimum(rising, falling)) * 2 / (right - left)

# %%
filters = lab.processor.feature_extractor.mel_filters  # (201, 80): the library's
bands = filters.shape[1]
assert np.allclose(mel_filters(bands), filters, atol=1e-6)
print(f"{bands} bands, equal to the library's")

# %%
import matplotlib.pyplot as plt

fig, ax = plt.subplots(figsize=(9, 2.6))
frequencies = np.linspace(0, 8000, 201)
for band in range(bands):
    is_example = band % 10 == 5
    ax.plot(frequencies, filters[:, band], color="#10427a" if is_example else "#d0d0d0", zorder=1 + is_example)
ax.set(title="the mel filterbank, every tenth band dark", xlabel="frequency in Hz", ylabel="weight", xlim=(0, 8000))
fig.tight_layout()

# %% [markdown]
# *The figure shows the bands as triangles over frequency: narrow, high and equally wide below 1,000 Hz; ever wider and lower
# above. The narrow ones differ in height only because they are drawn at frequencies 40 Hz apart, which miss most of the
# peaks.*
#
# **Read:** About half of the bands lie in the lowest fifth of the range.
#
# What makes an *a* an *a* and an *i* an *i* are the **formants**, resonances of the mouth. The two lowest count most; they lie between 200 and
# 2,500 Hz, where bands are narrow.
#
# **Build:** one frame. Multiply the frame by the window, take the power of its Fourier transform, sum it by bands, take the
# logarithm to base 10 (of at least $10^{-10}$, so that silence has one). The clip starts in the middle of frame 0, so 200
# samples are put before it, mirrored.

# %%
n_fft, hop = 400, 160
window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)  # Hann
padded = np.concatenate([np.pad(audio, (n_fft // 2, 0), mode="reflect"), np.zeros(n_fft)])

# %% tags=["build"]
from checks_00 import built_log_energies


def log_energies(frame, filters):
    """Return the logarithm of the energies (80,) of one frame (400,), with the filterbank (201, 80)."""
    raise NotImplementedError  # your code here


check_if_built(built_log_energies, log_energies)

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# `np.fft.rfft` of 400 real samples gives 201 complex numbers; their power is the square of `np.abs`. Then
# `power @ filters`.
# </details>

# %% tags=["fold"]
if is_open(log_energies):

    def log_energies(frame, filters):
        """Return the logarithm of the energies (80,) of one frame (400,)."""
        power = np.abs(np.fft.rfft(frame * window)) ** 2  # (201,)
        return np.log10(np.maximum(power @ filters, 1e-10))

# %%
number = 20
energies = log_energies(padded[number * hop : number * hop + n_fft], filters)  # (80,)
loudest = energies.argmax()
print(f"frame {number}: the loudest band is {loudest} of {bands}, around {frequencies[filters[:, loudest].argmax()]:.0f} Hz")

# %% [markdown]
# For the whole clip the same is done in each frame. Then Whisper cuts off what is more than 8 (that is 80 dB) below the
# clip's maximum and scales what is left to a range of 2: to $(\log + 4) / 4$. Ours and the library's must be the same
# numbers.

# %%
from distilwhisper_lib import log_mel

features = log_mel(audio, lab.processor.feature_extractor)  # (80, t)
starts = range(0, features.shape[1] * hop, hop)
by_hand = np.stack([log_energies(padded[start : start + n_fft], filters) for start in starts], axis=1)  # (80, t)
by_hand = (np.maximum(by_hand, by_hand.max() - 8) + 4) / 4
assert np.allclose(by_hand, features, atol=1e-4)  # the library's
print(f"{len(audio)} samples, {len(audio) / SAMPLE_RATE:.2f} s, become {features.shape[1]} frames of {bands} bands; "
      "ours and the library's agree")

# %% [markdown]
# **Read:** A second has $100$ frames, and there are one or two more: a frame reaches $200$ samples to either side of its
# centre, so the last ones have their centre after the end of the clip and still overlap it.

# %%
plots.plot_log_mel(features, rows[0]["text"])

# %% [markdown]
# *The figure shows the log-mel of the first clip: time from left to right, frequency from bottom to top, bright is loud.*
#
# **Read, at `laptop`:** The stripes one above the other are the overtones of a voice; where they bend, its pitch rises or
# falls. The brightest regions are the formants: they move as the vowel changes. Clouds at the top without stripes are
# consonants such as *s* and *ž*. What stays bright after the words is the room's echo. Silence is dark. What is
# more than $8$ below the maximum, before scaling, is set to one value, the floor.

# %% [markdown]
# ## 6. What Whisper writes: the decoder's tokens
#
# **Why.** Whisper has one decoder for all languages and tasks. Which of them is meant it learns from the first tokens,
# the **prefix**: start, language, task, no timestamps. In training, position *t* of the decoder is given the tokens
# before *t* and must predict token *t*, the **label**. Off by one token here, and everything after is wrong in a way
# that no error message tells.
#
# **Build:** the decoder's inputs and labels of a text. Special tokens have names: `<|startoftranscript|>`, `<|cs|>`,
# `<|transcribe|>`, `<|notimestamps|>`, `<|endoftext|>`. The start is given and never predicted; the end is predicted and
# never given.

# %% tags=["build"]
from checks_00 import built_given_and_predicted


def given_and_predicted(tokenizer, text, language):
    """Return (inputs, labels): two lists of as many token ids."""
    raise NotImplementedError  # your code here


check_if_built(built_given_and_predicted, given_and_predicted)

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# `tokenizer.convert_tokens_to_ids(["<|startoftranscript|>", …])` gives the ids of names, and
# `tokenizer(text, add_special_tokens=False).input_ids` those of the text. Write down the whole sequence from start to end
# once; inputs and labels are two parts of it.
# </details>

# %% tags=["fold"]
if is_open(given_and_predicted):

    def given_and_predicted(tokenizer, text, language):
        """Return (inputs, labels): two lists of as many token ids."""
        names = ["<|startoftranscript|>", f"<|{language}|>", "<|transcribe|>", "<|notimestamps|>"]
        words = tokenizer(text, add_special_tokens=False).input_ids
        end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
        whole = [*tokenizer.convert_tokens_to_ids(names), *words, end]
        return whole[:-1], whole[1:]

# %%
from distilwhisper_lib import decoder_inputs, encode_labels, prefix_tokens

tokenizer, text = lab.processor.tokenizer, rows[0]["text"]
labels = encode_labels(tokenizer, text, language)  # the library's
inputs = decoder_inputs(tokenizer, labels)
assert given_and_predicted(tokenizer, text, language) == (inputs, labels)
print("prefix:", tokenizer.decode(prefix_tokens(tokenizer, language)), prefix_tokens(tokenizer, language))
pieces = {"is given": inputs, "must predict": labels}
show(pd.DataFrame({name: [tokenizer.decode([i]) for i in ids] for name, ids in pieces.items()}))

# %% [markdown]
# **Read:** Go down the table: what must be predicted in a row is given in the next. Words fall into pieces, and each piece
# is a step that can go wrong. (Whisper's tokens are made of bytes; a `�` would be a part of a letter.)
#
# ### Common trap: the doubled start token
#
# Most fine-tuning recipes let the tokenizer add the prefix to the labels, cut a leading start token off in the collator,
# and let the model shift the labels to the right. The cut compares with `tokenizer.bos_token_id` (*bos*: beginning of
# sequence). **Predict:** the wrong result comes first. What does the decoder see?

# %% tags=["predict"]
prediction = ...  # the first four tokens

# %%
import torch

from distilwhisper_lib import load_processor
from transformers.models.whisper.modeling_whisper import shift_tokens_right

usual = load_processor(lab.preset.student).tokenizer  # one of its own: set_prefix_tokens changes it
usual.set_prefix_tokens(language=language, task="transcribe")
wrong_labels = torch.tensor([usual(text).input_ids])
if (wrong_labels[:, 0] == usual.bos_token_id).all():  # the cut, as in many collators
    wrong_labels = wrong_labels[:, 1:]
start = model.config.decoder_start_token_id
wrong_inputs = shift_tokens_right(wrong_labels, model.config.pad_token_id, start)
print("wrong:", usual.decode(wrong_inputs[0]))

# %% [markdown]
# Two start tokens. In Whisper's tokenizer `bos_token` is not the start token, so the cut never happens:

# %%
print("bos_token:", usual.bos_token, "  start token:", usual.decode([start]))
print("right:", tokenizer.decode(inputs))
assert inputs.count(start) == 1 and wrong_inputs[0].tolist().count(start) == 2

# %% [markdown]
# Does it matter? Training goes through without a word, for a model can get used to a doubled start. But `generate` gives
# it one, so the model is trained on one thing and used on another. The loss on the text's tokens, with each prefix:

# %%
from distilwhisper_lib import use_window


@torch.no_grad()
def text_loss(inputs, labels, features, skip):
    """Return the mean cross-entropy of the labels after the first `skip`; features (1, 80, F)."""
    ids = torch.tensor([inputs], device=model.device)  # (1, T)
    with use_window(model, features.shape[-1]):
        logits = model(input_features=features.to(model.device), decoder_input_ids=ids).logits  # (1, T, V)
    return torch.nn.functional.cross_entropy(logits[0, skip:].cpu(), torch.tensor(labels[skip:])).item()


first = batch["input_features"][:1]
print("one start token :", round(text_loss(inputs, labels, first, skip=3), 3))
print("two start tokens:", round(text_loss(wrong_inputs[0].tolist(), wrong_labels[0].tolist(), first, skip=4), 3))

# %% [markdown]
# **Read:** The same text, the same sound, another loss. The library builds the decoder's inputs itself
# (`batches.Collator`), and a test holds every id fixed.

# %% [markdown] tags=["exercise"]
# ### Exercise 0.1: labels to decoder inputs
#
# ●●○ · 10 minutes · you learn what "shifted to the right" means, and what must not leak into it
#
# In a batch the labels have different lengths; the shorter ones are filled with -100, which the loss leaves out. Write
# `make_inputs(labels, start, end)`: from labels `(B, T)` to decoder inputs `(B, T)`. Each row is shifted to the right
# by one, begins with the token `start`, and holds `end` wherever -100 would be. With start 1 and end 2 the row
# [5, 6, 2, -100, -100] becomes [1, 5, 6, 2, 2]. The labels themselves must stay as they are.

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# `torch.full_like(labels[:, :1], start)` is a column of start tokens. Which column of `labels` is given to nobody? And
# `tensor.masked_fill(mask, value)` returns a new tensor.
# </details>

# %% tags=["stub"]
import torch


def make_inputs(labels, start, end):
    raise NotImplementedError  # your code here

# %% tags=["solution"]
import torch


def make_inputs(labels, start, end):
    # Position t may see the labels before t alone: one column comes in on the left, the last goes out.
    first = torch.full_like(labels[:, :1], start)  # (B, 1)
    inputs = torch.cat([first, labels[:, :-1]], dim=1)  # (B, T)
    # -100 is no token. Its positions have no label either, so any token would do there.
    return inputs.masked_fill(inputs == -100, end)

# %% tags=["also"]
def make_inputs(labels, start, end):
    inputs = labels.roll(1, dims=1)  # a copy: the last column comes first, and is overwritten
    inputs[:, 0] = start
    inputs[inputs == -100] = end
    return inputs

# %% tags=["also"]
def make_inputs(labels, start, end):
    filled = torch.where(labels == -100, end, labels)  # first fill, then shift: the same
    return torch.nn.functional.pad(filled[:, :-1], (1, 0), value=start)

# %% tags=["wrong"]
import torch


def make_inputs(labels, start, end):
    first = torch.full_like(labels[:, :1], start)
    return torch.cat([first, labels[:, :-1]], dim=1)  # -100 goes into the embedding

# %% tags=["wrong"]
# says: changed the labels
def make_inputs(labels, start, end):
    labels[labels == -100] = end
    first = torch.full_like(labels[:, :1], start)
    return torch.cat([first, labels[:, :-1]], dim=1)

# %% tags=["wrong"]
# says: one must go out on the right
def make_inputs(labels, start, end):
    first = torch.full_like(labels[:, :1], start)
    inputs = torch.cat([first, labels], dim=1)
    return inputs.masked_fill(inputs == -100, end)

# %% tags=["wrong"]
# says: start token that is given
def make_inputs(labels, start, end):
    inputs = torch.nn.functional.pad(labels[:, :-1], (1, 0), value=50258)  # fixed numbers
    return inputs.masked_fill(inputs == -100, 50257)

# %% tags=["wrong"]
# says: not shifted
def make_inputs(labels, start, end):
    inputs = labels.masked_fill(labels == -100, end)
    inputs[:, 0] = start
    return inputs

# %% tags=["wrong"]
# says: more than once
def make_inputs(labels, start, end):
    first = torch.full_like(labels[:, :1], start)
    inputs = torch.cat([first, labels[:, :-1]], dim=1)
    return inputs.masked_fill(inputs == -100, start)

# %% tags=["wrong"]
# says: must begin with the start token
def make_inputs(labels, start, end):
    inputs = labels.roll(-1, dims=1)  # to the left
    return inputs.masked_fill(inputs == -100, end)

# %% tags=["wrong"]
# says: whole numbers
def make_inputs(labels, start, end):
    inputs = torch.zeros(labels.shape)  # fp32
    inputs[:, 0] = start
    inputs[:, 1:] = labels[:, :-1]
    inputs[inputs == -100] = end
    return inputs

# %% tags=["wrong"]
# says: return a tensor
def make_inputs(labels, start, end):
    rows = labels.tolist()
    return [[start, *(end if token == -100 else token for token in row[:-1])] for row in rows]

# %% tags=["wrong"]
# says: make_inputs(labels, start, end)
def make_inputs(labels):
    return labels

# %% tags=["wrong"]
# says: look for them after it
def make_inputs(labels, start, end):
    first = torch.full_like(labels[:, :1], start)
    inputs = torch.cat([first, labels[:, :-1]], dim=1)
    return inputs.masked_fill(labels == -100, end)  # the mask of the labels, before the shift

# %% tags=["wrong"]
# says: the token `end` that is given
def make_inputs(labels, start, end):
    first = torch.full_like(labels[:, :1], start)
    return torch.cat([first, labels[:, :-1]], dim=1).clamp(min=0)

# %% tags=["wrong"]
# says: `return` missing
def make_inputs(labels, start, end):
    first = torch.full_like(labels[:, :1], start)
    inputs = torch.cat([first, labels[:, :-1]], dim=1)
    inputs.masked_fill_(inputs == -100, end)

# %% tags=["check"]
from checks_00 import check_decoder_inputs
from exercise import check

check(check_decoder_inputs, make_inputs)

# %% [markdown]
# ## 7. The window: 30 seconds of mostly nothing
#
# **Why.** Whisper was trained on pieces of exactly 30 s; shorter clips are filled with silence. Our clips last about
# three seconds, so nine tenths of the encoder's work would go into silence. Whisper's encoder tells positions apart by
# adding a fixed pattern of sines to them. That pattern is a formula, the same for any length: we may use its first part
# and give the encoder a shorter window.
#
# The sines by hand: half the columns are sines, half cosines, with wavelengths from 2π to 2π · 10000 positions.

# %%
stored = model.get_encoder().embed_positions.weight.detach().cpu()  # (1500, d)
length, d = 250, stored.shape[1]
rates = torch.exp(-np.log(10000) * torch.arange(d // 2) / (d // 2 - 1))  # (d / 2,)
angles = torch.arange(length)[:, None] * rates  # (250, d / 2)
sines = torch.cat([angles.sin(), angles.cos()], dim=1)  # (250, d)
assert torch.allclose(sines, stored[:length], atol=2e-3)
print("the first", length, "positions of", len(stored), "by the formula: equal")

# %% [markdown]
# `use_window` does this for the time of a `with` block: the encoder then takes fewer frames, two of them to a position.

# %%
frames = batch["input_features"].shape[-1]
with torch.no_grad(), use_window(model, frames):
    states = model.get_encoder()(batch["input_features"].to(model.device)).last_hidden_state
print("features", tuple(batch["input_features"].shape), "-> encoder states", tuple(states.shape), "instead of 1500")

# %% [markdown]
# May we cut at the end of the clip? Whisper learned to stop where silence begins, so some silence should stay: the
# **margin**. Two dozen clips with three margins, and with the native window, in batches of clips of similar length:
#
# **Predict:** what will a model do that was never shown a clip without silence at its end? And what happens to the time?

# %% tags=["predict"]
prediction = ...  # it "stops in mid-word", "goes on after the end" or "translates"; the time "rises" or "falls"

# %%
import time
from dataclasses import replace

from distilwhisper_lib import length_batches

picked = list(range(min(24, len(clips))))
texts, seconds = {}, {}
for margin in (0.5, 3.0, 6.0, None):  # None: the native 30 s
    collate, began, found = replace(lab.collator, margin_seconds=margin), time.perf_counter(), {}
    for indices in length_batches(clips.durations[: len(picked)], 8):
        part = collate([clips[i] for i in indices])
        heard = generate_batch(model, tokenizer, part["input_features"], language, "transcribe", lab.preset)
        found |= zip(indices, heard, strict=True)
    texts[margin], seconds[margin] = [found[i] for i in picked], time.perf_counter() - began

# %%
from distilwhisper_lib import count_errors, word_errors

table = []
for margin in texts:
    counted = count_errors(rows.select(picked)["text"], texts[margin])
    same = [a == b for a, b in zip(texts[margin], texts[None], strict=True)]
    table.append({"margin": f"{margin:g} s" if margin else "native 30 s", "seconds": seconds[margin],
                  "words": counted["words"].sum(), "word errors": word_errors(counted).sum(),
                  "loops": counted["loop"].sum(), "same text as with 30 s": f"{sum(same)} of {len(same)}"})
show(pd.DataFrame(table).set_index("margin"))

# %%
columns = {"what is said": rows.select(picked)["text"], "0.5 s": texts[0.5], "6 s": texts[6.0], "native 30 s": texts[None]}
show(pd.DataFrame(columns).head(6), longest=90)

# %% [markdown]
# **Read, at `laptop`:** With a margin of half a second some texts run on: the model misses the end and repeats itself
# (**loops**), until the limit of tokens. That costs words, and in this small test time as well. With 6 s the loops are gone,
# and there are no more word errors than in the native window. Yet most texts are not the same, letter by letter: a model
# that knows few of the words is moved by anything.
#
# (At `toy` look at it the other way round: its Whispers were trained with hardly any silence after a clip, so there it is
# the long window that they do not know.)
#
# That is also why one clip has another text in another place of this course: a batch has one window, that of its longest
# clip. The first clip alone, beside the longest clip of the test, and in the native window:

# %%
longest = int(np.argmax(clips.durations))
companions = {"alone": [], "beside the longest": [clips[longest]]}
places = {place: lab.collator([clips[three[0]], *others])["input_features"] for place, others in companions.items()}
written = {}
for place, part in places.items():
    written[f"{place}, {part.shape[-1]} frames"] = generate_batch(model, tokenizer, part, language, "transcribe", lab.preset)[0]
written["native, 3000 frames"] = texts[None][0]
show(pd.Series(written, name="the first clip's text"))

# %% [markdown]
# Two systems are therefore always compared in the same batches. The library sorts a test by length and cuts it into
# batches in one way for all.
#
# Two dozen clips hold too few loops to choose a margin. We measured it once on 64 Czech test clips (whisper-base;
# greedy, that is, always the likeliest token; batches of 16 by length, one core). WER stands with its 95 % interval,
# which notebook 01 explains; two parts of it are the substitutions (another word) and the insertions (a word too many),
# in per cent of the words of the text:
#
# | margin | WER | substitutions | insertions | clips that loop | seconds |
# |---|---|---|---|---|---|
# | 0.5 s | 171 [111, 250] | 56.5 | 108.5 | 14.1 % | 21 |
# | 1 s | 122 [75, 183] | 56.0 | 59.3 | 6.2 % | 21 |
# | 2 s | 98 [70, 138] | 57.5 | 35.4 | 4.7 % | 25 |
# | 3 s | 87 [65, 119] | 56.5 | 25.4 | 3.1 % | 29 |
# | 4 s | 76 [63, 98] | 56.3 | 14.1 | 1.6 % | 25 |
# | 6 s | 68 [61, 75] | 54.5 | 6.8 | 0 | 23 |
# | 8 s | 68 [61, 76] | 54.5 | 7.5 | 0 | 26 |
# | native 30 s | 68 [60, 76] | 55.0 | 8.0 | 0 | 67 |
#
# Read the columns: the substitutions do not care about the margin; all that it changes is the loops. From 6 s on the result
# is that of the native window for a third of its time. A margin that is too short does not make a model worse at Czech, it
# makes it loop, and one loop of a hundred words weighs as much as a hundred wrong words elsewhere.
#
# The course decodes every system with one margin (`margin_seconds` of the preset), and the record of each run names it.
# Training has a shorter one, the same for all systems (`train_margin_seconds`, 1.5 s at `laptop`): there the text is given,
# so that nothing can loop. Whether a longer one would train better has not been measured.

# %% [markdown]
# ### Common trap: one long clip in the batch
#
# The window of a batch is that of its longest clip. In random batches nearly every batch holds a long one.

# %%
durations, size = np.array(clips.durations), lab.preset.eval_batch_size
shuffled = np.random.default_rng(0).permutation(len(durations))
at_random = [shuffled[i : i + size] for i in range(0, len(shuffled), size)]
for name, batches in (("random batches", at_random), ("sorted by length", length_batches(list(durations), size))):
    work = sum(len(b) * (durations[b].max() + 6) for b in batches)  # seconds that the encoder looks at
    print(f"{name:17}: {work:5.0f} s for {durations.sum():.0f} s of speech; native {30 * len(durations)} s")

# %% [markdown]
# **Read:** Sorting saves a further part of the encoder's work and costs nothing. Training does it too, with some chance in
# the order so that the batches are not the same in every epoch (`batches.LengthOrder`).

# %% [markdown] tags=["exercise"]
# ### Exercise 0.2: how much silence do we save?
#
# ●○○ · 5 minutes, by hand · you learn the three time scales: seconds, log-mel frames, encoder positions
#
# A clip of 2.8 s goes into the encoder with a margin of 6 s. At 100 frames a second (the one or two that stick out at the
# end don't matter here): how many log-mel frames are in its window, how many encoder positions, and how many per cent of
# the native window is that? Write `answer = (frames, positions, per_cent)`.

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# A frame starts every 10 ms. Of the encoder's two convolutions the second takes every other position. The native window
# has 3000 frames.
# </details>

# %% tags=["stub"]
answer = ...

# %% tags=["solution"]
# The window is clip and margin, 8.8 s at 100 frames a second. The encoder's second convolution takes every
# other one, so there are half as many positions; the share is the same in frames and in positions.
answer = (880, 440, 100 * 880 / 3000)  # 29.3 %

# %% tags=["also"]
answer = ((2.8 + 6) * 100, (2.8 + 6) * 50, (2.8 + 6) / 30 * 100)  # with Python's rounding errors

# %% tags=["also"]
answer = [880, 440, 29]

# %% tags=["also"]
answer = (882, 441, 29.4)  # the library's window: two frames overlap the end of the clip

# %% tags=["wrong"]
answer = (880, 880, 29.3)  # the second convolution's stride is forgotten

# %% tags=["wrong"]
# says: margin
answer = (280, 140, 9.3)

# %% tags=["wrong"]
# says: per cent
answer = (880, 440, 880 / 3000)

# %% tags=["wrong"]
# says: every 10 ms
answer = (8800, 4400, 29.3)

# %% tags=["wrong"]
# says: frames with frames
answer = (880, 440, 100 * 880 / 1500)

# %% tags=["wrong"]
# says: 3 numbers are asked for, in this order
answer = 29.3

# %% tags=["wrong"]
# says: frames must be a number
answer = ("880", "440", "29.3 %")

# %% tags=["wrong"]
# says: still open
answer = (880, 440, ...)

# %% tags=["wrong"]
# says: whole window
answer = (880, 440, 100 * 280 / 3000)

# %% tags=["wrong"]
# says: after the clip alone
answer = (1480, 740, 49.3)

# %% tags=["wrong"]
# says: every 25 ms
answer = (352, 176, 11.7)

# %% tags=["wrong"]
# says: in seconds
answer = (8.8, 4.4, 29.3)

# %% tags=["wrong"]
# says: which is saved
answer = (880, 440, 70.7)

# %% tags=["check"]
from checks_00 import check_window
from exercise import check

check(check_window, answer)

# %% [markdown] tags=["exercise"]
# ### Exercise 0.3: an experiment with the margin
#
# ●●○ · 15 minutes, open · you learn to tell a difference that counts from one that does not
#
# "The texts differ" may mean other words or another comma. Write `share_changed(first, second)`: of two lists of texts of
# the same clips, the share (in per cent) of clips whose texts differ after `normalise` (lower case, no punctuation).
#
# Then use it on your own experiment: `share_changed(texts[0.5], texts[None])` and so on, with margins of 2, 4 and 8 s
# added to the loop of section 7, or with more clips. Does the share go to zero as the margin grows? Does the number of word
# errors follow it? What does that say about a model that is unsure of many words?

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# `from distilwhisper_lib import normalise`, then compare `normalise(a) != normalise(b)` for the pairs of
# `zip(first, second)`. The mean of a list of booleans is a share.
# </details>

# %% tags=["stub"]
def share_changed(first, second):
    raise NotImplementedError  # your code here

# %% tags=["solution"]
from distilwhisper_lib import normalise


def share_changed(first, second):
    # WER too is counted after normalise: a comma is no other word. Clip by clip, since each has its own text.
    changed = [normalise(a) != normalise(b) for a, b in zip(first, second, strict=True)]
    return 100 * sum(changed) / len(changed)

# %% [markdown] tags=["answer"]
# **The open part: a model answer.** The share gets smaller as the margin grows, but it does not reach zero. Where two words
# are about equally likely to the model, a little more silence is enough to exchange them. The number of word errors does not
# follow the share: words change in both directions, from wrong to right and from right to wrong. What does follow the margin
# are the loops, and they hold most of the errors of a short margin.
#
# So "the texts differ" says little about a model that is unsure of many words. What counts is whether there are more errors,
# with an interval, and on more clips than these two dozen.

# %% tags=["also"]
import numpy as np


def share_changed(first, second):
    return 100 * np.mean([normalise(a) != normalise(b) for a, b in zip(first, second, strict=True)])

# %% tags=["also"]
def share_changed(first, second):
    same = 0
    for number in range(len(first)):
        if normalise(first[number]) == normalise(second[number]):
            same += 1
    return 100 - 100 * same / len(first)

# %% tags=["wrong"]
def share_changed(first, second):
    changed = [a != b for a, b in zip(first, second, strict=True)]  # a full stop counts as a change
    return 100 * sum(changed) / len(changed)

# %% tags=["wrong"]
# says: in per cent
def share_changed(first, second):
    changed = [normalise(a) != normalise(b) for a, b in zip(first, second, strict=True)]
    return sum(changed) / len(changed)

# %% tags=["wrong"]
# says: must give 0 %
def share_changed(first, second):
    same = [normalise(a) == normalise(b) for a, b in zip(first, second, strict=True)]  # == for !=
    return 100 * sum(same) / len(same)

# %% tags=["wrong"]
# says: question mark
def share_changed(first, second):
    changed = [a.lower() != b.lower() for a, b in zip(first, second, strict=True)]
    return 100 * sum(changed) / len(changed)

# %% tags=["wrong"]
# says: with itself alone
def share_changed(first, second):
    new = {normalise(text) for text in second} - {normalise(text) for text in first}
    return 100 * len(new) / len(first)

# %% tags=["wrong"]
# says: the number of clips
def share_changed(first, second):
    return sum(normalise(a) != normalise(b) for a, b in zip(first, second, strict=True))

# %% tags=["wrong"]
# says: `return` missing
def share_changed(first, second):
    changed = [normalise(a) != normalise(b) for a, b in zip(first, second, strict=True)]
    print(100 * sum(changed) / len(changed))

# %% tags=["wrong"]
# says: must be a number
def share_changed(first, second):
    changed = [normalise(a) != normalise(b) for a, b in zip(first, second, strict=True)]
    return f"{100 * sum(changed) / len(changed):.0f} %"

# %% tags=["wrong"]
# says: must be a function
share_changed = 25.0

# %% tags=["wrong"]
# says: `return` inside the loop
def share_changed(first, second):
    number = 0
    for a, b in zip(first, second, strict=True):
        number += normalise(a) != normalise(b)
        return 100 * number / len(first)

# %% tags=["check"]
from checks_00 import check_share_changed
from exercise import check

check(check_share_changed, share_changed)

# %% [markdown]
# ## Summary
#
# - The course tests six claims of DistilWhisper in miniature; `lab` computes everything once and keeps it.
# - The speech is split by rooms: one lead for training and the in-domain test, the other lead for the out-of-domain
#   test, and several languages and a task that nobody trains, to see what is kept.
# - Whisper hears a log-mel: 80 bands of frequency, 100 frames a second, made by a Fourier transform, a filterbank and a
#   logarithm.
# - Whisper writes tokens after a prefix of start, language, task, no timestamps. The start token is given once; the usual
#   recipe gives it twice.
# - Clip plus six seconds of silence is as good as 30 s at a third of the cost; with less silence the model loops.
#
# ## Glossary
#
# | word | meaning |
# |---|---|
# | student, teacher | the small model that is improved; the better model that it learns from |
# | expert, shared block, gate | a language's own copy of a feed-forward block; the frozen original; what chooses between them |
# | in-domain, out-of-domain | a test like the training data (same voice); one that is not (another voice) |
# | stress test | a test at the edge of what the model can do: other characters with effects on their voices |
# | mel | a unit of heard pitch: straight below 1,000 Hz, logarithmic above |
# | log-mel | energy in 80 bands of frequency per 10 ms, on a logarithmic scale |
# | formant | a resonance of the mouth; the formants make the vowel |
# | frame, position | a column of the log-mel (10 ms); a step of the encoder (two frames) |
# | prefix | the four tokens that tell the decoder language and task |
# | collator | what makes a batch of single clips: features and labels filled up to one length |
# | label | the token that a decoder position must predict; -100 where the loss looks away |
# | margin | silence left after the longest clip of a batch |
# | loop | an output that repeats itself |
#
# ## Where in the library, where in the paper
#
# - `data/`: `audio.py` (reading, log-mel), `normalisers.py`, `batches.py` (collator), `corpora/` (splits); `whisper/`:
#   `tokens.py` (prefix, labels), `window.py` (`use_window`); `presets.py`; `lab/lab.py`.
# - Paper: abstract and introduction for the claims; the experimental settings for languages, data and student/teacher.
#   The paper's prefix and window are Whisper's own: the short window and the room split are ours.
