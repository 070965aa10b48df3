"""LoRA adapters: what their folders hold, and merging them into a model's weights.

Source: Hu et al., ICLR 2022; the peft library. LLM2Vec stacks two of them on a decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from pipeline.encoders.folder import ADAPTER, ModelFolder
from pipeline.encoders.hub import need
from pipeline.errors import ConfigError
from pipeline.files import sha256_file

_WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"


class AdapterFolder(ModelFolder):
    """The folder of a LoRA adapter."""

    @cached_property
    def contents(self) -> dict[str, str]:
        """SHA-256 of weights and settings."""
        self.check_layout()
        return {
            "weights": sha256_file(self.path / _WEIGHTS),
            "settings": sha256_file(self.path / ADAPTER),
        }

    def check_layout(self) -> None:
        """Raise ConfigError unless LoRA settings and safetensors weights are there."""
        self.require(ADAPTER, "Is this a LoRA adapter?")
        settings = self.json(ADAPTER)
        kind = settings.get("peft_type") if isinstance(settings, dict) else None
        if kind != "LORA":
            raise self.wrong(f"{ADAPTER} is of kind {kind}; only LORA is merged.")
        if not (self.path / _WEIGHTS).is_file() and (self.path / _PICKLE).is_file():
            raise self.wrong(
                f"it has pickled weights only ({_PICKLE}). Loading them can run code; convert "
                f"them to {_WEIGHTS} first."
            )
        self.require(_WEIGHTS)


def merge(model: Any, folders: Sequence[ModelFolder]) -> Any:
    """Return the model with the adapters added to its weights, one after the other.

    Raises ConfigError when an adapter was made for another model.
    """
    if not folders:
        return model
    need("peft", "adapters")
    for folder in folders:
        model = _merge(model, folder)
    return model


def _merge(model: Any, folder: ModelFolder) -> Any:
    import warnings

    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(folder.path / _WEIGHTS, "pt") as file:
        written = set(file.keys())
    # Adapters of language models name the model inside; this engine loads that one alone.
    inner = {"^model\\.": ""} if not hasattr(model, "model") else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about absent tensors: told below, as an error
            adapted = PeftModel.from_pretrained(model, str(folder.path), key_mapping=inner)
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise _misfit(folder, f"it does not fit the model: {reason}") from None
    prefix = "base_model.model."
    named = {prefix + name.removeprefix(prefix).removeprefix("model.") for name in written}
    wanted = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if strange := sorted((named if inner else written) ^ wanted):
        raise _misfit(folder, f"{len(strange)} tensors do not fit the model, first {strange[0]}")
    return adapted.merge_and_unload(safe_merge=True)


def _misfit(folder: ModelFolder, problem: str) -> ConfigError:
    settings = folder.json(ADAPTER)
    base = settings.get("base_model_name_or_path") if isinstance(settings, dict) else None
    return ConfigError(
        f"encoder adapter {folder.name!r}: {problem}. It was made for {base}. "
        f"Set `model` to that, or take the adapter out of `adapters`."
    )
