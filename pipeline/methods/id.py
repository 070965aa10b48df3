"""ID only: one trained vector per item, no text. The base every text method is compared with.

Source: SpecTran Table 2, row Base; SASRec (Kang & McAuley, ICDM 2018).
Differs: none known.
"""

from __future__ import annotations

from pipeline.adapters import IdTable
from pipeline.model import Inputs, Method, MethodConfig, Parts, single

NEEDS: tuple[str, ...] = ()


class Config(MethodConfig):
    """No settings: the initial spread is train.item_std."""


def build(config: Config, inputs: Inputs, parts: Parts) -> Method:
    """Compose the method."""
    train = parts.train
    return single(IdTable(len(inputs.catalog), train.width, train.item_std), parts)
