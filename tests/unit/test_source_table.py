"""Own tables: formats, ids, times, and every row that cannot be used."""

from __future__ import annotations

import gzip
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.config import Source
from pipeline.data.raw import INTERACTIONS, ITEM_TEXT, RawTables
from pipeline.data.sources.table import read
from pipeline.data.tabular import column_names
from pipeline.errors import ConfigError, DataError
from pipeline.strict import build

COLUMNS: dict[str, Any] = {
    "user": "u", "item": "i", "time": "t", "position": None, "rating": None,
    "item_id": "id", "title": "name", "brand": None, "categories": None, "description": None,
}  # fmt: skip
ITEMS_CSV = "id,name\na,Red hammer\nb,Blue saw\n"
T0 = 1_600_000_000


def source(unit: str | None = "s", **columns: Any) -> Source:
    return build(
        Source,
        {
            "format": "table",
            "origin": {"kind": "local", "files": {}},
            "columns": COLUMNS | columns,
            "time_unit": unit,
            "max_rejected_share": 0.5,
        },
        "test",
    )


def load(
    folder: Path,
    log: str | bytes,
    items: str | bytes = ITEMS_CSV,
    names: tuple[str, str] = ("log.csv", "items.csv"),
    unit: str | None = "s",
    **columns: Any,
) -> RawTables:
    files = {}
    for role, name, content in zip(("interactions", "items"), names, (log, items), strict=True):
        path = folder / name
        data = content if isinstance(content, bytes) else content.encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        files[role] = path
    return read(files, source(unit, **columns))


def reasons(tables: RawTables) -> list[tuple[str, int, str]]:
    return tables.rejected.select("file", "line", "reason").rows()


LOG = [("001", "a", T0), ("001", "b", T0 + 5), ("9", "a", T0 + 9)]
LOG_CSV = "u,i,t\n" + "".join(f"{u},{i},{t}\n" for u, i, t in LOG)
LOG_JSON = "".join(f'{{"t":{t},"u":"{u}","i":"{i}","more":[1]}}\n' for u, i, t in LOG)
ITEMS_JSON = '{"id":"a","name":"Red hammer"}\n{"id":"b","name":"Blue saw"}\n'


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "ndjson"])
def test_text_formats_read_the_same(tmp_path: Path, kind: str, packed: str) -> None:
    log, items = (LOG_CSV, ITEMS_CSV) if kind in ("csv", "tsv") else (LOG_JSON, ITEMS_JSON)
    if kind == "tsv":
        log, items = log.replace(",", "\t"), items.replace(",", "\t")
    tables = load(tmp_path, log, items, (f"log.{kind}{packed}", f"items.{kind}{packed}"))
    assert tables.interactions.schema == INTERACTIONS and tables.items.schema == ITEM_TEXT
    assert tables.interactions.select("user", "item", "time").rows() == LOG
    assert tables.items.select("item", "title").rows() == [("a", "Red hammer"), ("b", "Blue saw")]
    assert (tables.rows, len(tables.rejected)) == (5, 0)


def test_parquet_with_integer_ids_lists_and_dates(tmp_path: Path) -> None:
    pl.DataFrame(
        {"u": [7, 8], "i": [1, 2], "t": [datetime(2020, 9, 13), None], "p": [0, 1]}
    ).write_parquet(tmp_path / "log.parquet")
    pl.DataFrame({"id": [1, 2], "name": ["x", "y"], "c": [["p", "q"], None]}).write_parquet(
        tmp_path / "items.parquet"
    )
    files = {"interactions": tmp_path / "log.parquet", "items": tmp_path / "items.parquet"}
    tables = read(files, source(None, position="p", categories="c"))
    assert tables.interactions.rows() == [
        ("7", "1", 1_599_955_200, 0, None),
        ("8", "2", None, 1, None),
    ]
    assert tables.items["categories"].to_list() == ["p, q", None]


def test_json_ids_may_be_numbers_and_categories_lists(tmp_path: Path) -> None:
    log = f'{{"u":5,"i":1,"t":{T0}}}\n'
    items = '{"id":1,"name":"x","c":[["p","q"],["r"]]}\n'
    tables = load(tmp_path, log, items, ("log.jsonl", "items.jsonl"), categories="c")
    assert tables.interactions.select("user", "item").rows() == [("5", "1")]
    assert tables.items["categories"].to_list() == ["p, q, r"]


@pytest.mark.parametrize(
    ("unit", "written", "expected"),
    [
        ("s", "1600000000", T0),
        ("s", "1600000000.9", T0),
        ("ms", "1600000000999", T0),
        ("us", "1600000000999999", T0),
        ("ns", "1600000000999999999", T0),
        (None, "2020-09-13T12:26:40Z", T0),
        (None, "2020-09-13 12:26:40.5", T0),
        (None, "2020-09-13T14:26:40+02:00", T0),
        (None, "2020-09-13 12:26:40 UTC", T0),
        (None, "2020-09-13T12:26:40.5 UTC", T0),
        (None, "2020-09-13 14:26+02:00", T0 - 40),
        (None, "2020-09-13T12:26", T0 - 40),
        (None, "2020-09-13", 1_599_955_200),
    ],
)
def test_times_become_seconds(
    tmp_path: Path, unit: str | None, written: str, expected: int
) -> None:
    tables = load(tmp_path, f"u,i,t\n1,a,{written}\n", unit=unit)
    assert tables.interactions["time"].to_list() == [expected]


def test_bad_rows_are_set_aside_with_line_reason_and_excerpt(tmp_path: Path) -> None:
    log = f"u,i,t,r\n,a,{T0},1\n1,,{T0},1\n1,a,-5,1\n1,a,soon,1\n1,a,,1\n1,a,{T0},x\n1,a,{T0},\n"
    tables = load(tmp_path, log, rating="r")
    assert reasons(tables) == [
        ("log.csv", 2, "no user"),
        ("log.csv", 3, "no item"),
        ("log.csv", 4, "negative time"),
        ("log.csv", 5, "time is not a number"),
        ("log.csv", 6, "no time"),
        ("log.csv", 7, "rating is not a number"),
    ]
    assert tables.rejected["excerpt"][3] == "1 | a | soon | 1"
    assert len(tables.interactions) == 1 and tables.rows == 9


def test_bytes_that_are_not_utf8_are_set_aside(tmp_path: Path) -> None:
    log = b"u,i,t\n1,a,%d\n1,caf\xe9,%d\n" % (T0, T0)
    tables = load(tmp_path, log, b'id,name\na,"two\nlines"\nb,caf\xe9\n')
    assert reasons(tables) == [("log.csv", 3, "not UTF-8"), ("items.csv", 4, "not UTF-8")]
    assert tables.rejected["excerpt"][0] == rf"1,caf\xe9,{T0}"
    assert len(tables.interactions) == len(tables.items) == 1


def test_rows_of_another_width_are_set_aside(tmp_path: Path) -> None:
    tables = load(tmp_path, f"u,i,t\n1,a,{T0},extra\n1,b,{T0}\n")
    assert reasons(tables) == [("log.csv", 2, "too many fields")]


def test_broken_json_lines_are_set_aside(tmp_path: Path) -> None:
    log = f'\n{{"u":"1","i":"a","t":{T0}}}\n{{"u":\n[1]\n{{"u":"1","i":"a","t":-1}}\n'
    tables = load(tmp_path, log, ITEMS_JSON, ("log.jsonl", "items.jsonl"))
    assert reasons(tables) == [
        ("log.jsonl", 3, "not valid JSON"),
        ("log.jsonl", 4, "not a JSON object"),
        ("log.jsonl", 5, "negative time"),
    ]
    assert tables.rows == 6


def test_half_characters_are_replaced_in_text_and_refused_in_ids(tmp_path: Path) -> None:
    log = f'{{"u":"1","i":"a","t":{T0}}}\n{{"u":"\\ud800","i":"a","t":{T0}}}\n'
    items = '{"id":"a","name":"x\\ud800y"}\n{"id":"b\\udfff","name":"z"}\n'
    tables = load(tmp_path, log, items, ("log.jsonl", "items.jsonl"))
    assert tables.items["title"].to_list() == ["x?y"]
    why = "an id holds half a character (a lone surrogate)"
    assert reasons(tables) == [("log.jsonl", 2, why), ("items.jsonl", 2, why)]


@pytest.mark.parametrize(("encoding", "user"), [("utf-16", "u"), ("cp1252", "\u00e9")])
def test_header_that_is_not_utf8_is_said(tmp_path: Path, encoding: str, user: str) -> None:
    log = LOG_CSV.replace("u,i,t", f"{user},i,t").encode(encoding)
    with pytest.raises(DataError, match=r"not UTF-8 text.*Save the file as UTF-8"):
        load(tmp_path, log, user=user)
    with pytest.raises(DataError, match="not UTF-8 text"):
        column_names(tmp_path / "log.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"u": 1},\n {"u": 2}]', r"line 1 is not a JSON object: \[.* jq -c '\.\[\]' writes"),
        ("\nu 1\n", r"line 2 is not a JSON object: u 1\. Allowed: one object per line"),
    ],
)
def test_json_that_is_not_lines_of_objects_is_said(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "log.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        column_names(tmp_path / "log.jsonl")


def test_commas_in_a_tsv_are_said(tmp_path: Path) -> None:
    (tmp_path / "log.tsv").write_text(LOG_CSV)
    with pytest.raises(DataError, match=r"separated by commas, but \.tsv means tabs. Rename it"):
        column_names(tmp_path / "log.tsv")


def test_first_of_duplicate_items_is_kept(tmp_path: Path) -> None:
    tables = load(tmp_path, LOG_CSV, "id,name\na,first\nb,saw\na,second\n")
    assert tables.items["title"].to_list() == ["first", "saw"]
    assert reasons(tables) == [("items.csv", 4, "duplicate item")]


def test_title_of_two_megabytes_and_markup_stay_whole(tmp_path: Path) -> None:
    long = "long " * 400_000
    tables = load(tmp_path, LOG_CSV, f"id,name\na,{long}\nb,<b>x</b>\n")
    assert tables.items["title"].to_list() == [long, "<b>x</b>"]


def test_order_only_log_needs_a_position(tmp_path: Path) -> None:
    tables = load(tmp_path, "u,i,p\n1,a,0\n1,b,\n1,b,one\n", time=None, position="p", unit=None)
    assert tables.interactions["position"].to_list() == [0]
    assert reasons(tables) == [
        ("log.csv", 3, "no position"),
        ("log.csv", 4, "position is not a whole number"),
    ]


def test_null_times_pass_where_a_position_gives_the_order(tmp_path: Path) -> None:
    tables = load(tmp_path, f"u,i,t,p\n1,a,{T0},0\n1,b,,1\n1,b,,\n", position="p")
    assert tables.interactions["time"].to_list() == [T0, None]
    assert reasons(tables) == [("log.csv", 4, "no time and no position")]


def test_one_time_beyond_2100_is_a_bad_row(tmp_path: Path) -> None:
    tables = load(tmp_path, LOG_CSV + "2,a,99999999999\n")
    assert reasons(tables) == [("log.csv", 5, "time after 2100")]


@pytest.mark.parametrize(
    ("unit", "times", "message"),
    [
        ("s", "1600000000000", "read as s, most times lie after the year 2100 .*time_unit: ms"),
        ("ms", "1600000000", "read as ms, most times lie before the year 1980 .*time_unit: s"),
        ("s", "1600000000000000000", "time_unit: ns"),
    ],
)
def test_times_in_another_unit_are_refused(
    tmp_path: Path, unit: str, times: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path, f"u,i,t\n1,a,{times}\n1,b,{times}\n", unit=unit)


@pytest.mark.parametrize(
    ("log", "change", "error", "message"),
    [
        ("", {}, DataError, r"log.csv: the file is empty. It should hold rows with u, i, t"),
        ("u,i,t\n", {}, DataError, "log.csv: the file has no rows, only a header"),
        (
            LOG_CSV,
            {"user": "uu"},
            ConfigError,
            r"source.columns.user: .*no column uu. .*Known: i, t, u",
        ),
        (
            LOG_CSV,
            {"title": "nme"},
            ConfigError,
            r"columns.title: .* no column nme. Did you mean name",
        ),
        (
            LOG_CSV,
            {"item_id": "x"},
            ConfigError,
            r"source.columns.item_id: .*items.csv has no column x",
        ),
        (LOG_CSV, {"time": None}, ConfigError, "time and position are both null"),
        (LOG_CSV, {"time": None, "position": "t"}, ConfigError, "no column holds times"),
        (LOG_CSV, {"unit": None}, ConfigError, "time_unit: null, but t in log.csv holds numbers"),
        ("u,i,t\n1,a,2020-01-01\n", {}, ConfigError, "time_unit: s, but t .* which have no unit"),
        (
            "u,i,t\n1,a,04.10.2020 06:58\n",
            {"unit": None},
            DataError,
            "column t: found '04.10.2020 06:58', which is no time .* ISO 8601.* epoch numbers",
        ),
        ("u;i;t\n1;a;5\n", {}, DataError, r"separated by semicolons .* Write it again with commas"),
        ("u\ti\tt\n1\ta\t5\n", {}, DataError, "separated by tabs, .* Rename it to .tsv"),
    ],
)
def test_file_or_mapping_that_cannot_be_used_is_refused(
    tmp_path: Path, log: str, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load(tmp_path, log, **change)


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"log.xlsx: format `table` reads .parquet, .csv"):
        load(tmp_path, LOG_CSV, names=("log.xlsx", "items.csv"))


@pytest.mark.parametrize("name", ["log.parquet", "log.csv.gz"])
def test_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    for path, content in (
        (tmp_path / name, b"PAR1 nonsense"),
        (tmp_path / "i.csv", b"id,name\na,b\n"),
    ):
        path.write_bytes(content)
    files = {"interactions": tmp_path / name, "items": tmp_path / "i.csv"}
    with pytest.raises(DataError, match=rf"{name}: the file cannot be read"):
        read(files, source())


def test_column_of_an_impossible_type_is_refused(tmp_path: Path) -> None:
    pl.DataFrame({"u": [True], "i": ["a"], "t": [T0]}).write_parquet(tmp_path / "log.parquet")
    (tmp_path / "items.csv").write_text(ITEMS_CSV)
    files = {"interactions": tmp_path / "log.parquet", "items": tmp_path / "items.csv"}
    with pytest.raises(ConfigError, match=r"column u \(user\) is Boolean. Allowed: text or whole"):
        read(files, source())


def test_a_unit_is_refused_where_the_format_fixes_it() -> None:
    values = source().model_dump() | {"format": "amazon2014", "columns": None, "time_unit": "ms"}
    with pytest.raises(ConfigError, match="format `amazon2014` fixes the unit"):
        build(Source, values, "test")
