"""Cards that grow cell by cell, and what cannot be added to one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.compute as pc
import pytest

from pipeline import artifacts
from pipeline.errors import ArtifactError, ConfigError
from pipeline.files import sha256_file
from pipeline.reporting.card_files import RANKS, TEXTS
from stages.report import report
from tests.conftest import TinyInputs
from tests.stages.cards.gathering import SPECTRAN, bytes_of, forget, gather


def test_cells_without_ranks_are_listed_as_missing(measured):
    forget(measured, SPECTRAN)
    gather(measured, add=False)
    text = (measured.root / "report/cards/tiny/card.md").read_text()
    assert "| spectran (minilm, sasrec) | missing | - | - | - | - | - |" in text
    assert "spectran,test" not in (measured.root / "report/cards/tiny/card.csv").read_text()


def test_a_cell_with_a_seed_missing_is_missing(measured):
    artifacts.RANKS.path(measured.root, **SPECTRAN.fields, seed=1).unlink()
    gather(measured, add=False)
    assert (
        "| spectran (minilm, sasrec) | missing |"
        in (measured.root / "report/cards/tiny/card.md").read_text()
    )


def test_without_any_ranks_the_first_command_is_named(measured):
    forget(measured, *measured.cells)
    with pytest.raises(ArtifactError, match="Run: spectran train demo none none popularity"):
        gather(measured, add=False)


def test_a_card_grown_cell_by_cell_is_the_one_gathered_at_once(measured, tmp_path):
    gather(measured, add=False)
    card = measured.root / "report/cards/tiny"
    whole = bytes_of(card)
    kept = tmp_path / "ranks"
    shutil.copytree(measured.root / "ranks", kept)
    forget(measured, SPECTRAN)
    gather(measured, add=False)
    assert bytes_of(card) != whole
    shutil.rmtree(measured.root / "ranks")
    place = Path(*str(SPECTRAN).split("/"))
    shutil.copytree(kept / place, measured.root / "ranks" / place)
    gather(measured)
    grown = bytes_of(card)
    assert {n: grown[n] for n in TEXTS} == {n: whole[n] for n in TEXTS}
    assert json.loads(grown["provenance.json"]) == json.loads(whole["provenance.json"])


def test_cells_stand_in_the_order_of_the_grid_or_of_the_card(grown):
    def order():
        facts = json.loads((grown.root / "report/cards/tiny/provenance.json").read_text())
        return [entry["cell"] for entry in facts["datasets"]["demo"]["cells"]]

    grid = [str(cell) for cell in grown.cells]
    text = grown.params_path.read_text()
    methods = "    method: [llminit, morec, alphafuse, svd, spectran]"
    assert text.count(methods) == 1
    grown.params_path.write_text(text.replace(methods, "    method: [spectran]"))
    gather(grown)
    assert order() == grid
    turned = methods.replace("llminit, morec", "morec, llminit")
    grown.params_path.write_text(text.replace(methods, turned))
    gather(grown)
    assert order() != grid and sorted(order()) == sorted(grid)


def test_adding_keeps_other_data_sets_and_replaces_cells(measured):
    gather(measured, add=False)
    card = measured.root / "report/cards/tiny"
    facts = json.loads((card / "provenance.json").read_text())
    block = json.dumps(facts["datasets"]["demo"]).replace("demo", "other")
    facts["datasets"]["other"] = json.loads(block)
    facts["order"] = ["other", "demo"]
    facts["recorded"]["torch"] = "1.0"
    (card / "provenance.json").write_text(json.dumps(facts))
    table, header = RANKS.load(measured.root, name="tiny", dataset="demo")
    named = pc.replace_substring(table["cell"], "demo", "other")
    table = table.set_column(table.column_names.index("cell"), "cell", named)
    RANKS.save(measured.root, table, items=header["items"], params={}, name="tiny", dataset="other")
    for seed in (0, 1):
        measured.save(SPECTRAN, seed, measured.table("popularity", seed))
    gather(measured)
    told = json.loads((card / "provenance.json").read_text())
    assert told["order"] == ["other", "demo"]
    assert told["recorded"]["torch"].startswith("1.0 and ")
    assert told["datasets"]["other"] == facts["datasets"]["other"]
    first, second = (card / "card.md").read_text().split("## demo")
    rows = [next(x for x in t.splitlines() if x.startswith("| spectran")) for t in (first, second)]
    assert [row.startswith("| spectran | **.") for row in rows] == [True, False]


def refused(measured, match, error=ArtifactError):
    """Adding must be refused and leave the card as it is."""
    card = measured.root / "report/cards/tiny"
    before = bytes_of(card)
    with pytest.raises(error, match=match):
        gather(measured)
    assert bytes_of(card) == before


@pytest.fixture
def grown(measured):
    """A card that holds all cells, and ranks of one only."""
    gather(measured, add=False)
    forget(measured, *(cell for cell in measured.cells if cell != SPECTRAN))
    return measured


def test_kept_cells_made_with_other_settings_are_refused(grown):
    params = grown.params_path
    text = params.read_text()
    before = "  svd: {view: unit, scale: 1.0"
    assert before in text
    params.write_text(text.replace(before, "  svd: {view: unit, scale: 2.0"))
    refused(grown, r"made with methods\.svd\.scale = 1\.0, params\.yaml says 2\.0\..*gather with")
    params.write_text(text.replace("\n  svd: {", "\n  svd_old: {of: svd, "))
    refused(grown, r"methods\.svd: no such block", ConfigError)


def test_kept_cells_of_other_sequences_or_items_are_refused(grown):
    for seed in (0, 1):
        grown.save(SPECTRAN, seed, items="c" * 64)
    refused(grown, "is about other items than ranks/demo/minilm/sasrec/spectran")
    grown.sequences = "c" * 64
    for seed in (0, 1):
        grown.save(SPECTRAN, seed)
    refused(grown, "trained on other sequences than ranks/demo/minilm/sasrec/spectran")


def test_only_cells_gathered_now_have_to_be_of_what_is_here(measured):
    def save(cells, revision, spectrum):
        made = {"sequences": measured.sequences, "spectrum:unit": spectrum}
        measured.made = {"revision": revision, "inputs": made}
        for cell in cells:
            for seed in cell.seeds(measured.params):
                measured.save(cell, seed)

    def revised(train):
        (measured.base / "revisions.yaml").write_text(f"encode: 1\ntrain: {train}\n")

    revised(1)
    save(measured.cells, 1, "c" * 64)
    gather(measured, add=False)
    forget(measured, *(cell for cell in measured.cells if cell != SPECTRAN))
    unit, where = TinyInputs().spectrum("unit"), {"dataset": "demo", "encoder": "minilm"}
    arrays = {"mean": unit.mean, "u": unit.u, "s": unit.s, "v": unit.v}
    path = artifacts.SPECTRUM.save(
        measured.root, arrays, items=unit.fingerprint, params={}, view="unit", **where
    )
    refused(measured, f"{SPECTRAN} was made from another spectrum than {path} holds now")
    save([SPECTRAN], 1, sha256_file(path))
    revised(2)
    refused(measured, f"{SPECTRAN} was made with revision 1 of `train`, revisions.yaml says 2")
    save([SPECTRAN], 2, sha256_file(path))
    gather(measured)
    told = json.loads((measured.root / "report/cards/tiny/provenance.json").read_text())
    entries = told["datasets"]["demo"]["cells"]
    found = {entry["cell"]: entry["params"]["revision"] for entry in entries}
    assert found == {str(cell): 2 if cell == SPECTRAN else 1 for cell in measured.cells}
    report(measured.run("report", quiet=True), [], "tiny")


def test_other_users_are_refused_before_anything_is_written(grown):
    for seed in (0, 1):
        grown.save(SPECTRAN, seed, grown.table("spectran", seed, users=100))
    refused(grown, "holds other users for")


def test_a_damaged_card_is_refused(grown):
    path = grown.root / "report/cards/tiny/provenance.json"
    facts = json.loads(path.read_text())
    del facts["evaluate"]
    path.write_text(json.dumps(facts))
    refused(grown, "lacks evaluate")


def test_other_measures_are_refused(grown):
    text = grown.params_path.read_text()
    assert "seen_items: candidates" in text
    grown.params_path.write_text(text.replace("seen_items: candidates", "seen_items: excluded"))
    refused(grown, "with other values of `evaluate`")


def test_adding_needs_a_card_and_data_sets(measured):
    with pytest.raises(ArtifactError, match=r"is missing\. Run: spectran report --card tiny"):
        gather(measured)
    with pytest.raises(ConfigError, match="--add says how to gather"):
        report(measured.run("report"), [], "tiny", False, True)
    with pytest.raises(ConfigError, match="for a card only"):
        report(measured.run("report"), [], None, False, True)


@pytest.mark.parametrize("name", ["../x", "A", "a/b"])
def test_a_card_name_cannot_leave_the_folder(measured, name):
    with pytest.raises(ConfigError, match="small letters, digits and _"):
        report(measured.run("report"), ["demo"], name, True)


def test_collect_without_data_sets_is_refused(measured):
    with pytest.raises(ConfigError, match="--collect takes the data sets"):
        report(measured.run("report"), [], "tiny", True)
