"""Item text: cleaned once when the catalogue is made, rendered from a template to be encoded."""

from __future__ import annotations

import html
import re
import string
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

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b\u2028\u2029\ufeff]")
_SPACE = re.compile(r"\s+")


def clean(text: str | None) -> str:
    """Unescape HTML entities, turn control characters into spaces, collapse white space.

    Markup (tags) is kept as it is: it is text to an encoder, and the report escapes it.
    """
    if not text:
        return ""
    if "&" in text:
        text = html.unescape(text)
    return _SPACE.sub(" ", _CONTROL.sub(" ", text)).strip()


def clean_columns(items: pl.DataFrame) -> pl.DataFrame:
    """Clean every text column of the item table; null becomes the empty text."""
    import polars as pl  # here: machines that only encode may lack it

    return items.with_columns(
        pl.Series(name, [clean(text) for text in items[name].to_list()], dtype=pl.String)
        for name in FIELDS
    )


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
