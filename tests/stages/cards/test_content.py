"""What a result card tells, rebuilt byte for byte from its own ranks."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pyarrow.compute as pc
import pytest

from pipeline import artifacts
from pipeline.errors import ArtifactError
from pipeline.reporting.card_files import TEXTS
from stages.report import report
from tests.stages.cards.gathering import gather

CARDS = Path("artifacts/report/cards")
COMMITTED = sorted(path.parent.name for path in CARDS.glob("*/provenance.json"))


@pytest.fixture
def card(evaluated):
    return evaluated.root / "report" / "cards" / "tiny"


def test_a_card_rebuilds_byte_for_byte_from_its_folder_alone(evaluated, card):
    before = {name: (card / name).read_bytes() for name in TEXTS}
    for name in TEXTS:
        (card / name).unlink()
    for other in ("ranks", "metrics", "comparisons", "curves", "data"):
        shutil.rmtree(evaluated.root / other, ignore_errors=True)
    shutil.rmtree(evaluated.base / "logs")
    report(evaluated.run("report", quiet=True), card="tiny")
    assert {name: (card / name).read_bytes() for name in TEXTS} == before


@pytest.mark.parametrize("name", COMMITTED or [None])
def test_committed_cards_rebuild_byte_for_byte(name, tmp_path):
    if name is None:
        pytest.skip("no card is committed")
    from pipeline.reporting.cards import rebuild

    written = rebuild(Path("artifacts"), tmp_path, name)
    for path in written:
        assert path.read_bytes() == (CARDS / name / path.name).read_bytes(), path.name


def test_a_card_agrees_with_the_report(evaluated):
    card = (evaluated.root / "report/cards/tiny/card.csv").read_text().splitlines()
    whole = (evaluated.root / "report/results.csv").read_text().splitlines()
    assert card == whole


def test_a_card_tells_minutes_protocol_and_tests(card):
    text = (card / "card.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| spectran"))
    assert line.endswith("| 3.0 |")  # two seeds of 90 s
    assert "a quick look, not a result" in text
    assert "### Paired tests over users against the ID-only cell" in text
    assert "unseen" in text


def test_the_paper_stands_beside_a_data_set_it_reports(measured, reported, monkeypatch):
    report(measured.run("report", quiet=True), ["demo"], "tiny", True)
    text = (measured.root / "report/cards/tiny/card.md").read_text()
    assert "| paper, SASRec Base (SpecTran Table 2) | .0246 | .0281 | .0482 | .0626 | - |" in text
    assert "BERT4Rec Base" not in text, "the card has no cell of that backbone"
    known = list(csv.DictReader((measured.root / "report/cards/tiny/replication.csv").open()))
    assert [(row["metric"], row["k"]) for row in known] == [
        (metric, k) for metric in ("hr", "ndcg") for k in ("10", "20")
    ]
    assert {row["published"] for row in known} == {"0.0246", "0.0281", "0.0482", "0.0626"}
    assert {row["published_is"] for row in known} == {"below"}, "made-up ranks are far better"
    assert "### Published values of models without text" in text
    assert "### Orderings of the paper" in text
    # made-up ranks: alphafuse 6, llminit 9 and spectran 14 are clearly apart
    assert "| minilm | sasrec | spectran | llminit | .0116 | " in text
    table = (measured.root / "report/cards/tiny/orderings.csv").read_text().splitlines()
    row = next(line for line in table if ",alphafuse,llminit," in line)
    assert row.startswith("demo,minilm,sasrec,alphafuse,llminit,0.0444,0.0367,0.0077,90,-")
    assert row.endswith(",reversed")
    before = {name: (measured.root / "report/cards/tiny" / name).read_bytes() for name in TEXTS}
    monkeypatch.undo()
    report(measured.run("report", quiet=True), card="tiny")
    after = {name: (measured.root / "report/cards/tiny" / name).read_bytes() for name in TEXTS}
    assert after == before, "a card keeps the published values it was gathered with"


def test_a_variant_of_a_backbone_is_compared_with_the_order_for_its_backbone(measured, reported):
    text = measured.params_path.read_text()
    assert "\n  sasrec_catalogue:" in text and "backbone: [sasrec]" in text
    text = text.replace("backbone: [sasrec]", "backbone: [sasrec_twin]")
    twin = "\n  sasrec_twin: {<<: *sasrec, of: sasrec}\n  sasrec_catalogue:"
    measured.params_path.write_text(text.replace("\n  sasrec_catalogue:", twin))
    measured.reread()
    measured.save_all()
    report(measured.run("report", quiet=True), ["demo"], "tiny", True)
    folder = measured.root / "report/cards/tiny"
    table = (folder / "orderings.csv").read_text()
    assert "demo,minilm,sasrec_twin,alphafuse,llminit,0.0444,0.0367,0.0077" in table
    assert "SASRec Base" not in (folder / "card.md").read_text(), "a value is of its backbone only"


def test_encoders_on_changed_text_have_no_orderings(measured, reported):
    text = measured.params_path.read_text()
    assert text.count("\n    transform: null\n") >= 1
    measured.params_path.write_text(
        text.replace("    transform: null\n", "    transform: {kind: permute, seed: 0}\n", 1)
    )
    report(measured.run("report", quiet=True), ["demo"], "tiny", True)
    folder = measured.root / "report/cards/tiny"
    assert "Orderings" not in (folder / "card.md").read_text()


def test_a_data_set_that_the_paper_lacks_has_no_orderings(card):
    assert "Orderings" not in (card / "card.md").read_text()
    assert len((card / "orderings.csv").read_text().splitlines()) == 1


def test_altered_ranks_change_the_card_or_are_refused(evaluated, card):
    facts = json.loads((card / "provenance.json").read_text())
    facts["datasets"]["demo"]["cells"][0]["seeds"] = [5]
    (card / "provenance.json").write_text(json.dumps(facts))
    with pytest.raises(
        ArtifactError, match="holds other users for demo/none/none/popularity seed 5"
    ):
        report(evaluated.run("report"), card="tiny")


def test_an_absent_card_names_the_command(measured):
    with pytest.raises(
        ArtifactError, match=r"is missing\. Run: spectran report --card other --collect"
    ):
        report(measured.run("report"), card="other")


def test_a_card_keeps_what_was_measured_on_the_models(card):
    text = (card / "card.md").read_text()
    section = text.split("### Models")[1].split("### Cells")[0]
    row = next(line for line in section.splitlines() if line.startswith("| spectran"))
    # made up: 87,717 + 6,560 parameters, 90 s of 12 epochs, ranks of 30 and 15 over seeds 0 and 1
    assert "| text part |" in row and "| 15.5 | 30.5 |" in row
    assert row.endswith("| 30.5 | 170 | - | - | - | 94,277 | 7.5 |")
    assert "popularity" not in section and "| id | whole vectors |" in section
    rows = list(csv.DictReader((card / "analyses.csv").read_text().splitlines()))
    own = {(r["quantity"], r["state"]): r["value"] for r in rows if r["method"] == "spectran"}
    assert own["effective_rank", "trained"] == "30.5"
    assert own["parameters", ""] == "94277"
    # 14 / 60 (1 - exp(-epoch / 3)) less .002 an epoch beyond the 8th; 5 / 60 for `id`
    assert own["best_epoch", ""] == "11"
    line = next(row for row in text.splitlines() if row.startswith("| id |"))
    assert line.endswith("| 8 | 3.0 |")
    assert own["position_1", "trained"] == "1"  # 0.5 and 1.5


def test_a_card_without_models_and_curves_says_nothing_of_them(measured):
    for name in ("curves", "collapse", "sizes"):
        shutil.rmtree(measured.root / name)
    shutil.rmtree(measured.base / "logs")
    gather(measured, add=False)
    folder = measured.root / "report/cards/tiny"
    assert "### Models" not in (folder / "card.md").read_text()
    assert len((folder / "analyses.csv").read_text().splitlines()) == 1


def test_collapse_of_other_seeds_is_left_out(measured):
    path = artifacts.COLLAPSE.path(measured.root, dataset="demo")
    table, header = artifacts.COLLAPSE.load(measured.root, dataset="demo")
    fewer = table.filter(pc.equal(table["seed"], 0))
    path.unlink()
    artifacts.COLLAPSE.save(
        measured.root, fewer, items=header["items"], params=header["params"], dataset="demo"
    )
    gather(measured, add=False)
    rows = (measured.root / "report/cards/tiny/analyses.csv").read_text()
    assert "effective_rank" not in rows and "parameters" in rows


def test_measures_of_models_that_were_trained_again_since_are_left_out(measured):
    for artifact in (artifacts.COLLAPSE, artifacts.SIZES):
        table, header = artifact.load(measured.root, dataset="demo")
        then = {str(cell): {"train": {"dropout": 0.9}} for cell in measured.cells if cell.trained}
        params = header["params"] | {"made": then}
        artifact.save(measured.root, table, items=header["items"], params=params, dataset="demo")
    gather(measured, add=False)
    rows = (measured.root / "report/cards/tiny/analyses.csv").read_text()
    assert "best_epoch" in rows and "effective_rank" not in rows and "parameters" not in rows


def test_two_parts_of_one_view_are_two_rows(measured):
    measured.add_text_part("id", effective_rank=7.0)
    gather(measured, add=False)
    text = (measured.root / "report/cards/tiny/card.md").read_text()
    section = text[text.index("### Models") :]
    assert "| id | whole vectors |" in section and "| id | text part |" in section
    rows = csv.DictReader(
        (measured.root / "report/cards/tiny/analyses.csv").read_text().splitlines()
    )
    found = {
        (row["part"], row["state"]): row["value"]
        for row in rows
        if (row["method"], row["quantity"]) == ("id", "effective_rank")
    }
    assert found == {
        ("table", "initial"): "15.5",
        ("table", "trained"): "30.5",
        ("semantic", "initial"): "7",
        ("semantic", "trained"): "7",
    }
