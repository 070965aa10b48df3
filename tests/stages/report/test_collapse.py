"""Spectral collapse on the page."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest

from pipeline import artifacts
from pipeline.errors import ArtifactError
from pipeline.reporting.collapse import LINES
from stages.report import report


def test_collapse_shows_every_trained_method_before_and_after(page, evaluated):
    part = page[page.index("<h3>Spectral collapse") : page.index("<h3>What spectral")]
    trained = [cell for cell in evaluated.cells if cell.trained]
    titles = re.findall("<figcaption>(.*?)<small>", part)
    assert titles == [cell.method for cell in trained]
    assert part.count("<svg") == len(trained)
    for kind, words in LINES.items():
        assert part.count(f'<polyline class="line {kind}"') == len(trained)
        assert f'<span class="key line {kind}"></span>{words}' in part
    rows = {
        re.search("<td>(.*?)</td>", row)[1]: re.findall("<td>(.*?)</td>", row)[1:]
        for row in part.split("<tr>")[2:]
    }
    assert set(rows) == {cell.method for cell in trained}
    assert rows["id"][:2] == ["whole vectors", "32"] and rows["morec"][0] == "text part"
    # The mean of seeds 0 and 1: ranks 15, 16 before and 30, 31 after.
    assert rows["morec"][4:6] == ["15.5", "30.5"]
    assert rows["morec"][6:8] == ["10.0", "20.0"]


@pytest.mark.parametrize("others", [True, False])
def test_a_table_without_spread_is_a_dash(evaluated, others):
    table, header = artifacts.COLLAPSE.load(evaluated.root, dataset="demo")
    rows = table.to_pylist()
    for row in rows:
        if (row["method"], row["state"]) == ("id", "initial") or not others:
            row |= {"top_10": None, "effective_rank": None, "participation_ratio": None}
            row["cumulative"] = []
    artifacts.COLLAPSE.save(
        evaluated.root,
        pa.Table.from_pylist(rows, schema=table.schema),
        items=header["items"],
        params=header["params"],
        dataset="demo",
    )
    report(evaluated.run("report", quiet=True))
    page = (evaluated.root / "report" / "index.html").read_text()
    row = next(
        r for r in page[page.index("<h3>Spectral collapse") :].split("<tr>") if "<td>id<" in r
    )
    found = re.findall("<td>(.*?)</td>", row)
    assert found[3::2] == ["-"] * 3 and (found[4] == "-") is not others


def test_two_parts_of_one_view_are_two_charts(evaluated):
    """A text that stands in the loss only is measured beside the vectors that rank."""
    evaluated.add_text_part("id", effective_rank=7.0)
    report(evaluated.run("report", quiet=True))
    page = (evaluated.root / "report" / "index.html").read_text()
    part = page[page.index("<h3>Spectral collapse") : page.index("<h3>What spectral")]
    trained = [cell.method for cell in evaluated.cells if cell.trained]
    assert part.count("<svg") == len(trained) + 1
    rows = [re.findall("<td>(.*?)</td>", row) for row in part.split("<tr>")[2:]]
    found = {row[0]: row[1:] for row in rows if row[0].startswith("id")}
    assert list(found) == ["id, whole vectors", "id, text part"]
    ranks = {name: row[4:6] for name, row in found.items()}
    assert ranks == {"id, whole vectors": ["15.5", "30.5"], "id, text part": ["7.0", "7.0"]}
    assert {row[0] for row in rows} >= set(trained) - {"id"}


def test_collapse_of_other_cells_is_refused(evaluated):
    table, header = artifacts.COLLAPSE.load(evaluated.root, dataset="demo")
    made = {"models": {"demo/none/sasrec/id": [0]}}
    artifacts.COLLAPSE.save(
        evaluated.root, table, items=header["items"], params=made, dataset="demo"
    )
    with pytest.raises(ArtifactError, match=r"other cells or seeds.*Run: spectran collapse demo"):
        report(evaluated.run("report"))


@pytest.mark.parametrize("artifact", [artifacts.COLLAPSE, artifacts.SIZES], ids=lambda a: a.name)
def test_measures_of_models_that_were_trained_again_since_are_refused(evaluated, artifact):
    cell = "demo/none/sasrec/id"
    table, header = artifact.load(evaluated.root, dataset="demo")
    _, metrics = artifacts.METRICS.load(evaluated.root, dataset="demo")
    made = metrics["params"]["cells"][cell]["params"]

    def save(**train):
        then = {cell: made | {"train": made["train"] | train}}
        params = header["params"] | {"made": then}
        artifact.save(evaluated.root, table, items=header["items"], params=params, dataset="demo")

    save()
    report(evaluated.run("report", quiet=True))
    save(dropout=0.9)
    with pytest.raises(ArtifactError, match=rf"of {cell} with train.dropout = 0.9, .*: spectran"):
        report(evaluated.run("report"))


def test_missing_collapse_names_the_command(evaluated):
    artifacts.COLLAPSE.path(evaluated.root, dataset="demo").unlink()
    with pytest.raises(ArtifactError, match=r"is missing\. Run: spectran collapse demo"):
        report(evaluated.run("report"))
