"""`spectran add`: guesses, the block it writes, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner, Result

from pipeline.adding.preview import kept
from pipeline.adding.propose import guess, sample
from pipeline.errors import ConfigError, DataError
from pipeline.params import load
from stages.add import _still_valid, add
from stages.cli import build
from stages.run import Run
from tests.conftest import Terminal

T0 = 1_600_000_000

NOT_TEXT = ("123", "2020_01", "1e3", "_a", "no", "yes", "on", "off", "null", "none", "true", "y")
"""Names that some reader of YAML takes for a number, a truth value or nothing."""


class Shop:
    """A folder with params.yaml and a small log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.params = folder / "params.yaml"
        self.params.write_text(Path("params.yaml").read_text())
        self.before = self.params.read_text()
        rows = [f"u{n % 6},{n % 5},{T0 + n}000,{n % 5 + 1}" for n in range(60)]
        self.write("log.csv", "\n".join(["customer,asin,when,stars", *rows]))
        self.write("items.csv", "id,label\n" + "".join(f"{n},Tool number {n}\n" for n in range(5)))

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def add(self, *options: str, name: str = "shop", log: str = "log.csv") -> Result:
        files = [str(self.folder / log), str(self.folder / "items.csv")]
        words = ["add", *files, "--name", name, "--params", str(self.params), *options]
        return CliRunner().invoke(build(), words)

    def block(self, name: str = "shop") -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load(self.params.read_text())["datasets"][name]
        return found


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.delenv("SPECTRAN_CACHE", raising=False)
    return Shop(tmp_path)


def test_block_is_guessed_shown_and_written(shop: Shop) -> None:
    result = shop.add("--yes")
    assert result.exit_code == 0, result.output
    source = shop.block()["source"]
    assert source["columns"] == {
        "user": "customer", "item": "asin", "time": "when", "position": None, "rating": "stars",
        "item_id": "id", "title": "label", "brand": None, "categories": None, "description": None,
    }  # fmt: skip
    assert source["time_unit"] == "ms"
    assert source["origin"]["files"] == {"interactions": "log.csv", "items": "items.csv"}
    assert result.output.count("user=u") == 5
    assert "time=2020-09-13 12:26:40 UTC" in result.output
    assert "Next: spectran download shop" in result.output
    params = load(shop.params)
    assert params.grid.dataset == ["demo", "shop"]
    shared = params.dataset("demo").preprocess
    assert params.dataset("shop").preprocess == shared.model_copy(update={"keep_last": None})


def test_only_added_lines_differ_and_shared_values_are_an_alias(shop: Shop) -> None:
    shop.add("--yes")
    after = shop.params.read_text().splitlines()
    lost = [line for line in shop.before.splitlines() if line not in after]
    assert lost == ["  dataset: [demo]"]
    added = after[after.index("  shop:") :]
    at = added.index("    preprocess:")
    assert added[at + 1 : at + 4] == ["      <<: *amazon", "      keep_last: null", "    train: {}"]


def test_only_puts_the_grid_on_this_data_set_alone(shop: Shop) -> None:
    shop.add("--yes", "--only")
    assert load(shop.params).grid.dataset == ["shop"]


@pytest.mark.parametrize("how", [{}, {"quiet": True}, {"json": True}])
def test_what_is_asked_about_is_shown_on_stderr(
    shop: Shop,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    how: dict[str, bool],
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    run = Run(name="add", params_path=shop.params, **how)
    add(run, shop.folder / "log.csv", shop.folder / "items.csv", "shop")
    said = capsys.readouterr()
    assert said.err.count("user=u") == 5 and "\nshop:\n" in said.err
    assert said.err.rstrip().endswith("[y/N]:") and "shop:" not in said.out
    assert shop.params.read_text() == shop.before


def test_block_list_and_missing_final_newline_are_kept(shop: Shop) -> None:
    text = shop.before.replace("  dataset: [demo]", "  dataset:\n    - demo # the demo").rstrip(
        "\n"
    )
    shop.params.write_text(text)
    assert shop.add("--yes").exit_code == 0
    assert load(shop.params).grid.dataset == ["demo", "shop"]


def test_order_only_log_is_split_leave_one_out_and_says_why(shop: Shop) -> None:
    rows = [f"u{n % 6},{n % 5},,{n // 6}" for n in range(60)]
    shop.write("log.csv", "\n".join(["user,item,timestamp,position", *rows]))
    result = shop.add("--yes")
    assert "split leave_one_out: 60 of 60 events have no time" in result.output
    block = shop.block()
    assert block["source"]["columns"]["time"] is None and block["source"]["time_unit"] is None
    assert block["preprocess"]["split"] == {"kind": "leave_one_out", "train": 1.0, "valid": 0.0}
    assert block["preprocess"]["require_title"] is True  # still merged from the shared block


def test_tiny_data_get_a_smaller_core(shop: Shop) -> None:
    rows = [f"u{n % 9},{n % 5},{T0 + n},1" for n in range(27)]  # three events per user
    shop.write("log.csv", "\n".join(["user,item,time,rating", *rows]))
    result = shop.add("--yes")
    assert "core 3 keeps 100% of the events" in result.output
    assert shop.block()["preprocess"]["core"] == 3


def test_options_override_guesses(shop: Shop) -> None:
    result = shop.add(
        "--yes", "--rating", "none", "--time-unit", "ms", "--core", "4", "--brand", "label"
    )
    assert result.exit_code == 0, result.output
    columns = shop.block()["source"]["columns"]
    assert (columns["rating"], columns["brand"]) == (None, "label")
    assert shop.block()["preprocess"]["core"] == 4


def test_without_a_terminal_the_block_is_printed_and_nothing_written(shop: Shop) -> None:
    result = shop.add()
    assert result.exit_code == 2
    assert "<<: *amazon" in result.output and "Add --yes" in result.output
    assert shop.params.read_text() == shop.before


@pytest.mark.parametrize(
    ("options", "name", "message"),
    [
        ((), "My Shop", "--name My Shop: a name begins with a small letter"),
        *(((), name, f"--name {name}: a name begins with a small letter") for name in NOT_TEXT),
        ((), "demo", "has a data set of that name"),
        (("--user", "custmer"), "shop", "--user custmer: no such column. Did you mean customer?"),
        (("--time-unit", "min"), "shop", "time_unit"),
        (("--time-unit", "s"), "shop", "after the year 2100"),
        (("--time-unit", "s"), "shop", "--time-unit ms"),
    ],
)
def test_wrong_words_are_refused(
    shop: Shop, options: tuple[str, ...], name: str, message: str
) -> None:
    result = shop.add("--yes", *options, name=name)
    assert result.exit_code == 2
    assert message in result.output
    assert shop.params.read_text() == shop.before


def test_missing_file_is_refused(shop: Shop) -> None:
    result = shop.add("--yes", log="nowhere.csv")
    assert result.exit_code == 2 and "nowhere.csv: no such file" in result.output


def test_swapped_files_are_told_apart_from_unknown_columns(shop: Shop) -> None:
    items = (shop.folder / "items.csv").read_text()
    shop.write("titles.csv", items)
    shop.write("items.csv", (shop.folder / "log.csv").read_text())
    result = shop.add("--yes", log="titles.csv")
    assert result.exit_code == 2
    assert "interactions: cannot tell which column is the user: found id, label" in result.output
    assert "Swapped? The interactions come first" in result.output
    shop.write("items.csv", items)
    shop.write("log.csv", f"who,asin,when\n1,2,{T0}\n")
    assert "Swapped" not in shop.add("--yes").output


def test_item_column_is_found_by_its_values(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(f"user,bought,time\n1,x9,{T0}\n2,x8,{T0}\n")
    (tmp_path / "items.csv").write_text("id,name\nx9,Red hammer\nx8,Blue saw\n")
    columns = guess(sample(tmp_path / "log.csv"), sample(tmp_path / "items.csv"), {})
    assert (columns.item, columns.item_id, columns.title) == ("bought", "id", "name")


def test_column_that_cannot_be_told_names_its_option(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(f"who,item,time\n1,x9,{T0}\n")
    (tmp_path / "items.csv").write_text("id,name\nx9,Red hammer\n")
    with pytest.raises(
        ConfigError, match=r"which column is the user: found who, item, time. .*--user"
    ):
        guess(sample(tmp_path / "log.csv"), sample(tmp_path / "items.csv"), {})


def test_long_histories_stay_whole_and_the_preview_counts_what_every_step_takes(
    shop: Shop,
) -> None:
    rows = [f"u{n % 30},{n % 5},{T0 + n},1" for n in range(900)]
    rows += [f"once{n},0,{T0 + n},1" for n in range(7)]
    shop.write("log.csv", "\n".join(["user,item,time,rating", *rows]))
    result = shop.add("--yes")
    assert result.exit_code == 0, result.output
    assert shop.block()["preprocess"]["keep_last"] is None
    assert "steps: core 5, min_rating null, require_title true, repeats keep, keep_last null" in (
        result.output
    )
    assert "keep_last null: no history is cut (the shared block keeps the last 13)" in (
        result.output
    )
    assert (
        "keeps 900 of 907 events: core 5 takes 7; 30 users, 5 items, 3 validation and 3 test"
        in (result.output)
    )


def test_the_preview_says_what_the_proposed_cut_takes() -> None:
    steps = [{"step": name, "interactions": n} for name, n in (("read", 45_000), ("core", 45_000),
             ("titles", 44_000), ("keep_last", 3_900))]  # fmt: skip
    stats = {"steps": steps, "users": 300, "items": 9,
             "split": {"valid_targets": 30, "test_targets": 31}}  # fmt: skip
    config = load(Path("params.yaml")).dataset("demo").preprocess
    assert kept(stats, config) == (
        "keeps 3,900 of 45,000 events: titles takes 1,000, keep_last 13 takes 40,100; "
        "300 users, 9 items, 30 validation and 31 test targets"
    )


def test_the_preview_says_how_far_the_tables_meet(shop: Shop) -> None:
    shop.write("items.csv", "id,label\n0,Tool number 0\n1,Tool number 1\n2,\n3,Tool 3\nX9,Tool X\n")
    result = shop.add("--yes")
    assert result.exit_code == 0, result.output
    assert "80% of events have an item in the table, 60% a title; not in the table: 4; " in (
        result.output
    )
    assert "titles takes 24" in result.output


@pytest.mark.parametrize(
    ("items", "options", "messages"),
    [
        (
            "".join(f"SKU-{n},Tool number {n}\n" for n in range(5)),
            ("--item-id", "id"),
            (
                "after the step `titles` (before: read 60, core 60). 0% of events have an item in "
                "the table, 0% a title; not in the table: 0, 1, 2; ids of the table: SKU-0, SKU-1",
                "add: --item, --item-id, --title",
            ),
        ),
        (
            "".join(f"{n},{f'Tool number {n}' if n < 2 else ''}\n" for n in range(5)),
            ("--core", "5", "--title", "label"),
            (
                "after the step `core_again` (before: read 60, core 60, titles 24). 100% of events "
                "have an item in the table, 40% a title. Fill in the missing titles.",
            ),
        ),
        (
            None,
            ("--core", "500"),
            (
                "after the step `core` (before: read 60). Lower datasets.shop.preprocess.core "
                "(add: --core)",
            ),
        ),
    ],
    ids=["no id in common", "most titles empty", "core"],
)
def test_steps_that_leave_nothing_are_refused(
    shop: Shop, items: str | None, options: tuple[str, ...], messages: tuple[str, ...]
) -> None:
    if items is not None:
        shop.write("items.csv", "id,label\n" + items)
    result = shop.add("--yes", *options)
    assert result.exit_code == 2
    for message in messages:
        assert message in result.output
    assert shop.params.read_text() == shop.before


def test_too_many_unreadable_rows_are_refused_unless_allowed(shop: Shop) -> None:
    text = (shop.folder / "log.csv").read_text()
    broken = "".join(f"u1,{n % 5},soon,1\n" for n in range(6))
    shop.write("log.csv", f"{text}\n{broken}")
    result = shop.add("--yes")
    assert result.exit_code == 2
    assert (
        "6 of 71 rows were set aside (8.5%, allowed 1.0%): 6 of log.csv: time is not a number"
        in (result.output)
    )
    assert "max_rejected_share in params.yaml (add: --max-rejected-share)" in result.output
    assert shop.params.read_text() == shop.before
    result = shop.add("--yes", "--max-rejected-share", "0.1")
    assert result.exit_code == 0, result.output
    assert "6 of 71 rows are set aside, e.g. log.csv line 62: time is not a number" in result.output
    assert shop.block()["source"]["max_rejected_share"] == 0.1


HEADER = "user_id,item_id,timestamp\n"


@pytest.mark.parametrize(
    ("log", "options", "message"),
    [
        (
            HEADER + "a,1,\n",
            ("--time", "timestamp"),
            "timestamp (time) holds no value in its first",
        ),
        (HEADER + f"a,\xe9,{T0}\n" * 9, (), "log.csv: no row is UTF-8. Save the file as UTF-8"),
        (HEADER + f"a,\xe9,{T0}\n", ("--time", "timestamp"), "log.csv: no row is UTF-8"),
        (
            HEADER + f"a,1,{T0},9\n",
            (),
            "none of 1 rows can be read: too many fields (first: line 2",
        ),
        (HEADER + "a,1,04.10.2020 06:58\n", (), "column timestamp: found '04.10.2020 06:58'"),
        (HEADER + "a,1,10/04/2020\n", (), "found '10/04/2020', which is no time that can be read"),
        (HEADER.replace(",", ";") + f"a;1;{T0}\n", (), "separated by semicolons (;), but .csv"),
        (HEADER.replace(",", "\t") + f"a\t1\t{T0}\n", (), "separated by tabs, but .csv means"),
        (f"a,1,{T0}\na,2,{T0}\n", (), "(a looks like a value: if the header line is missing, add"),
        (f"b,1,{T0}\na,2,{T0}\n", ("--user", "a"), "(1 looks like a value: if the header line is"),
        (f"1,1,{T0}\n2,2,{T0}\n", (), "If that is a row, put a header line above it"),
    ],
)
def test_files_that_cannot_be_read_are_told_by_their_real_fault(
    shop: Shop, log: str, options: tuple[str, ...], message: str
) -> None:
    (shop.folder / "log.csv").write_bytes(log.encode("latin-1"))
    result = shop.add("--yes", *options)
    assert result.exit_code == 2, result.exception
    assert message in result.output
    assert shop.params.read_text() == shop.before


def test_item_table_without_a_header_is_told(shop: Shop) -> None:
    text = (shop.folder / "items.csv").read_text()
    shop.write("items.csv", text.partition("\n")[2])
    result = shop.add("--yes")
    assert result.exit_code == 2
    assert "items: found 0, Tool number 0, and 0 is an item of the log. If that is a row" in (
        result.output
    )


def test_empty_parquet_log_is_told(tmp_path: Path) -> None:
    pl.DataFrame({"user": [], "item": [], "time": []}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"log.parquet: the file has no rows, only a schema"):
        sample(tmp_path / "log.parquet")


@pytest.mark.parametrize("role", ["user", "item", "item-id", "title"])
def test_none_is_a_column_like_any_other_where_one_is_needed(shop: Shop, role: str) -> None:
    result = shop.add("--yes", f"--{role}", "none")
    assert result.exit_code == 2
    assert f"--{role} none: no such column. Known: " in result.output


def test_help_offers_none_only_where_a_column_may_be_absent() -> None:
    options = get_command(build()).commands["add"].params
    offers = {option.name for option in options if "when there is none" in (option.help or "")}
    assert offers == {"time", "position", "rating", "brand", "categories", "description"}


def test_a_block_that_does_not_load_is_told_by_the_name_of_params(shop: Shop) -> None:
    run = Run(name="add", params_path=shop.params)
    with pytest.raises(ConfigError, match=r"^params\.yaml: extra: unknown key"):
        _still_valid(run, f"extra: 1\n{shop.before}", "shop")
    assert not (run.cache / "add/shop").exists()


def test_line_ends_and_comments_of_params_stay(shop: Shop) -> None:
    text = shop.before.replace("  dataset: [demo]", "  dataset:\n    - demo # the demo")
    shop.params.write_bytes(text.replace("\n", "\r\n").encode())
    assert shop.add("--yes").exit_code == 0
    after = shop.params.read_bytes()
    assert after.count(b"\n") == after.count(b"\r\n")
    assert b"    - demo # the demo\r\n    - shop\r\n" in after
    assert load(shop.params).grid.dataset == ["demo", "shop"]


def test_columns_that_have_no_text_are_no_candidates_and_named_are_refused(shop: Shop) -> None:
    rows = 60
    columns = {
        "user": pa.array([f"u{n % 6}" for n in range(rows)]),
        "item": pa.array([str(n % 5) for n in range(rows)]),
        "timestamp": pa.array([T0 + n for n in range(rows)]),
        "extra": pa.array([[("a", n)] for n in range(rows)], pa.map_(pa.string(), pa.int64())),
        "took": pa.array(range(rows), pa.duration("s")),
        "raw": pa.array([b"\xff\xfe"] * rows),
    }
    pq.write_table(pa.table(columns), shop.folder / "log.parquet")
    assert shop.add("--yes", log="log.parquet").exit_code == 0
    assert shop.block()["source"]["columns"]["user"] == "user"
    for column in ("extra", "took", "raw"):
        done = shop.add("--user", column, "--yes", name="other", log="log.parquet")
        assert done.exit_code == 2 and "Traceback" not in done.output
        assert f"column {column}" in done.output or f"--user {column}" in done.output, done.output
