"""The tables of results hold the numbers of the cards that they link to."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline.cells import PARTS, Cell
from pipeline.evaluation.outcomes import made_otherwise
from pipeline.params import load

FILES = (Path("README.md"), Path("artifacts/report/cards/README.md"))
LINK = re.compile(r"\[[^]]+\]\(([\w/]+/card\.md)\) \(([\d,]+) users\)")
VALUE = re.compile(r"\*{0,2}(\.\d{4})\*{0,2} \[(\.\d{4}), (\.\d{4})\]")
NOT_TRAINED = "none"


class Column(NamedTuple):
    """One column of a table: a card's numbers."""

    card: Path
    users: str
    shown: dict[str, str]
    """Method -> text of the table's cell."""


def columns(file: Path) -> list[Column]:
    """Return the columns of all tables whose head links to cards."""
    found = []
    for part in file.read_text().split("\n\n"):
        head, *lines = part.splitlines()
        if not head.startswith("|") or not (links := LINK.findall(head)):
            continue
        rows = [[text.strip() for text in line.strip("| ").split(" | ")] for line in lines[1:]]
        named = [(match[1], values) for first, *values in rows if (match := METHOD.match(first))]
        assert all(len(values) == len(links) for _, values in named), head
        for place, (card, users) in enumerate(links):
            shown = {method: values[place] for method, values in named}
            found.append(Column(file.parent / card, users.replace(",", ""), shown))
    return found


METHOD = re.compile(r"`(\w+)`")
FOUND = {file: columns(file) for file in FILES}
COLUMNS = [column for found in FOUND.values() for column in found]
every_column = pytest.mark.parametrize("column", COLUMNS, ids=lambda c: c.card.parent.name)


def rows(card: Path) -> dict[str, dict[str, str]]:
    """Return method -> row of NDCG@20 on all test users, without controls."""
    with card.with_name("card.csv").open(newline="") as file:
        wanted = ("test", "all", "ndcg", "20")
        found = [
            row
            for row in csv.DictReader(file)
            if tuple(row[name] for name in ("split", "slice", "metric", "k")) == wanted
            and row["encoder"] in ("none", "minilm")
        ]
    backbones = {row["backbone"] for row in found} - {NOT_TRAINED}
    assert len(backbones) == 1, "a method stands in such a card once"
    return {row["method"]: row for row in found}


def short(value: str) -> str:
    return f"{float(value):.4f}".removeprefix("0")


def test_there_are_tables() -> None:
    assert all(len(found) >= 2 for found in FOUND.values())
    assert all(len(column.shown) >= 5 for column in COLUMNS)


@every_column
def test_numbers_are_those_of_the_card(column: Column) -> None:
    known = rows(column.card)
    for method, text in column.shown.items():
        if text == "missing":
            assert method not in known, f"{method} is there by now"
            continue
        numbers = VALUE.fullmatch(text)
        assert numbers, f"{method}: {text!r}"
        row = known[method]
        assert numbers.groups() == tuple(short(row[n]) for n in ("mean", "low", "high")), method


@every_column
def test_users_and_the_highest_number_are_those_of_the_card(column: Column) -> None:
    known = rows(column.card)
    assert {row["users"] for row in known.values()} == {column.users}
    shown = {method: text for method, text in column.shown.items() if text != "missing"}
    bold = [method for method, text in shown.items() if text.startswith("**")]
    assert bold == [max(shown, key=lambda method: float(known[method]["mean"]))]


ORDERED = re.compile(r"\[[^]]+\]\((\w+)/card\.md\), (\d+) pairs")


def test_orderings_are_those_of_the_cards() -> None:
    part = FILES[1].read_text().split("## The paper's orderings")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| [")]
    assert len(rows) >= 10
    for first, *shown in rows:
        match = ORDERED.fullmatch(first)
        assert match, first
        card = FILES[1].parent / match[1]
        with (card / "orderings.csv").open(newline="") as file:
            found = [row["verdict"] for row in csv.DictReader(file)]
        told = re.search(r"Kendall's tau [^:]+: (-?)0(\.\d+)\.", (card / "card.md").read_text())
        assert told and len(found) == int(match[2])
        verdicts = [str(found.count(name)) for name in ("holds", "reversed", "not told")]
        assert shown == [*verdicts, told[1] + told[2]], match[1]


SPECTRA = "## Spectra"
SPECTRUM = re.compile(r"(\d+) to (\d+), (\d+)%")


def spectra(card: Path) -> dict[str, tuple[str, str, str]]:
    """Return method -> effective rank of the text part before and after, ten directions' share."""
    with card.with_name("analyses.csv").open(newline="") as file:
        found = {
            (row["method"], row["quantity"], row["state"]): float(row["value"])
            for row in csv.DictReader(file)
            if row["encoder"] == "minilm" and row["part"] == "semantic"
        }
    return {
        method: (
            f"{found[method, 'effective_rank', 'initial']:.0f}",
            f"{found[method, 'effective_rank', 'trained']:.0f}",
            f"{found[method, 'top_10', 'trained']:.0%}"[:-1],
        )
        for method, *_ in found
    }


def test_spectra_are_those_of_the_cards() -> None:
    file = FILES[1]
    part = file.read_text().split(SPECTRA)[1].split("\n## ")[0]
    head, *lines = [line for line in part.splitlines() if line.startswith("|")]
    cards = re.findall(r"\]\(([\w/]+/card\.md)\)", head)
    known = [spectra(file.parent / card) for card in cards]
    compared = 0
    assert len(known) >= 4
    for line in lines[1:]:
        first, *values = (text.strip() for text in line.strip("| ").split(" | "))
        method = first.strip("`")
        for numbers, text in zip(known, values, strict=True):
            if text == "missing":
                assert method not in numbers, f"{method} is there by now"
                continue
            match = SPECTRUM.fullmatch(text)
            assert match and match.groups() == numbers[method], (method, text)
            compared += 1
    assert compared >= 20


def test_spectral_weights_are_those_of_the_cards() -> None:
    part = FILES[1].read_text().split("## Spectral weights")[1].split("\n## ")[0]
    table = [line for line in part.splitlines() if line.startswith("| ")]
    head, *lines = [line.strip("| ").split(" | ") for line in table]
    shown = {first: values for first, *values in lines}
    links = [re.search(r"\]\(([\w/]+/card\.md)\)", text) for text in head]
    assert len(links) == 4
    for place, link in enumerate(links):
        assert link is not None
        with (FILES[1].parent / link[1]).with_name("analyses.csv").open(newline="") as file:
            known = {
                row["quantity"]: float(row["value"])
                for row in csv.DictReader(file)
                if (row["encoder"], row["method"], row["part"]) == ("minilm", "spectran", "")
            }
        principal, subordinate = known["principal"], known["subordinate"]
        assert [shown[name][place] for name in list(shown)[:4]] == [
            f"{principal:.2f}",
            f"{subordinate:.2f}",
            f"{subordinate / principal:.2f}",
            f"{known['zeros']:.0%}",
        ]


def test_widths_are_those_of_the_card() -> None:
    part = FILES[1].read_text().split("## Width of")[1].split("\n## ")[0]
    found = re.search(r"\]\(([\w/]+/card\.md)\)", part)
    assert found is not None
    card = FILES[1].parent / found[1]
    made = json.loads(card.with_name("provenance.json").read_text())["datasets"]["office"]["cells"]
    widths = {
        entry["cell"]: str(entry["params"]["train"]["width"])
        for entry in made
        if entry["params"]["train"]
    }
    with card.with_name("card.csv").open(newline="") as file:
        known = {
            (row["method"], widths["/".join(row[name] for name in PARTS)]): [
                short(row[name]) for name in ("mean", "low", "high")
            ]
            for row in csv.DictReader(file)
            if (row["split"], row["slice"], row["metric"], row["k"])
            == ("test", "all", "ndcg", "20")
        }
    head, _, *lines = [line.strip("| ").split(" | ") for line in part.splitlines() if "|" in line]
    shown = {
        (first.strip("`"), width): re.findall(r"\.\d{4}", text)
        for first, *values in lines
        for width, text in zip(head, values, strict=True)
    }
    assert shown == known


def test_costs_are_those_that_were_measured() -> None:
    part = FILES[1].read_text().split("## What methods cost")[1].split("\n## ")[0]
    found = re.search(r"\]\((\w+\.csv)\)", part)
    assert found is not None
    with (FILES[1].parent / found[1]).open(newline="") as file:
        measured = {row["method"]: row for row in csv.DictReader(file)}
    base, known = measured["id"], {}
    for method, row in measured.items():
        epoch, rank = float(row["epoch_s"]), float(row["rank_s"])
        known[method] = [
            f"{int(row['parameters']) / 1e6:.2f}M".removeprefix("0"),
            f"{epoch:.2f} s",
            f"{epoch / float(base['epoch_s']):.2f}x",
            f"{rank:.3f} s".removeprefix("0"),
            f"{rank / float(base['rank_s']):.2f}x".removeprefix("0"),
        ]
    lines = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| `")]
    assert {first.strip("`"): values[:5] for first, *values in lines} == known


SETTINGS_OF_THEN = {"amazon2014_minilm", "office_sasrec"}
"""Cards from before the search; the README of the cards says so."""

CARDS = sorted(path.parent for path in Path("artifacts/report/cards").glob("*/provenance.json"))


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_cards_are_made_with_what_params_yaml_says(card: Path) -> None:
    """A name in a table means the block of that name, with the values that it has now."""
    params = load(Path("params.yaml"))
    facts = json.loads((card / "provenance.json").read_text())
    found = {}
    for block in facts["datasets"].values():
        for entry in block["cells"]:
            cell = Cell.parse(entry["cell"])
            found[entry["cell"]] = made_otherwise(cell, entry["params"], params)
    assert found
    changed = {name: difference for name, difference in found.items() if difference}
    if card.name in SETTINGS_OF_THEN:
        assert changed, "no longer of other settings: take it out of the list"
    else:
        assert not changed
