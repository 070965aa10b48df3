"""How an item vector is divided between its ID part and its text part."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pipeline.errors import ConfigError

Layout = Literal["none", "add", "concat"]
"""none: text alone; add: both parts in full width, summed; concat: side by side, ID first."""


class Widths(NamedTuple):
    """Columns of both parts of an item vector."""

    id: int
    text: int


def widths(
    layout: Layout, id_width: int | None, text_width: int | None, width: int, where: str
) -> Widths:
    """Return the widths of both parts of an item vector of `width` columns.

    id_width, text_width: as written in params.yaml; None: what the layout leaves for it, halves
    when a concatenation leaves both open. where: the block, e.g. `methods.unisrec`.
    Raises ConfigError naming the key that does not fit.
    """
    if layout == "concat":
        return _beside(id_width, text_width, width, where)
    wanted = Widths(width if layout == "add" else 0, width)
    named = (("id_width", id_width, wanted.id), ("text_width", text_width, wanted.text))
    for key, found, needed in named:
        if found not in (None, needed):
            allowed = f"{needed}, or null" if needed else "null"
            raise ConfigError(
                f"params.yaml: {where}.{key}: {found} does not fit train.width {width} with "
                f"fusion {layout}. Write {allowed}."
            )
    return wanted


def _beside(id_width: int | None, text_width: int | None, width: int, where: str) -> Widths:
    if id_width is None and text_width is None:
        return halves(width, f"{where}.fusion: concat")
    for key, found in (("id_width", id_width), ("text_width", text_width)):
        if found is not None and found >= width:
            raise ConfigError(
                f"params.yaml: {where}.{key}: {found} leaves no column of train.width {width} to "
                f"the other part. Write less, or another fusion."
            )
    if id_width is None:
        id_width = width - (text_width or 0)
    if text_width is None:
        text_width = width - id_width
    if id_width + text_width != width:
        raise ConfigError(
            f"params.yaml: {where}.id_width: {id_width} and text_width {text_width} add up to "
            f"{id_width + text_width}, not to train.width {width}. Write one of them as null."
        )
    return Widths(id_width, text_width)


def halves(width: int, why: str) -> Widths:
    """Return two equal parts. Raises ConfigError when the width is odd; why: what halves it."""
    if width % 2:
        raise ConfigError(
            f"params.yaml: train.width: {width} is odd, but {why} halves it. Use an even width."
        )
    return Widths(width // 2, width // 2)
