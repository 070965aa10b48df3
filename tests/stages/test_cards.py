"""Result cards: rebuilt byte for byte from their own ranks, in tests and in the repository."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pyarrow.compute as pc
import pytest

from pipeline import artifacts
from pipeline.cells import Cell
from pipeline.errors import ArtifactError, ConfigError
from pipeline.reporting.cards import RANKS, TEXTS
from pipeline.reporting.logs import minutes, times
from stages.report import report

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


def test_the_paper_stands_beside_a_data_set_it_reports(measured, monkeypatch, tmp_path):
    from pipeline.reporting import published

    reference = tmp_path / "reference.yaml"
    reference.write_text(published.REFERENCE.read_text().replace("toys:", "demo:"))
    monkeypatch.setattr(published, "REFERENCE", reference)
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


def test_a_variant_of_a_backbone_is_compared_with_the_order_for_its_backbone(
    measured, monkeypatch, tmp_path
):
    from pipeline.reporting import published

    reference = tmp_path / "reference.yaml"
    reference.write_text(published.REFERENCE.read_text().replace("toys:", "demo:"))
    monkeypatch.setattr(published, "REFERENCE", reference)
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


def test_encoders_on_changed_text_have_no_orderings(measured, monkeypatch, tmp_path):
    from pipeline.reporting import published

    reference = tmp_path / "reference.yaml"
    reference.write_text(published.REFERENCE.read_text().replace("toys:", "demo:"))
    monkeypatch.setattr(published, "REFERENCE", reference)
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


SPECTRAN = Cell("demo", "minilm", "sasrec", "spectran")


def bytes_of(card):
    return {path.name: path.read_bytes() for path in card.iterdir()}


def forget(measured, *cells):
    """Remove the ranks of cells, as on a machine that never trained them."""
    for cell in cells:
        shutil.rmtree(measured.root / "ranks" / Path(*str(cell).split("/")))


def gather(measured, *, add=True):
    report(measured.run("report", quiet=True), ["demo"], "tiny", True, add)


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


def test_minutes_count_reused_seeds_and_need_all(tmp_path):
    cell = Cell("demo", "none", "sasrec", "id")
    log = tmp_path / "demo-none-sasrec-id.jsonl"
    assert minutes(tmp_path, cell, [0]) is None
    events = [
        '{"event": "reuse", "seed": 0, "seconds": 60}',
        '{"event": "done", "seed": 1, "seconds": 30}',
        '{"ev',
    ]
    log.write_text("\n".join(events))
    assert minutes(tmp_path, cell, [0, 1]) == 1.5
    assert minutes(tmp_path, cell, [0, 1, 2]) is None


def test_times_are_means_over_seeds_and_need_all(tmp_path):
    cell = Cell("demo", "none", "sasrec", "id")
    told = [
        {"event": "done", "seed": 0, "seconds": 60, "epochs": 20},
        {"event": "reuse", "seed": 1, "seconds": 30, "epochs": 10},
    ]
    lines = [json.dumps(t | {"rank_seconds": 0.5 + t["seed"], "rank_users": 400}) for t in told]
    log = tmp_path / "demo-none-sasrec-id.jsonl"
    log.write_text("\n".join(lines))
    found = times(tmp_path, cell, [0, 1])
    assert (found.epoch_s, found.rank_s) == (3.0, 2.5)
    assert times(tmp_path, cell, [0, 1, 2]) is None
    log.write_text("\n".join([lines[0], json.dumps(told[1])]))
    assert times(tmp_path, cell, [0, 1]) is None, "a seed kept by an earlier version tells less"
    assert minutes(tmp_path, cell, [0, 1]) == 1.5


def test_an_untrained_cell_has_no_epochs(tmp_path):
    cell = Cell("demo", "none", "none", "popularity")
    told = {"event": "done", "seed": 0, "seconds": 0.0, "epochs": 0}
    line = json.dumps(told | {"rank_seconds": 0.2, "rank_users": 100})
    (tmp_path / "demo-none-none-popularity.jsonl").write_text(line)
    found = times(tmp_path, cell, [0])
    assert (found.epoch_s, found.rank_s) == (None, 2.0)


def search(dropout, values, sequences):
    """What `spectran tune` leaves of spectran: trials of one dropout and some values of `std`."""
    trials = [
        {
            "number": place,
            "configuration": {"std": std, "train.dropout": dropout},
            "value": value,
            "best_epoch": 7,
        }
        for place, (std, value) in enumerate(values.items())
    ]
    best = max(trials, key=lambda trial: trial["value"] or 0.0)
    depends = {"space": {"std": list(values)}, "inputs": {"sequences": sequences}}
    return {"objective": "valid/ndcg@20", "trials": trials, "best": best, "depends": depends}


def searched(root):
    """Lines of the card's section, and rows of its file."""
    text = (root / "report/cards/tiny/card.md").read_text()
    section = text.split("### Searches\n")[1].split("\n### ")[0] if "### Searches" in text else ""
    rows = list(csv.DictReader((root / "report/cards/tiny/searches.csv").open()))
    return [line for line in section.splitlines() if line.startswith("| spectran")], rows


def test_a_card_keeps_the_searches_that_its_settings_come_from(measured):
    gather(measured, add=False)
    assert searched(measured.root) == ([], [])
    entry = json.loads((measured.root / "report/cards/tiny/provenance.json").read_text())
    made = next(
        cell["params"]
        for cell in entry["datasets"]["demo"]["cells"]
        if cell["cell"] == str(SPECTRAN)
    )
    std, dropout = made["method"]["std"], made["train"]["dropout"]
    read = made["inputs"]["sequences"]
    content = search(dropout, {std + 1: 0.01, std: 0.0346, std + 2: None}, read)
    artifacts.save_json(artifacts.TUNED, measured.root, content, **SPECTRAN.fields)
    gather(measured)
    lines, rows = searched(measured.root)
    assert lines == [
        f"| spectran | 3 | std = {std}, train.dropout = {dropout} | .0346 | .0100 | yes |"
    ]
    assert [(row["trial"], row["value"], row["chosen"]) for row in rows] == [
        ("0", "0.01", "no"),
        ("1", "0.0346", "yes"),
        ("2", "", "no"),
    ]
    assert json.loads(rows[0]["configuration"]) == {"std": std + 1, "train.dropout": dropout}
    artifacts.TUNED.path(measured.root, **SPECTRAN.fields).unlink()
    gather(measured)
    assert searched(measured.root) == (lines, rows), "the card keeps what is gone elsewhere"
    for other in (
        search(dropout + 0.1, {std: 0.02}, read),
        search(dropout, {std: 0.02}, "of other data"),
    ):
        artifacts.save_json(artifacts.TUNED, measured.root, other, **SPECTRAN.fields)
        gather(measured)
        lines, _ = searched(measured.root)
        said = other["best"]["configuration"]["train.dropout"]
        assert lines == [
            f"| spectran | 1 | std = {std}, train.dropout = {said} | .0200 | .0200 | no |"
        ]
    artifacts.save_json(artifacts.TUNED, measured.root, {"trials": []}, **SPECTRAN.fields)
    with pytest.raises(ArtifactError, match=r"lacks objective, best, depends.*spectran tune demo"):
        gather(measured)
