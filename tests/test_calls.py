"""A choice of experts or a window belongs to a call: threads, tasks, recomputation, tracing."""

import asyncio
import contextvars
import copy
import multiprocessing
import pickle
import threading

import pytest
import torch
from random_data import random_batch, shake_experts

from distilwhisper_lib.method.attach import attach_experts, detach_experts
from distilwhisper_lib.method.blocks import clsr_blocks, expert_parameters, last_gates
from distilwhisper_lib.method.experts import ExpertSettings
from distilwhisper_lib.method.languages import get_language, set_language, use_language
from distilwhisper_lib.whisper.loading import load_whisper
from distilwhisper_lib.whisper.logits import logits_at
from distilwhisper_lib.whisper.per_call import Mixin, PerCall, mix_in, take_out
from distilwhisper_lib.whisper.window import use_window

LANGUAGES = ("cs", "ca", None)
STILL = ExpertSettings(expert_dropout=0.0, gate_dropout=0.0, skip_gate=0.0)


@pytest.fixture
def trained(model):
    """A model with experts for two languages, both away from the shared block."""
    return shake_experts(attach_experts(model, ["cs", "ca"]))


@pytest.fixture
def batch():
    return random_batch()


@torch.no_grad()
def logits(model, batch):
    """Return the logits of a batch, in its own window."""
    with use_window(model, batch["input_features"].shape[-1]):
        return model(**batch).logits


def expected(model, batch):
    """Return the logits of each language, computed one after the other."""
    found = {}
    for language in LANGUAGES:
        with use_language(model, language):
            found[language] = logits(model, batch)
    assert not torch.equal(found["cs"], found["ca"])
    assert not torch.equal(found["cs"], found[None])
    return found


def in_threads(functions):
    """Run functions at the same time, each in a thread, and raise what one of them raises."""
    errors = []
    start = threading.Barrier(len(functions))

    def run(function):
        try:
            start.wait()
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


# ---- threads and tasks


def test_each_thread_has_its_own_language(trained, batch):
    wanted = expected(trained, batch)

    def use(language):
        for _ in range(20):
            with use_language(trained, language):
                assert get_language(trained) == language
                assert torch.equal(logits(trained, batch), wanted[language])

    in_threads([lambda language=language: use(language) for language in LANGUAGES])


def test_each_thread_generates_in_its_own_language_and_window(trained):
    features = {frames: torch.randn(2, 80, frames) for frames in (100, 200, 300)}
    cases = list(zip(LANGUAGES, features, strict=True))

    def generate(language, frames):
        with use_language(trained, language), use_window(trained, frames):
            return trained.generate(
                features[frames], language="cs", task="transcribe", max_new_tokens=6
            )

    wanted = {case: generate(*case) for case in cases}

    def repeat(case):
        for _ in range(8):
            assert torch.equal(generate(*case), wanted[case])

    in_threads([lambda case=case: repeat(case) for case in cases])


def test_gates_are_those_of_the_threads_own_pass(trained, batch):
    gates = {}

    def run(language, barrier):
        with use_language(trained, language):
            logits(trained, batch)
            barrier.wait()  # both passes are over before the gates are read
            gates[language] = last_gates(trained)["decoder"]

    barrier = threading.Barrier(2)
    in_threads([lambda: run("cs", barrier), lambda: run(None, barrier)])
    assert len(gates["cs"]) == 2 and gates[None] == []


def test_set_language_holds_for_all_threads_and_not_for_calls_that_are_running(trained, batch):
    wanted = expected(trained, batch)
    set_language(trained, "cs")
    found = {}
    in_threads([lambda: found.update(other=logits(trained, batch))])
    assert torch.equal(found["other"], wanted["cs"])

    def change(*_):
        in_threads([lambda: set_language(trained, "ca")])

    decoder = trained.get_decoder()
    hook = decoder.register_forward_pre_hook(change)  # between encoder and decoder
    assert torch.equal(logits(trained, batch), wanted["cs"])
    hook.remove()
    assert get_language(trained) == "ca"

    set_language(trained, "cs")
    features = batch["input_features"]

    def generate():
        with use_window(trained, features.shape[-1]):
            return trained.generate(features, language="cs", max_new_tokens=6)

    before = generate()
    hook = decoder.register_forward_pre_hook(change)
    assert torch.equal(generate(), before)
    hook.remove()


def test_set_language_within_use_language_ends_with_the_block(trained):
    set_language(trained, "ca")
    with use_language(trained, "cs"):
        set_language(trained, None)
        assert get_language(trained) is None
    assert get_language(trained) == "ca"


def test_tasks_of_one_thread_keep_their_languages(trained, batch):
    wanted = expected(trained, batch)

    async def use(language):
        with use_language(trained, language):
            for _ in range(3):
                await asyncio.sleep(0)
                assert torch.equal(logits(trained, batch), wanted[language])
            in_thread = await asyncio.to_thread(logits, trained, batch)
            assert torch.equal(in_thread, wanted[language])

    async def run():
        await asyncio.gather(*(use(language) for language in LANGUAGES))

    asyncio.run(run())


def test_a_copied_context_carries_the_language_into_a_thread(trained, batch):
    wanted = expected(trained, batch)
    found = {}
    with use_language(trained, "cs"):
        context = contextvars.copy_context()
        in_threads([lambda: context.run(lambda: found.update(cs=logits(trained, batch)))])
        in_threads([lambda: found.update(other=logits(trained, batch))])
    assert torch.equal(found["cs"], wanted["cs"])
    assert torch.equal(found["other"], wanted[None])


def test_another_thread_gets_the_logits_of_all_positions(trained, batch):
    positions = torch.zeros_like(batch["decoder_input_ids"], dtype=torch.bool)
    positions[:, -1] = True
    found = {}
    with logits_at(trained, positions):
        found["here"] = logits(trained, batch)
        in_threads([lambda: found.update(there=logits(trained, batch))])
    assert found["here"].shape[0] == positions.sum() and found["there"].dim() == 3


# ---- recomputation


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("language", ["cs", ["cs", "ca"], ["ca", None]])
def test_checkpointing_recomputes_with_the_language_of_the_call_on_any_thread(
    model, batch, language, reentrant
):
    shake_experts(attach_experts(model, ["cs", "ca"], STILL)).train()
    labels = batch["decoder_input_ids"].roll(-1, 1)

    def loss():
        with use_language(model, language), use_window(model, batch["input_features"].shape[-1]):
            return model(**batch, labels=labels).loss

    def gradients(backward_thread):
        model.zero_grad()
        value = loss()
        if backward_thread:  # as on a GPU, where autograd has threads of its own
            in_threads([value.backward])
        else:
            value.backward()
        return {name: p.grad.clone() for name, p in expert_parameters(model) if p.grad is not None}

    wanted = gradients(backward_thread=False)
    assert wanted
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    set_language(model, "ca")  # what the recomputation must not see
    for backward_thread in (False, True):
        found = gradients(backward_thread)
        assert found.keys() == wanted.keys()
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)


def test_gates_without_gradients_are_refused_where_a_budget_would_need_them(model, batch):
    attach_experts(model, ["cs"], STILL).train()
    set_language(model, "cs")
    model.gradient_checkpointing_enable({"use_reentrant": True})
    with use_window(model, batch["input_features"].shape[-1]):
        model(**batch)
        with pytest.raises(ValueError, match="reentrant.*use_reentrant': False"):
            last_gates(model)
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model(**batch)
    assert all(gate.requires_grad for stack in last_gates(model).values() for gate in stack)


# ---- compiling, exporting, tracing


def test_compiled_model_follows_the_language_in_every_thread(trained, batch):
    wanted = expected(trained, batch)
    compiled = torch.compile(trained, backend="eager")

    def run(language):
        with use_language(trained, language):
            for _ in range(2):
                torch.testing.assert_close(
                    logits_of(compiled, trained, batch), wanted[language], rtol=0, atol=1e-5
                )

    for language in (*LANGUAGES, *LANGUAGES):
        run(language)
    in_threads([lambda language=language: run(language) for language in LANGUAGES])
    set_language(trained, "ca")
    torch.testing.assert_close(logits_of(compiled, trained, batch), wanted["ca"], rtol=0, atol=1e-5)


@torch.no_grad()
def logits_of(compiled, model, batch):
    """Return a compiled model's logits of a batch, in its own window."""
    with use_window(model, batch["input_features"].shape[-1]):
        return compiled(**batch).logits


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("how", ["export", "trace"])
@pytest.mark.parametrize("language", [None, "cs", ["cs", "ca"], ["ca", None]])
def test_exported_and_traced_models_hold_for_other_gates(trained, language, how):
    example, other = random_batch(seed=1), random_batch(seed=2)
    frames = example["input_features"].shape[-1]

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.whisper = trained

        def forward(self, features, token_ids):
            output = self.whisper(
                input_features=features, decoder_input_ids=token_ids, use_cache=False
            )
            return output.logits

    def inputs(batch):
        return batch["input_features"], batch["decoder_input_ids"]

    with use_language(trained, language), use_window(trained, frames), torch.no_grad():
        if how == "export":
            graph = torch.export.export(Logits(), inputs(example)).module()
        else:
            graph = torch.jit.trace(Logits(), inputs(example), check_trace=False)
        gates = [gate for stack in last_gates(trained).values() for gate in stack]
        for batch in (example, other):
            wanted = Logits()(*inputs(batch))
            torch.testing.assert_close(graph(*inputs(batch)), wanted, rtol=0, atol=1e-5)
        if language == "cs" and how == "trace":
            other_gates = [gate for stack in last_gates(trained).values() for gate in stack]
            assert any(not torch.equal(*pair) for pair in zip(gates, other_gates, strict=True))


# ---- copies


def through_pickle(model):
    """Return a model that went through pickle, as to another process."""
    return pickle.loads(pickle.dumps(model))  # noqa: S301 (bytes of this test)


def run_in_new_process(model, batch, queue):
    """Put the logits of a model that was sent to a new process into a queue."""
    with use_language(model, "cs"):
        queue.put(logits(model, batch).numpy())


@pytest.mark.parametrize("how", [copy.deepcopy, through_pickle], ids=["deepcopy", "pickle"])
def test_a_copy_is_a_model_with_experts_of_its_own(trained, batch, how):
    wanted = expected(trained, batch)
    set_language(trained, "ca")
    with use_language(trained, "cs"), use_window(trained, 200):
        other = how(trained)
    assert get_language(other) == "ca"
    assert type(other) is type(trained)
    set_language(trained, None)
    assert torch.equal(logits(other, batch), wanted["ca"])
    with use_language(other, "cs"):
        assert torch.equal(logits(trained, batch), wanted[None])
        assert torch.equal(logits(other, batch), wanted["cs"])


def test_a_model_goes_to_a_process_that_was_spawned(trained, batch):
    wanted = expected(trained, batch)["cs"]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=run_in_new_process, args=(trained, batch, queue))
    process.start()
    found = queue.get(timeout=120)
    process.join()
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=0, atol=1e-5)


# ---- what a detached model and single objects are


def test_detached_model_is_a_plain_one_again(model, batch):
    plain = load_whisper("tiny")
    attach_experts(model, ["cs"])
    assert isinstance(model, type(plain)) and type(model).__name__ == type(plain).__name__
    detach_experts(model)
    assert type(model) is type(plain)
    layer, other = model.get_encoder().layers[0], plain.get_encoder().layers[0]
    assert type(layer) is type(other)
    assert not layer._forward_pre_hooks and not model.get_encoder()._forward_pre_hooks
    assert torch.equal(logits(model, batch), logits(plain, batch))


def test_copies_by_data_parallel_that_cannot_know_their_language_are_refused(trained, batch):
    for module in (trained, trained.get_encoder()):
        module._is_replica = True
    set_language(trained, "cs")
    logits(trained, batch)
    set_language(trained, ["cs", "ca"])
    with pytest.raises(ValueError, match="nn.DataParallel.*DistributedDataParallel"):
        logits(trained, batch)
    set_language(trained, None)
    with use_language(trained, "cs"), pytest.raises(ValueError, match="nn.DataParallel"):
        in_threads([lambda: logits(trained, batch)])


def test_methods_of_several_classes_are_added_and_taken_out():
    class Loud(Mixin):
        def name(self):
            return super().name().upper()

    class Twice(Mixin):
        def name(self):
            return 2 * super().name()

    class Thing:
        def name(self):
            return "a"

    thing = Thing()
    mix_in(thing, Loud)
    mix_in(thing, Twice)
    mix_in(thing, Loud)
    assert thing.name() == "AA" and isinstance(thing, Thing) and type(thing).__name__ == "Thing"
    take_out(thing, Loud)
    assert thing.name() == "aa"
    take_out(thing, Twice)
    assert type(thing) is Thing


def test_a_value_is_used_until_the_end_of_its_block():
    value = PerCall()
    with value.use(1):
        with value.use(2):
            value.replace(3)
            assert value.get() == 3 and value.is_used
        assert value.get() == 1
    assert value.get() is None and not value.is_used


def test_blocks_share_one_routing_also_in_a_copy(trained):
    other = copy.deepcopy(trained)
    routings = {id(block.routing) for block in clsr_blocks(other)}
    assert len(routings) == 1 and other._expert_routing is clsr_blocks(other)[0].routing
