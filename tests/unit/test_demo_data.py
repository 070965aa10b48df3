"""The synthetic demo: fixed bytes, and a structure that text reveals and permuted text does not."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Source, Synthetic
from pipeline.data import demo
from pipeline.data.demo_words import THEMES
from pipeline.data.sources import amazon2014

CONFIG = Synthetic(kind="synthetic", users=3000, items=1200, seed=1)
SMALL = Synthetic(kind="synthetic", users=60, items=30, seed=7)

ITEMS = demo.catalogue(CONFIG)
Histories = dict[int, list[int]]


@pytest.fixture(scope="module")
def histories() -> Histories:
    """User -> items in time order, users in order of their last day."""
    found: dict[int, list[demo.Event]] = defaultdict(list)
    for event in sorted(demo.events(CONFIG, ITEMS), key=lambda e: (e.user, e.day)):
        found[event.user].append(event)
    users = sorted(found, key=lambda u: (found[u][-1].day, u))
    return {user: [e.item for e in found[user]] for user in users}


@pytest.fixture(scope="module")
def trained(histories: Histories) -> Counter[int]:
    """Events per item of the first 80% of users."""
    users = list(histories)[: int(0.8 * len(histories))]
    return Counter(item for user in users for item in histories[user])


@pytest.fixture(scope="module")
def tests(histories: Histories) -> list[tuple[list[int], int]]:
    """(history, target) of the last 10% of users."""
    users = list(histories)[int(0.9 * len(histories)) :]
    return [(histories[user][:-1], histories[user][-1]) for user in users]


def test_bytes_are_those_of_this_version(tmp_path: Path) -> None:
    digests = {
        role: hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for role, path in demo.write(SMALL, tmp_path, lambda n: None).items()
    }
    # A change here changes every demo result: raise demo.VERSION with it.
    assert (demo.VERSION, digests) == (1, DIGESTS)


DIGESTS = {"reviews": "9cc1d55f1e4d3910", "metadata": "17a0e8779452f183"}


def test_bytes_do_not_depend_on_the_process(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from pipeline.config import Synthetic;"
        "from pipeline.data import demo; demo.write("
        "Synthetic(kind='synthetic', users=60, items=30, seed=7), Path(sys.argv[1]), print)"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a")],
        check=True,
        stdout=subprocess.DEVNULL,
        env={"PYTHONHASHSEED": "5", "PYTHONPATH": str(Path.cwd())},
    )
    demo.write(SMALL, tmp_path / "b", lambda n: None)
    for name in demo.FILES.values():
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_another_seed_gives_other_data() -> None:
    assert demo.catalogue(SMALL) != demo.catalogue(SMALL.model_copy(update={"seed": 8}))


def test_raw_files_read_as_amazon_2014(tmp_path: Path) -> None:
    paths = demo.write(SMALL, tmp_path, lambda n: None)
    source = Source(
        format="amazon2014", origin=SMALL, columns=None, time_unit=None, max_rejected_share=0.0
    )
    tables = amazon2014.read(paths, source)
    assert not len(tables.rejected) and tables.rows == 30 + len(tables.interactions)
    assert tables.items["categories"].str.starts_with("Synthetic > ").all()
    assert tables.interactions["user"].str.starts_with("SYNTHETIC").all()


def test_files_are_near_the_stated_size(histories: Histories) -> None:
    sold = Counter(item for history in histories.values() for item in history)
    assert 2900 <= len(histories) <= 3000 and 1080 <= len(sold) <= 1200
    assert min(sold.values()) >= demo.CORE
    assert min(map(len, histories.values())) >= demo.CORE
    assert all(len(set(history)) == len(history) for history in histories.values())


def test_popularity_has_a_long_tail(histories: Histories) -> None:
    counts = sorted(Counter(i for h in histories.values() for i in h).values(), reverse=True)
    assert sum(counts[: len(counts) // 10]) > 0.25 * sum(counts)
    assert np.median(counts) < np.mean(counts)


def test_times_tie_within_users() -> None:
    ordered = sorted(demo.events(CONFIG, ITEMS), key=lambda e: (e.user, e.day))
    pairs = [(a, b) for a, b in pairwise(ordered) if a.user == b.user]
    share = np.mean([a.day == b.day for a, b in pairs])
    assert 0.05 < share < 0.4


def test_raw_text_has_entities_and_gaps() -> None:
    titles = [item.title for item in ITEMS]
    assert 1 <= sum(title is None for title in titles) <= 20
    assert any("&amp;" in demo._metadata(item) for item in ITEMS)
    assert any("&quot;" in demo._metadata(item) for item in ITEMS)


def test_a_fair_share_of_targets_is_cold(
    trained: Counter[int], tests: list[tuple[list[int], int]]
) -> None:
    unseen = np.mean([trained[target] == 0 for _, target in tests])
    assert 0.1 < unseen < 0.4


def test_title_names_brand_type_and_colour() -> None:
    for item in ITEMS:
        if item.title is not None:
            kind = list(THEMES.values())[item.theme][0][item.kind]
            text = item.title.lower()
            assert kind in text and demo.BRANDS[item.brand].lower() in text


def words(title: str | None) -> set[str]:
    return {word.strip("(),-&").lower() for word in (title or "").split()}


def neighbour_hits(
    titles: list[str | None], pairs: list[tuple[int, int]], candidates: list[int], k: int
) -> float:
    """Share of targets among the k candidates whose titles share most words with the last item."""
    sets = [words(title) for title in titles]
    hits = 0
    for last, target in pairs:
        order = sorted(
            (c for c in candidates if c != last),
            key=lambda c: -len(sets[c] & sets[last]) / (len(sets[c] | sets[last]) or 1),
        )
        hits += target in order[:k]
    return hits / len(pairs)


def test_text_helps_cold_items_and_permuted_text_does_not(
    trained: Counter[int], tests: list[tuple[list[int], int]]
) -> None:
    cold = [(history[-1], target) for history, target in tests if not trained[target]]
    candidates = sorted({target for _, target in tests} | set(trained))
    titles = [item.title for item in ITEMS]
    order = np.random.default_rng(0).permutation(len(titles))
    permuted = [titles[n] for n in order]
    chance = 50 / len(candidates)
    assert neighbour_hits(titles, cold, candidates, 50) > 4 * chance
    assert neighbour_hits(permuted, cold, candidates, 50) < 2.5 * chance


def test_next_item_follows_the_order_of_types(tests: list[tuple[list[int], int]]) -> None:
    last = [(ITEMS[history[-1]], ITEMS[target]) for history, target in tests]
    same = np.mean([a.theme == b.theme for a, b in last])
    onward = np.mean([a.theme == b.theme and b.kind == (a.kind + 1) % 4 for a, b in last])
    assert 0.5 < same < 0.9 and 0.35 < onward < 0.8


def test_popularity_is_weak_but_not_zero(
    trained: Counter[int], tests: list[tuple[list[int], int]]
) -> None:
    top = {item for item, _ in trained.most_common(20)}
    assert 0.02 < np.mean([target in top for _, target in tests]) < 0.15
