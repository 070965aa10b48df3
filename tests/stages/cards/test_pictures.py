"""Pictures of a card: well-formed, complete, and only of what was measured."""

from __future__ import annotations

import json
import re
import shutil
from xml.etree import ElementTree

import numpy as np
import pyarrow.compute as pc
import pytest

from pipeline import artifacts
from pipeline.errors import ArtifactError
from pipeline.reporting.card_files import PICTURES, PROVENANCE, SPECTRA, TEXTS, to_write
from stages.report import report
from tests.stages.cards.gathering import SPECTRAN, bytes_of, forget, gather

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def folder(measured):
    gather(measured, add=False)
    return measured.root / "report/cards/tiny"


def drawn(folder, name):
    return ElementTree.parse(folder / f"{name}-demo.svg").getroot()


def texts(node, kind):
    return [text.text for text in node.iter(f"{SVG}text") if text.get("class") == kind]


def remeasure(measured, change):
    """Replace the rows that `spectran collapse` wrote."""
    table, header = artifacts.COLLAPSE.load(measured.root, dataset="demo")
    rows = [new for row in table.to_pylist() if (new := change(row))]
    artifacts.COLLAPSE.save(
        measured.root,
        table.from_pylist(rows, schema=table.schema),
        items=header["items"],
        params=header["params"],
        dataset="demo",
    )


def test_every_cell_has_its_mean_among_the_scores(measured, folder):
    root = drawn(folder, "scores")
    names = texts(root, "label")
    assert len(names) == len(measured.cells) and "spectran" in names
    circles = [c for c in root.iter(f"{SVG}circle") if c.get("r") == "5"]
    keys = 3  # in the legend: text, plain, baseline
    assert len(circles) == len(measured.cells) + keys
    assert (
        "![NDCG@20 of all cells, 95% intervals](scores-demo.svg)"
        in (folder / "card.md").read_text()
    )


def test_spectra_are_means_over_seeds(measured, folder):
    table, _ = SPECTRA.load(measured.root, name="tiny", dataset="demo")
    (row,) = (
        row
        for row in table.to_pylist()
        if (row["cell"], row["state"]) == (str(SPECTRAN), "trained")
    )
    measures, _ = artifacts.COLLAPSE.load(measured.root, dataset="demo")
    own = [
        one["cumulative"]
        for one in measures.to_pylist()
        if (one["method"], one["state"]) == ("spectran", "trained")
    ]
    assert len(own) == 2 and own[0] != own[1]
    np.testing.assert_allclose(row["cumulative"], np.mean(own, axis=0), rtol=1e-6)


def test_a_panel_shows_before_after_and_all_directions_alike(measured, folder):
    root = drawn(folder, "spectra")
    trained = [cell for cell in measured.cells if cell.trained]
    panels = [svg for svg in root.iter(f"{SVG}svg") if svg.get("aria-label") == "spectran"]
    assert len(texts(root, "label")) == len(trained) and len(panels) == 1
    lines = {line.get("class"): line.get("points") for line in panels[0].iter(f"{SVG}polyline")}
    assert set(lines) == {"line s0", "line s1", "line even"}
    heights = {kind: float(points.split()[0].split(",")[1]) for kind, points in lines.items()}
    # made up: shares fall with the square of the direction before training, slower after it
    assert heights["line s0"] < heights["line s1"] < heights["line even"], "y grows downwards"
    assert len({points.split()[-1] for points in lines.values()}) == 1, "all end at 1"
    assert "effective rank 15.5 to 30.5" in texts(root, "tick")


def test_vectors_that_are_all_the_same_have_no_line(measured):
    same = ("spectran", "initial")

    def change(row):
        flat = {"cumulative": [], "effective_rank": None}
        return row | flat if (row["method"], row["state"]) == same else row

    remeasure(measured, change)
    gather(measured, add=False)
    root = drawn(measured.root / "report/cards/tiny", "spectra")
    assert "effective rank - to 30.5" in texts(root, "tick")


def test_without_spectra_there_is_no_picture_of_them(measured):
    gather(measured, add=False)
    assert (measured.root / "report/cards/tiny/spectra-demo.svg").exists()
    shutil.rmtree(measured.root / "collapse")
    gather(measured, add=False)
    folder = measured.root / "report/cards/tiny"
    assert not (folder / "spectra-demo.svg").exists()
    assert "Spectral collapse" not in (folder / "card.md").read_text()


def test_cells_measured_by_an_earlier_version_are_named(measured, folder):
    table, header = SPECTRA.load(measured.root, name="tiny", dataset="demo")
    SPECTRA.save(
        measured.root,
        table.filter(pc.not_equal(table["cell"], str(SPECTRAN))),
        items=header["items"],
        params={},
        name="tiny",
        dataset="demo",
    )
    report(measured.run("report", quiet=True), card="tiny")
    assert "the curves were not kept: spectran.\n" in (folder / "card.md").read_text()
    assert "spectran" not in texts(drawn(folder, "spectra"), "label")


def test_spectra_of_a_cell_that_was_not_measured_are_refused(measured, folder):
    facts = artifacts.load_json(PROVENANCE, measured.root, name="tiny")
    for entry in facts["datasets"]["demo"]["cells"]:
        entry["analyses"].pop("collapse", None)
    (folder / "provenance.json").write_text(json.dumps(facts))
    before = bytes_of(folder)
    with pytest.raises(ArtifactError, match=r"spectra of demo/minilm.* Run: spectran report"):
        report(measured.run("report", quiet=True), card="tiny")
    assert bytes_of(folder) == before


def test_adding_keeps_the_spectra_of_cells_whose_models_are_gone(measured, folder):
    before = bytes_of(folder)["spectra-demo.svg"]
    forget(measured, *(cell for cell in measured.cells if cell != SPECTRAN))
    remeasure(measured, lambda row: row if row["method"] == "spectran" else None)
    gather(measured)
    assert bytes_of(folder)["spectra-demo.svg"] == before


def test_a_plan_names_the_pictures_of_the_card_and_of_new_data_sets(folder):
    planned = {path.name for path in to_write(folder, ["more"])}
    assert planned == {
        *TEXTS,
        *(picture.format(dataset=name) for picture in PICTURES for name in ("demo", "more")),
    }
    assert planned >= {name for name in bytes_of(folder) if re.search(r"\.(md|csv|svg)$", name)}
