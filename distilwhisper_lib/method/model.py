"""What a Whisper with experts does differently: how the choice of experts travels, and saving.

A choice is made once, where a call enters the model, and goes down as the keyword argument
`_expert_choice`: from the model to encoder and decoder, from these to their layers. transformers
hands keyword arguments on, also into the recomputation of gradient checkpointing, which runs on
threads of autograd that see no value of ours. A layer hands the choice to its block, on the thread
that it runs on.

`attach_experts` adds these classes to those of the model and its layers (`mix_in`).
"""

import inspect
import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import WhisperForConditionalGeneration

from ..whisper.checkpoint import EXPERT_KEY, check_finite
from ..whisper.per_call import Mixin
from ..whisper.tokens import language_code
from .blocks import is_reentrant, is_wrapped, routing_of
from .routing import AUTO, Choice, ClsrFeedForward, Routing
from .storage import save_experts

# The folders in which transformers' Trainer keeps what it resumes from.
TRAINERS_CHECKPOINT = re.compile(r"checkpoint-\d+")

# The first version of transformers in which a decoder alone can draft for a whole Whisper.
DECODER_ASSISTS = (5, 16)

WITHOUT_TOKENS = (
    'set_language(model, "auto") takes the language from generate, or from the language tokens in '
    "decoder_input_ids or labels, and this call has none of them: set a language"
)


# ---- the way of a choice


def with_choice(forward: Callable) -> Callable:
    """Return a model's `forward` that makes the choice of experts for the whole call."""

    @wraps(forward)
    def forward_with_choice(self, *args, **kwargs):
        if kwargs.get("_expert_choice") is None:
            routing = routing_of(self)
            choice = _current_choice(routing, self)
            if choice.language == AUTO:
                arguments = inspect.signature(forward).bind_partial(self, *args, **kwargs).arguments
                choice = _choice_by_inputs(self, arguments, routing)
            kwargs["_expert_choice"] = choice
        return forward(self, *args, **kwargs)

    return forward_with_choice


class ChoiceHook:
    """Hook before encoder or decoder, which `generate` calls by themselves: adds the choice.

    An object and not a function within one, so that models can be copied and pickled.

    Args:
        routing: That of the model.
        stack: "encoder" or "decoder".
    """

    def __init__(self, routing: Routing, stack: str):
        self.routing = routing
        self.stack = stack

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Return the arguments of the call, with `_expert_choice`."""
        choice = kwargs.get("_expert_choice")
        if choice is None:
            choice = _current_choice(self.routing, module)
            if choice.language == AUTO:
                raise ValueError(WITHOUT_TOKENS)
        if self.stack == "encoder":
            features = args[0] if args else kwargs["input_features"]
            choice.check_encoder_batch(features.shape[0])
        return args, {**kwargs, "_expert_choice": choice}


def _current_choice(routing: Routing, module: nn.Module) -> Choice:
    """Return the choice that holds for a call of a module.

    Raises:
        ValueError: In a copy by nn.DataParallel that cannot know its languages.
    """
    choice = routing.current()
    if getattr(module, "_is_replica", False):
        per_call = isinstance(choice.language, list) or choice.language == AUTO
        if per_call or routing.is_used:
            raise ValueError(
                "nn.DataParallel divides a batch among threads, which know neither use_language "
                "nor their part of a list of languages: use one GPU (CUDA_VISIBLE_DEVICES=0) or "
                "DistributedDataParallel (accelerate launch), or set_language(model, CODE)"
            )
    return choice


def _choice_by_inputs(model: Any, arguments: dict, routing: Routing) -> Choice:
    """Return the choice by the language tokens in the decoder's input, or in the labels."""
    token_ids = arguments.get("decoder_input_ids")
    if token_ids is None:
        token_ids = arguments.get("labels")
    if token_ids is None:
        raise ValueError(WITHOUT_TOKENS)
    return choice_by_tokens(model.generation_config, token_ids, routing)


def choice_by_tokens(settings: Any, token_ids: torch.Tensor, routing: Routing) -> Choice:
    """Return the choice that follows the first language token of each sequence.

    Args:
        settings: A Whisper's `GenerationConfig`, which says what the language tokens are.
        token_ids: (B, T).
        routing: That of the model.

    Raises:
        ValueError: For a sequence without a language token, or settings that do not list them.
    """
    if not getattr(settings, "is_multilingual", True):
        return Choice("en" if "en" in routing.languages else None)
    if not hasattr(settings, "lang_to_id"):
        raise ValueError(
            'set_language(model, "auto") needs the language tokens, and generation_config has no '
            "lang_to_id: take the generation_config of the Whisper that this one comes from, or "
            "set a language"
        )

    code_of = {index: token[2:-2] for token, index in settings.lang_to_id.items()}
    chosen: list[str | None] = []
    for row, sequence in enumerate(token_ids.tolist()):
        code = next((code_of[token] for token in sequence if token in code_of), None)
        if code is None:
            raise ValueError(
                f'set_language(model, "auto") found no language token in sequence {row} of the '
                "batch: give the language to generate, or labels that begin with it"
            )
        chosen.append(code if code in routing.languages else None)
    return Choice(chosen if len(set(chosen)) > 1 else chosen[0])


class RoutedLayer(Mixin):
    """A layer that hands the choice of a call to its block."""

    fc1: Any

    def __call__(self, hidden_states, *args, **kwargs):
        """Call Whisper's own layer; what comes in has a gradient where checkpointing needs it.

        A hook on the layer would be too late: before 5.23 transformers checkpoints it too.
        """
        hidden_states = let_gradients_through(self, hidden_states)
        return super().__call__(hidden_states, *args, **kwargs)  # type: ignore[misc]

    def forward(self, *args, _expert_choice: Choice | None = None, **kwargs):
        """Run Whisper's own layer, with the choice of experts that came with the call."""
        block = self.fc1
        if not isinstance(block, ClsrFeedForward):
            raise ValueError(is_wrapped(block))
        before = block.routing.enter_layer(_expert_choice)
        try:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        finally:
            block.routing.enter_layer(before)


def let_gradients_through(layer: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """Return a layer's input as reentrant checkpointing needs it: it requires a gradient.

    Frozen layers before it give none, and its experts would silently learn nothing.
    """
    if not torch.is_grad_enabled() or hidden_states.requires_grad or not is_reentrant(layer):
        return hidden_states
    return hidden_states.detach().requires_grad_()


# ---- models


def check_assistant(assistant: Any) -> None:
    """Refuse an assistant that is a decoder alone where transformers cannot use it.

    Before 5.16 it gives such a Whisper one cache for self-attention and cross-attention, and fails.

    Raises:
        ValueError: For such an assistant, below that version.
    """
    if assistant is None or getattr(assistant.config, "is_encoder_decoder", True):
        return
    installed = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if installed < DECODER_ASSISTS:
        raise ValueError(
            "an assistant that is a decoder alone needs transformers "
            f"{'.'.join(map(str, DECODER_ASSISTS))} or newer, and {transformers.__version__} is "
            "installed: give a whole Whisper (WhisperForConditionalGeneration) as assistant_model, "
            "or install a newer transformers"
        )


def _check_own_experts(model: Any, state: dict) -> None:
    """Raise ValueError where a state has other experts than the model, whose own are written."""
    own = model.state_dict()
    for name, value in state.items():
        if not EXPERT_KEY.search(name) or not torch.is_tensor(value) or name not in own:
            continue
        rounded = own[name].to("cpu", value.dtype)  # the state may be in half precision
        if rounded.shape != value.shape or not torch.equal(rounded, value.cpu()):
            raise ValueError(
                f"state_dict has other values of {name} than the model, and the experts that are "
                "written are the model's: call model.load_state_dict(state_dict) before"
            )


class ExpertModel(Mixin):
    """A Whisper of any kind with experts: saved as a plain one, with the experts beside it."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        plain = vars(cls).get("_plain_class")
        if plain is not None:
            cls.forward = with_choice(plain.forward)

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: dict | None = None,
        push_to_hub: bool = False,
        **kwargs,
    ):
        """Write a plain Whisper, as transformers does, and the experts beside it.

        `from_pretrained` gives the plain Whisper, `load_experts(model, save_directory)` adds the
        experts, which are in fp32, to the last digit. In folders that are named like those of a
        Trainer's checkpoints ("checkpoint-500"), the weights of the model hold the experts too,
        because the Trainer resumes from these alone.

        Args:
            save_directory: As for transformers.
            is_main_process: As for transformers.
            state_dict: As for transformers; experts in it must be those of the model.
            push_to_hub: Not here: see `push_experts`.
            **kwargs: As for transformers.

        Raises:
            ValueError: For `push_to_hub`, a `state_dict` with other experts, or weights that are
                not finite; nothing is written then.
        """
        if push_to_hub:
            raise ValueError(
                "save_pretrained(push_to_hub=True) would upload Whisper without its experts: call "
                "push_experts(model, NAME) for the experts, or model.push_to_hub(NAME) for both"
            )
        model: Any = self
        whole = state_dict is None
        state = model.state_dict() if state_dict is None else state_dict
        if is_main_process:
            tensors = ((name, value) for name, value in state.items() if torch.is_tensor(value))
            check_finite(tensors, "this model")
            if not whole:
                _check_own_experts(model, state)
        of_trainer = TRAINERS_CHECKPOINT.fullmatch(Path(save_directory).name)
        # With an adapter of `add_adapter` transformers writes that alone, also where it is on
        # experts.
        adapter_alone = getattr(model, "_hf_peft_config_loaded", False)
        if not of_trainer and not adapter_alone:
            state = {name: value for name, value in state.items() if not EXPERT_KEY.search(name)}
        super().save_pretrained(  # type: ignore[misc]
            save_directory, is_main_process=is_main_process, state_dict=state, **kwargs
        )
        if is_main_process and (whole or not of_trainer or adapter_alone):
            save_experts(model, save_directory, form="fp32")


class ExpertGeneration(ExpertModel):
    """A Whisper that generates, with experts: the choice holds for the whole of `generate`."""

    @wraps(WhisperForConditionalGeneration.generate)
    def generate(self, *args, **kwargs):
        """Generate as Whisper does, with one choice of experts from beginning to end.

        Languages are known by the same names as elsewhere: "ca-ES", "iw".

        Raises:
            ValueError: For an assistant that transformers of this version cannot use.
        """
        check_assistant(kwargs.get("assistant_model"))
        language = kwargs.get("language")
        if isinstance(language, list | tuple):
            kwargs["language"] = [language_code(one) for one in language]
        elif language is not None:
            kwargs["language"] = language_code(language)
        routing = routing_of(self)
        temperature = kwargs.get("temperature")
        one_pass = not isinstance(temperature, list | tuple) or len(temperature) == 1
        choice = Choice(routing.language, one_pass)
        with routing.use(choice):
            return super().generate(*args, **kwargs)  # type: ignore[misc]

    def detect_language(self, *args, **kwargs):
        """Detect languages, with plain Whisper where experts follow the detection."""
        routing = routing_of(self)
        if routing.language != AUTO:
            return super().detect_language(*args, **kwargs)  # type: ignore[misc]
        with routing.use(Choice(None)):
            return super().detect_language(*args, **kwargs)  # type: ignore[misc]

    def _retrieve_init_tokens(self, input_features, batch_size, generation_config, *args, **kwargs):
        """Return the decoder's first tokens, and let experts follow the language among them.

        transformers calls this in `generate`, before it encodes. If a later version does not, the
        encoder is run without a language, which raises an error.
        """
        model: Any = self
        token_ids = super()._retrieve_init_tokens(  # type: ignore[misc]
            input_features, batch_size, generation_config, *args, **kwargs
        )
        routing = routing_of(model)
        before = routing.current()
        choice = before
        if before.language == AUTO:
            if input_features is None:
                raise ValueError(
                    'set_language(model, "auto") encodes clips by their language: give generate '
                    "input_features, not encoder_outputs"
                )
            choice = choice_by_tokens(generation_config, token_ids, routing)

        if isinstance(choice.language, list):
            choice.check_encoder_batch(batch_size)
            if len(set(choice.language)) == 1:
                choice = Choice(choice.language[0])

        if isinstance(choice.language, list):
            frames = 2 * model.config.max_source_positions
            too_long = input_features is not None and input_features.shape[-1] > frames
            if too_long or not before.one_pass:
                raise ValueError(
                    f"clips with different experts ({_named(choice.language)}) cannot be longer "
                    "than 30 s or fall back to other temperatures in one batch: `generate` drops "
                    "those that are finished; give one language, or one batch for each"
                )
            copies = generation_config.num_return_sequences or 1
            languages = [language for language in choice.language for _ in range(copies)]
            choice = Choice(languages)
        routing.choose(choice.language)
        return token_ids

    def generate_with_fallback(self, *args, **kwargs):
        """Generate a segment of each clip, with the experts of the clips that are not finished.

        With timestamps `generate` leaves out clips that are finished. transformers calls this with
        keyword arguments; `batch_idx_map` holds the places in the batch of those that remain.
        """
        routing = routing_of(self)
        languages = routing.language
        if not isinstance(languages, list):
            return super().generate_with_fallback(*args, **kwargs)  # type: ignore[misc]

        remaining = [languages[index] for index in kwargs["batch_idx_map"]]
        if kwargs["generation_config"].cache_implementation == "static":
            # transformers fills the batch up again, with silence.
            remaining += [None] * (kwargs["batch_size"] - len(remaining))
        with routing.use(Choice(remaining)):
            return super().generate_with_fallback(*args, **kwargs)  # type: ignore[misc]


def _named(languages: list[str | None]) -> str:
    """Return the languages of a batch for a message."""
    return ", ".join(dict.fromkeys(language or "none" for language in languages))


def mixin_for(whisper: nn.Module) -> type[Mixin]:
    """Return what is added to the class of a Whisper with experts."""
    generates = isinstance(whisper, WhisperForConditionalGeneration)
    return ExpertGeneration if generates else ExpertModel
