"""Parameters and times on the page."""

from __future__ import annotations

import re
import shutil

import pytest

from pipeline import artifacts
from pipeline.errors import ArtifactError
from stages.report import report
from tests.stages.report.tables import naive_ndcg, read


def test_parameters_and_times_of_every_cell(page, evaluated):
    part = page[page.index("<h3>Efficiency") : page.index("<h3>Settings of their own")]
    heads = re.findall('<th scope="col">(.*?)</th>', part)
    assert heads == ["cell", "method", "backbone", "all parameters", "s per epoch",
                     "s per 1,000 users", "NDCG@20"]  # fmt: skip
    rows = {r[0]: r[1:] for r in (re.findall("<td>(.*?)</td>", r) for r in part.split("<tr>")[2:])}
    assert set(rows) == {cell.method for cell in evaluated.cells}
    # 90 s over 12 epochs; 0.65 s over 130 users.
    assert rows["spectran"][:5] == ["87,717", "6,560", "94,277", "7.5", "5"]
    assert rows["popularity"][:3] == ["0", "0", "0"]
    trained = [cell for cell in evaluated.cells if cell.trained]
    assert part.count("<circle") == len(trained), "a logarithm has no place for 0"
    written = {row["method"]: row for row in read(evaluated, "efficiency.csv")}
    row = written["id"]
    assert (row["method_parameters"], row["backbone_parameters"]) == ("37792", "6560")
    assert (row["parameters"], row["epoch_s"], row["rank_s_per_1000_users"]) == (
        "44352",
        "7.5",
        "5",
    )
    assert float(row["ndcg"]) == pytest.approx(naive_ndcg(evaluated, "id", 20), rel=1e-5)


def test_without_logs_there_are_no_times(evaluated):
    shutil.rmtree(evaluated.base / "logs")
    report(evaluated.run("report", quiet=True))
    page = (evaluated.root / "report" / "index.html").read_text()
    part = page[page.index("<h3>Efficiency") : page.index("<h3>Settings of their own")]
    assert "87,717" in part and "s per epoch" not in part and "clock" not in part
    assert {row["epoch_s"] for row in read(evaluated, "efficiency.csv")} == {""}


def test_sizes_of_other_cells_are_refused(evaluated):
    table, header = artifacts.SIZES.load(evaluated.root, dataset="demo")
    made = {"models": {"demo/none/sasrec/id": [0]}}
    artifacts.SIZES.save(evaluated.root, table, items=header["items"], params=made, dataset="demo")
    with pytest.raises(ArtifactError, match=r"other cells or seeds.*Run: spectran collapse demo"):
        report(evaluated.run("report"))
