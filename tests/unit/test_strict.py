"""What a wrong value is called: by the keys that params.yaml has, and by nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Params
from pipeline.errors import ArtifactError, ConfigError, near_miss
from pipeline.inventory import locked
from pipeline.params import read_yaml
from pipeline.strict import build
from tests import plain

OWN = {"engine": "vectors", "path": "x.npy", "sha256": None, "name": None, "ids": "x.txt"}
OWN |= {"min_matched": 0.9, "width": 8, "transform": None}


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        # Inside unions of models, which pydantic names by their tags: infonce, vectors, permute.
        ("train.loss.negatives", 0, "train.loss.negatives: Input should be greater than 0"),
        ("train.loss.negatvies", 1,
         "train.loss.negatvies: unknown key. Did you mean negatives? Known: name, negatives, "
         "negatives_from, similarity, temperature."),
        ("encoders.own", OWN | {"sha256": "x"}, "encoders.own.sha256: String should match"),
        ("encoders.own", OWN | {"transform": {"kind": "permute"}},
         "encoders.own.transform.seed: missing."),
        ("encoders.own", OWN | {"transform": {"kind": "permute", "sede": 1, "seed": 1}},
         "encoders.own.transform.sede: unknown key. Did you mean seed? Known: kind, seed."),
        ("encoders.llm2vec_llama3_8b.adapters", [{"model": "x"}],
         "encoders.llm2vec_llama3_8b.adapters.0.revision: missing."),
        ("datasets.demo.source.origin.usrs", 1,
         "datasets.demo.source.origin.usrs: unknown key. Did you mean users?"),
        ("datasets.toys.source.origin.files", {"local": 1},  # a key that is spelt as a tag is
         "datasets.toys.source.origin.files.local: Input should be a valid string"),
        ("encoders.vectors", OWN | {"width": 0}, "encoders.vectors.width: Input should be great"),
        # Outside of them.
        ("evaluate.ks", [1, "a"], "evaluate.ks.1: Input should be a valid integer"),
        ("datasets.demo.preprocess.split.kind", "x", "datasets.demo.preprocess.split.kind: Input"),
        ("datasets.demo.preprocess.splti", 1,
         "datasets.demo.preprocess.splti: unknown key. Did you mean split?"),
        ("tune.space.x", 3, "tune.space.x: Input should be a valid list"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_by_its_keys(keys: str, value: Any, said: str) -> None:
    content = plain.content()
    *parents, last = keys.split(".")
    node = content
    for parent in parents:
        node = node[parent]
    node[last] = value
    with pytest.raises(ConfigError) as refused:
        build(Params, content, "params.yaml")
    assert str(refused.value).startswith(f"params.yaml: {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: {{title}}\n", "a key is a mapping or a list; quote braces"),
        ("a: 2024-13-01\n", "month must be in 1..12"),
        ("a: 1\na: 2\n", "key 'a' is written twice"),
    ],
)
def test_text_that_is_no_yaml_is_named_by_its_file(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"params\.yaml: not valid YAML: .*{re.escape(said)}"):
        read_yaml(path)


def test_names_that_are_numbers_are_listed_among_the_known() -> None:
    assert near_miss("x", [2018, "shop"]) == " Known: 2018, shop."  # type: ignore[list-item]


def test_a_lock_file_that_dvc_did_not_write_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / "dvc.lock"
    lock.write_text("stages: {one: {outs: [{path: a, md5: x}, {path: b}]}}\n")
    assert locked(tmp_path) == {tmp_path / "a": "x"}  # what DVC does not cache has no checksum
    for text in ("stages: []\n", "stages: {one: {outs: [{md5: x}]}}\n", "stages: {one: 3}\n"):
        lock.write_text(text)
        with pytest.raises(ArtifactError, match=r"dvc\.lock is not as DVC writes it\. Run"):
            locked(tmp_path)
