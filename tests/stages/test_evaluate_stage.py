"""`spectran evaluate`: what it reads, what it refuses, and that its bytes repeat."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from pipeline import artifacts
from pipeline.cells import Cell
from pipeline.errors import ArtifactError, ConfigError
from pipeline.files import sha256_file
from stages.diff import diff
from stages.evaluate import evaluate

ID = Cell("demo", "none", "sasrec", "id")


def test_metrics_of_every_cell_are_written_and_sizes_are_printed(measured, capsys):
    evaluate(measured.run("evaluate"), "demo")
    out = capsys.readouterr().out
    bounds = {"warm": (51, 999), "median": (7, 50), "cold": (1, 6), "unseen": (0, 0)}
    test = measured.counts[40:]
    told = " ".join(f"{n}={((test >= a) & (test <= b)).sum()}" for n, (a, b) in bounds.items())
    assert f"evaluate test: all=90 {told}" in out
    assert f"{len(measured.cells)} cells" in out and "Next: spectran collapse demo" in out
    table, header = artifacts.METRICS.load(measured.root, dataset="demo")
    found = {(r["encoder"], r["backbone"], r["method"]) for r in table.to_pylist()}
    assert found == {(c.encoder, c.backbone, c.method) for c in measured.cells}
    assert set(header["params"]["cells"]) == {str(cell) for cell in measured.cells}
    hashes = header["params"]["cells"][str(ID)]["ranks_sha256"]
    where = artifacts.RANKS.path(measured.root, **ID.fields, seed=0)
    assert hashes["0"] == sha256_file(where) and set(hashes) == {"0", "1"}


def test_the_scores_of_all_cells_are_shown_highest_first(measured, capsys):
    evaluate(measured.run("evaluate"), "demo")
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("demo: 90 test users, 95% intervals over users")
    assert lines[start + 1].split() == ["method", "encoder", "backbone", "NDCG@20", "HR@20"]
    table = lines[start + 2 : start + 2 + len(measured.cells)]
    found = {}
    for row in artifacts.METRICS.load(measured.root, dataset="demo")[0].to_pylist():
        if (row["split"], row["slice"], row["k"]) == ("test", "all", 20):
            cell = (row["method"], row["encoder"], row["backbone"])
            short = [f"{row[key]:.4f}".removeprefix("0") for key in ("mean", "low", "high")]
            text = "{} [{}, {}]".format(*short)
            found.setdefault(cell, {})[row["metric"]] = (row["mean"], text)
    wanted = sorted(found.items(), key=lambda item: -item[1]["ndcg"][0])
    assert [" ".join(line.split()) for line in table] == [
        " ".join([*cell, values["ndcg"][1], values["hr"][1]]) for cell, values in wanted
    ]
    assert lines[start + 2 + len(measured.cells)].startswith("wrote ")


def test_of_many_cells_the_highest_are_shown(measured, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.reporting.scores.MOST_LINES", 2)
    evaluate(measured.run("evaluate"), "demo")
    lines = capsys.readouterr().out.splitlines()
    assert f"  and {len(measured.cells) - 2} lower ones: spectran report shows all" in lines
    start = lines.index("demo: 90 test users, 95% intervals over users")
    assert [line.split()[0] for line in lines[start + 2 : start + 4]] == ["spectran", "llminit"]


def test_json_and_quiet_show_no_table(measured, capsys):
    evaluate(measured.run("evaluate", json=True), "demo")
    assert json.loads(capsys.readouterr().out)["cells"] == len(measured.cells)
    evaluate(measured.run("evaluate", quiet=True), "demo")
    assert capsys.readouterr().out == ""


def test_a_second_run_writes_the_same_bytes(evaluated):
    paths = [
        a.path(evaluated.root, dataset="demo") for a in (artifacts.METRICS, artifacts.COMPARISONS)
    ]
    before = [path.read_bytes() for path in paths]
    evaluate(evaluated.run("evaluate", quiet=True), "demo")
    assert [path.read_bytes() for path in paths] == before


def test_the_seen_item_filter_chooses_other_columns(measured, tmp_path):
    out = tmp_path / "other"
    changes = {"evaluate.seen_items": "excluded"}
    evaluate(measured.run("evaluate", out=out, changes=changes, quiet=True), "demo")
    evaluate(measured.run("evaluate", quiet=True), "demo")
    values = []
    for root in (measured.root, out):
        rows = artifacts.METRICS.load(root, dataset="demo")[0].to_pylist()
        values.append(sum(r["mean"] for r in rows if r["metric"] == "ndcg" and r["slice"] == "all"))
    assert values[1] > values[0]  # fewer rivals, better ranks


def test_dry_run_writes_nothing(measured, capsys):
    evaluate(measured.run("evaluate", dry_run=True), "demo")
    assert "reads " in capsys.readouterr().out
    assert not artifacts.METRICS.path(measured.root, dataset="demo").exists()


def test_a_missing_cell_is_named_with_its_command(measured):
    artifacts.RANKS.path(measured.root, **ID.fields, seed=1).unlink()
    with pytest.raises(
        ArtifactError, match=r"1\.parquet is missing\. Run: spectran train demo none sasrec id"
    ):
        evaluate(measured.run("evaluate"), "demo")


def test_a_leftover_cell_is_refused_by_name(measured):
    measured.save(Cell("demo", "none", "sasrec", "pad"), 0, measured.table("id", 0))
    with pytest.raises(ArtifactError, match=r"sasrec/pad\. Run: spectran clean --stale"):
        evaluate(measured.run("evaluate"), "demo")


def test_a_leftover_seed_is_refused_by_name(measured):
    measured.save(ID, 9)
    with pytest.raises(ArtifactError, match=r"id/9\.parquet\. Run: spectran clean --stale"):
        evaluate(measured.run("evaluate"), "demo")


def test_an_unknown_data_set_is_refused(measured):
    with pytest.raises(ConfigError, match=r"grid\.dataset: toys is not in it"):
        evaluate(measured.run("evaluate"), "toys")


def test_ranks_of_fewer_users_are_refused(measured):
    measured.save(ID, 1, measured.table("id", 1, users=129))
    with pytest.raises(
        ArtifactError, match=r"id seed 1 holds 129 held-out targets but .* holds 130"
    ):
        evaluate(measured.run("evaluate"), "demo")


def test_ranks_of_other_targets_are_refused(measured):
    table = measured.table("id", 1)
    targets = table["target"].to_pylist()
    targets[3] += 1
    table = table.set_column(table.column_names.index("target"), "target", pa.array(targets))
    measured.save(ID, 1, table)
    with pytest.raises(ArtifactError, match=r"differs from .* in `target` of 1 of 130"):
        evaluate(measured.run("evaluate"), "demo")


def test_ranks_from_other_items_are_refused(measured):
    measured.save(ID, 0, items="b" * 64)
    measured.save(ID, 1, items="b" * 64)
    with pytest.raises(ArtifactError, match=r"made from other items than .*bbbbbbbb"):
        evaluate(measured.run("evaluate"), "demo")


def test_a_user_counted_twice_is_refused(measured):
    table = measured.table("id", 0)
    measured.save(ID, 0, pa.concat_tables([table, table.slice(0, 1)]))
    with pytest.raises(ArtifactError, match="holds user 0 twice"):
        evaluate(measured.run("evaluate"), "demo")


def test_more_rivals_than_candidates_are_refused(measured):
    table = measured.table("id", 0)
    few = pa.array([1] * len(table))
    measured.save(
        ID, 0, table.set_column(table.column_names.index("candidates"), "candidates", few)
    )
    with pytest.raises(ArtifactError, match="more rivals than there are candidates"):
        evaluate(measured.run("evaluate"), "demo")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("width: 32, max_epochs", "width: 48, max_epochs",
         r"train\.width = 32, params\.yaml says 48\. Run: spectran train"),
        ("    order: 3\n", "    order: 2\n", r"methods\.spectran\.order = 3, params\.yaml says 2"),
        ("    blocks: 2\n    heads: 1\n    init_std", "    blocks: 1\n    heads: 1\n    init_std",
         r"backbones\.sasrec\.blocks = 2, params\.yaml says 1\. "),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["evaluate", "diff"])
def test_ranks_made_with_other_settings_are_refused(measured, old, new, said, command):
    text = measured.params_path.read_text()
    assert text.count(old) == 1
    measured.params_path.write_text(text.replace(old, new))
    with pytest.raises(ArtifactError, match=f"ranks/demo/.* was made with {said}"):
        if command == "diff":
            diff(measured.run("diff"), "demo/minilm/sasrec/spectran", "demo/none/sasrec/id")
        else:
            evaluate(measured.run("evaluate"), "demo")
