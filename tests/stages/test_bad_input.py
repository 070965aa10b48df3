"""Bad input through the command line: a right answer, or exit 2 that says what to do.

Twelve users walk through twelve items, five events each; every case spoils one thing.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.values import Catalog
from stages.cli import build

APP = build()
SIZE, EVENTS, T0 = 12, 5, 1_500_000_000
LOG = [f"u{u},i{(u + k) % SIZE},{T0 + 1000 * u + k}" for u in range(SIZE) for k in range(EVENTS)]
ITEMS = [f"i{n},Red toy {n} word{7 * n % 5}" for n in range(SIZE)]
COLUMNS = {
    "user": "user", "item": "item", "time": "time", "position": None, "rating": None,
    "item_id": "id", "title": "title", "brand": None, "categories": None, "description": None,
}  # fmt: skip
FLOW = (
    ["download", "shop"],
    ["preprocess", "shop"],
    ["encode", "shop", "hash"],
    ["spectrum", "shop", "hash"],
    ["train", "shop", "hash", "sasrec", "spectran"],
)


def table(head: str, rows: list[str]) -> bytes:
    return "".join(f"{row}\n" for row in [head, *rows]).encode()


def inputs(log: list[str] = LOG, items: list[str] = ITEMS) -> tuple[bytes, bytes]:
    return table("user,item,time", log), table("id,title", items)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with the data set `shop`, as working directory."""
    values = yaml.safe_load(Path("params.yaml").read_text())
    files = {"interactions": "log.csv", "items": "items.csv"}
    values["datasets"]["shop"] = {
        "source": {
            "format": "table",
            "origin": {"kind": "local", "files": files},
            "columns": COLUMNS,
            "time_unit": "s",
            "max_rejected_share": 0.2,
        },
        "preprocess": {
            **values["datasets"]["demo"]["preprocess"],
            "core": 1,
            "split": {"kind": "leave_one_out", "train": 1, "valid": 0},
        },
        "train": {"width": 4, "max_epochs": 1, "seeds": [0]},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "revisions.yaml").write_text(Path("revisions.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPECTRAN_CACHE", raising=False)
    return tmp_path


def flow(log: bytes, items: bytes) -> tuple[int, str]:
    """Run the stages until one fails; return the last exit code and what was said on stderr."""
    Path("log.csv").write_bytes(log)
    Path("items.csv").write_bytes(items)
    for words in FLOW:
        done = CliRunner().invoke(APP, words)
        if done.exit_code:
            assert done.exit_code == 2, f"{words}: {done.exception!r}"
            return done.exit_code, done.stderr
    return 0, ""


@pytest.mark.parametrize(
    ("log", "items", "said"),
    [
        (b"", inputs()[1], "log.csv: the file is empty"),
        (inputs()[0], b"", "items.csv: the file is empty"),
        (inputs([])[0], inputs()[1], "log.csv.*no rows, only a header.*Add rows"),
        (inputs()[0], inputs(items=[])[1], "items.csv.*no rows, only a header.*Add rows"),
        (*inputs([f"{row}000" for row in LOG]), "year 2100.*Set source.time_unit: ms"),
        (*inputs([re.sub(r"\d+$", "", row) for row in LOG]), "60 of log.csv: no time.*rejected"),
        (*inputs([row.replace(",15", ",-15") for row in LOG]), "negative time"),
        (*inputs(items=[row.split(",")[0] + "," for row in ITEMS]), "after the step `titles`"),
        (*inputs([f"u1,i1,{T0}"]), "after the step `short_users`"),
        (inputs()[0].decode().encode("utf-16"), inputs()[1], "log.csv.*Save the file as UTF-8"),
        (inputs()[0].replace(b"user", b"usr"), inputs()[1], "log.csv.*no column user.*usr"),
    ],
    ids=[
        "empty log", "empty items", "header only log", "header only items", "milliseconds",
        "no times", "negative times", "no titles", "one event", "utf-16", "misspelt column",
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused(
    shop: Path, log: bytes, items: bytes, said: str
) -> None:
    code, stderr = flow(log, items)
    assert code == 2 and stderr.startswith("error: ")
    assert re.search(said, stderr, re.DOTALL), stderr
    assert not (shop / "artifacts" / "data").exists()


@pytest.mark.parametrize(
    ("log", "items", "kept", "reason"),
    [
        (*inputs([*LOG, f"lonely,i3,{T0}"]), (12, 12, 60), None),
        (*inputs([*LOG, f"u1,i99,{T0 + 10**6}"]), (12, 12, 60), None),
        (*inputs(items=[*ITEMS, "i99,Never bought"]), (12, 12, 60), None),
        (*inputs(items=[*ITEMS, "i3,Another title"]), (12, 12, 60), "duplicate item"),
        (*inputs([*LOG, f"u1,i3,{-T0}"]), (12, 12, 60), "negative time"),
        (*inputs([*LOG, "u1,i3,"]), (12, 12, 60), "no time"),
        (*inputs([*LOG, f"u1,i3,{T0}000"]), (12, 12, 60), "time after 2100"),
        (inputs()[0] + b"u\xff,i3,1500000000\n", inputs()[1], (12, 12, 60), "not UTF-8"),
        (inputs()[0], inputs()[1].replace(b"Red toy 2", b"Red\xe9"), (12, 11, 55), "not UTF-8"),
    ],
    ids=[
        "user with one event", "item without text", "text without events", "duplicate item",
        "negative time", "missing time", "one time in ms", "bytes in log", "bytes in items",
    ],
)  # fmt: skip
def test_single_bad_rows_are_set_aside_and_the_rest_trains(
    shop: Path, log: bytes, items: bytes, kept: tuple[int, int, int], reason: str | None
) -> None:
    assert flow(log, items) == (0, "")
    stats = json.loads((shop / "artifacts/data/shop/stats.json").read_text())
    assert (stats["users"], stats["items"], stats["interactions"]) == kept
    path = shop / ".cache/rejected/shop.jsonl"
    aside = [json.loads(line) for line in path.read_text().splitlines()] if reason else []
    assert path.exists() == bool(reason)
    assert len(aside) == (1 if reason else 0) and all(reason in row["reason"] for row in aside)


@pytest.mark.parametrize(
    ("title", "stored"),
    [
        ("long " * 420_000, ("long " * 420_000).strip()),
        ("<script>alert(1)</script> {title} [red]x[/red]",) * 2,
        ("a\x00b \x1b[31mred\x07\u200b", "a b [31mred"),
        ("Tom &amp; Jerry &#xD800; &lt;b&gt;", "Tom & Jerry \ufffd <b>"),
    ],
    ids=["2 MB", "markup", "control characters", "entities"],
)
def test_titles_of_every_kind_train(shop: Path, title: str, stored: str) -> None:
    assert flow(*inputs(items=[f'i0,"{title}"', *ITEMS[1:]])) == (0, "")
    assert Catalog.load(shop / "artifacts", "shop").table["title"][0].as_py() == stored


@pytest.mark.parametrize(
    ("words", "absent", "command"),
    [
        ("preprocess shop", "raw/shop.json", "spectran download shop"),
        ("encode shop hash", "data/shop/items.parquet", "spectran preprocess shop"),
        ("spectrum shop hash", "data/shop/items.parquet", "spectran preprocess shop"),
        ("evaluate demo", "ranks/demo/none/none/popularity/0.parquet", "spectran train demo"),
        ("report", "metrics/demo.parquet", "spectran evaluate demo"),
    ],
)
def test_a_missing_input_names_its_command(
    shop: Path, words: str, absent: str, command: str
) -> None:
    done = CliRunner().invoke(APP, words.split())
    assert done.exit_code == 2
    assert f"artifacts/{absent} is missing. Run: {command}" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("download shp", "Did you mean shop?"),
        ("preprocess shp", "Did you mean shop?"),
        ("encode shop hsh", "Did you mean hash?"),
        ("spectrum shop hsh", "Did you mean hash?"),
        ("evaluate dem", "Did you mean demo?"),
        ("train shop none sasrec idd", "Did you mean id?"),
    ],
)
def test_an_unknown_name_brings_the_nearest(shop: Path, words: str, said: str) -> None:
    done = CliRunner().invoke(APP, words.split())
    assert done.exit_code == 2 and said in done.stderr and "Known: " in done.stderr


def test_misspelt_keys_are_all_told_at_once(shop: Path) -> None:
    text = Path("params.yaml").read_text()
    text = text.replace("patience: 10", "patiense: 10").replace("min_rating:", "min_ratings:")
    Path("params.yaml").write_text(text)
    done = CliRunner().invoke(APP, ["preprocess", "shop"])
    assert done.exit_code == 2
    assert "train.patiense: unknown key. Did you mean patience?" in done.stderr
    assert "datasets.shop.preprocess.min_ratings: unknown key. Did you mean min_rating?" in (
        done.stderr
    )
    assert "train.patience: missing. There is no default" in done.stderr
