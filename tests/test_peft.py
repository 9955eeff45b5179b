"""Experts beside PEFT adapters: the language still chooses, and both are trained, saved, loaded."""

import ast
import re

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, PeftModel, get_peft_model
from random_data import frozen_state, logits, random_batch, same_state, shake_experts
from transformers import Trainer, TrainingArguments

from distilwhisper_lib.method.attach import attach_experts, detach_experts
from distilwhisper_lib.method.blocks import clsr_blocks, expert_parameters, last_gates
from distilwhisper_lib.method.experts import ExpertSettings, FeedForward
from distilwhisper_lib.method.languages import set_language, use_language
from distilwhisper_lib.method.loading import load_experts
from distilwhisper_lib.method.storage import save_experts
from distilwhisper_lib.whisper.loading import load_whisper
from distilwhisper_lib.whisper.window import use_window

# Nothing random in training.
STILL = ExpertSettings(expert_dropout=0.0, gate_dropout=0.0, skip_gate=0.0)

ON_ATTENTION = ["q_proj", "v_proj"]
ON_SHARED = r".*\.shared\.fc[12]"
ON_EXPERT = r".*\.experts\.cs\.fc[12]"
EXPERTS_OF_CS = ["experts.cs", "gates.cs"]


# PEFT looks for the base model on the hub, and the tiny one is not there.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Unable to fetch remote file", "ignore:Could not find a config file"
)


@pytest.fixture(autouse=True)
def same_adapters():
    """PEFT draws new adapters from torch's global generator."""
    torch.manual_seed(0)


@pytest.fixture
def batch():
    return random_batch()


@pytest.fixture
def trained(model):
    """A model with experts for two languages, both away from the shared block."""
    return shake_experts(attach_experts(model, ["cs", "ca"], STILL))


def lora(targets, **settings):
    return LoraConfig(r=2, target_modules=targets, **settings)


def with_adapter(model, config, size=0.3):
    """Wrap a model and move what PEFT would train, as training would."""
    adapted = get_peft_model(model, config)
    move_trained(adapted, size)
    return adapted.eval()


@torch.no_grad()
def move_trained(model, size=0.3):
    draw = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += size * torch.randn(parameter.shape, generator=draw)


def weights(model, language=None):
    """Return copies of experts and gates by name."""
    return {name: p.detach().clone() for name, p in expert_parameters(model, language)}


def logits_in(model, batch, language):
    with use_language(model, language):
        return logits(model, batch)


def check_close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


def check_far(found, other):
    assert (found - other).abs().max() > 1e-2


def train(model, batch, language, steps=2):
    """Train what requires gradients."""
    set_language(model, language)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        with use_window(model, batch["input_features"].shape[-1]):
            model(**batch, labels=batch["decoder_input_ids"].roll(-1, 1)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


# ---- an adapter on attention


@pytest.mark.parametrize("first", ["experts", "adapter"])
def test_adapter_on_attention_and_experts_act_together_in_either_order(model, batch, first):
    if first == "experts":
        adapted = with_adapter(attach_experts(model, ["cs", "ca"], STILL), lora(ON_ATTENTION))
    else:
        adapted = with_adapter(model, lora(ON_ATTENTION))
        attach_experts(adapted, ["cs", "ca"], STILL)
    only_adapter = logits_in(adapted, batch, None)
    assert torch.equal(logits_in(adapted, batch, "cs"), only_adapter)  # experts are not trained

    shake_experts(adapted)
    plain = load_whisper("tiny")
    only_experts = shake_experts(attach_experts(load_whisper("tiny"), ["cs", "ca"], STILL))
    both = {code: logits_in(adapted, batch, code) for code in ("cs", "ca")}
    assert torch.equal(logits_in(adapted, batch, None), only_adapter)
    check_far(both["cs"], both["ca"])
    check_far(both["cs"], only_adapter)
    for code, found in both.items():
        check_far(found, logits_in(only_experts, batch, code))
        with adapted.disable_adapter():
            assert torch.equal(
                logits_in(adapted, batch, code), logits_in(only_experts, batch, code)
            )
    with adapted.disable_adapter():
        assert torch.equal(logits_in(adapted, batch, None), logits(plain, batch))

    mixed = logits_in(adapted, batch, ["ca", None])
    check_close(mixed[0], both["ca"][0])
    check_close(mixed[1], only_adapter[1])

    before = weights(adapted)
    merged = adapted.merge_and_unload()
    assert same_state(weights(merged), before)
    for code, found in both.items():
        check_close(logits_in(merged, batch, code), found)
    check_close(logits_in(merged, batch, None), only_adapter)


def test_lora_is_trained_on_top_of_finished_experts_which_stay(trained, batch, tmp_path):
    before = weights(trained)
    adapted = get_peft_model(trained, lora(ON_ATTENTION))
    train(adapted, batch, "cs")
    assert same_state(weights(adapted), before)
    wanted = logits_in(adapted, batch, "cs")
    with adapted.disable_adapter():
        check_far(logits_in(adapted, batch, "cs"), wanted)

    adapted.save_pretrained(tmp_path)
    save_experts(adapted, tmp_path, form="fp32")
    again = PeftModel.from_pretrained(load_experts(load_whisper("tiny"), tmp_path), tmp_path)
    assert torch.equal(logits_in(again, batch, "cs"), wanted)
    other = load_experts(PeftModel.from_pretrained(load_whisper("tiny"), tmp_path), tmp_path)
    assert torch.equal(logits_in(other, batch, "cs"), wanted)


# ---- an adapter on feed-forward blocks


def test_adapter_on_fc1_is_refused_with_the_pattern_of_the_shared_block(trained, batch):
    frozen = frozen_state(trained)
    with pytest.raises(
        ValueError, match="for an adapter on the shared block: target_modules="
    ) as e:
        get_peft_model(trained, lora(["fc1", "fc2"]))
    assert "experts: cs, ca" in str(e.value)
    hint = ast.literal_eval(re.search(r"target_modules=(r'.*?')", str(e.value)).group(1))

    adapted = get_peft_model(trained, lora(hint))
    names = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert len(names) == 4 * 2 * 2  # layers, fc1 and fc2, A and B
    assert all(".fc1.shared.fc" in name for name in names)
    assert same_state({name: frozen_state(adapted.unload())[name] for name in frozen}, frozen)


@pytest.mark.parametrize(
    "config",
    [
        lora(ON_SHARED),
        lora(ON_SHARED, use_dora=True),
        LoHaConfig(r=2, target_modules=ON_SHARED),
        IA3Config(target_modules=r".*\.shared\.fc2", feedforward_modules=r".*\.shared\.fc2"),
    ],
    ids=["lora", "dora", "loha", "ia3"],
)
def test_adapter_on_the_shared_block_is_trained_saved_loaded_and_merged(
    trained, batch, config, tmp_path
):
    before = weights(trained)
    plain = logits_in(trained, batch, None)
    adapted = get_peft_model(trained, config)
    train(adapted, batch, None)
    assert same_state(weights(adapted), before)
    wanted = {language: logits_in(adapted, batch, language) for language in ("cs", None)}
    assert not torch.equal(wanted[None], plain)

    adapted.save_pretrained(tmp_path)
    save_experts(adapted, tmp_path, form="fp32")
    again = PeftModel.from_pretrained(load_experts(load_whisper("tiny"), tmp_path), tmp_path)
    merged = adapted.merge_and_unload()
    for language, found in wanted.items():
        assert torch.equal(logits_in(again, batch, language), found)
        check_close(logits_in(merged, batch, language), found)


@pytest.mark.parametrize("form", ["fp32", "int8", "low-rank"])
def test_stored_experts_are_the_same_with_an_adapter_on_the_shared_block(trained, form, tmp_path):
    save_experts(trained, tmp_path / "alone", form=form)
    adapted = with_adapter(trained, lora(ON_SHARED))
    save_experts(adapted, tmp_path / "beside", form=form)
    of_both = [
        weights(load_experts(load_whisper("tiny"), tmp_path / folder))
        for folder in ("alone", "beside")
    ]
    assert same_state(*of_both)
    assert same_state(weights(load_experts(adapted, tmp_path / "alone")), of_both[0])


def test_experts_load_below_an_adapter_on_fc1_and_fc2(trained, batch, tmp_path):
    save_experts(trained, tmp_path, form="fp32")
    adapted = with_adapter(load_whisper("tiny"), lora(["fc1", "fc2"]))
    only_adapter = logits(adapted, batch)
    load_experts(adapted, tmp_path)
    assert same_state(weights(adapted), weights(trained))
    assert torch.equal(logits_in(adapted, batch, None), only_adapter)
    with adapted.disable_adapter():
        assert torch.equal(logits_in(adapted, batch, "cs"), logits_in(trained, batch, "cs"))


def test_new_experts_take_up_the_adapter_on_fc1_and_fc2_and_are_experts_of_the_base(
    model, batch, tmp_path
):
    adapted = with_adapter(model, lora(["fc1", "fc2"]))
    only_adapter = logits(adapted, batch)
    with adapted.disable_adapter():
        attach_experts(adapted, ["ca"], STILL)
    attach_experts(adapted, ["cs"])
    check_close(logits_in(adapted, batch, "cs"), only_adapter)
    check_far(logits_in(adapted, batch, "ca"), only_adapter)
    assert not [
        name for name, _ in adapted.named_parameters() if "experts" in name and "lora" in name
    ]
    assert all(p.requires_grad for _, p in expert_parameters(adapted))

    save_experts(adapted, tmp_path, form="fp32")
    alone = load_experts(load_whisper("tiny"), tmp_path)
    check_close(logits_in(alone, batch, "cs"), only_adapter)  # all gates are open
    assert torch.equal(logits_in(alone, batch, "ca"), logits(load_whisper("tiny"), batch))


# ---- an adapter on experts


def test_adapter_on_experts_acts_on_their_language_and_is_saved_by_peft(trained, batch, tmp_path):
    before = weights(trained)
    without = {language: logits_in(trained, batch, language) for language in ("cs", "ca", None)}
    adapted = with_adapter(trained, lora(ON_EXPERT))
    wanted = logits_in(adapted, batch, "cs")
    check_far(wanted, without["cs"])
    for language in ("ca", None):
        assert torch.equal(logits_in(adapted, batch, language), without[language])

    assert same_state(weights(adapted), before)
    adapted.save_pretrained(tmp_path)
    save_experts(adapted, tmp_path, form="fp32")
    again = PeftModel.from_pretrained(load_experts(load_whisper("tiny"), tmp_path), tmp_path)
    assert torch.equal(logits_in(again, batch, "cs"), wanted)

    merged = adapted.merge_and_unload()
    save_experts(merged, tmp_path / "merged", form="fp32")
    alone = load_experts(load_whisper("tiny"), tmp_path / "merged")
    check_close(logits_in(alone, batch, "cs"), wanted)


def test_all_linear_adapts_experts_and_gates_too_and_loads_back(trained, batch, tmp_path):
    before = weights(trained)
    adapted = with_adapter(trained, lora("all-linear"), size=0.05)
    names = [name for name, p in adapted.named_parameters() if p.requires_grad]
    for part in (".self_attn.", ".shared.", ".experts.ca.", ".gates.cs."):
        assert any(part in name for name in names)
    wanted = logits_in(adapted, batch, "cs")

    adapted.save_pretrained(tmp_path)
    save_experts(adapted, tmp_path, form="fp32")
    again = PeftModel.from_pretrained(load_experts(load_whisper("tiny"), tmp_path), tmp_path)
    assert same_state(weights(again), before)
    assert torch.equal(logits_in(again, batch, "cs"), wanted)
    check_close(logits_in(adapted.merge_and_unload(), batch, "cs"), wanted)


def test_all_linear_can_leave_experts_and_gates_out(trained):
    config = lora("all-linear", exclude_modules=r".*\.(experts|gates)\..*")
    adapted = get_peft_model(trained, config)
    names = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert not [name for name in names if ".experts." in name or ".gates." in name]
    assert any(".shared.fc2." in name for name in names)


# ---- training both


def test_peft_freezes_experts_which_train_again_when_they_are_told_to(trained, batch, tmp_path):
    adapted = get_peft_model(trained, lora(ON_ATTENTION))
    assert not any(p.requires_grad for _, p in expert_parameters(adapted))
    for _, parameter in expert_parameters(adapted, "cs"):
        parameter.requires_grad_(True)

    before = weights(adapted)
    train(adapted, batch, "cs")
    moved = {name for name, p in weights(adapted).items() if not torch.equal(p, before[name])}
    assert moved == weights(adapted, "cs").keys()
    wanted = logits_in(adapted, batch, "cs")

    with pytest.warns(UserWarning, match="experts of cs are trained"):
        adapted.save_pretrained(tmp_path)
    save_experts(adapted, tmp_path, form="fp32")
    again = PeftModel.from_pretrained(load_experts(load_whisper("tiny"), tmp_path), tmp_path)
    assert torch.equal(logits_in(again, batch, "cs"), wanted)


def test_peft_says_that_it_leaves_out_experts_that_train(trained, tmp_path, recwarn):
    adapted = get_peft_model(trained, lora(ON_ATTENTION))
    adapted.save_pretrained(tmp_path / "frozen")
    adapted.state_dict()
    assert not [warning for warning in recwarn if "experts of" in str(warning.message)]
    for _, parameter in expert_parameters(adapted, "cs"):
        parameter.requires_grad_(True)
    with pytest.warns(UserWarning, match="experts of cs are trained.*modules_to_save=.*save_exp"):
        adapted.save_pretrained(tmp_path / "adapter")


def test_peft_says_nothing_of_experts_that_it_saves(trained, tmp_path, recwarn):
    adapted = get_peft_model(trained, lora(ON_ATTENTION, modules_to_save=EXPERTS_OF_CS))
    adapted.save_pretrained(tmp_path)
    assert not [warning for warning in recwarn if "experts of" in str(warning.message)]


def test_modules_to_save_train_the_experts_of_a_language_and_save_them(trained, batch, tmp_path):
    before = weights(trained)
    without = logits_in(trained, batch, "cs")
    adapted = get_peft_model(trained, lora(ON_ATTENTION, modules_to_save=EXPERTS_OF_CS))
    train(adapted, batch, "cs")
    after = weights(adapted)
    moved = {name for name, p in after.items() if not torch.equal(p, before[name])}
    assert moved == weights(adapted, "cs").keys()
    wanted = logits_in(adapted, batch, "cs")
    with adapted.disable_adapter():
        assert torch.equal(logits_in(adapted, batch, "cs"), without)

    adapted.save_pretrained(tmp_path)  # PEFT's file holds the experts too
    fresh = attach_experts(load_whisper("tiny"), ["cs"], STILL)
    again = PeftModel.from_pretrained(fresh, tmp_path)
    assert torch.equal(logits_in(again, batch, "cs"), wanted)

    save_experts(adapted, tmp_path / "experts", form="fp32")  # the trained ones, below the adapter
    assert same_state(weights(load_experts(load_whisper("tiny"), tmp_path / "experts")), after)
    unloaded = adapted.unload()
    assert same_state(weights(unloaded), after)
    assert {type(block.experts["cs"]) for block in clsr_blocks(unloaded)} == {FeedForward}


def test_trainer_goes_on_with_adapter_and_experts_of_modules_to_save(batch, tmp_path):
    draw = torch.Generator().manual_seed(0)
    examples = [
        {
            "input_features": torch.randn(80, 3000, generator=draw),
            "labels": torch.randint(97, 123, (7,), generator=draw),
        }
        for _ in range(4)
    ]

    def train_with_trainer(checkpoint=None):
        torch.manual_seed(0)
        whisper = attach_experts(load_whisper("tiny"), ["cs"], STILL)
        model = get_peft_model(whisper, lora(ON_ATTENTION, modules_to_save=EXPERTS_OF_CS))
        set_language(model, "cs")
        arguments = TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=2,
            max_steps=2,
            learning_rate=1e-2,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            save_steps=1,
            remove_unused_columns=False,
        )
        trainer = Trainer(model, arguments, train_dataset=examples)
        trainer.train(resume_from_checkpoint=checkpoint)
        return model.eval()

    whole = train_with_trainer()
    resumed = train_with_trainer(str(tmp_path / "checkpoint-1"))
    untrained = attach_experts(load_whisper("tiny"), ["cs"], STILL)
    assert same_state(weights(resumed), weights(whole))
    assert not same_state(weights(whole), weights(untrained))
    assert torch.equal(logits_in(resumed, batch, "cs"), logits_in(whole, batch, "cs"))


@pytest.mark.parametrize("targets", [ON_ATTENTION, ON_SHARED], ids=["attention", "shared"])
@pytest.mark.parametrize("reentrant", [False, True], ids=["plain", "reentrant"])
def test_gradient_checkpointing_gives_adapter_and_experts_the_same_gradients(
    trained, batch, targets, reentrant
):
    adapted = with_adapter(trained, lora(targets))
    for name, parameter in expert_parameters(adapted, "cs"):
        parameter.requires_grad_(True)
        if name.endswith("linear2.weight"):
            parameter.data *= 0.01  # a gate far from 0.5 has no gradient
    adapted.config.use_cache = False
    set_language(adapted, "cs")
    adapted.train()

    def gradients():
        adapted.zero_grad()
        with use_window(adapted, batch["input_features"].shape[-1]):
            adapted(**batch).logits.square().mean().backward()
        return {name: p.grad.clone() for name, p in adapted.named_parameters() if p.requires_grad}

    wanted = gradients()
    assert [name for name, gradient in wanted.items() if not gradient.any()] == []
    adapted.gradient_checkpointing_enable(
        gradient_checkpointing_kwargs={"use_reentrant": reentrant}
    )
    calls = []
    clsr_blocks(adapted)[0].register_forward_pre_hook(lambda *_: calls.append(1))
    found = gradients()
    assert len(calls) == 2  # forward was computed twice
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-5, atol=1e-7)


# ---- modules_to_save


USES = {
    "forward": lambda model, batch, folder: logits(model, batch),
    "use_language": lambda model, batch, folder: logits_in(model, batch, "cs"),
    "gates": lambda model, batch, folder: last_gates(model),
    "save": lambda model, batch, folder: save_experts(model, folder),
    "attach": lambda model, batch, folder: attach_experts(model, ["nl"]),
    "detach": lambda model, batch, folder: detach_experts(model),
}


@pytest.mark.parametrize("use", USES)
def test_blocks_among_modules_to_save_are_refused(trained, batch, use, tmp_path):
    adapted = get_peft_model(trained, lora(ON_ATTENTION, modules_to_save=["fc1"]))
    message = "wrapped by a ModulesToSaveWrapper: leave fc1 out .*'experts.CODE' and 'gates.CODE'"
    with pytest.raises(ValueError, match=message):
        USES[use](adapted, batch, tmp_path)


@pytest.mark.parametrize("name", ["proj_out", "layer_norm", "fc2", "shared"])
def test_other_modules_to_save_are_trained_beside_experts_and_load_back(
    trained, batch, name, tmp_path
):
    without = logits_in(trained, batch, "cs")
    adapted = get_peft_model(trained, lora(ON_ATTENTION, modules_to_save=[name]))
    assert torch.equal(logits_in(adapted, batch, "cs"), without)
    train(adapted, batch, "cs")
    wanted = logits_in(adapted, batch, "cs")
    check_far(wanted, without)

    adapted.save_pretrained(tmp_path)
    save_experts(adapted, tmp_path, form="fp32")
    again = PeftModel.from_pretrained(load_experts(load_whisper("tiny"), tmp_path), tmp_path)
    assert torch.equal(logits_in(again, batch, "cs"), wanted)
    attach_experts(adapted, ["nl"])
    names = [name for name, _ in expert_parameters(adapted, "nl")]
    assert names == [name.replace(".cs.", ".nl.") for name in weights(trained, "cs")]


# ---- adapters that transformers itself adds


def test_adapter_of_transformers_is_saved_with_the_experts_beside_it(trained, batch, tmp_path):
    without = logits_in(trained, batch, "cs")
    trained.add_adapter(lora(ON_ATTENTION))
    move_trained(trained)
    trained.eval()
    wanted = logits_in(trained, batch, "cs")
    check_far(wanted, without)
    trained.save_pretrained(tmp_path)
    trained.disable_adapters()
    assert torch.equal(logits_in(trained, batch, "cs"), without)

    experts_first = load_experts(load_whisper("tiny"), tmp_path)
    experts_first.load_adapter(str(tmp_path))
    adapter_first = load_whisper("tiny")
    adapter_first.load_adapter(str(tmp_path))
    load_experts(adapter_first, tmp_path)
    for again in (experts_first, adapter_first):
        assert torch.equal(logits_in(again.eval(), batch, "cs"), wanted)


def test_adapter_of_transformers_on_the_shared_block_loads_back(trained, batch, tmp_path):
    trained.add_adapter(lora(ON_SHARED))
    move_trained(trained)
    wanted = logits_in(trained.eval(), batch, None)
    trained.save_pretrained(tmp_path)
    again = load_experts(load_whisper("tiny"), tmp_path)
    again.load_adapter(str(tmp_path))
    assert torch.equal(logits_in(again.eval(), batch, None), wanted)
    check_far(wanted, logits(load_whisper("tiny"), batch))


@pytest.mark.parametrize(
    "config",
    [
        lora(ON_EXPERT),
        lora("all-linear"),
        lora(ON_ATTENTION, modules_to_save=EXPERTS_OF_CS),
    ],
    ids=["on experts", "all-linear", "modules_to_save"],
)
@pytest.mark.parametrize("name", ["final", "checkpoint-3"])
def test_adapter_of_transformers_on_experts_is_saved_whole(trained, batch, tmp_path, config, name):
    trained.add_adapter(config)
    move_trained(trained, size=0.05)
    wanted = logits_in(trained.eval(), batch, "cs")
    trained.save_pretrained(tmp_path / name, state_dict=trained.state_dict())
    again = load_experts(load_whisper("tiny"), tmp_path / name)
    again.load_adapter(str(tmp_path / name))
    assert torch.equal(logits_in(again.eval(), batch, "cs"), wanted)


# ---- experts of a low rank


@pytest.mark.parametrize("first", ["experts", "adapter"])
def test_low_rank_experts_follow_the_adapter_on_the_shared_block_also_when_it_is_merged(
    model, batch, first
):
    settings = ExpertSettings(rank=2)
    if first == "experts":
        adapted = with_adapter(attach_experts(model, ["cs"], settings), lora(ON_SHARED))
    else:
        adapted = attach_experts(with_adapter(model, lora(["fc1", "fc2"])), ["cs"], settings)
    check_close(logits_in(adapted, batch, "cs"), logits_in(adapted, batch, None))
    shake_experts(adapted)
    wanted = logits_in(adapted, batch, "cs")
    check_far(wanted, logits_in(adapted, batch, None))
    check_close(logits_in(adapted.merge_and_unload(), batch, "cs"), wanted)
