"""The numbers of one data set in plain words, written from the tests and not by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.cells import NONE, Cell
from pipeline.evaluation.comparisons import ID_ONLY, id_only
from pipeline.reporting.tables import Numbers, Value, Verdict, number

SIMPLE = ("llminit", "svd")
"""Trained methods that learn nothing about the text: initial values of the ID vectors, or a frozen
part beside them. Their variants carry their name and an underscore."""

LISTED = 6
"""Up to so many methods a sentence names them; more it counts."""


def findings(numbers: Numbers) -> list[str]:
    """Return sentences: the best cell, text against ID, simple against clever, unseen targets.

    All are about NDCG at the main cut-off on the test users.
    """
    name = f"NDCG@{numbers.main_k}"
    values = dict(zip(numbers.cells, numbers.column("ndcg", numbers.main_k), strict=True))
    if not any(value.mean is not None for value in values.values()):
        return ["There are no test users, so nothing can be said."]
    found = [_best(numbers, values, name, numbers.sizes()["all"])]
    found += _against_id(numbers, values, name)
    found += _against_plain(numbers, name)
    found += _against_control(numbers)
    found += _simple(numbers, values, name)
    found += _unseen(numbers, name)
    return found


def _best(numbers: Numbers, values: dict[Cell, Value], name: str, users: int) -> str:
    best = next(cell for cell, value in values.items() if value.best)
    value = values[best]
    text = f"{numbers.label(best)} has the highest {name}, {number(value.mean)}"
    if value.low is not None:
        bounds = f"{number(value.low)} to {number(value.high)}"
        text += f" ({numbers.level} interval {bounds}, {users} test users)"
    near = [numbers.label(cell) for cell, value in values.items() if value.near_best]
    if len(near) > 1 and len(near) == len(values) - 1:
        text += "; the paired test does not tell it from any other"
    elif near:
        text += f"; the paired test does not tell it from {_names(near)}"
    elif numbers.tests("ndcg", numbers.main_k):
        text += "; the paired test tells it from every other"
    return text + "."


def _against_id(numbers: Numbers, values: dict[Cell, Value], name: str) -> list[str]:
    text = {cell: value for cell, value in values.items() if numbers.reads_text(cell)}
    if not text:
        return []
    if not any(value.versus_id for value in text.values()):
        return [f"No cell of {ID_ONLY} was run to compare with, so the worth of text is open."]
    if all(value.versus_id == "unclear" for value in text.values()):
        return [
            f"By {name}, no method that reads text is told apart from the ID-only model: the "
            f"differences could be chance."
        ]
    groups = {
        "above": "beat the ID-only model",
        "unclear": "do not beat it: the difference could be chance",
        "below": "are worse than it",
    }
    found = []
    for verdict, words in groups.items():
        names = [numbers.label(cell) for cell, value in text.items() if value.versus_id == verdict]
        if verdict == "unclear" and len(names) > LISTED:
            found.append(f"for {len(names)} others the difference could be chance")
        elif names:
            found.append(f"{_names(names)} {words if len(names) > 1 else _singular(words)}")
    if not any(value.versus_id == "above" for value in text.values()):
        found.insert(0, "no text method beats the ID-only model")
    return [f"Among methods that read text, by {name}: " + "; ".join(found) + "."]


def _against_plain(numbers: Numbers, name: str) -> list[str]:
    """Say which text methods beat the strongest model without text, where that is not `id`."""
    tests = [
        row
        for row in numbers.tests("ndcg", numbers.main_k)
        if row["against"] == "plain" and row["encoder"] not in numbers.transformed
    ]
    found = []
    for other in dict.fromkeys(row["other"] for row in tests):
        own = [row for row in tests if row["other"] == other]
        above, below = (
            [row["label"] for row in own if row["verdict"] == verdict]
            for verdict in ("above", "below")
        )
        text = f"Against {other}, the strongest model without text on the validation users: "
        parts = [f"{_names(above)} {'beat' if len(above) > 1 else 'beats'} it"] if above else []
        if not above:
            parts = ["no trained text method can be told to beat it"]
        if below:
            parts.append(f"{_names(below)} {'are' if len(below) > 1 else 'is'} worse")
        if unclear := len(own) - len(above) - len(below):
            parts.append(f"of {unclear} more the difference could be chance")
        found.append(text + "; ".join(parts) + ".")
    return found


def _against_control(numbers: Numbers) -> list[str]:
    """Say whether what titles say makes a difference, or whatever stands in their place does."""
    tests = numbers.tests("ndcg", numbers.main_k)
    against_id = {row["label"]: row["verdict"] for row in tests if row["against"] == "id"}
    pairs: dict[str, list[str]] = {}
    for row in tests:
        if row["against"] == "control" and row["verdict"]:
            gains = against_id.get(row["label"]), against_id.get(row["other"])
            pair = f"{row['label']} against {row['other']}"
            pairs.setdefault(_meaning(row["verdict"], *gains), []).append(pair)
    found = [f"{_names(own)}: {ending}" for ending, own in pairs.items()]
    return [f"Text with and without meaning: {'; '.join(found)}."] if found else []


def _meaning(verdict: Verdict, real: Verdict | None, control: Verdict | None) -> str:
    """Say what a method owes to the meaning of its text.

    verdict: of the method against its control; real, control: of each against IDs alone, if tested.
    """
    if verdict == "above":
        rest = ", but a part of the gain over IDs survives without it" if control == "above" else ""
        return f"the text's meaning counts{rest}"
    told = {
        "unclear": "no difference can be told",
        "below": "text without meaning does better",
    }[verdict]
    if real is None:
        return f"{told}: a gain over IDs would not be shown to be semantic"
    if real != "above":
        return f"{told}, and no gain over IDs either"
    if control == "above":
        return f"{told}: the gain over IDs survives without meaning, so it is not semantic"
    return f"{told}: the gain over IDs is not shown to be semantic"


def _singular(words: str) -> str:
    swaps = {"beat ": "beats ", "do not": "does not", "are ": "is "}
    for many, one in swaps.items():
        if words.startswith(many):
            return one + words[len(many) :]
    return words


def _simple(numbers: Numbers, values: dict[Cell, Value], name: str) -> list[str]:
    """Name simple methods whose mean is at least that of cleverer text methods."""

    def effort(cell: Cell) -> int:
        if not cell.trained:
            return 0
        simple = any(f"{cell.method}_".startswith(f"{name}_") for name in SIMPLE)
        return 1 if cell.encoder == NONE or simple else 2

    means = {
        cell: value.mean
        for cell, value in values.items()
        if value.mean is not None and cell.encoder not in numbers.transformed
    }
    clever = {cell: mean for cell, mean in means.items() if effort(cell) == 2}
    reached: dict[str, tuple[str, ...]] = {}
    for simple, reach in means.items():
        beaten = tuple(numbers.label(cell) for cell, mean in clever.items() if mean <= reach)
        if beaten and simple not in clever:
            note = "" if simple.trained else " (not trained)"
            reached[numbers.label(simple) + note] = beaten
    if reached:
        text = _counted(reached, len(clever)) if len(clever) > LISTED else _listed(reached)
        return [f"Simple against clever, by the mean of {name}: {text}."]
    return [f"No simpler method reaches a cleverer text method in mean {name}."] if clever else []


def _listed(reached: Mapping[str, tuple[str, ...]]) -> str:
    """Say whom the simple methods reach; reached: simple method -> cleverer ones."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for simple, beaten in reached.items():
        groups.setdefault(beaten, []).append(simple)
    return "; ".join(
        f"{_names(simple)} {'is' if len(simple) == 1 else 'are each'} at least as high as "
        f"{_names(beaten)}"
        for beaten, simple in groups.items()
    )


def _counted(reached: Mapping[str, tuple[str, ...]], total: int) -> str:
    """Say how many of `total` cleverer methods the simple ones reach."""
    groups: dict[int, list[str]] = {}
    for simple, beaten in sorted(reached.items(), key=lambda pair: -len(pair[1])):
        groups.setdefault(len(beaten), []).append(simple)
    (most, first), *rest = groups.items()
    text = f"{_names(first)} {'is' if len(first) == 1 else 'are each'} at least as high as "
    text += f"{'all' if most == total else f'{most} of the'} {total} cleverer text methods"
    return "; ".join([text, *(f"{_names(simple)} as {count} of them" for count, simple in rest)])


def _unseen(numbers: Numbers, name: str) -> list[str]:
    users = numbers.sizes()["unseen"]
    if not users:
        return ["Every test target has training events, so nothing is said about new items."]
    values = dict(zip(numbers.cells, numbers.column("ndcg", numbers.main_k, "unseen"), strict=True))
    best = next(cell for cell, value in values.items() if value.best)
    share = users / numbers.sizes()["all"]
    text = f"For {users} of the test users ({share:.0%}) the target was never trained on; there "
    if values[best].mean == 0:
        return [text + f"no method has a {name} above zero."]
    highest = values[best]
    text += f"{numbers.label(best)} is highest with {number(highest.mean)}"
    if highest.low is not None:
        text += f" ({numbers.level} interval {number(highest.low)} to {number(highest.high)})"
    other = id_only(best, list(values))
    if other is not None and other != best:
        text += f", against {number(values[other].mean)} for {numbers.label(other)}"
    return [text + "."]


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
