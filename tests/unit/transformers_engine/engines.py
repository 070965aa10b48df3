"""The transformers engine on tiny models, and the plain library it is compared with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Transformers
from pipeline.encoders import open_encoder
from pipeline.encoders.transformers import TransformersEncoder
from tests.tiny_models import WIDTH

TEXTS = [
    "red wooden train",
    "a",
    "castle building set with 300 blocks and figures for small children",
    "box of blocks",
]
Folder = Callable[[str], Path]


def spec(model: Path | str, **changes: Any) -> Transformers:
    values = {
        "engine": "transformers",
        "transform": None,
        "model": str(model),
        "revision": None,
        "weights_sha256": None,
        "width": WIDTH,
        "normalize": False,
        "max_tokens": 64,
        "dtype": "float32",
        "batch_size": 8,
        "batch_tokens": 1024,
        "template": "{title}",
        "layer": -1,
        "norm": "post",
        "pooling": "mean",
        "bidirectional": False,
        "adapters": [],
        "trust_remote_code": False,
    }
    return Transformers.model_validate(values | changes)


def engine(model: Path | str, base: Path = Path(), **changes: Any) -> TransformersEncoder:
    found = open_encoder(spec(model, **changes), base, "cpu", threads=1)
    assert isinstance(found, TransformersEncoder)
    return found


def adapter(place: Path) -> dict[str, Any]:
    """The block of an adapter."""
    return {"model": str(place), "revision": None}


def rows(found: TransformersEncoder, texts: list[str] = TEXTS) -> np.ndarray:
    return found.encode(found.prepare(texts).inputs)


def library(path: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    return AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()


def naive(path: Path, layer: int, pooling: str, *, pre: bool = False) -> np.ndarray:
    """One text at a time, without padding, through all blocks."""
    import torch

    tokenizer, model = library(path)
    result = []
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        if pooling == "eos":
            ids = [*ids, tokenizer.eos_token_id]
        before: list[Any] = []
        if pre:
            model.norm.register_forward_pre_hook(lambda _, args, kept=before: kept.append(args[0]))
        with torch.no_grad():
            out = model(torch.tensor([ids]), output_hidden_states=True)
        state = (before[0] if pre else out.hidden_states[layer])[0]
        at = {"mean": state.mean(0), "cls": state[0]}
        result.append(at.get(pooling, state[-1]).numpy())
    return np.stack(result)


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.float32
    # Padding changes the order of sums: measured 4e-6 on states up to 80.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
