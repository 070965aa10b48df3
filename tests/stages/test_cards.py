"""Result cards: rebuilt byte for byte from their own ranks, in tests and in the repository."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.cells import Cell
from pipeline.errors import ArtifactError, ConfigError
from pipeline.reporting.logs import minutes, times
from stages.report import report

CARDS = Path("artifacts/report/cards")
COMMITTED = sorted(path.parent.name for path in CARDS.glob("*/provenance.json"))
TEXTS = ("card.md", "card.csv", "orderings.csv")


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
    import pipeline.reporting.cards as cards

    reference = tmp_path / "reference.yaml"
    reference.write_text(cards.REFERENCE.read_text().replace("toys:", "demo:"))
    monkeypatch.setattr(cards, "REFERENCE", reference)
    report(measured.run("report", quiet=True), ["demo"], "tiny", True)
    text = (measured.root / "report/cards/tiny/card.md").read_text()
    assert "| paper, SASRec Base (SpecTran Table 2) | .0246 | .0281 | .0482 | .0626 | - |" in text
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


def test_encoders_on_changed_text_have_no_orderings(measured, monkeypatch, tmp_path):
    import pipeline.reporting.cards as cards

    reference = tmp_path / "reference.yaml"
    reference.write_text(cards.REFERENCE.read_text().replace("toys:", "demo:"))
    monkeypatch.setattr(cards, "REFERENCE", reference)
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
