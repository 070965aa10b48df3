"""Ranks written by hand, as the outcomes of a cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.cells import NONE, Cell
from pipeline.evaluation.outcomes import Outcomes


def ranked(
    rank: np.ndarray,
    split: Sequence[str],
    *,
    encoder: str = NONE,
    backbone: str = "sasrec",
    method: str = "id",
    train_count: Sequence[int] | None = None,
) -> Outcomes:
    """Return the outcomes of ranks [S, U]; split: of every user; train_count: 9 for all."""
    users = rank.shape[1]
    return Outcomes(
        cell=Cell("toy", encoder, backbone, method),
        seeds=tuple(range(len(rank))),
        user=np.arange(users),
        split=np.asarray(split),
        target=np.ones(users, dtype=np.int64),
        train_count=np.asarray(train_count if train_count is not None else [9] * users),
        rank=rank,
        items="0" * 64,
        provenance={},
    )
