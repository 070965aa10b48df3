"""Inputs that params.yaml no longer describes are refused; what changes no number is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import naming
from pipeline.agreement import Difference, refuse_other_text
from pipeline.cells import Cell
from pipeline.config import Params
from pipeline.errors import ArtifactError
from pipeline.evaluation.outcomes import made_otherwise
from pipeline.params import load
from tests import plain

COMMIT, OTHER = "a" * 40, "b" * 40
OWN = {
    "engine": "vectors", "path": "own.parquet", "sha256": None, "name": "vector",
    "ids": "item_id", "min_matched": 0.95, "width": 8, "transform": None,
}  # fmt: skip
IDENTITIES: dict[str, dict[str, Any]] = {
    "own": {"engine": "vectors", "sha256": "a" * 64, "name": "vector", "ids": "item_id"},
    "llama3_1_8b": {"model": {"name": "meta-llama/Llama-3.1-8B", "commit": COMMIT}},
    "llm2vec_llama3_8b": {
        "model": {"name": "meta-llama/Meta-Llama-3-8B-Instruct", "commit": COMMIT},
        "adapters": [{"name": "one", "commit": COMMIT}, {"name": "two", "commit": COMMIT}],
    },
    "text_embedding_3_small": {"model": "text-embedding-3-small"},
}
"""What the engines say of the files behind some blocks."""


def params(folder: Path, encoder: str, **changed: Any) -> Params:
    content = plain.content()
    content["encoders"]["own"] = dict(OWN)
    content["encoders"][encoder] |= changed
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    return load(folder / "params.yaml")


def made(folder: Path, encoder: str) -> dict[str, Any]:
    """What the header of an encoder's vectors holds under params."""
    block = params(folder, encoder).encoder(encoder).model_dump(mode="json")
    if block["transform"] is None:
        del block["transform"]
    return {"encoder": block, "identity": IDENTITIES.get(encoder, {})}


@pytest.mark.parametrize(
    ("encoder", "changed"),
    [
        ("minilm", {}),
        ("minilm_permuted", {}),
        ("own", {}),
        ("minilm", {"batch_size": 1, "batch_tokens": 128}),
        ("minilm", {"weights_sha256": None}),
        ("llama3_1_8b", {"tensor_parallel": 4, "memory_share": 0.5}),
        ("llama3_1_8b", {"revision": COMMIT}),
        ("llm2vec_llama3_8b", {"adapters": [
            {"model": "McGill-NLP/LLM2Vec-Meta-Llama-3-8B-Instruct-mntp", "revision": COMMIT},
            {"model": "McGill-NLP/LLM2Vec-Meta-Llama-3-8B-Instruct-mntp-supervised",
             "revision": COMMIT},
        ]}),
        ("text_embedding_3_small",
         {"base_url": "https://api.openai.com/v1/", "key_variable": None, "retries": 1,
          "requests_per_minute": None, "timeout_s": 5, "encoding_format": "float"}),
        ("own", {"min_matched": 0.5}),
        ("own", {"sha256": "a" * 64, "path": "elsewhere/own.parquet"}),
    ],
)  # fmt: skip
def test_what_gives_the_same_vectors_is_taken(
    tmp_path: Path, encoder: str, changed: dict[str, Any]
) -> None:
    header = made(tmp_path, encoder)
    refuse_other_text(tmp_path, params(tmp_path, encoder, **changed), "demo", encoder, header)


@pytest.mark.parametrize(
    ("encoder", "changed", "said"),
    [
        ("minilm", {"template": "{title} {brand}"},
         r'template = "\{title\}", params\.yaml says "\{title\} \{brand\}"'),
        ("minilm", {"max_tokens": 64}, "max_tokens = 128, params.yaml says 64"),
        ("minilm", {"normalize": False}, "normalize = true, params.yaml says false"),
        ("minilm", {"transform": {"kind": "permute", "seed": 0}},
         r'transform = null, params\.yaml says \{"kind": "permute", "seed": 0\}'),
        ("minilm_permuted", {"transform": {"kind": "permute", "seed": 1}},
         "transform.seed = 0, params.yaml says 1"),
        ("minilm_permuted", {"transform": None}, r"transform = \{.*\}, params\.yaml says null"),
        ("llama3_1_8b", {"revision": OTHER}, f'revision = "{COMMIT}", params.yaml says "{OTHER}"'),
        ("llama3_1_8b", {"pooling": "last"}, 'pooling = "mean", params.yaml says "last"'),
        ("llm2vec_llama3_8b", {"adapters": []}, r"adapters = \[.*\], params\.yaml says \[\]"),
        ("own", {"path": "other.parquet"}, 'path = "own.parquet", params.yaml says "other'),
        ("own", {"sha256": "b" * 64}, f'sha256 = "{"a" * 64}", params.yaml says "{"b" * 64}"'),
    ],
)  # fmt: skip
def test_what_gives_other_vectors_is_refused(
    tmp_path: Path, encoder: str, changed: dict[str, Any], said: str
) -> None:
    header = made(tmp_path, encoder)
    now = params(tmp_path, encoder, **changed)
    wanted = rf"semantic/demo/{encoder}\.safetensors was made with encoders\.{encoder}\.{said}.*"
    with pytest.raises(ArtifactError, match=wanted + rf"Run: spectran encode demo {encoder}"):
        refuse_other_text(tmp_path, now, "demo", encoder, header)


def test_another_engine_is_told_before_what_follows_from_it(tmp_path: Path) -> None:
    header = made(tmp_path, "minilm")
    header["encoder"]["engine"] = "transformers"
    with pytest.raises(ArtifactError, match=r'engine = "transformers", params\.yaml says "sbert"'):
        refuse_other_text(tmp_path, params(tmp_path, "minilm"), "demo", "minilm", header)


def test_a_file_that_records_nothing_is_taken(tmp_path: Path) -> None:
    refuse_other_text(tmp_path, params(tmp_path, "minilm"), "demo", "minilm", {})


@pytest.mark.parametrize("laid", ["spectrum", "spectrum.cutoff", "spectrum.cutoff.deep"])
def test_a_value_of_the_command_line_is_not_said_to_stand_in_the_file(
    tmp_path: Path, laid: str
) -> None:
    found = Difference("spectrum.cutoff", 0.1, 0.2)
    now = params(tmp_path, "minilm")
    assert found.told(now) == "spectrum.cutoff = 0.1, params.yaml says 0.2."
    assert found.told(now.changed({"spectrum.cut": 0.2})).endswith("params.yaml says 0.2.")
    told = found.told(now.changed({laid: 0.2}))
    assert told.startswith("spectrum.cutoff = 0.1, --set says 0.2") and "copy" in told


def test_a_setting_that_ranks_are_older_than_is_compared_as_it_was_then(tmp_path: Path) -> None:
    """Ranks from before `loss` are those of the cosine loss, not of a variant with another."""
    (tmp_path / "params.yaml").write_text(plain.text())
    read = load(tmp_path / "params.yaml")
    made: dict[str, dict[str, Any]] = {}
    for name in ("rlmrec", "rlmrec_infonce"):
        block = naming.settings("methods", name, read.methods).model_dump(mode="json")
        made[name] = {"method": {key: block[key] for key in block if key != "loss"}}
    plainly, other = (Cell("toys", "minilm", "sasrec", name) for name in made)
    assert made_otherwise(plainly, made["rlmrec"], read) is None
    found = made_otherwise(other, made["rlmrec_infonce"], read)
    assert found == Difference("methods.rlmrec_infonce.loss", "cosine", "infonce")
