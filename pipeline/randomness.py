"""Random streams derived from (seed, purpose): no step depends on how many draws came before.

A run that resumes at an epoch boundary needs no generator state: the stream of every epoch follows
from its name.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def derive(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit integer that is fixed by the seed and the words of the purpose."""
    text = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU generator for one purpose, e.g. `generator(0, "negatives", epoch)`."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *purpose))


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return numpy's default generator for one purpose."""
    import numpy as np

    return np.random.default_rng(derive(seed, *purpose))
