"""What a search may try, what it tries next, and how its choice gets into params.yaml."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import Params
from pipeline.errors import ConfigError, ResourceError
from pipeline.params import load
from pipeline.tuning import journal
from pipeline.tuning.journal import Trial, opened
from pipeline.tuning.propose import propose
from pipeline.tuning.space import Space, lay, mistakes, space_for
from pipeline.tuning.unwritten import unwritten
from pipeline.tuning.write import block, write
from tests import plain

SPACE = Space(
    {"train.dropout": (0.0, 0.1, 0.2), "fusion": ("add", "none"), "keep": (True, None)},
    {"train.dropout": 0.1, "fusion": "none", "keep": True},
)


def with_tune(tmp_path: Path, **tune: Any) -> Params:
    content = plain.content()
    content["tune"] |= tune
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    return load(tmp_path / "params.yaml")


def searched(space: Space, count: int, seed: int = 0, value: Any = lambda c: 0.5) -> list[Trial]:
    """Run trials whose value is a function of the configuration."""
    trials: list[Trial] = []
    for number in range(count):
        configuration = propose(space, trials, seed, random_trials=4)
        trials.append(Trial(number, configuration, value(configuration), 1, 0.0))
    return trials


# ------------------------------------------------------------------------- the space


def test_every_index_is_one_configuration() -> None:
    made = [SPACE.at(index) for index in range(SPACE.size)]
    assert SPACE.size == 12 and len({tuple(c.items()) for c in made}) == 12
    assert [SPACE.index(configuration) for configuration in made] == list(range(12))


def test_values_are_those_the_model_holds(tmp_path: Path) -> None:
    lists = {"train.weight_decay": [0, "1e-6"], "train.loss.temperature": [1, 0.07]}
    params = with_tune(tmp_path, space=lists, methods={"spectran": {"order": ["3", 2]}})
    space = space_for(params, "toys", "sasrec", "spectran")
    assert repr(dict(space.listed)) == repr(
        {"order": (3, 2), "train.loss.temperature": (1.0, 0.07), "train.weight_decay": (0.0, 1e-6)}
    )
    assert space.first == {"train.weight_decay": 0.0, "train.loss.temperature": 0.07, "order": 3}


def test_a_present_value_that_is_not_listed_joins_the_choices(tmp_path: Path) -> None:
    params = with_tune(tmp_path, space={"train.dropout": [0.3, 0.4]}, methods={})
    space = space_for(params, "toys", "sasrec", "id")
    assert space.first == {"train.dropout": 0.1}
    assert space.choices == {"train.dropout": (0.3, 0.4, 0.1)} and space.size == 3


def test_the_present_values_are_those_of_the_cell(tmp_path: Path) -> None:
    params = with_tune(tmp_path, space={"train.width": [16, 64]}, methods={})
    assert space_for(params, "demo", "sasrec", "id").first == {"train.width": 32}
    assert space_for(params, "toys", "sasrec", "id").first == {"train.width": 128}


def test_a_variant_takes_the_lists_of_its_file_unless_it_has_its_own(tmp_path: Path) -> None:
    lists = {"spectran": {"std": [0.1]}, "spectran_softmax": {"order": [1]}}
    params = with_tune(tmp_path, space={}, methods=lists)
    for method, key in (("spectran_frozen", "std"), ("spectran_softmax", "order")):
        assert list(space_for(params, "toys", "sasrec", method).listed) == [key]


def test_a_laid_configuration_outranks_the_data_set(tmp_path: Path) -> None:
    params = with_tune(tmp_path)
    changed = lay(
        params, "sasrec", "spectran", {"train.width": 8, "train.loss.negatives": 5, "std": 0.5}
    )
    found = changed.train_for("demo", "sasrec", "spectran")
    assert (found.width, found.loss.negatives, found.loss.temperature) == (8, 5, 0.07)
    assert changed.methods["spectran"]["std"] == 0.5 and params.methods["spectran"]["std"] == 0.02


def test_a_backbones_keys_are_searched_with_every_method_on_it(tmp_path: Path) -> None:
    lists = {"bert4rec": {"rho": ["0.2", 0.4], "last_only": [0, 1]}}
    params = with_tune(tmp_path, space={}, methods={}, backbones=lists)
    for method in ("id", "spectran"):
        space = space_for(params, "toys", "bert4rec", method)
        assert repr(dict(space.listed)) == repr(
            {"backbone.last_only": (0.0, 1.0), "backbone.rho": (0.2, 0.4)}
        )
        assert space.first == {"backbone.last_only": 0.1, "backbone.rho": 0.4}
        assert space.size == 3 * 2
    said = r"for id\. List values in .*tune\.methods\.id or tune\.backbones\.sasrec"
    with pytest.raises(ConfigError, match=said):
        space_for(params, "toys", "sasrec", "id")


@pytest.mark.parametrize(
    ("backbone", "searched"),
    [
        ("bert4rec_prefixes", ["backbone.last_only", "backbone.rho"]),
        ("bert4rec_rho_20", ["backbone.last_only"]),  # with another rho it would not be itself
        ("bert4rec_last", ["backbone.rho"]),
        ("bert4rec_patient", ["backbone.inner"]),  # has lists of its own
        ("hstu", []),
    ],
)
def test_a_variant_of_a_backbone_keeps_what_makes_it_one(
    tmp_path: Path, backbone: str, searched: list[str]
) -> None:
    lists = {
        "bert4rec": {"rho": [0.2, 0.6], "last_only": [0.0, 0.5]},
        "bert4rec_patient": {"inner": [2, 4]},
    }
    shared = {"train.dropout": [0.1, 0.2]}
    params = with_tune(tmp_path, space=shared, methods={}, backbones=lists)
    assert list(space_for(params, "toys", backbone, "id").listed) == [*searched, "train.dropout"]


def test_a_backbones_key_is_laid_into_the_backbone_of_the_cell_only(tmp_path: Path) -> None:
    params = with_tune(tmp_path)
    changed = lay(params, "bert4rec", "spectran", {"backbone.rho": 0.6, "std": 0.5})
    assert changed.backbones["bert4rec"] == params.backbones["bert4rec"] | {"rho": 0.6}
    assert changed.methods["spectran"] == params.methods["spectran"] | {"std": 0.5}
    for kind, name in (("backbones", "bert4rec"), ("methods", "spectran")):
        kept = [{k: v for k, v in getattr(p, kind).items() if k != name} for p in (params, changed)]
        assert kept[0] == kept[1]
    assert params.backbones["bert4rec"]["rho"] == 0.4


@pytest.mark.parametrize(
    ("tune", "said"),
    [
        ({"space": {"train.dropuot": [0.1]}}, r"tune\.space: train\.dropuot.*mean train\.dropout"),
        ({"space": {"dropout": [0.1]}}, r"tune\.space: dropout: unknown.*mean train\.dropout"),
        ({"space": {"std": [0.1]}}, r"tune\.space: std: unknown key"),
        ({"space": {"train.dropout": [0.1, 1.5]}}, r"space\.train: dropout: .*found 1\.5"),
        ({"space": {"train.dropout": ["much"]}}, r"dropout: .*number.*found 'much'"),
        ({"space": {"train.dropout": [0, 0.0]}}, r"train\.dropout: a value is listed twice"),
        ({"space": {"train.monitor_k": [10]}}, r"monitor_k: cannot be searched: it decides"),
        ({"space": {"train.seeds": [1]}}, r"train\.seeds: cannot be searched"),
        ({"methods": {"spectrann": {"std": [1]}}}, r"spectrann: no such block.*mean spectran\?"),
        ({"methods": {"spectran": {"ordre": [1]}}}, r"methods\.spectran: ordre.*mean order\?"),
        ({"methods": {"spectran": {"fusion": ["sum"]}}}, r"spectran: fusion: .*found 'sum'"),
        ({"methods": {"spectran": {"of": ["id"]}}}, r"methods\.spectran: of: unknown key"),
        ({"backbones": {"bert4reck": {"rho": [1]}}}, r"block in backbones.*mean bert4rec\?"),
        ({"backbones": {"bert4rec": {"roh": [0.2]}}}, r"backbones\.bert4rec: roh: .*mean rho\?"),
        ({"backbones": {"bert4rec": {"rho": [0.2, 0]}}}, r"bert4rec: rho: .*found 0\)"),
        ({"backbones": {"bert4rec": {"rho": [0.2, "0.2"]}}}, r"bert4rec: rho: a value is listed"),
        ({"backbones": {"sasrec": {"rho": [0.2]}}}, r"tune\.backbones\.sasrec: rho: unknown key"),
        ({"backbones": {"sasrec": {"train.dropout": [0.2]}}}, r"train\.dropout: unknown key"),
        ({"backbones": {"none": {"rho": [0.2]}}}, r"backbones\.none: rho: unknown .*Known: none"),
    ],
)
def test_mistakes_in_the_lists_are_told_with_near_misses(
    tmp_path: Path, tune: dict[str, Any], said: str
) -> None:
    found = list(mistakes(with_tune(tmp_path, **tune)))
    assert len(found) == 1 and re.search(said, found[0]) and found[0].startswith("params.yaml: ")


def test_the_lists_of_the_repository_are_sound() -> None:
    assert list(mistakes(load(Path("params.yaml")))) == []


# ------------------------------------------------------------------------- what comes next


@pytest.mark.parametrize("seed", range(5))
def test_the_whole_space_is_tried_once_each_and_the_present_values_first(seed: int) -> None:
    trials = searched(SPACE, SPACE.size, seed)
    assert trials[0].configuration == SPACE.first
    assert {SPACE.index(trial.configuration) for trial in trials} == set(range(SPACE.size))


def test_a_search_that_goes_on_proposes_the_same() -> None:
    whole = searched(SPACE, 10, seed=3, value=lambda c: c["train.dropout"])
    for done in range(10):
        assert propose(SPACE, whole[:done], 3, 4) == whole[done].configuration


def test_seeds_differ_and_results_count_only_after_the_random_trials() -> None:
    one = searched(SPACE, 10, value=lambda c: c["train.dropout"])
    other = searched(SPACE, 10, value=lambda c: -c["train.dropout"])
    assert [t.configuration for t in one[:4]] == [t.configuration for t in other[:4]]
    assert [t.configuration for t in one] != [t.configuration for t in other]
    firsts = {str(searched(SPACE, 3, seed)[1].configuration) for seed in range(20)}
    assert len(firsts) > 5


def test_results_guide_the_search() -> None:
    wide = Space({name: tuple(range(6)) for name in "abc"}, dict.fromkeys("abc", 0))
    total = [
        sum(sum(t.configuration.values()) for t in searched(wide, 24, seed, score)[4:])
        for seed in range(4)
        for score in (lambda c: sum(c.values()), lambda c: -sum(c.values()))
    ]
    upward, downward = total[::2], total[1::2]
    assert all(up > down for up, down in zip(upward, downward, strict=True))


def test_what_diverged_counts_as_the_worst() -> None:
    wide = Space({name: tuple(range(4)) for name in "abc"}, dict.fromkeys("abc", 3))
    values = [lambda c: None if c["a"] < 2 else 0.5, lambda c: None if c["a"] >= 2 else 0.5]
    kept = [
        [sum(t.configuration["a"] >= 2 for t in searched(wide, 24, seed, value)[4:])
         for seed in range(3)]
        for value in values
    ]  # fmt: skip
    assert all(more > less for more, less in zip(*kept, strict=True)), kept


# ------------------------------------------------------------------------- the journal


def test_the_journal_returns_what_was_added(tmp_path: Path) -> None:
    trials = searched(SPACE, 5, value=lambda c: c["train.dropout"] + 1 / 3)
    trials[2] = Trial(2, trials[2].configuration, None, 0, 0.0)
    with opened(tmp_path, fresh=False) as kept:
        for trial in trials:
            kept.add(trial, SPACE)
    assert journal.read(tmp_path) == trials
    with opened(tmp_path, fresh=False) as kept:
        assert kept.trials() == trials
    with opened(tmp_path, fresh=True) as kept:
        assert kept.trials() == []


def test_a_journal_has_one_writer(tmp_path: Path) -> None:
    with (
        opened(tmp_path, fresh=False),
        pytest.raises(ResourceError, match="another process"),
        opened(tmp_path, fresh=True),
    ):
        pass
    with opened(tmp_path, fresh=False):
        pass


@pytest.mark.parametrize(("tail", "left"), [(b'{"op_code":4,"wor', 3), (b'{"op_code":99}\nx\n', 0)])
def test_a_torn_line_is_cut_off_and_a_damaged_journal_starts_afresh(
    tmp_path: Path, tail: bytes, left: int
) -> None:
    trials = searched(SPACE, 4)
    with opened(tmp_path, fresh=False) as kept:
        for trial in trials[:3]:
            kept.add(trial, SPACE)
    (tmp_path / "journal.log.lock").symlink_to("journal.log")  # of a writer that was killed
    with (tmp_path / "journal.log").open("ab") as file:
        file.write(tail)
    with opened(tmp_path, fresh=False) as kept:
        assert kept.trials() == trials[:left]
        for trial in trials[left:]:
            kept.add(trial, SPACE)
    assert journal.read(tmp_path) == trials


# ------------------------------------------------------------------------- writing

HEAD = "# top\ngrid: {x: 1} # é\nmethods:\n"
TAIL = "\n# after\ntrain: {dropout: 0.1, weight_decay: 0.0}\n"
CHOICE = {"std": 0.5, "train.dropout": 0.3, "train.weight_decay": 1e-6}

LAYOUTS = {
    "empty": (
        "  a: {}   # nothing\n  b: {}\n",
        "  a: {std: 0.5, train: {dropout: 0.3, weight_decay: 1.0e-06}}   # nothing\n  b: {}\n",
    ),
    "one line": (
        "  z: {}\n  a: {std: 0.02, on: true} # why\n",
        "  z: {}\n  a: {std: 0.5, on: true, train: {dropout: 0.3, weight_decay: 1.0e-06}} # why\n",
    ),
    "several lines of a flow": (
        "  a: {on: true, # on\n      std: 0.02, # std\n     }\n",
        "  a: {on: true, # on\n      std: 0.5, train: {dropout: 0.3, weight_decay: 1.0e-06},"
        " # std\n     }\n",
    ),
    "block": (
        "  a:   # head\n    # first\n    std:   0.02   # wide\n    on: true # last\n"
        "\n  # next\n  b: {}\n",
        "  a:   # head\n    # first\n    std:   0.5   # wide\n    on: true # last\n"
        "    train: {dropout: 0.3, weight_decay: 1.0e-06}\n\n  # next\n  b: {}\n",
    ),
    "block with its own train": (
        "  a:\n    train:\n      dropout: 0.2 # d\n    std: 0.02\n",
        "  a:\n    train:\n      dropout: 0.3 # d\n      weight_decay: 1.0e-06\n    std: 0.5\n",
    ),
    "merge": (
        "  x: &x\n    std: 0.02\n    train: {dropout: 0.2, loss: {k: 1}}\n"
        "  a: {<<: *x, of: x} # v\n",
        "  x: &x\n    std: 0.02\n    train: {dropout: 0.2, loss: {k: 1}}\n"
        "  a: {<<: *x, of: x, std: 0.5, train: {dropout: 0.3, loss: {k: 1}, weight_decay: 1.0e-06}}"
        " # v\n",
    ),
    "merge alone": (
        "  x: &x {std: 0.02}\n  a: {<<: *x}\n",
        "  x: &x {std: 0.02}\n"
        "  a: {<<: *x, std: 0.5, train: {dropout: 0.3, weight_decay: 1.0e-06}}\n",
    ),
    "block merge": (
        "  x: &x {std: 0.02}\n  a:\n    of: x\n    <<: *x # m\n",
        "  x: &x {std: 0.02}\n  a:\n    of: x\n    <<: *x # m\n    std: 0.5\n"
        "    train: {dropout: 0.3, weight_decay: 1.0e-06}\n",
    ),
    "alias": (
        "  x: &x {std: 0.02}\n  a: *x # same\n",
        "  x: &x {std: 0.02}\n"
        "  a: {<<: *x, std: 0.5, train: {dropout: 0.3, weight_decay: 1.0e-06}} # same\n",
    ),
    "alias inside": (
        "  x: {std: &s 0.02, train: &t {dropout: 0.2}}\n  a: {std: *s, train: *t}\n",
        "  x: {std: &s 0.02, train: &t {dropout: 0.2}}\n"
        "  a: {std: 0.5, train: {<<: *t, dropout: 0.3, weight_decay: 1.0e-06}}\n",
    ),
    "anchor": (
        "  a: &a {std: 0.02}\n  b: {<<: *a, of: a, std: 0.1}\n",
        "  a: &a {std: 0.5, train: {dropout: 0.3, weight_decay: 1.0e-06}}\n"
        "  b: {<<: *a, of: a, std: 0.1}\n",
    ),
}


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_only_the_choice_is_written(name: str, ending: str) -> None:
    before, after = (
        (HEAD + part + TAIL).replace("\n", ending).encode().decode() for part in LAYOUTS[name]
    )
    changed, merging = write(before, "a", CHOICE)
    assert changed == after
    assert merging == (["b"] if name == "anchor" else [])
    assert write(changed, "a", CHOICE) == (changed, []), "a second time changes nothing"


def test_values_that_stand_already_stay_as_they_are_written() -> None:
    text = HEAD + "  a: {std: 2e-2, n: 3, train: {dropout: 0}}\n" + TAIL
    assert write(text, "a", {"n": 3, "train.dropout": 0.0}) == (text, [])


def test_a_file_without_a_last_line_end_and_words_that_need_quotes() -> None:
    text = "methods:\n  a:\n    fusion: add"
    changed, _ = write(text, "a", {"fusion": "a, b", "train.name": None})
    assert changed == "methods:\n  a:\n    fusion: 'a, b'\n    train: {name: null}"


@pytest.mark.parametrize(
    "content",
    [
        "  a: {std: &s 0.02}\n  b: {std: *s}\n",  # the anchor would be lost
        "  a:\n    std: 0.02\n    note: |\n      long\n  b: {}\n",  # where it ends is not told
    ],
)
def test_a_block_that_cannot_be_edited_safely_is_refused(content: str) -> None:
    with pytest.raises(ConfigError, match=r"methods\.a: .*by hand"):
        write(HEAD + content + TAIL, "a", CHOICE)


@pytest.mark.parametrize("method", ["id", "llminit", "llminit_equal", "spectran", "spectran_sigma"])
def test_the_methods_of_the_repository_can_be_written(method: str) -> None:
    text = plain.TREE.joinpath("params.yaml").read_text(encoding="utf-8")
    before = yaml.safe_load(text)["methods"][method].get("train", {})
    changed, merging = write(text, method, {"train.dropout": 0.25, "train.loss.negatives": 3})
    block = yaml.safe_load(changed)["methods"][method]
    assert block["train"] == before | {"dropout": 0.25, "loss": {"negatives": 3}}
    assert bool(merging) == (method in ("llminit", "spectran"))
    kept = changed.splitlines()
    assert len([line for line in text.splitlines() if line not in kept]) <= 1


def test_another_value_of_the_backbone_is_not_written_and_a_variant_is_named(
    tmp_path: Path,
) -> None:
    params = with_tune(tmp_path)
    held = {"backbone.rho": 0.4, "train.dropout": 0.3}
    assert unwritten(params, "bert4rec", held) == ""
    assert unwritten(params, "sasrec", CHOICE) == ""
    said = unwritten(params, "bert4rec", {"backbone.rho": 0.2, "train.dropout": 0.3})
    assert said.startswith(
        "params.yaml: backbones.bert4rec: the best trial has rho: 0.2 (the block: 0.4)"
    )
    assert "Take bert4rec_rho_20," in said
    assert "Take bert4rec," in unwritten(params, "bert4rec_rho_20", {"backbone.rho": 0.4})


@pytest.mark.parametrize("backbone", ["bert4rec", "bert4rec_prefixes"])
def test_the_variant_to_add_is_a_block_as_it_can_be_pasted(tmp_path: Path, backbone: str) -> None:
    params = with_tune(tmp_path)
    chosen = {"backbone.last_only": 0.5, "backbone.rho": 0.6}
    said = unwritten(params, backbone, chosen)
    pasted = yaml.safe_load(said.split("`")[1])
    block = params.backbones[backbone]
    name = f"{backbone}_last_only_0_5_rho_0_6"
    assert pasted == {name: block | {"of": "bert4rec", "last_only": 0.5, "rho": 0.6}}
    added = params.model_copy(update={"backbones": params.backbones | pasted})
    assert unwritten(added, name, chosen) == "", "its values are those found"
    assert f"Take {name}," in unwritten(added, backbone, chosen)


def test_the_block_is_shown_as_it_would_stand() -> None:
    shown = block({"std": 0.02, "train": {"dropout": 0.2}}, "a", CHOICE)
    assert yaml.safe_load(shown) == {
        "a": {"std": 0.5, "train": {"dropout": 0.3, "weight_decay": 1e-6}}
    }
