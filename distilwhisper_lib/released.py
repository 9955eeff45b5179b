"""The authors' published experts (naver/multilingual-distilwhisper-3k, -10k, -28k on the hub), in today's transformers.

A released folder holds `config.json`, `pytorch_model.bin` (the frozen Whisper) and `expert.<language>.bin`. The tensors
are read without running anything that is pickled, renamed, and put into our blocks.

Source: the authors' release, commit 6faf22a (model/DistilWhisper.py: CLSRFFN).
"""

import json
import re
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

from .clsr import ExpertSettings
from .storage import attach_trained
from .text import LANGUAGES, language_code
from .weights import REVISIONS, fastest_attention

STUDENT = "openai/whisper-small"  # the release's: settings of `generate` come from it where the folder has none
NAMES = {"gate_in": "gates.{}.linear1", "gate_out": "gates.{}.linear2", "proj": "experts.{}"}  # theirs -> ours
EXPERT = re.compile(r"model\.(\w+)\.layers\.(\d+)\.ffn_clsr\.(gate_in|gate_out|proj)\.\w+?\.(.+)")


def load_released(name: str | Path, languages: list[str], revision: str | None = None):
    """Return a Whisper with the published experts of `languages`; none is switched on (`set_language`).

    name: a hub id or a folder in the release's format; languages: codes or English names; revision: of the hub.
    Raises OSError where the hub can't be reached, FileNotFoundError for a file that is not there (the message lists the
    languages that are), ValueError for a damaged file or one that holds more than tensors, or experts that don't fit.
    """
    codes = [language_code(language) for language in ([languages] if isinstance(languages, str) else languages)]
    files = {code: f"expert.{LANGUAGES[code]}.bin" for code in codes}
    folder = _folder(name, ["config.json", "generation_config.json", "pytorch_model.bin", *files.values()], revision)
    settings = _read_config(folder)
    model = _whisper(folder, settings)
    gate = ExpertSettings(gate_dim=settings["clsr_gate_dim"], skip_gate=settings["skip_gate_prob"])
    experts = {code: _our_names(_read_tensors(folder / file), code) for code, file in files.items()}
    model.config._name_or_path = model.name_or_path = str(name)
    return attach_trained(model, gate, experts, str(folder))


def _folder(name: str | Path, files: list[str], revision: str | None) -> Path:
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=files))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise OSError(f"{name!r} is no folder here and can't be fetched from the hub ({type(error).__name__}): "
                      "check its spelling (like naver/multilingual-distilwhisper-3k) and the network"
                      ) from error  # fmt: skip


def _read_config(folder: Path) -> dict:
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {folder} is not a folder of the authors' release")
    settings = json.loads(path.read_text(encoding="utf-8"))
    if settings.get("model_type") != "distilwhisper":
        raise ValueError(f"{path} describes a {settings.get('model_type')!r}, not a released 'distilwhisper': "
                         "experts of this kit are loaded by load_experts")  # fmt: skip
    return settings


def _whisper(folder: Path, settings: dict) -> WhisperForConditionalGeneration:
    """Return the release's frozen Whisper (fp32), its shared blocks in their usual places."""
    known = set(WhisperConfig().to_dict()) - {"model_type", "architectures", "dtype", "transformers_version"}
    config = WhisperConfig(**{key: value for key, value in settings.items() if key in known})
    state = {name.replace("ffn_clsr.proj.shared.", ""): tensor
             for name, tensor in _read_tensors(folder / "pytorch_model.bin").items()}  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    model.set_attn_implementation(fastest_attention())
    missing, unexpected = model.load_state_dict(state, strict=False)
    if set(missing) - {"proj_out.weight"} or unexpected:  # the projection is tied to the embeddings
        raise ValueError(f"{folder / 'pytorch_model.bin'} does not fit its config.json: missing {missing[:3]}, "
                         f"unknown {unexpected[:3]}")  # fmt: skip
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    elif config.vocab_size == 51865:  # Whisper's own multilingual vocabulary
        model.generation_config = GenerationConfig.from_pretrained(STUDENT, revision=REVISIONS[STUDENT])
    return model.eval()


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        there = sorted(file.name.split(".")[1] for file in path.parent.glob("expert.*.bin"))
        raise FileNotFoundError(f"{path} is missing; the folder has experts for {', '.join(there) or 'no language'}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  torch has errors of many kinds for a file that it can't read or won't
        raise ValueError(f"{path} can't be read: it is damaged, or holds more than tensors; fetch it again "
                         f"({str(error).splitlines()[0][:80]})") from error  # fmt: skip


def _our_names(tensors: dict[str, torch.Tensor], code: str) -> dict[str, torch.Tensor]:
    """Return an expert file's tensors under the names of `expert_parameters`; what does not match keeps its own."""
    def ours(match: re.Match) -> str:
        stack, index, part, rest = match.groups()
        return f"{stack}.{index}.{NAMES[part].format(code)}.{rest}"

    return {EXPERT.sub(ours, name): tensor.float() for name, tensor in tensors.items()}
