"""The sentences of the report on numbers written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.params import load
from pipeline.reporting.findings import LISTED, findings
from pipeline.reporting.protocol import is_quick, protocol
from pipeline.reporting.tables import Numbers

CELLS = {
    "id": ("none", "sasrec"),
    "id_softmax": ("none", "sasrec"),
    "morec": ("minilm", "sasrec"),
    "spectran": ("minilm", "sasrec"),
}


def metrics(part: str, users: int, **means: float) -> list[dict[str, Any]]:
    """Rows of METRICS for NDCG@20 on test users; intervals are the mean -+ 0.1."""
    return [
        {
            "encoder": CELLS[method][0],
            "backbone": CELLS[method][1],
            "method": method,
            "split": "test",
            "slice": part,
            "metric": "ndcg",
            "k": 20,
            "users": users,
            "seeds": 2,
            "mean": mean,
            "deviation": 0.0,
            "low": mean - 0.1,
            "high": mean + 0.1,
        }
        for method, mean in means.items()
    ]


def compare(method: str, other: str, against: str, difference: float, p: float) -> dict[str, Any]:
    names = ("encoder", "backbone")
    return {
        **dict(zip(names, CELLS[method], strict=True)),
        **{f"other_{n}": v for n, v in zip(names, CELLS[other], strict=True)},
        "method": method,
        "other_method": other,
        "against": against,
        "split": "test",
        "metric": "ndcg",
        "k": 20,
        "difference": difference,
        "p_t_holm": p,
    }


def say(
    rows: list[dict[str, Any]], tests: list[dict[str, Any]], unseen: list[dict[str, Any]]
) -> list[str]:
    return findings(Numbers("shop", [*rows, *unseen], tests, 0.05))


ALL = metrics("all", 46, id=0.2, morec=0.3, spectran=0.1)
UNSEEN = metrics("unseen", 4, id=0.0, morec=0.05, spectran=0.0)


def test_nothing_told_apart_is_said_once() -> None:
    tests = [
        compare("morec", "id", "id", 0.1, 0.6),
        compare("spectran", "id", "id", -0.1, 0.4),
        compare("id", "morec", "best", -0.1, 0.6),
        compare("spectran", "morec", "best", -0.2, 0.2),
    ]
    said = say(ALL, tests, [])
    assert said[0] == (
        "morec has the highest NDCG@20, .3000 (95% interval .2000 to .4000, 46 test users); the "
        "paired test does not tell it from any other."
    )
    assert said[1] == (
        "By NDCG@20, no method that reads text is told apart from the ID-only model: the "
        "differences could be chance."
    )


def test_methods_above_and_below_id_are_named() -> None:
    tests = [
        compare("morec", "id", "id", 0.1, 0.01),
        compare("spectran", "id", "id", -0.1, 0.04),
        compare("id", "morec", "best", -0.1, 0.01),
        compare("spectran", "morec", "best", -0.2, 0.2),
    ]
    said = say(ALL, tests, [])
    assert said[0].endswith("the paired test does not tell it from spectran.")
    assert said[1] == (
        "Among methods that read text, by NDCG@20: morec beats the ID-only model; spectran is "
        "worse than it."
    )


def test_best_that_is_told_from_all_says_so() -> None:
    tests = [
        compare("id", "morec", "best", -0.1, 0.01),
        compare("spectran", "morec", "best", -0.2, 0.01),
    ]
    assert say(ALL, tests, [])[0].endswith("; the paired test tells it from every other.")
    assert "paired test" not in say(ALL, [], [])[0]


def test_a_gain_over_the_strongest_model_without_text_is_said() -> None:
    rows = metrics("all", 46, id=0.1, id_softmax=0.2, morec=0.3, spectran=0.15)
    beaten = compare("morec", "id_softmax", "plain", 0.1, 0.01)
    worse = compare("spectran", "id_softmax", "plain", -0.05, 0.01)
    unclear = compare("spectran", "id_softmax", "plain", -0.05, 0.6)

    def told(*tests: dict[str, Any]) -> str:
        (found,) = (x for x in say(rows, list(tests), []) if x.startswith("Against id_softmax"))
        return found.split(": ")[1]

    assert told(beaten, worse) == "morec beats it; spectran is worse."
    assert told(beaten, unclear) == "morec beats it; of 1 more the difference could be chance."
    assert told(unclear) == (
        "no trained text method can be told to beat it; of 1 more the difference could be chance."
    )
    assert not [x for x in say(rows, [], []) if x.startswith("Against")]


@pytest.mark.parametrize(
    ("verdict", "real", "control", "told"),
    [
        ("above", "above", "unclear", "the text's meaning counts"),
        (
            "above",
            "above",
            "above",
            "the text's meaning counts, but a part of the gain over IDs survives without it",
        ),
        (
            "unclear",
            "above",
            "above",
            "no difference can be told: the gain over IDs survives without meaning, so it is not "
            "semantic",
        ),
        (
            "unclear",
            "above",
            "unclear",
            "no difference can be told: the gain over IDs is not shown to be semantic",
        ),
        ("unclear", "unclear", "above", "no difference can be told, and no gain over IDs either"),
        (
            "below",
            "above",
            "above",
            "text without meaning does better: the gain over IDs survives without meaning, so it "
            "is not semantic",
        ),
        (
            "unclear",
            None,
            None,
            "no difference can be told: a gain over IDs would not be shown to be semantic",
        ),
    ],
)
def test_gains_that_survive_text_without_meaning_are_said_not_to_be_semantic(
    monkeypatch: pytest.MonkeyPatch, verdict: str, real: str | None, control: str | None, told: str
) -> None:
    monkeypatch.setitem(CELLS, "permuted", ("permuted", "sasrec"))
    numbers = {"above": (0.1, 0.01), "unclear": (0.01, 0.6), "below": (-0.1, 0.01)}
    rows = metrics("all", 46, id=0.1, morec=0.3, permuted=0.15)
    tests = [compare("morec", "permuted", "control", *numbers[verdict])]
    for method, gain in (("morec", real), ("permuted", control)):
        if gain is not None:
            tests.append(compare(method, "id", "id", *numbers[gain]))
    said = findings(Numbers("shop", rows, tests, 0.05, {"permuted"}))
    assert f"Text with and without meaning: morec against permuted: {told}." in said


def test_simple_methods_that_reach_cleverer_ones_are_named() -> None:
    rows = metrics("all", 46, id=0.15, id_softmax=0.3, morec=0.3, spectran=0.1)
    assert (
        "Simple against clever, by the mean of NDCG@20: id is at least as high as spectran; "
        "id_softmax is at least as high as morec and spectran."
    ) in say(rows, [], [])
    rows = metrics("all", 46, id=0.05, morec=0.3, spectran=0.1)
    assert "No simpler method reaches a cleverer text method in mean NDCG@20." in say(rows, [], [])
    assert not [x for x in say(metrics("all", 46, id=0.1), [], []) if "clever" in x]


def test_variants_of_a_simple_method_are_simple(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("llminit_var", "svdx"):
        monkeypatch.setitem(CELLS, name, ("minilm", "sasrec"))
    rows = metrics("all", 46, id=0.01, morec=0.1, llminit_var=0.3, svdx=0.2)
    assert (
        "Simple against clever, by the mean of NDCG@20: llminit_var is at least as high as morec "
        "and svdx."
    ) in say(rows, [], [])


def test_many_methods_are_counted_instead_of_named(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [f"text_{place}" for place in range(LISTED + 1)]
    for name in many:
        monkeypatch.setitem(CELLS, name, ("minilm", "sasrec"))
    rows = metrics("all", 46, id=0.15, id_softmax=0.2, **dict.fromkeys(many[1:], 0.1))
    rows += metrics("all", 46, **{many[0]: 0.18})
    tests = [compare(name, "id", "id", -0.05, 0.5) for name in many[1:]]
    tests += [compare(many[0], "id", "id", 0.03, 0.01)]
    said = say(rows, tests, [])
    assert (
        "Simple against clever, by the mean of NDCG@20: id_softmax is at least as high as all 7 "
        "cleverer text methods; id as 6 of them."
    ) in said
    assert said[1].startswith("Among methods that read text, by NDCG@20: text_0 beats the ID-only")
    tests = [compare(name, "id", "id", -0.05, 0.5) for name in many] + [
        compare("id_softmax", "id", "id", 0.05, 0.01)
    ]
    monkeypatch.setitem(CELLS, "worse", ("minilm", "sasrec"))
    monkeypatch.setitem(CELLS, "text_above", ("minilm", "sasrec"))
    rows += metrics("all", 46, worse=0.01, text_above=0.4)
    tests += [compare("worse", "id", "id", -0.1, 0.01)]
    said = say(rows, tests, [])
    assert said[1] == (
        "Among methods that read text, by NDCG@20: no text method beats the ID-only model; for 7 "
        "others the difference could be chance; worse is worse than it."
    )
    assert said[2].endswith(
        ": id_softmax is at least as high as 8 of the 9 cleverer text methods; id as 7 of them."
    )


def test_controls_are_no_text_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the sentence on text without meaning tells of them."""
    for name in ("control", "svd"):
        monkeypatch.setitem(CELLS, name, ("permuted", "sasrec"))
    rows = metrics("all", 46, id=0.15, morec=0.2, spectran=0.3, control=0.1, svd=0.25)
    tests = [compare(name, "id", "id", 0.05, 0.01) for name in ("morec", "spectran")]
    tests += [compare("control", "id", "id", -0.05, 0.01), compare("svd", "id", "id", 0.1, 0.01)]
    tests += [compare("spectran", "control", "control", 0.2, 0.01)]
    said = findings(Numbers("shop", rows, tests, 0.05, {"permuted"}))
    assert said[1] == (
        "Among methods that read text, by NDCG@20: morec and spectran beat the ID-only model."
    )
    assert said[2].startswith("Text with and without meaning: spectran against control: ")
    assert said[3] == "No simpler method reaches a cleverer text method in mean NDCG@20."
    told = findings(Numbers("shop", rows, tests, 0.05))
    assert "control" in told[1] and "svd is at least as high as morec" in told[3]


def test_controls_are_not_told_against_models_without_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(CELLS, "control", ("permuted", "sasrec"))
    rows = metrics("all", 46, id=0.1, id_softmax=0.2, morec=0.3, control=0.25)
    tests = [compare(name, "id_softmax", "plain", 0.1, 0.01) for name in ("morec", "control")]
    (told,) = (
        sentence
        for sentence in findings(Numbers("shop", rows, tests, 0.05, {"permuted"}))
        if sentence.startswith("Against id_softmax")
    )
    assert told.endswith(": morec beats it.")


def test_a_p_value_at_the_level_tells_nothing() -> None:
    for p, told in ((0.05, "unclear"), (0.0499, "above")):
        tests = [compare("morec", "id", "id", 0.1, p)]
        (row,) = Numbers("shop", ALL, tests, 0.05).tests("ndcg", 20)
        assert row["verdict"] == told


def test_unseen_targets_come_with_their_interval() -> None:
    assert say(ALL, [], UNSEEN)[-1] == (
        "For 4 of the test users (9%) the target was never trained on; there morec is highest with "
        ".0500 (95% interval -.0500 to .1500), against .0000 for id."
    )


def test_only_smaller_training_is_called_a_quick_look() -> None:
    params = load(Path("params.yaml"))
    assert is_quick(params, "demo") and "a quick look" in protocol(params, "demo", [])["overrides"]
    longer = {"max_epochs": 300, "learning_rate": 1.0e-4}
    block = params.datasets["demo"].model_copy(update={"train": longer})
    params = params.model_copy(update={"datasets": {**params.datasets, "demo": block}})
    assert not is_quick(params, "demo")
    assert "a quick look" not in protocol(params, "demo", [])["overrides"]


@pytest.mark.parametrize(
    ("positions", "words"),
    [("all", "every training event but"), ("last", "the last training event of a user")],
)
def test_the_protocol_tells_what_a_model_is_trained_on(positions: str, words: str) -> None:
    params = load(Path("params.yaml"), {"train.positions": positions})
    assert protocol(params, "demo", [])["trained on"].startswith(words)


def test_the_protocol_gives_the_bounds_of_the_strata() -> None:
    assert protocol(load(Path("params.yaml")), "demo", [])["strata"] == (
        "warm more than 50 training events, median 7 to 50, cold 1 to 6, unseen none"
    )
