"""Item text: cleaned once when the catalogue is made, rendered from a template to be encoded."""

from __future__ import annotations

import html
import re
import string
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, DataError, near_miss

if TYPE_CHECKING:
    import polars as pl

    from pipeline.values import Catalog

FIELDS = ("title", "brand", "categories", "description")
"""Text columns of the catalogue, the only names a template may use."""

PLACEHOLDER = "unknown item"
"""Text of an item whose template fields are all empty: every catalogue row must have a vector, and
equal text for all such items gives them equal vectors, so none is favoured. Callers count it."""

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


def render(catalog: Catalog, template: str) -> list[str]:
    """Return the text of the items 1..N, one line each, never empty.

    An item whose named fields are all empty gets PLACEHOLDER; `text.count(PLACEHOLDER)` of the
    result tells how many, and callers report it.
    Raises ConfigError for a bad template, DataError when no item has any of the named fields.
    """
    parts = parse_template(template)
    named = sorted({field for _, field in parts if field is not None})
    columns = {name: catalog.table[name].to_pylist() for name in named}
    texts = []
    blank = 0
    for row in range(len(catalog)):
        if any(columns[name][row].strip() for name in named):
            text = "".join(
                literal + (columns[field][row] if field is not None else "")
                for literal, field in parts
            )
            texts.append(_SPACE.sub(" ", text).strip())
        else:
            texts.append(PLACEHOLDER)
            blank += 1
    if blank and blank == len(texts):
        raise DataError(
            f"template {template!r}: none of the {blank} items has {' or '.join(named)}. "
            f"Use a field the items have, e.g. {{title}}."
        )
    return texts
