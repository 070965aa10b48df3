"""Amazon files, sound and broken: every line is read or set aside with its reason."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.config import Source, Synthetic
from pipeline.data import lines
from pipeline.data.raw import INTERACTIONS, ITEM_TEXT, RawTables, check_rejected
from pipeline.data.sources import amazon2014, amazon2018
from pipeline.errors import DataError

SOURCE = Source(
    format="amazon2014",
    origin=Synthetic(kind="synthetic", users=1, items=1, seed=0),
    columns=None,
    time_unit=None,
    max_rejected_share=0.1,
)


def review(**changes: Any) -> bytes:
    row = {"reviewerID": "u", "asin": "i", "overall": 4.0, "unixReviewTime": 1_400_000_000}
    row |= {"reviewText": "Fine.", "helpful": [1, 2], "style": {"Size:": " S"}}
    return json.dumps({k: v for k, v in (row | changes).items() if v is not ...}).encode()


def read(
    folder: Path, reviews: list[bytes], metadata: list[bytes], version: int = 2014
) -> RawTables:
    files = {"reviews": folder / "r.json", "metadata": folder / "m.json"}
    files["reviews"].write_bytes(b"\n".join(reviews) + b"\n")
    files["metadata"].write_bytes(b"\n".join(metadata) + b"\n")
    module = {2014: amazon2014, 2018: amazon2018}[version]
    return module.read(files, SOURCE)


ITEM = b"{'asin': 'i', 'title': 'A title'}"
ITEM18 = b'{"asin": "i", "title": "A title"}'


def test_reviews_become_events_in_file_order(tmp_path: Path) -> None:
    tables = read(tmp_path, [review(asin="b"), review(asin="a", overall=1)], [ITEM])
    assert tables.interactions.rows() == [
        ("u", "b", 1_400_000_000, None, 4.0),
        ("u", "a", 1_400_000_000, None, 1.0),
    ]
    assert dict(tables.interactions.schema) == INTERACTIONS
    assert dict(tables.items.schema) == ITEM_TEXT
    assert tables.rows == 3 and not len(tables.rejected)


def test_metadata_literal_keeps_entities_and_paths(tmp_path: Path) -> None:
    item = (
        "{'asin': 'i', 'title': \"Salt &amp; Pepper \\xe9\", 'brand': 'B', 'price': 3.5, "
        "'related': {'also_bought': ['x']}, 'categories': [['Toys', 'Games'], ['Gifts']], "
        "'description': 'Two\\nlines'}"
    )
    tables = read(tmp_path, [review()], [item.encode()])
    row = ("i", "Salt &amp; Pepper \xe9", "B", "Toys > Games; Gifts", "Two\nlines")
    assert tables.items.rows() == [row]


def test_items_without_review_are_counted_but_not_evaluated(tmp_path: Path) -> None:
    strangers = [b"{'asin': 'x', 'title': broken}", b'{"asin": "y", "title": broken}']
    quoting = b"{'title': \"like 'asin': 'x'\", 'asin': 'i'}"
    tables = read(tmp_path, [review()], [*strangers, quoting])
    assert tables.items["item"].to_list() == ["i"]
    assert tables.rows == 4 and not len(tables.rejected)


def test_absent_text_is_null(tmp_path: Path) -> None:
    assert read(tmp_path, [review()], [b"{'asin': 'i'}"]).items.rows() == [("i", *[None] * 4)]
    row = b'{"asin": "i", "category": [], "description": [""]}'
    assert read(tmp_path, [review()], [row], 2018).items.rows() == [("i", *[None] * 4)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"reviewerID": "u", "asin"', "not valid JSON"),
        (b"[1, 2]", "not a JSON object"),
        (review(reviewerID="caf").replace(b"caf", b"caf\xe9"), "not UTF-8"),
        (review(unixReviewTime=...), "no time"),
        (review(unixReviewTime=None), "no time"),
        (review(unixReviewTime=-5), "negative time"),
        (review(unixReviewTime=1_400_000_000_000), "time looks like milliseconds"),
        (review(unixReviewTime="yesterday"), "unixReviewTime is not a number"),
        (review(unixReviewTime=1.5), "unixReviewTime is not a whole number"),
        (review(unixReviewTime=10**30), "unixReviewTime is not a whole number"),
        (review(reviewerID=""), "no reviewerID"),
        (review(asin=None), "no asin"),
        (review(overall=True), "overall is not a number"),
        (b'{"a":' * 100_000, "not valid JSON"),
    ],
)
@pytest.mark.parametrize("sound", [2, 500])  # parsed line by line, and by halving
def test_broken_review_is_set_aside_alone(
    tmp_path: Path, line: bytes, reason: str, sound: int
) -> None:
    reviews = [review(asin=f"i{n}") for n in range(sound)]
    reviews.insert(sound // 2, line)
    tables = read(tmp_path, reviews, [ITEM])
    assert len(tables.interactions) == sound
    file, number, found, excerpt = tables.rejected.row(0)
    assert (file, number, len(tables.rejected)) == ("r.json", sound // 2 + 1, 1)
    assert found.startswith(reason) and len(excerpt) <= lines.EXCERPT
    assert tables.rows == sound + 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{'asin': 'i', 'title': ", "not a Python literal"),
        (b"{'asin': __import__('os').getcwd()}", "not a Python literal"),
        (b"[" * 100_000, "not a Python literal"),
        (b"{'asin': " + b"-" * 200_000 + b"1}", "not a Python literal"),
        (b"{'asin': 'i', 'n': " + b"9" * 5000 + b"}", "not a Python literal"),
        (b"{'asin': 'i', 'title': '\x00'}", "not a Python literal"),
        (b"{['a']: 1}", "not a Python literal"),
        (b"'asin'", "not a Python dictionary"),
        (b"{'title': 'nameless'}", "no asin"),
        (b"{'asin': 'i', 'title': 'caf\xe9'}", "not UTF-8"),
    ],
)
def test_broken_metadata_is_set_aside(tmp_path: Path, line: bytes, reason: str) -> None:
    reviews = [review(), review(asin="j")]
    tables = read(tmp_path, reviews, [ITEM, line, ITEM.replace(b"'i'", b"'j'")])
    assert tables.items["item"].to_list() == ["i", "j"]
    assert tables.rejected.select("file", "line", "reason").rows() == [("m.json", 2, reason)]


@pytest.mark.parametrize("version", [2014, 2018])
def test_title_of_two_megabytes_is_read(tmp_path: Path, version: int) -> None:
    title = "long " * 400_000
    row: dict[str, object] = {"asin": "i", "title": title}
    line = repr(row) if version == 2014 else json.dumps(row)
    tables = read(tmp_path, [review()], [line.encode()], version)
    assert tables.items["title"][0] == title


def test_endless_line_is_refused_without_loading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 1 << 10)
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 4 << 10)
    endless = review(reviewText="x" * 50_000)
    tables = read(tmp_path, [review(asin="a"), endless, review(asin="b")], [ITEM])
    assert tables.interactions["item"].to_list() == ["a", "b"]
    assert tables.rejected.select("line", "reason").rows() == [(2, lines.TOO_LONG)]


def test_fast_and_slow_parsing_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reviews = [
        review(asin=f"i{n}", reviewerID='\N{SNOWMAN} \\ " \t', overall=None if n % 3 else n)
        for n in range(200)
    ]
    metadata = [
        json.dumps({"asin": f"i{n}", "title": 5, "category": ["a", None, "b"], "brand": ["x"]})
        for n in range(2)
    ] + ['{"asin": "j", "description": ["one", "two"]}', '{"asin": "k", "description": "one"}']
    binary = [line.encode() for line in metadata]
    fast = read(tmp_path, reviews, binary, 2018)
    monkeypatch.setattr(lines, "_fast", lambda *_: None)
    slow = read(tmp_path, reviews, binary, 2018)
    assert fast.interactions.equals(slow.interactions)
    columns = ["item", "title", "categories", "description"]
    assert fast.items.select(columns).equals(slow.items.select(columns))
    assert slow.items["categories"][0] == "a > b"


def test_blocks_do_not_change_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reviews = [review(asin=f"i{n}") for n in range(300)]
    reviews[100] = b"broken"
    whole = read(tmp_path, reviews, [ITEM])
    monkeypatch.setattr(lines, "BLOCK_BYTES", 777)
    parts = read(tmp_path, reviews, [ITEM])
    assert whole.interactions.equals(parts.interactions)
    assert whole.rejected.equals(parts.rejected) and whole.rejected["line"].to_list() == [101]


def test_blank_lines_and_windows_line_ends_are_no_rows(tmp_path: Path) -> None:
    tables = read(tmp_path, [review() + b"\r", b"", b"  \r", review()], [ITEM + b"\r", b""])
    assert len(tables.interactions) == 2 and tables.rows == 3 and not len(tables.rejected)


def test_last_line_without_end_is_read(tmp_path: Path) -> None:
    files = {"reviews": tmp_path / "r.json", "metadata": tmp_path / "m.json"}
    files["reviews"].write_bytes(review() + b"\n" + review())
    files["metadata"].write_bytes(ITEM)
    tables = amazon2014.read(files, SOURCE)
    assert len(tables.interactions) == 2 and len(tables.items) == 1


def test_compressed_and_plain_files_read_alike(tmp_path: Path) -> None:
    plain = read(tmp_path, [review()], [ITEM])
    files = {"reviews": tmp_path / "r.json.gz", "metadata": tmp_path / "m.json"}
    files["reviews"].write_bytes(gzip.compress(review()))
    assert amazon2014.read(files, SOURCE).interactions.equals(plain.interactions)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (gzip.compress(b"", mtime=0), "the file is empty"),
        (gzip.compress(review() * 1000, mtime=0)[:-30], "damaged or cut short"),
        (b"no gzip", "damaged or cut short"),
    ],
)
def test_empty_and_damaged_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    name = "r.json" if content == b"" else "r.json.gz"
    files = {"reviews": tmp_path / name, "metadata": tmp_path / "m.json"}
    files["reviews"].write_bytes(content)
    files["metadata"].write_bytes(ITEM)
    with pytest.raises(DataError, match=message):
        amazon2014.read(files, SOURCE)


def test_share_of_rejected_rows_stops_and_tells_why(tmp_path: Path) -> None:
    reviews = [review(unixReviewTime=1_400_000_000_000)] * 3 + [review()] * 6
    tables = read(tmp_path, reviews, [ITEM])
    check_rejected(tables, "toys", 0.3, "rejected.csv")
    with pytest.raises(DataError, match=r"3 of 10 rows.*30\.0%, allowed 20\.0%.*milliseconds") as e:
        check_rejected(tables, "toys", 0.2, "rejected.csv")
    assert "datasets.toys.source.max_rejected_share" in str(e.value)
    assert "first: line 1" in str(e.value)


def test_nothing_read_is_refused(tmp_path: Path) -> None:
    tables = read(tmp_path, [b"x"], [ITEM])
    with pytest.raises(DataError, match="no interaction was read"):
        check_rejected(tables, "toys", 1.0, "rejected.csv")


@pytest.mark.real
def test_gift_cards_give_the_published_counts(raw_folder: Path) -> None:
    folder = raw_folder / "amazon2018_gift_cards"
    files = {
        "reviews": folder / "Gift_Cards_5.json.gz",
        "metadata": folder / "meta_Gift_Cards.json.gz",
    }
    tables = amazon2018.read(files, SOURCE)
    events = tables.interactions
    assert (events["user"].n_unique(), events["item"].n_unique(), len(events)) == (458, 148, 2972)
    assert len(events.unique()) == 2969 and len(tables.items) == 1547
    assert tables.rows == 2972 + 1547 and not len(tables.rejected)
    titled = tables.items.filter(pl.col("title").is_not_null())["item"]
    assert events["item"].is_in(titled.implode()).all()


@pytest.fixture
def raw_folder() -> Path:
    import os

    folder = Path(os.environ.get("SPECTRAN_DATA", "")) / "raw"
    if "SPECTRAN_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("SPECTRAN_DATA names no folder with raw/")
    return folder
