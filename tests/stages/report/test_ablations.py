"""Variants beside the methods they are made from."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest
import yaml

from pipeline import artifacts
from pipeline.errors import ArtifactError
from stages.evaluate import evaluate
from stages.report import report
from tests.stages.report.tables import naive_ndcg, read


@pytest.fixture
def ablated(measured, reported):
    """Two variants of spectran on a data set that the paper is said to report."""
    content = yaml.safe_load(measured.params_path.read_text())
    content["grid"]["ablation"] = {
        "encoder": ["minilm"], "backbone": ["sasrec"],
        "method": ["spectran_sigma", "spectran_identity"],
    }  # fmt: skip
    measured.params_path.write_text(yaml.safe_dump(content, sort_keys=False))
    measured.reread()
    measured.save_all()
    evaluate(measured.run("evaluate", quiet=True), "demo")
    report(measured.run("report", quiet=True))
    return measured


def test_ablations_are_a_table_and_a_figure(ablated):
    page = (ablated.root / "report" / "index.html").read_text()
    part = page[page.index("<h3>Ablations") : page.index("<h3>Spectrum of the text")]
    assert "<h4>minilm, sasrec</h4>" in part and "<b>Protocol.</b>" in part
    assert part.count("<svg") == 1 and part.count('class="whisker text"') == 2
    assert re.findall('<th scope="col">(.*?)</th>', part) == [
        "method", "of", "NDCG@20", "difference", "verdict",
        "NDCG@20 difference in the paper", "changes",
    ]  # fmt: skip
    rows = {r[0]: r[1:] for r in (re.findall("<td>(.*?)</td>", r) for r in part.split("<tr>")[2:])}
    assert list(rows) == ["spectran", "spectran_sigma", "spectran_identity"]
    for method, row in rows.items():
        assert row[1].startswith(f"{naive_ndcg(ablated, method, 20):.4f}"[1:])
    sigma = rows["spectran_sigma"]
    assert (sigma[0], sigma[3], sigma[5]) == ("spectran", "below", "position = sigma")
    assert sigma[4] == "-.0034", "the paper's .0449 less .0483"
    assert "Table 3" in part
    assert page.count("<small>what it is a variant of</small>") == 4


def test_ablations_csv_holds_every_metric(ablated):
    rows = read(ablated, "ablations.csv")
    assert len(rows) == 3 * 3 * len(ablated.params.evaluate.ks)
    means = {(r["method"], r["metric"], r["k"]): float(r["mean"]) for r in rows}
    for row in rows:
        assert (row["dataset"], row["base"], row["users"]) == ("demo", "spectran", "90")
        if row["method"] != "spectran":
            key = row["metric"], row["k"]
            gap = means[row["method"], *key] - means["spectran", *key]
            assert float(row["difference"]) == pytest.approx(gap, abs=1e-5)
            assert float(row["difference_low"]) <= float(row["difference"])
    printed = {r["method"]: r["paper_difference"] for r in rows if r["paper_difference"]}
    assert printed == {"spectran_sigma": "-0.0034", "spectran_identity": "-0.0142"}


def test_ablations_have_the_same_bytes_again(ablated, tmp_path):
    report(ablated.run("report", out=tmp_path / "again", quiet=True))
    for name in ("index.html", "ablations.csv"):
        first, second = (folder / "report" / name for folder in (ablated.root, tmp_path / "again"))
        assert first.read_bytes() == second.read_bytes(), name


def test_comparisons_without_variants_name_the_command(ablated):
    table, header = artifacts.COMPARISONS.load(ablated.root, dataset="demo")
    rows = [row for row in table.to_pylist() if row["against"] != "base"]
    artifacts.COMPARISONS.save(
        ablated.root,
        pa.Table.from_pylist(rows, schema=table.schema),
        items=header["items"],
        params=header["params"],
        dataset="demo",
    )
    with pytest.raises(ArtifactError, match=r"spectran_sigma against.*Run: spectran evaluate demo"):
        report(ablated.run("report"))


def test_no_variant_is_no_section(page, evaluated):
    assert "Ablations" not in page
    text = (evaluated.root / "report" / "ablations.csv").read_text()
    assert text.startswith("dataset,encoder,backbone,base,method,") and text.count("\n") == 1
