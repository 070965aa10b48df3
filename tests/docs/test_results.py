"""The table of results in the README holds the numbers of the cards that it links to."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

README = Path("README.md").read_text()
LINK = re.compile(r"\[\w+\]\((artifacts/report/cards/(\w+)/card\.md)\) \(([\d,]+) users\)")
VALUE = re.compile(r"\*{0,2}(\.\d{4})\*{0,2} \[(\.\d{4}), (\.\d{4})\]")


def table() -> tuple[list[str], list[tuple[str, str, str]]]:
    """Return the names of the cards and (card, method, text of the cell) of every number."""
    head = next(line for line in README.splitlines() if LINK.search(line))
    cards = [match[1] for match in LINK.findall(head)]
    below = README.split(head)[1].split("\n\n")[0].splitlines()[2:]
    found = []
    for line in below:
        first, *values = (part.strip() for part in line.strip("| ").split(" | "))
        if name := re.match(r"`(\w+)`", first):
            assert len(values) == len(cards), line
            found += [(card, name[1], value) for card, value in zip(cards, values, strict=True)]
    return cards, found


CARDS, CELLS = table()


def rows(card: str) -> dict[str, dict[str, str]]:
    """Return method -> row of NDCG@20 on all test users, without controls."""
    path = Path("artifacts/report/cards") / card / "card.csv"
    with path.open(newline="") as file:
        wanted = ("test", "all", "ndcg", "20")
        return {
            row["method"]: row
            for row in csv.DictReader(file)
            if tuple(row[name] for name in ("split", "slice", "metric", "k")) == wanted
            and row["encoder"] in ("none", "minilm")
            and row["backbone"] in ("none", "sasrec")
        }


def short(value: str) -> str:
    return f"{float(value):.4f}".removeprefix("0")


def test_there_is_a_table() -> None:
    assert len(CARDS) >= 2 and len(CELLS) >= 10 * len(CARDS)


@pytest.mark.parametrize("card", CARDS)
def test_numbers_are_those_of_the_card(card: str) -> None:
    known = rows(card)
    for other, method, text in CELLS:
        if other != card:
            continue
        if text == "missing":
            assert method not in known, f"{method} is there by now"
            continue
        numbers = VALUE.fullmatch(text)
        assert numbers, f"{method}: {text!r}"
        row = known[method]
        assert numbers.groups() == tuple(short(row[n]) for n in ("mean", "low", "high")), method


@pytest.mark.parametrize("card", CARDS)
def test_users_and_the_highest_number_are_those_of_the_card(card: str) -> None:
    known = rows(card)
    (users,) = (match[2] for match in LINK.findall(README) if match[1] == card)
    assert {row["users"] for row in known.values()} == {users.replace(",", "")}
    shown = {method: text for other, method, text in CELLS if other == card and text != "missing"}
    bold = [method for method, text in shown.items() if text.startswith("**")]
    assert bold == [max(shown, key=lambda method: float(known[method]["mean"]))]
