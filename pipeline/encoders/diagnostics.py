"""What embeddings look like: norms, mean cosine, neighbours of a few items. Read in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.tensorfile import Rows

SAMPLED = 5
"""Items whose neighbours are shown."""
NEIGHBOURS = 3
_STEP = 1 << 14


def sample(count: int) -> list[int]:
    """Return the rows whose neighbours are shown, spread over the catalogue: 0 the first item."""
    return sorted({int(count * (place + 0.5) / SAMPLED) for place in range(SAMPLED)} - {count})


def norms(rows: Rows) -> dict[str, Any]:
    """Return norms and mean cosine of the rows below the padding row, [N, H] float32.

    The mean cosine is that of all pairs of different non-zero rows; null for fewer than two.
    """
    low, high, total, squares, zeros = np.inf, 0.0, 0.0, 0.0, 0
    direction = np.zeros(rows.shape[1])
    count = rows.shape[0] - 1
    for _, part in rows.chunks(_STEP, 1, verify=False):
        wide = part.astype(np.float64)
        length = np.sqrt(np.einsum("nh,nh->n", wide, wide))
        low, high = min(low, float(length.min())), max(high, float(length.max()))
        total, squares = total + float(length.sum()), squares + float((length**2).sum())
        used = length > 0
        zeros += int((~used).sum())
        direction += (wide[used] / length[used, None]).sum(axis=0)
    unit = count - zeros
    mean = total / count
    cosine = float(direction @ direction - unit) / (unit * (unit - 1)) if unit > 1 else None
    return {
        "norm": {
            "min": _short(low),
            "mean": _short(mean),
            "max": _short(high),
            "deviation": _short(np.sqrt(max(0.0, squares / count - mean**2))),
        },
        "zero_rows": zeros,
        "mean_cosine": None if cosine is None else _short(cosine),
    }


def neighbours(rows: Rows, chosen: Sequence[int]) -> list[list[tuple[int, float]]]:
    """Return the nearest rows by cosine of each chosen one, [(row, cosine)], nearest first.

    Rows count from 0, the first item; an item is not its own neighbour.
    """
    anchors = _rows(rows, chosen)
    best = np.full((len(chosen), 0), 0.0)
    who = np.zeros((len(chosen), 0), np.int64)
    for first, part in rows.chunks(_STEP, 1, verify=False):
        cosines = anchors @ _unit(part).T
        numbers = np.arange(first - 1, first - 1 + len(part))
        cosines[np.asarray(chosen)[:, None] == numbers] = -np.inf
        best = np.concatenate([best, cosines], axis=1)
        who = np.concatenate([who, np.broadcast_to(numbers, cosines.shape)], axis=1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :NEIGHBOURS]
        best, who = np.take_along_axis(best, order, 1), np.take_along_axis(who, order, 1)
    return [
        [(int(w), _short(c)) for w, c in zip(*pair, strict=True) if np.isfinite(c)]
        for pair in zip(who, best, strict=True)
    ]


def _rows(rows: Rows, chosen: Sequence[int]) -> np.ndarray:
    """Return the chosen rows at unit length, [n, H] float64."""
    found = np.zeros((len(chosen), rows.shape[1]))
    for first, part in rows.chunks(_STEP, 1, verify=False):
        for place, row in enumerate(chosen):
            if 0 <= row + 1 - first < len(part):
                found[place] = part[row + 1 - first]
    return _unit(found)


def _unit(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(np.divide(wide, length, out=np.zeros_like(wide), where=length > 0))


def _short(value: float) -> float:
    # Six digits: sums on other machines may differ in the last of sixteen.
    return float(f"{value:.6g}")
