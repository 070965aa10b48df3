"""Cells that differ in their width only."""

from __future__ import annotations

import re

import pytest
import yaml

from pipeline import artifacts
from pipeline.cells import cells
from pipeline.params import load
from stages.evaluate import evaluate
from stages.report import report
from tests.stages.report.tables import naive_ndcg, read

TABLES = ("widths.csv", "spectral_weights.csv", "spectral_summary.csv")


@pytest.fixture
def swept(measured):
    """Two methods also at widths 16 and 64, of which 16 ranks worse."""
    content = yaml.safe_load(measured.params_path.read_text())
    names = ["sasrec_d64", "sasrec_d16", "sasrec_softmax"]
    content["grid"]["protocol"] = {
        "encoder": ["minilm"], "backbone": names, "method": ["spectran"]
    }  # fmt: skip
    content["grid"]["protocol_plain"] = {"backbone": names, "method": ["id"]}
    measured.params_path.write_text(yaml.safe_dump(content, sort_keys=False))
    made = measured
    made.params = load(made.params_path)
    made.cells = cells(made.params.grid, "demo")
    made.save_all()
    for cell in made.cells:
        for seed in cell.seeds(made.params) if cell.backbone == "sasrec_d16" else ():
            table = made.table("popularity", seed)
            made.save(cell, seed, table)
    evaluate(made.run("evaluate", quiet=True), "demo")
    report(made.run("report", quiet=True))
    return made


def test_widths_are_one_line_per_method(swept):
    page = (swept.root / "report" / "index.html").read_text()
    part = page[page.index("<h3>Width of the item") : page.index("<h3>Spectrum of the text")]
    assert part.count("<polyline") == 2 and part.count('class="line interval') == 2 * 3
    assert re.findall('<th scope="col">(.*?)</th>', part) == ["method", "16", "32", "64"]
    rows = {r[0]: r[1:] for r in (re.findall("<td>(.*?)</td>", r) for r in part.split("<tr>")[2:])}
    assert set(rows) == {"id", "spectran"}, "another loss is no width"
    for method, texts in rows.items():
        for backbone, text in zip(("sasrec_d16", "sasrec", "sasrec_d64"), texts, strict=True):
            wanted = f"{naive_ndcg(swept, method, 20, backbone):.4f}"[1:]
            assert text.startswith(f"{wanted} [."), (method, backbone)
    assert "<td>sasrec_d16</td><td>sasrec</td><td>train.width = 16</td>" in page


def test_widths_csv_holds_every_metric(swept):
    rows = read(swept, "widths.csv")
    shown = {(r["method"], r["width"]) for r in rows}
    assert shown == {(m, w) for m in ("id", "spectran") for w in ("16", "32", "64")}
    assert {r["backbone"] for r in rows} == {"sasrec"}
    assert len(rows) == 6 * 3 * len(swept.params.evaluate.ks)
    for row in rows:
        if row["metric"] == "ndcg":
            block = {"32": "sasrec"}.get(row["width"], f"sasrec_d{row['width']}")
            wanted = naive_ndcg(swept, row["method"], int(row["k"]), block)
            assert float(row["mean"]) == pytest.approx(wanted, rel=1e-5)


def test_a_setting_that_came_later_parts_no_widths(swept):
    """Ranks from before `embed_scale` were made with what 1 means now."""
    before = {name: (swept.root / "report" / name).read_text() for name in TABLES}
    cell = {"dataset": "demo", "encoder": "minilm", "backbone": "sasrec", "method": "spectran"}
    for seed in (0, 1):
        table, header = artifacts.RANKS.load(swept.root, **cell, seed=seed)
        assert header["params"]["method"].pop("embed_scale") == 1.0
        artifacts.RANKS.save(
            swept.root, table, items=header["items"], params=header["params"], **cell, seed=seed
        )
    evaluate(swept.run("evaluate", quiet=True), "demo")
    report(swept.run("report", quiet=True))
    assert {name: (swept.root / "report" / name).read_text() for name in TABLES} == before


def test_one_width_is_no_section(page, evaluated):
    assert "Width of the item vectors" not in page
    text = (evaluated.root / "report" / "widths.csv").read_text()
    assert text.startswith("dataset,encoder,backbone,method,width,") and text.count("\n") == 1
