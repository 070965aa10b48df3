"""Full ranking of every held-out target against the whole catalogue.

Stored are counts, not metrics: how many other candidates score strictly better and how many equal,
with and without the items the user has already seen. Any metric, cut-off, tie rule, seen filter or
slice follows from them without ranking again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.errors import DivergedError
from pipeline.evaluation import metrics
from pipeline.evaluation.outcomes import rank_of
from pipeline.model import Scorer
from pipeline.sampling.batches import HeldOut, History

CHUNK_BYTES = 64_000_000
"""Scores held at once: [users, N] in 4 bytes."""


class Question(NamedTuple):
    """Some held-out targets with all that ranking them needs, on the device that ranks."""

    history: History
    targets: Tensor
    """[B] long."""
    seen: Tensor
    """[B, S] long, distinct items before the target, 0 = padding; S = 0 where nobody asks."""


def questions(
    held: HeldOut, length: int, num_items: int, device: str, *, seen: bool = True
) -> Iterator[Question]:
    """Yield all targets of a split, as many at once as the catalogue allows.

    seen: False leaves out the seen items, of which a few users may have thousands; counts of
    unseen items are then those of all.
    """
    rows = max(1, CHUNK_BYTES // (4 * num_items))
    for start in range(0, len(held), rows):
        part = slice(start, min(start + rows, len(held)))
        targets = torch.from_numpy(held.targets[part]).to(device)
        items = held.seen(part) if seen else torch.zeros(len(targets), 0, dtype=torch.long)
        yield Question(held.history(part, length).to(device), targets, items.to(device))


@torch.inference_mode()
def count(scorer: Scorer, asked: Iterable[Question]) -> dict[str, np.ndarray]:
    """Return int64 arrays [n]: greater, equal, greater_unseen, equal_unseen, candidates_unseen.

    Raises DivergedError when a score is NaN.
    """
    parts = [_count(scorer(one.history), one.targets, one.seen).cpu() for one in asked]
    columns = torch.cat(parts).numpy() if parts else np.zeros((0, 5), np.int64)
    names = ("greater", "equal", "greater_unseen", "equal_unseen", "candidates_unseen")
    return {name: columns[:, place] for place, name in enumerate(names)}


def rank(
    scorer: Scorer, held: HeldOut, length: int, num_items: int, device: str = "cpu"
) -> dict[str, np.ndarray]:
    """Return the counts of all targets of a split, see `count`."""
    return count(scorer, questions(held, length, num_items, device))


def _count(scores: Tensor, targets: Tensor, seen: Tensor) -> Tensor:
    """Return [B, 5] counts; scores [B, N], targets [B], seen [B, S] with 0 = padding."""
    own = scores.gather(1, targets[:, None] - 1)
    if torch.isnan(scores).any():
        raise DivergedError(
            "ranking: a score is NaN. The model diverged: lower train.learning_rate."
        )
    greater = (scores > own).sum(1)
    equal = (scores == own).sum(1) - 1
    counted = (seen > 0) & (seen != targets[:, None])
    theirs = scores.gather(1, (seen - 1).clamp(min=0))
    greater_seen = ((theirs > own) & counted).sum(1)
    equal_seen = ((theirs == own) & counted).sum(1)
    left = scores.shape[1] - counted.sum(1)
    return torch.stack([greater, equal, greater - greater_seen, equal - equal_seen, left], dim=1)


def ndcg(greater: np.ndarray, equal: np.ndarray, k: int) -> float:
    """Return mean NDCG@k by the rules of the metrics; what early stopping watches."""
    return float(metrics.ndcg(rank_of(greater, equal), k).mean())


def table(
    counts: Sequence[tuple[str, HeldOut, dict[str, np.ndarray]]],
    train_counts: np.ndarray,
) -> pa.Table:
    """Join the counts of both splits into the columns of the RANKS artifact."""
    num_items = len(train_counts) - 1
    tables = []
    for split, held, columns in counts:
        tables.append(
            pa.table(
                {
                    "user": held.users,
                    "split": pa.array([split] * len(held), pa.string()),
                    "target": held.targets,
                    "candidates": np.full(len(held), num_items),
                    "target_train_count": train_counts[held.targets],
                    **columns,
                }
            )
        )
    return pa.concat_tables(tables)
