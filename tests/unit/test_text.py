"""Cleaning and rendering of item text."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
import pytest

from pipeline.data.text import (
    PLACEHOLDER,
    check_blank,
    clean,
    clean_columns,
    render,
    well_formed,
)
from pipeline.errors import ConfigError, DataError
from pipeline.values import Catalog


def catalog(*rows: tuple[str, str]) -> Catalog:
    """Items 1.. with (title, brand)."""
    return Catalog.of(
        pa.table(
            {
                "item": pa.array(range(1, len(rows) + 1), pa.uint32()),
                "raw_item": [f"i{n}" for n in range(len(rows))],
                "title": [title for title, _ in rows],
                "brand": [brand for _, brand in rows],
                "categories": [""] * len(rows),
                "description": [""] * len(rows),
            }
        )
    )


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Tom &amp; Jerry&#39;s &quot;cheese&quot;", 'Tom & Jerry\'s "cheese"'),
        ("  two\t\nlines \u00a0 here ", "two lines here"),
        ("bell\x07 and\x00null", "bell and null"),
        ("<b>bold</b> <script>alert(1)</script>", "<b>bold</b> <script>alert(1)</script>"),
        ("\u200b \x1f", ""),
        (None, ""),
        ("AT&T", "AT&T"),
    ],
)
def test_clean_unescapes_and_keeps_markup(raw: str | None, expected: str) -> None:
    assert clean(pl.Series([raw, "other"], dtype=pl.String)).to_list() == [expected, "other"]


def test_clean_keeps_a_two_megabyte_title_whole() -> None:
    title = "x" * 2_000_000
    assert clean(pl.Series([title])).to_list() == [title]


def test_clean_columns_turns_null_into_empty_text() -> None:
    items = pl.DataFrame(
        {"item": ["a"], "title": ["A &lt; B"], "brand": [None], "categories": [None]},
        schema_overrides={"brand": pl.String, "categories": pl.String},
    ).with_columns(description=pl.lit(None, pl.String))
    assert clean_columns(items).row(0) == ("a", "A < B", "", "", "")


def test_render_fills_fields_and_collapses_what_is_empty() -> None:
    items = catalog(("Drill", "Bosch"), ("Saw", ""))
    assert render(items.table, "{brand} {title}. {{x}}") == ["Bosch Drill. {x}", "Saw. {x}"]


def test_render_gives_items_without_text_the_placeholder() -> None:
    texts = render(catalog(("Drill", ""), ("", "Bosch")).table, "Title: {title}")
    assert texts == ["Title: Drill", PLACEHOLDER]


def test_render_does_not_interpret_braces_in_titles() -> None:
    assert render(catalog(("{brand} {0.__class__}", "B")).table, "{title}") == [
        "{brand} {0.__class__}"
    ]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{titel}", r"unknown field \{titel\}. Did you mean title\? Known: brand"),
        ("{title.__class__}", "unknown field"),
        ("{}", "unknown field"),
        ("{title!r}", "takes no format"),
        ("{title:>20}", "takes no format"),
        ("{title", "Write a literal brace twice"),
        ("an item", "names no field"),
    ],
)
def test_bad_template_is_refused(template: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        render(catalog(("Drill", "Bosch")).table, template)


def test_template_of_an_empty_column_is_refused() -> None:
    with pytest.raises(DataError, match="none of the 2 items has categories"):
        check_blank(2, 2, "{categories}")
    check_blank(1, 2, "{categories}")
    check_blank(0, 0, "{categories}")


def test_lone_surrogates_become_the_replacement_character() -> None:
    texts = ["plain", "caf\u00e9 \U0001f600", "\ud800 a \udfff", ""]
    assert well_formed(texts) == ["plain", "caf\u00e9 \U0001f600", "\ufffd a \ufffd", ""]
    for text in well_formed(texts):
        text.encode("utf-8")
