"""Item text: cleaned once when the catalogue is made, rendered from a template to be encoded."""

from __future__ import annotations

import html
import re
import string
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, DataError, near_miss

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    import polars as pl
    import pyarrow as pa

FIELDS = ("title", "brand", "categories", "description")
"""Text columns of the catalogue, the only names a template may use."""

PLACEHOLDER = "unknown item"
"""Text of an item whose template fields are all empty: every catalogue row must have a vector, and
equal text for all such items gives them equal vectors, so none is favoured. Callers count it."""

WINDOW = 1 << 15
"""Items read at a time."""

_INVISIBLE = r"[\x00-\x1f\x7f-\x9f\x{200b}\x{2028}\x{2029}\x{feff}\s]+"
_SPACE = re.compile(r"\s+")
_SURROGATE = re.compile("[\ud800-\udfff]")


def clean(texts: pl.Series) -> pl.Series:
    """Unescape HTML entities, turn control characters and white space into single blanks.

    Null becomes the empty text. Markup (tags) is kept as it is: it is text to an encoder, and the
    report escapes it.
    """
    import polars as pl  # rendering, which encoders use, works without

    if texts.null_count() == len(texts):
        return pl.repeat("", len(texts), dtype=pl.String, eager=True).alias(texts.name)
    escaped = texts.str.contains("&", literal=True).fill_null(False)
    if escaped.any():
        rows = escaped.arg_true()
        plain = pl.Series([html.unescape(text) for text in texts.gather(rows)], dtype=pl.String)
        texts = texts.scatter(rows, plain)
    return texts.fill_null("").str.replace_all(_INVISIBLE, " ").str.strip_chars()


def clean_columns(items: pl.DataFrame) -> pl.DataFrame:
    """Clean every text column of the item table."""
    return items.with_columns(clean(items[name]) for name in FIELDS)


def well_formed(texts: Sequence[str]) -> list[str]:
    """Return the texts with U+FFFD in place of each lone surrogate.

    A surrogate alone is no character, and tokenizers and servers, which read UTF-8, refuse the
    text. Every engine prepares texts by this, so that a text always gives one and the same row.
    """
    return [text if text.isascii() else _SURROGATE.sub("\ufffd", text) for text in texts]


def parse_template(template: str) -> list[tuple[str, str | None]]:
    """Split a template into (literal text, field) pairs; field is None after the last literal.

    Raises ConfigError for broken braces, an unknown field, a format or attribute access, and for
    a template without any field.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"template {template!r}: {error}. Write a literal brace twice.") from None
    for _, field, form, conversion in parts:
        if field is None:
            continue
        if field not in FIELDS:
            raise ConfigError(
                f"template {template!r}: unknown field {{{field}}}.{near_miss(field, FIELDS)}"
            )
        if form or conversion:
            raise ConfigError(
                f"template {template!r}: {{{field}}} takes no format. Write {{{field}}} alone."
            )
    if all(field is None for _, field, _, _ in parts):
        raise ConfigError(
            f"template {template!r}: names no field, so every item would have the same text. "
            f"Known: {', '.join(FIELDS)}."
        )
    return [(literal, field) for literal, field, _, _ in parts]


def render(table: pa.Table | pa.RecordBatch, template: str) -> list[str]:
    """Return the text of rows of the catalogue, one line each, never empty.

    An item whose named fields are all empty gets PLACEHOLDER; `text.count(PLACEHOLDER)` of the
    result tells how many, and callers report it. Raises ConfigError for a bad template.
    """
    parts = parse_template(template)
    named = fields(template)
    columns = {name: table[name].to_pylist() for name in named}
    texts = []
    for row in range(len(table)):
        if any(columns[name][row].strip() for name in named):
            text = "".join(
                literal + (columns[field][row] if field is not None else "")
                for literal, field in parts
            )
            texts.append(_SPACE.sub(" ", text).strip())
        else:
            texts.append(PLACEHOLDER)
    return texts


def fields(template: str) -> list[str]:
    """Return the fields a template names. Raises ConfigError for a bad template."""
    return sorted({field for _, field in parse_template(template) if field is not None})


class ItemText:
    """The text of all items of a data set, read in windows, so that memory does not grow."""

    def __init__(self, root: Path, dataset: str, template: str) -> None:
        """Check the catalogue's header and the template. Raises ArtifactError or ConfigError."""
        from pipeline import artifacts

        self._root, self._dataset, self.template = root, dataset, template
        self._named = fields(template)
        self._artifact = artifacts.ITEMS
        self._count, header = self._artifact.open(root, dataset=dataset)
        self.fingerprint: str = header["items"]

    def __len__(self) -> int:
        return self._count

    def check(self) -> None:
        """Compare the columns with the fingerprint. Raises ArtifactError when they were altered."""
        from pipeline.values import catalog_fingerprint

        def chunks(name: str) -> Iterator[pa.Array]:
            return (batch.column(0) for batch in self._batches([name]))

        if catalog_fingerprint(chunks) != self.fingerprint:
            cell = {"dataset": self._dataset}
            raise self._artifact.fail(self._root, cell, "was altered after writing.")

    def windows(self) -> Iterator[list[str]]:
        """Yield the texts of all items in order, some ten thousand at a time."""
        for batch in self._batches(self._named):
            yield render(batch, self.template)

    def raw_items(self) -> Iterator[list[str]]:
        """Yield the raw ids of all items in order, some ten thousand at a time."""
        for batch in self._batches(["raw_item"]):
            yield batch.column(0).to_pylist()

    def label(self, row: int) -> str:
        """Return how messages name the item of a row, 0 the first item's."""
        raw, text = self.describe([row])[row]
        return f"item {row + 1} (raw id {raw!r}, text {text[:80]!r})"

    def describe(self, rows: Iterable[int]) -> dict[int, tuple[str, str]]:
        """Return row -> (raw id, text) for a few rows, 0 the first item's."""
        wanted = set(rows)
        found: dict[int, tuple[str, str]] = {}
        start = 0
        for batch in self._batches(["raw_item", *self._named]):
            here = sorted(row - start for row in wanted if start <= row < start + len(batch))
            for row in here:
                one = batch.slice(row, 1)  # `take` would import pandas where it is installed
                found[start + row] = (one["raw_item"][0].as_py(), render(one, self.template)[0])
            start += len(batch)
        return found

    def _batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return self._artifact.batches(self._root, columns, WINDOW, dataset=self._dataset)


def check_blank(blank: int, count: int, template: str) -> None:
    """Raise DataError when no item has any of the fields that a template names."""
    if blank and blank == count:
        raise DataError(
            f"template {template!r}: none of the {blank} items has "
            f"{' or '.join(fields(template))}. Use a field the items have, e.g. {{title}}."
        )
