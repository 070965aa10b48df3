"""`spectran preprocess` end to end on small own tables, and on the real sets."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from pipeline import artifacts
from pipeline.agreement import refuse_other_preprocess
from pipeline.data.raw import gather
from pipeline.data.rejects import without_duplicates
from pipeline.errors import ArtifactError, ConfigError, DataError
from pipeline.values import Catalog, Sequences
from stages.download import download
from stages.preprocess import preprocess
from stages.run import Run

T0 = 1_600_000_000
COLUMNS: dict[str, Any] = {
    "user": "u", "item": "i", "time": "t", "position": None, "rating": None,
    "item_id": "id", "title": "name", "brand": None, "categories": None, "description": None,
}  # fmt: skip
# Core 2. Users 1, 2, 3 share items a, b, c; user 4 has one event; item e has one event.
LOG = [
    ("1", "a", 10), ("1", "b", 20), ("1", "c", 30),
    ("2", "a", 11), ("2", "b", 21), ("2", "d", 31),
    ("3", "c", 12), ("3", "d", 22), ("3", "e", 32),
    ("4", "a", 13),
    ("5", "b", 14), ("5", "c", 40),
]  # fmt: skip
ITEMS = {"a": "Tom &amp; co", "b": "Blue  saw", "c": "<b>Bold</b> pen", "d": "Desk", "e": "Eraser"}


class Project:
    """A folder with params.yaml, one data set `shop`, and its two files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.values = yaml.safe_load(Path("params.yaml").read_text())
        self.values["grid"]["dataset"] = ["shop"]
        self.shop: dict[str, Any] = {
            "source": {
                "format": "table",
                "origin": {
                    "kind": "local",
                    "files": {"interactions": "log.csv", "items": "items.csv"},
                },
                "columns": dict(COLUMNS),
                "time_unit": "s",
                "max_rejected_share": 0.3,
            },
            "preprocess": {
                "core": 2, "min_rating": None, "require_title": True, "repeats": "keep",
                "keep_last": None, "ties": "source", "ties_seed": 0, "short_users": "drop",
                "split": {"kind": "user_time", "train": 0.5, "valid": 0.25},
            },
            "train": {},
        }  # fmt: skip
        self.write([(u, i, T0 + t) for u, i, t in LOG], ITEMS)

    def write(self, log: list[tuple[Any, ...]], items: dict[str, str], head: str = "u,i,t") -> None:
        rows = "".join(",".join(map(str, row)) + "\n" for row in log)
        (self.folder / "log.csv").write_text(f"{head}\n{rows}")
        lines = "".join(f"{raw},{title}\n" for raw, title in items.items())
        (self.folder / "items.csv").write_text(f"id,name\n{lines}")

    def run(self, name: str = "shop", **options: Any) -> Run:
        self.values["datasets"] = {"shop": self.shop}
        (self.folder / "params.yaml").write_text(yaml.safe_dump(self.values))
        return Run(name="preprocess", params_path=self.folder / "params.yaml", **options)

    def make(self) -> tuple[Catalog, Sequences, dict[str, Any]]:
        download(self.run(quiet=True), "shop")
        preprocess(self.run(quiet=True), "shop")
        root = self.folder / "artifacts"
        catalog = Catalog.load(root, "shop")
        stats = artifacts.load_json(artifacts.DATA_STATS, root, dataset="shop")
        return catalog, Sequences.load(root, "shop", catalog), stats

    def bytes(self) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in (self.folder / "artifacts/data/shop").iterdir()}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.delenv("SPECTRAN_CACHE", raising=False)
    return Project(tmp_path)


def steps(stats: dict[str, Any]) -> list[tuple[str, int, int, int]]:
    return [(s["step"], s["users"], s["items"], s["interactions"]) for s in stats["steps"]]


def histories(catalog: Catalog, sequences: Sequences) -> dict[str, str]:
    raw = catalog.table["raw_item"].to_pylist()
    parts = [
        sequences.items[a:b] for a, b in zip(sequences.offsets, sequences.offsets[1:], strict=False)
    ]
    return {
        user: "".join(raw[n - 1] for n in part)
        for user, part in zip(sequences.raw_users.to_pylist(), parts, strict=True)
    }


def test_every_step_by_hand(project: Project) -> None:
    catalog, sequences, stats = project.make()
    # Round 1 drops user 4 and item e; nothing else becomes short.
    assert steps(stats) == [
        ("read", 5, 5, 12),
        ("core", 4, 4, 10),
        ("titles", 4, 4, 10),
        ("core_again", 4, 4, 10),
    ]
    assert catalog.table["title"].to_pylist() == ["Tom & co", "Blue saw", "<b>Bold</b> pen", "Desk"]
    assert histories(catalog, sequences) == {"1": "abc", "2": "abd", "3": "cd", "5": "bc"}
    # Last times: 3 at 22, 1 at 30, 2 at 31, 5 at 40: two train, one validates, one tests.
    assert sequences.train_end.tolist() == [3, 0, 2, 0]
    assert sequences.valid_at.tolist() == [-1, 2, -1, -1]
    assert sequences.test_at.tolist() == [-1, -1, -1, 1]
    assert sequences.times is not None and sequences.times[0] == T0 + 10
    assert stats["split"]["test_targets_unseen_share"] == 0.0
    assert stats["split"]["valid_targets_unseen_share"] == 0.0


def test_items_without_title_are_dropped_and_the_core_is_taken_again(project: Project) -> None:
    project.write([(u, i, T0 + t) for u, i, t in LOG], ITEMS | {"d": "&nbsp;"})
    _, sequences, stats = project.make()
    # Without d: user 3 keeps c alone and goes; then c has users 1 and 5.
    assert steps(stats)[2:] == [("titles", 4, 3, 8), ("core_again", 3, 3, 7)]
    assert stats["steps"][2]["items_without_title"] == 1
    assert sequences.raw_users.to_pylist() == ["1", "2", "5"]


def test_item_in_the_log_without_text_counts_as_without_title(project: Project) -> None:
    items = {k: v for k, v in ITEMS.items() if k != "d"} | {"zz": "Never bought"}
    project.write([(u, i, T0 + t) for u, i, t in LOG], items)
    catalog, _, stats = project.make()
    assert catalog.table["raw_item"].to_pylist() == ["a", "b", "c"]
    assert stats["item_table"] == {
        "rows": 5, "items_in_log_without_row": 1, "rows_without_interaction": 1,
    }  # fmt: skip


def test_items_without_text_stay_where_titles_are_not_required(project: Project) -> None:
    project.shop["preprocess"]["require_title"] = False
    project.write([(u, i, T0 + t) for u, i, t in LOG], {"a": "Tom"})
    catalog, _, stats = project.make()
    assert catalog.table["title"].to_pylist() == ["Tom", "", "", ""]
    assert stats["titles"]["items_without"] == 3


def test_keep_last_cuts_histories_but_not_the_catalogue(project: Project) -> None:
    project.shop["preprocess"]["keep_last"] = 2
    catalog, sequences, stats = project.make()
    assert histories(catalog, sequences) == {"1": "bc", "2": "bd", "3": "cd", "5": "bc"}
    assert len(catalog) == 4 and steps(stats)[-1] == ("keep_last", 4, 3, 8)


def test_min_rating_comes_first(project: Project) -> None:
    project.shop["source"]["columns"]["rating"] = "r"
    project.shop["preprocess"]["min_rating"] = 4
    rows = [(u, i, T0 + t, 3 if i == "d" else 4) for u, i, t in LOG]
    project.write(rows, ITEMS, "u,i,t,r")
    _, _, stats = project.make()
    assert steps(stats)[1] == ("min_rating", 5, 4, 10)


def test_repeats_are_dropped_before_the_core(project: Project) -> None:
    project.shop["preprocess"]["repeats"] = "first"
    log = [(u, i, T0 + t) for u, i, t in LOG] + [("4", "a", T0 + 50)]
    project.write(log, ITEMS)
    _, sequences, stats = project.make()
    assert steps(stats)[1] == ("repeats", 5, 5, 12)
    assert "4" not in sequences.raw_users.to_pylist()


@pytest.mark.parametrize(("rule", "users"), [("drop", 2), ("keep", 3)])
def test_users_with_one_interaction(project: Project, rule: str, users: int) -> None:
    project.shop["preprocess"] |= {"core": 1, "short_users": rule}
    project.shop["preprocess"]["split"] = {"kind": "leave_one_out", "train": 1, "valid": 0}
    rows = [("1", i, T0 + n) for n, i in enumerate("abc")] + [("3", "a", T0), ("2", "b", T0)]
    project.write([*rows, ("2", "a", T0 + 1)], ITEMS)
    _, sequences, _ = project.make()
    assert sequences.num_users == users
    assert (sequences.test_at >= 0).sum() == 1


def test_second_run_writes_equal_bytes_whatever_the_row_order(project: Project) -> None:
    project.make()
    first = project.bytes()
    project.make()
    assert project.bytes() == first
    project.write([(u, i, T0 + t) for u, i, t in reversed(LOG)], ITEMS)
    project.make()
    assert project.bytes() == first


def test_collision_rate_is_reported_and_shuffling_is_written_down(project: Project) -> None:
    project.shop["preprocess"] |= {"ties": "shuffle", "ties_seed": 3}
    project.write([(u, i, T0 + min(t, 25)) for u, i, t in LOG], ITEMS)
    _, _, stats = project.make()
    # Kept last two events: user 1 at 20 and 25, 2 at 21 and 25, 3 at 12 and 22, 5 at 14 and 25.
    assert stats["ties"] == {"last_two_events_share_time": 0.0, "order": "shuffle"}
    project.write([(u, i, T0 + min(t, 20)) for u, i, t in LOG], ITEMS)
    _, _, stats = project.make()
    assert stats["ties"]["last_two_events_share_time"] == 0.5


def test_rejected_rows_lie_in_the_cache_and_are_named(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.write([(u, i, T0 + t) for u, i, t in LOG] + [("", "a", T0), ("9", "a", -5)], ITEMS)
    download(project.run(quiet=True), "shop")
    preprocess(project.run(), "shop")
    kept = project.folder / ".cache" / "rejected" / "shop.jsonl"
    assert f"2 rows set aside, with reasons: {kept}" in capsys.readouterr().out
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [(row["line"], row["reason"]) for row in rows] == [
        (14, "no user"),
        (15, "negative time"),
    ]
    stats = artifacts.load_json(artifacts.DATA_STATS, project.folder / "artifacts", dataset="shop")
    assert (stats["rows"], stats["rejected"]) == (19, {"negative time": 1, "no user": 1})
    project.write([(u, i, T0 + t) for u, i, t in LOG], ITEMS)
    project.make()
    assert not kept.exists()


def test_too_many_rejected_rows_stop_the_stage(project: Project) -> None:
    project.shop["source"]["max_rejected_share"] = 0.05
    project.write([(u, i, T0 + t) for u, i, t in LOG] + [("", "a", T0)], ITEMS)
    with pytest.raises(
        DataError, match=r"shop: 1 of 18 rows .*5.6%, allowed 5.0%.*: no user \(first: line 14\)"
    ):
        project.make()
    assert not (project.folder / "artifacts/data/shop").exists()


ORDER_ONLY = [(u, i, place) for place, (u, i, _) in enumerate(LOG)]


def test_order_only_log_works_with_leave_one_out(project: Project) -> None:
    project.shop["source"] |= {
        "columns": COLUMNS | {"time": None, "position": "t"},
        "time_unit": None,
    }
    project.shop["preprocess"]["split"] = {"kind": "leave_one_out", "train": 1, "valid": 0}
    project.write(ORDER_ONLY[::-1], ITEMS)
    catalog, sequences, _ = project.make()
    assert sequences.times is None
    assert histories(catalog, sequences)["1"] == "abc"


@pytest.mark.parametrize("kind", ["user_time", "global_time"])
def test_split_by_time_refuses_an_order_only_log(project: Project, kind: str) -> None:
    project.shop["source"] |= {
        "columns": COLUMNS | {"time": None, "position": "t"},
        "time_unit": None,
    }
    project.shop["preprocess"]["split"]["kind"] = kind
    project.write(ORDER_ONLY, ITEMS)
    with pytest.raises(
        DataError, match=rf"shop: split {kind} needs the time of every event, but 4"
    ):
        project.make()


@pytest.mark.parametrize("left", [True, False])
def test_null_times_matter_only_while_their_user_is_left(project: Project, left: bool) -> None:
    project.shop["source"]["columns"]["position"] = "p"
    rows = [(u, i, "" if u == ("1" if left else "4") else T0 + t, t) for u, i, t in LOG]
    project.write(rows, ITEMS, "u,i,t,p")
    if left:
        with pytest.raises(DataError, match="but 1 of 4 users have events without one"):
            project.make()
    else:
        assert project.make()[1].times is not None


def test_shuffled_ties_refuse_an_order_only_log(project: Project) -> None:
    project.shop["source"] |= {
        "columns": COLUMNS | {"time": None, "position": "t"},
        "time_unit": None,
    }
    project.shop["preprocess"]["ties"] = "shuffle"
    project.write(ORDER_ONLY, ITEMS)
    with pytest.raises(ConfigError, match=r"preprocess.ties: shuffle needs times"):
        project.make()


def test_nothing_left_names_the_step(project: Project) -> None:
    project.shop["preprocess"]["core"] = 9
    with pytest.raises(DataError, match=r"shop: no interaction is left after the step `core`"):
        project.make()


def test_min_rating_without_ratings_is_refused(project: Project) -> None:
    project.shop["preprocess"]["min_rating"] = 4
    with pytest.raises(ConfigError, match=r"preprocess.min_rating: 4.0, but no event has a rating"):
        project.make()


def test_log_without_a_readable_row_is_refused(project: Project) -> None:
    project.shop["source"]["max_rejected_share"] = 1.0
    project.write([("", "a", T0)], ITEMS)
    with pytest.raises(DataError, match=r"shop: no interaction was read from 6 rows: 1 of log.csv"):
        project.make()


def test_duplicates_of_any_source_are_set_aside() -> None:
    items = pl.DataFrame({"item": ["a", "b", "a"], "title": ["one", None, "two"]})
    raw = without_duplicates(gather(pl.DataFrame({"user": ["1"]}), items, [], 4))
    assert raw.items["title"].to_list() == ["one", None]
    assert raw.rejected.rows() == [("items", None, "duplicate item", "a | two")]


def test_missing_manifest_names_the_download(project: Project) -> None:
    with pytest.raises(ArtifactError, match=r"shop.json is missing. Run: spectran download shop"):
        preprocess(project.run(quiet=True), "shop")


def test_unknown_dataset_gets_a_near_miss(project: Project) -> None:
    with pytest.raises(ConfigError, match=r"datasets.shp: no such block. Did you mean shop\?"):
        preprocess(project.run(quiet=True), "shp")


def test_dry_run_writes_nothing(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    download(project.run(quiet=True), "shop")
    preprocess(project.run(dry_run=True), "shop")
    assert "sequences.parquet" in capsys.readouterr().out
    assert not (project.folder / "artifacts/data").exists()


REAL = {
    "toys": (19_124, 11_758, 165_247, 141_630),
    "beauty": (22_332, 12_086, 198_215, 168_446),
    "office": (4_895, 2_414, 53_149, 41_462),
    "clothing": (39_230, 22_948, 277_534, 266_481),
}


@pytest.mark.real
@pytest.mark.skipif("SPECTRAN_DATA" not in os.environ, reason="SPECTRAN_DATA is not set")
@pytest.mark.parametrize("name", REAL)
def test_published_counts_come_out_exactly(tmp_path: Path, name: str) -> None:
    (tmp_path / "params.yaml").write_text(Path("params.yaml").read_text())
    run = Run(name="preprocess", params_path=tmp_path / "params.yaml", quiet=True)
    download(run, name)
    preprocess(run, name)
    stats = artifacts.load_json(artifacts.DATA_STATS, run.root, dataset=name)
    before = next(step for step in stats["steps"] if step["step"] == "core_again")
    found = (before["users"], before["items"], before["interactions"], stats["interactions"])
    assert found == REAL[name]
    assert (stats["users"], stats["items"]) == REAL[name][:2]


def test_data_that_were_read_otherwise_are_refused_until_they_are_made_again(
    project: Project,
) -> None:
    project.make()
    run = project.run()
    refuse_other_preprocess(run.root, run.params, "shop")
    project.shop["source"]["columns"]["brand"] = "name"
    run = project.run()
    with pytest.raises(ArtifactError, match=r'columns\.brand = null, params.*"name"\. Run: '):
        refuse_other_preprocess(run.root, run.params, "shop")
    project.make()
    refuse_other_preprocess(run.root, run.params, "shop")
