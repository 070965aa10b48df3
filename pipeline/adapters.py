"""Item tables shared by several methods."""

from __future__ import annotations

from torch import Tensor

from pipeline.model import Adapter, normal_table


class IdTable(Adapter):
    """One trainable vector per item.

    rows: initial vectors [N, D] or None for N(0, std^2).
    """

    def __init__(self, num_items: int, width: int, std: float, rows: Tensor | None = None) -> None:
        super().__init__()
        self.width = width
        self.weight = normal_table(num_items, width, std)
        if rows is not None:
            self.weight.data[1:] = rows

    def table(self) -> Tensor:
        """Return the trainable table; row 0 is zero and never receives a gradient."""
        return self.weight

    def measures(self) -> dict[str, float]:
        """Return the spread of the ID vectors."""
        return {"std_id": float(self.weight.detach()[1:].std())}
