"""Searches that a card keeps."""

from __future__ import annotations

import csv
import json

import pytest

from pipeline import artifacts
from pipeline.errors import ArtifactError
from tests.stages.cards.gathering import SPECTRAN, gather


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
