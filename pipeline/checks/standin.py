"""A small catalogue of random text, to put cells together before there are data."""

from __future__ import annotations

from functools import cache, cached_property

import numpy as np
import pyarrow as pa

from pipeline.artifacts import ITEMS
from pipeline.spectral.decompose import CENTRED
from pipeline.values import NOT_HELD, Catalog, SemanticEmbeddings, Sequences, Spectrum

SPARE = 8
"""Items beyond the width, so that their number never bounds the rank."""


class StandIn:
    """What methods read (`pipeline.model.Inputs`), for text of H columns and item vectors of D.

    items: N; None for as few as the width allows.
    """

    def __init__(self, columns: int, width: int, items: int | None = None) -> None:
        self.columns = columns
        self.items = items or width + SPARE
        self.spectrum = cache(self._spectrum)

    @cached_property
    def catalog(self) -> Catalog:
        """Items that all have the same text."""
        assert ITEMS.schema is not None
        columns = dict.fromkeys(ITEMS.schema.names, pa.array(["text"] * self.items))
        numbers = np.arange(1, self.items + 1)
        return Catalog(pa.table(columns | {"item": numbers}, schema=ITEMS.schema), "")

    @cached_property
    def sequences(self) -> Sequences:
        """One user who trains on every item once."""
        return Sequences(
            raw_users=pa.array(["1"]),
            items=np.arange(1, self.items + 1),
            times=None,
            offsets=np.array([0, self.items]),
            train_end=np.array([self.items]),
            valid_at=np.array([NOT_HELD]),
            test_at=np.array([NOT_HELD]),
            num_items=self.items,
            fingerprint="",
        )

    @cached_property
    def semantic(self) -> SemanticEmbeddings:
        """Random rows."""
        rows = np.random.default_rng(0).random((self.items + 1, self.columns), np.float32)
        rows[0] = 0
        return SemanticEmbeddings(rows, "")

    def _spectrum(self, view: str) -> Spectrum:
        """Return as many components as the rank allows; their directions are not those of rows."""
        rank = min(self.items - (view in CENTRED), self.columns)
        draw = np.random.default_rng(0)
        return Spectrum(
            view=view,
            mean=np.zeros(self.columns, np.float32),
            u=draw.random((self.items, rank), np.float32),
            s=np.linspace(2, 1, rank, dtype=np.float32),
            v=draw.random((self.columns, rank), np.float32),
            fingerprint="",
        )
