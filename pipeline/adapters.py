"""Item tables shared by several methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.errors import DataError
from pipeline.layers.draws import among
from pipeline.layouts import Layout, widths
from pipeline.model import (
    Adapter,
    Before,
    Inputs,
    MethodConfig,
    Parts,
    normal_table,
    with_padding,
)
from pipeline.values import SemanticEmbeddings


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


class TextMap(Adapter):
    """A trained map of the frozen text of every item.

    rows: [N, H], or several of them [S, N, H]; mapping: takes them to [N, width], each item by
    itself.
    """

    selective = True

    def __init__(self, rows: Tensor, mapping: nn.Module, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("rows", rows, persistent=False)
        self.rows: Tensor
        self.mapping = mapping

    def table(self) -> Tensor:
        """Return [N+1, D]; no text is mapped to row 0, which a bias would fill."""
        return with_padding(self.mapping(self.rows))

    def rows_of(self, items: Tensor) -> Tensor:
        """Return the rows of items [M] alone: the map runs M times instead of N times."""
        places = items.clamp(min=1) - 1
        with among(places, self.rows.shape[-2]):
            mapped: Tensor = self.mapping(self.rows.index_select(-2, places))
        return mapped * (items > 0)[:, None]

    def semantic(self) -> Tensor:
        """Return the table: it is all text."""
        return self.table()

    def measures(self) -> dict[str, float]:
        """Return the spread of the mapped text."""
        with torch.no_grad():
            return {"std_text": float(self.table()[1:].std())}


class Concat(Adapter):
    """Vectors of several tables side by side."""

    def __init__(self, parts: Sequence[Adapter]) -> None:
        super().__init__()
        self.width = sum(part.width for part in parts)
        self.parts = nn.ModuleList(parts)
        self.selective = any(part.selective for part in parts)

    def table(self) -> Tensor:
        """Return [N+1, D]."""
        return torch.cat(_tables(self.parts), dim=1)

    def rows_of(self, items: Tensor) -> Tensor:
        """Return the rows [M, D] of items [M]."""
        return torch.cat(_tables(self.parts, items), dim=1)

    def semantic(self) -> Tensor | None:
        """Return the text of those parts that have some, side by side."""
        texts = _texts(self.parts)
        return torch.cat(texts, dim=1) if texts else None


class Sum(Adapter):
    """Vectors of several tables of one width, added."""

    def __init__(self, parts: Sequence[Adapter]) -> None:
        super().__init__()
        (self.width,) = {part.width for part in parts}
        self.parts = nn.ModuleList(parts)
        self.selective = any(part.selective for part in parts)

    def table(self) -> Tensor:
        """Return [N+1, D]."""
        return torch.stack(_tables(self.parts)).sum(0)

    def rows_of(self, items: Tensor) -> Tensor:
        """Return the rows [M, D] of items [M]."""
        return torch.stack(_tables(self.parts, items)).sum(0)

    def semantic(self) -> Tensor | None:
        """Return the sum of the text of those parts that have some."""
        texts = _texts(self.parts)
        return torch.stack(texts).sum(0) if texts else None


class TextLayout(MethodConfig):
    """Settings of a method whose trained map of the text may stand beside an ID vector."""

    fusion: Annotated[Layout, Before("none")]
    """none: text alone; add: an ID vector is added; concat: it stands before the text part."""
    id_width: Annotated[int | None, Before(None)] = Field(ge=1)
    """Columns of the ID part; null: what the fusion leaves for it (concat: half)."""
    text_width: Annotated[int | None, Before(None)] = Field(ge=1)
    """Columns of the text part; null: what the fusion leaves for it (concat: half)."""


def laid_out(
    config: TextLayout, inputs: Inputs, parts: Parts, text: Callable[[int], Adapter]
) -> Adapter:
    """Return the text part, beside an ID table where the settings say so.

    text: makes the text part of a width. Raises ConfigError when the widths do not fit the cell's.
    """
    train = parts.train
    part = widths(
        config.fusion,
        config.id_width,
        config.text_width,
        train.width,
        block=config.block,
        key=parts.width_key,
    )
    mapped = text(part.text)
    if config.fusion == "none":
        return mapped
    ids = IdTable(len(inputs.catalog), part.id, train.item_std)
    return Sum([ids, mapped]) if config.fusion == "add" else Concat([ids, mapped])


def _tables(parts: nn.ModuleList, items: Tensor | None = None) -> list[Tensor]:
    """Return every part's table, or its rows of items [M]."""
    tables = []
    for part in parts:
        assert isinstance(part, Adapter)
        tables.append(part.table() if items is None else part.rows_of(items))
    return tables


def _texts(parts: nn.ModuleList) -> list[Tensor]:
    texts = []
    for part in parts:
        assert isinstance(part, Adapter)
        if (text := part.semantic()) is not None:
            texts.append(text)
    return texts


def text_rows(semantic: SemanticEmbeddings, norm: float) -> Tensor:
    """Return the text of all items [N, H], scaled as a whole to this norm on average.

    Maps with a bias depend on that size: AlphaFuse multiplies unit vectors by 40.
    Raises DataError when all rows are zero, which no factor brings to a norm.
    """
    rows = torch.from_numpy(semantic.values[1:])
    mean = rows.norm(dim=1).mean()
    if mean == 0:
        raise DataError(
            f"train: all embeddings of the {len(rows)} items are zero, or too small for float32. "
            f"Check the encoder, or the template and the item text."
        )
    scaled: Tensor = rows * (norm / mean)
    return scaled
