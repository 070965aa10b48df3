"""The item vectors of a method, part by part, as the analysis of their spectra measures them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from pipeline.model import Adapter, Method, Objective
from pipeline.training.saved import terms_of


@dataclass(frozen=True)
class ItemVectors:
    """The item vectors of one view, before views and ID vectors join, or their text in the loss."""

    state: Literal["initial", "trained"]
    view: str
    part: Literal["semantic", "table"]
    """semantic: what the text alone gives; table: all, where the view reads no text. Where text
    stands in the loss only, a view has both."""
    rows: np.ndarray
    """[N, D]."""


def item_vectors(method: Method, state: Literal["initial", "trained"]) -> Iterator[ItemVectors]:
    """Yield the vectors of every view, then the text that only the loss uses."""
    for view, adapter in method.model.adapters.items():
        assert isinstance(adapter, Adapter)
        with torch.inference_mode():
            text = adapter.semantic()
            rows = adapter.table() if text is None else text
        part: Literal["semantic", "table"] = "table" if text is None else "semantic"
        # A table may be the parameter itself, which the trained state then overwrites.
        yield ItemVectors(state, view, part, rows[1:].detach().numpy().copy())
    for term in terms_of(method).values():
        assert isinstance(term, Objective)
        with torch.inference_mode():
            found = term.semantic()
        for view, text in found.items():
            yield ItemVectors(state, view, "semantic", text.numpy())
