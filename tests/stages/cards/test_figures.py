"""Variants, widths and sizes in a card: the page's tables and charts, kept with the ranks."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
import yaml

from stages.report import report
from tests.stages.cards.gathering import gather
from tests.stages.report.tables import naive_ndcg

SVG = "{http://www.w3.org/2000/svg}"
VARIANTS = "### Variants against the method they are made from"
WIDTHS = "### Width of the item vectors"


def changed_grid(measured, **groups):
    content = yaml.safe_load(measured.params_path.read_text())
    content["grid"] |= groups
    measured.params_path.write_text(yaml.safe_dump(content, sort_keys=False))
    measured.reread()
    measured.save_all()


@pytest.fixture
def ablated(measured, reported):
    """Two variants of spectran on a data set that the paper is said to report."""
    names = ["spectran_sigma", "spectran_identity"]
    changed_grid(
        measured, ablation={"encoder": ["minilm"], "backbone": ["sasrec"], "method": names}
    )
    gather(measured, add=False)
    return measured


def card(measured, name="card.md"):
    return (measured.root / "report/cards/tiny" / name).read_text()


def drawn(measured, kind):
    return ElementTree.fromstring(card(measured, f"{kind}-demo.svg"))


def section(measured, heading):
    """The rows of a section's tables: first column -> the others."""
    part = card(measured).split(f"{heading}\n")[1].split("\n### ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    rows = [line.strip("| ").replace("\\", "").split(" | ") for line in lines]
    return part, {row[0]: row[1:] for row in rows}


def test_variants_stand_against_their_method(ablated):
    part, rows = section(ablated, VARIANTS)
    assert "](variants-demo.svg)" in part and "#### minilm, sasrec\n" in part
    assert list(rows) == ["method", "spectran", "spectran_sigma", "spectran_identity"]
    base = naive_ndcg(ablated, "spectran", 20)
    for method in ("spectran_sigma", "spectran_identity"):
        of, value, difference, _, paper, changes = rows[method]
        own = naive_ndcg(ablated, method, 20)
        assert (of, changes) == ("spectran", f"position = {method.removeprefix('spectran_')}")
        assert value.startswith(f"{own:.4f}"[1:])
        assert float(difference.split()[0]) == pytest.approx(own - base, abs=1e-4)
        assert paper == {"spectran_sigma": "-.0034", "spectran_identity": "-.0142"}[method]
    assert rows["spectran_sigma"][3] == "below" and rows["spectran"][2:] == ["-"] * 4
    assert "Table 3" in part


def test_the_picture_of_variants_has_a_bar_for_each(ablated):
    root = drawn(ablated, "variants")
    texts = [t.text for t in root.iter(f"{SVG}text") if t.get("class") == "label"]
    assert texts == ["minilm, sasrec", "spectran_sigma", "spectran_identity"]
    assert len([c for c in root.iter(f"{SVG}circle") if c.get("r") == "5"]) == 2


def test_settings_of_training_that_a_variant_shares_are_no_change(measured):
    """`llminit_equal` repeats its method's dropout; `id_light` has another than its method's."""
    changed_grid(
        measured,
        ablation={"encoder": ["minilm"], "backbone": ["sasrec"], "method": ["llminit_equal"]},
        protocol_plain={"backbone": ["sasrec"], "method": ["id_light"]},
    )
    gather(measured, add=False)
    _, rows = section(measured, VARIANTS)
    assert rows["llminit_equal"][-1] == "standardize = True"
    assert rows["id_light"][-1] == "train.dropout = 0.1, train.weight_decay = 0.0"


def test_widths_are_a_row_and_a_line_for_each_method(measured):
    names = ["sasrec_d64", "sasrec_d16"]
    changed_grid(
        measured,
        protocol={"encoder": ["minilm"], "backbone": names, "method": ["spectran"]},
        protocol_plain={"backbone": names, "method": ["id"]},
    )
    for cell in measured.cells:  # the narrow ones rank worse
        for seed in cell.seeds(measured.params) if cell.backbone == "sasrec_d16" else ():
            measured.save(cell, seed, measured.table("popularity", seed))
    gather(measured, add=False)
    part, rows = section(measured, WIDTHS)
    assert "](widths-demo.svg)" in part
    assert rows.pop("method") == ["16", "32", "64"] and set(rows) == {"id", "spectran"}
    for method, texts in rows.items():
        for backbone, text in zip(("sasrec_d16", "sasrec", "sasrec_d64"), texts, strict=True):
            assert text.startswith(f"{naive_ndcg(measured, method, 20, backbone):.4f}"[1:])
    lines = [line.get("class") for line in drawn(measured, "widths").iter(f"{SVG}polyline")]
    keys = 2
    assert len([kind for kind in lines if "interval" not in kind]) == 2 + keys


def test_sizes_are_of_methods_without_variants_and_controls(ablated):
    root = drawn(ablated, "costs")
    names = [t.text for t in root.iter(f"{SVG}text") if t.get("class") == "label"]
    trained = {cell.method for cell in ablated.cells if cell.trained}
    variants = {"spectran_sigma", "spectran_identity"}
    assert set(names[1:]) == trained - variants and len(names) == len(trained - variants) + 1
    assert "](costs-demo.svg)" in card(ablated)


def test_pictures_of_what_a_card_no_longer_holds_go(ablated):
    folder = ablated.root / "report/cards/tiny"
    assert (folder / "variants-demo.svg").exists()
    none = {"encoder": [], "backbone": [], "method": []}
    changed_grid(ablated, ablation=none)
    gather(ablated, add=False)
    assert not (folder / "variants-demo.svg").exists() and VARIANTS not in card(ablated)
    assert WIDTHS not in card(ablated) and not (folder / "widths-demo.svg").exists()


def test_the_same_card_has_the_same_figures_again(ablated):
    folder = ablated.root / "report/cards/tiny"
    before = {p.name: p.read_bytes() for p in folder.iterdir() if re.search(r"\.(md|svg)$", p.name)}
    report(ablated.run("report", quiet=True), card="tiny")
    assert before == {name: (folder / name).read_bytes() for name in before}
