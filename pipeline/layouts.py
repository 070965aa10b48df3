"""How the columns of an item vector are divided: between ID part and text part, among heads."""

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
    layout: Layout,
    id_width: int | None,
    text_width: int | None,
    width: int,
    *,
    block: str,
    key: str,
) -> Widths:
    """Return the widths of both parts of an item vector of `width` columns.

    id_width, text_width: as written in params.yaml; None: what the layout leaves for it, halves
    when a concatenation leaves both open. block: where they are, e.g. `methods.unisrec`; key:
    where `width` is set.
    Raises ConfigError naming the key that does not fit.
    """
    if layout == "concat":
        return _beside(id_width, text_width, width, block, key)
    wanted = Widths(width if layout == "add" else 0, width)
    named = (("id_width", id_width, wanted.id), ("text_width", text_width, wanted.text))
    for name, found, needed in named:
        if found not in (None, needed):
            allowed = f"{needed}, or null" if needed else "null"
            raise ConfigError(
                f"params.yaml: {block}.{name}: {found} does not fit {key} {width} with fusion "
                f"{layout}. Write {allowed}."
            )
    return wanted


def _beside(
    id_width: int | None, text_width: int | None, width: int, block: str, key: str
) -> Widths:
    if id_width is None and text_width is None:
        return halves(width, f"{block}.fusion: concat", key)
    for name, found in (("id_width", id_width), ("text_width", text_width)):
        if found is not None and found >= width:
            raise ConfigError(
                f"params.yaml: {block}.{name}: {found} leaves no column of {key} {width} to the "
                f"other part. Write less, or another fusion."
            )
    if id_width is None:
        id_width = width - (text_width or 0)
    if text_width is None:
        text_width = width - id_width
    if id_width + text_width != width:
        raise ConfigError(
            f"params.yaml: {block}.id_width: {id_width} and text_width {text_width} add up to "
            f"{id_width + text_width}, not to {key} {width}. Write one of them as null."
        )
    return Widths(id_width, text_width)


def halves(width: int, why: str, key: str) -> Widths:
    """Return two equal parts; why: what halves the width; key: where it is set.

    Raises ConfigError when the width is odd.
    """
    if width % 2:
        raise ConfigError(
            f"params.yaml: {key}: {width} is odd, but {why} halves it. Use an even width."
        )
    return Widths(width // 2, width // 2)


def refuse_heads(heads: int, width: int, block: str, key: str) -> None:
    """Raise ConfigError when heads of attention do not divide the width.

    block: where the heads are set; key: what sets the width, also `half of train.width 8`.
    """
    if width % heads:
        raise ConfigError(
            f"params.yaml: {block}.heads: {heads} does not divide the width {width} ({key}). "
            f"Allowed: a divisor of {width}. Write one, or another width."
        )
