"""A stage refuses what an earlier one left when params.yaml, or --set, changed it since."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from pipeline import artifacts
from pipeline.params import load
from stages.cli import build
from tests.conftest import ITEMS, TinyInputs
from tests.stages.encode.catalogue import with_vectors

APP = build()
SMALL = {"width": 8, "max_epochs": 1, "seeds": [0], "batch_size": 8}
TEMPLATE = ("encoders", "hash", "template")


@pytest.fixture
def project(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose data, vectors and spectra record what made them, as working directory."""
    monkeypatch.chdir(tiny_root)
    monkeypatch.delenv("SPECTRAN_CACHE", raising=False)
    edit("datasets", "demo", "train", value=SMALL)
    settings = load(Path("params.yaml")).dataset("demo").preprocess.model_dump()
    TinyInputs().sequences.save(Path("artifacts"), "demo", settings)
    run("encode", "demo", "hash")
    run("spectrum", "demo", "hash")
    return tiny_root


def edit(*keys: str, value: Any) -> None:
    content = yaml.safe_load(Path("params.yaml").read_text())
    node = content
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def run(*words: str) -> Result:
    done = CliRunner().invoke(APP, list(words))
    assert done.exit_code == 0, f"{words}: {done.output}{done.exception!r}"
    return done


def refused(*words: str) -> str:
    done = CliRunner().invoke(APP, list(words))
    assert done.exit_code == 2, f"{words}: {done.output}{done.exception!r}"
    return done.stderr


def trained(encoder: str, method: str, *more: str) -> tuple[str, ...]:
    return ("train", "demo", encoder, "sasrec", method, *more)


def test_inputs_that_agree_are_trained_on(project: Path) -> None:
    run(*trained("hash", "morec"))
    run(*trained("hash", "spectran"))


def test_an_upstream_value_of_the_command_line_is_refused(project: Path) -> None:
    out = ("--out", "scratch/x")
    said = refused(*trained("none", "id", "--set", "datasets.demo.preprocess.keep_last=4", *out))
    assert "sequences.parquet was made with datasets.demo.preprocess.keep_last = 13, " in said
    assert "--set says 4" in said and "Run: spectran preprocess demo" in said
    said = refused(*trained("hash", "spectran", "--set", "spectrum.cutoff=0.1", *out))
    assert "unit.safetensors was made with spectrum.cutoff = 0.0001, --set says 0.1" in said
    assert not Path("scratch/x/ranks").exists()
    run(*trained("hash", "morec", "--set", "spectrum.cutoff=0.1", *out))


def test_other_data_settings_are_refused(project: Path) -> None:
    edit("datasets", "demo", "preprocess", "keep_last", value=4)
    for words in (trained("none", "id"), ("encode", "demo", "hash"), ("spectrum", "demo", "hash")):
        said = refused(*words)
        assert "keep_last = 13, params.yaml says 4. Run: spectran preprocess demo" in said
    edit("datasets", "demo", "preprocess", "keep_last", value=13)
    edit("datasets", "demo", "preprocess", "ties_seed", value=5)
    run(*trained("none", "id"))


def test_text_of_another_template_is_refused_until_every_stage_was_run(project: Path) -> None:
    edit(*TEMPLATE, value="{title} {brand}")
    changed = 'encoders.hash.template = "{title}", params.yaml says "{title} {brand}". '
    again = "Run: spectran encode demo hash"
    spectral = f"is of vectors made with {changed}{again}   and then: spectran spectrum demo hash"
    assert f"was made with {changed}{again}" in refused(*trained("hash", "morec"))
    assert spectral in refused(*trained("hash", "spectran"))
    assert f"was made with {changed}{again}" in refused("spectrum", "demo", "hash")
    run(*trained("none", "id"))
    run("encode", "demo", "hash")
    run(*trained("hash", "morec"))
    assert spectral in refused(*trained("hash", "spectran"))
    run("spectrum", "demo", "hash")
    run(*trained("hash", "spectran"))


def test_another_cutoff_is_refused(project: Path) -> None:
    edit("spectrum", "cutoff", value=0.1)
    said = refused(*trained("hash", "spectran"))
    assert "cutoff = 0.0001, params.yaml says 0.1. Run: spectran spectrum demo hash" in said


def own_vectors(seed: int) -> None:
    """Put vectors made elsewhere, or others in their place; their block does not pin the file."""
    rows = np.random.default_rng(seed).normal(size=(ITEMS, 12)).astype(np.float32)
    with_vectors(Path(), [f"i{n:02d}" for n in range(ITEMS)], rows)


def test_a_spectrum_of_vectors_replaced_since_is_refused(project: Path) -> None:
    """Also by a method that reads the spectrum alone, where the vectors are there."""
    both, alone = (trained("own", name, "--dry-run") for name in ("llm_esr", "spectran"))
    own_vectors(0)
    for stage in ("encode", "spectrum"):
        run(stage, "demo", "own")
    for words in (both, alone):
        run(*words)
    own_vectors(1)
    run("encode", "demo", "own")
    vectors = artifacts.SEMANTIC.path(Path("artifacts"), dataset="demo", encoder="own")
    for words, view in ((both, "centred"), (alone, "unit")):
        said = refused(*words)
        assert f"own/{view}.safetensors is of other vectors than {vectors} holds now" in said
        assert "identity.sha256" in said and said.endswith("Run: spectran spectrum demo own\n")
    vectors.unlink()
    run(*alone)
    for stage in ("encode", "spectrum"):
        run(stage, "demo", "own")
    for words in (both, alone):
        run(*words)


POPULARITY, NEIGHBOUR, SVD = "none none popularity", "own none text_neighbour", "own sasrec svd"


def cell(words: str) -> str:
    return "/".join(["demo", *words.split()])


@pytest.fixture
def ranked(project: Path) -> tuple[str, str, str]:
    """Ranks of what reads no text, text, and its spectrum; vectors made elsewhere."""
    own_vectors(0)
    for stage in ("encode", "spectrum"):
        run(stage, "demo", "own")
    for words in (POPULARITY, NEIGHBOUR, SVD):
        run("train", "demo", *words.split())
    return cell(POPULARITY), cell(NEIGHBOUR), cell(SVD)


def test_ranks_of_sequences_made_again_since_are_refused(ranked: tuple[str, str, str]) -> None:
    two = ranked[:2]
    run("diff", *two)
    table, header = artifacts.SEQUENCES.load(Path("artifacts"), dataset="demo")
    held = {"items": header["items"], "params": header["params"], "dataset": "demo"}
    names = pa.array([f"{name} again" for name in table["raw_user"].to_pylist()])
    table = table.set_column(table.column_names.index("raw_user"), "raw_user", names)
    path = artifacts.SEQUENCES.save(Path("artifacts"), table, **held)
    assert (
        f"ranks/{two[0]} was made from other sequences than {path} holds now. "
        "Run: spectran train demo none none popularity"
    ) in refused("diff", *two)
    path.unlink()  # with pulled ranks alone nothing can be told
    run("diff", *two)


def test_ranks_of_vectors_replaced_since_are_refused(ranked: tuple[str, str, str]) -> None:
    plain, text, spectral = ranked
    own_vectors(1)
    for two in ((plain, text), (plain, spectral)):
        run("diff", *two)
    run("encode", "demo", "own")
    where = {"dataset": "demo", "encoder": "own"}
    vectors = artifacts.SEMANTIC.path(Path("artifacts"), **where)
    spectrum = artifacts.SPECTRUM.path(Path("artifacts"), **where, view="unit")
    assert (
        f"ranks/{text} was made from other vectors than {vectors} holds now. "
        f"Run: spectran train demo {NEIGHBOUR}"
    ) in refused("diff", plain, text)
    assert "Run: spectran spectrum demo own" in refused("diff", plain, spectral)
    run("spectrum", "demo", "own")
    assert (
        f"ranks/{spectral} was made from another spectrum than {spectrum} holds now. "
        f"Run: spectran train demo {SVD}"
    ) in refused("diff", plain, spectral)
    for words in (NEIGHBOUR, SVD):
        run("train", "demo", *words.split())
    run("diff", text, spectral)
    own_vectors(2)
    for stage in ("encode", "spectrum"):
        run(stage, "demo", "own")
    for path in (vectors, spectrum):
        path.unlink()  # with pulled ranks alone nothing can be told
    run("diff", text, spectral)


def test_ranks_of_text_that_params_yaml_no_longer_names_are_refused(project: Path) -> None:
    two = (cell("none none popularity"), cell("hash none text_neighbour"))
    for one in two:
        run("train", *one.split("/"))
    run("diff", *two)
    edit(*TEMPLATE, value="{title} {brand}")
    said = refused("diff", *two)
    assert "hash.safetensors was made with encoders.hash.template" in said
    assert said.endswith("Run: spectran encode demo hash\n")


def test_ranks_of_another_revision_are_refused(ranked: tuple[str, str, str]) -> None:
    Path("revisions.yaml").write_text("encode: 1\ntrain: 99\n")
    assert (
        f"ranks/{ranked[0]} was made with revision 2 of `train`, revisions.yaml says 99. "
        f"Run: spectran train demo {POPULARITY}"
    ) in refused("diff", *ranked[:2])


def test_seeds_made_from_different_inputs_are_refused(ranked: tuple[str, str, str]) -> None:
    """As a run that was stopped between two seeds leaves them."""
    own_vectors(1)
    for stage in ("encode", "spectrum"):
        run(stage, "demo", "own")
    edit("datasets", "demo", "train", value=SMALL | {"seeds": [1]})
    run("train", "demo", *SVD.split())
    edit("datasets", "demo", "train", value=SMALL | {"seeds": [1, 0]})
    said = refused("diff", *ranked[::2])
    assert f"ranks/{ranked[2]} seed 0 was made otherwise than seed 1: inputs.spectrum:unit" in said
    assert said.endswith(f"Run: spectran train demo {SVD}\n")


def test_training_names_cells_of_other_inputs_as_next(ranked: tuple[str, str, str]) -> None:
    content = yaml.safe_load(Path("params.yaml").read_text())
    groups = {"baseline": POPULARITY, "baseline_text": NEIGHBOUR, "text": SVD}
    for name, group in content["grid"].items():
        if isinstance(group, dict):
            words = groups.get(name, "own none -").split()
            group["encoder"], group["backbone"] = [words[0]], [words[1]]
            group["method"] = [word for word in words[2:] if word != "-"]
            if words[0] == "none" or "plain" in name:
                del group["encoder"]
    content["grid"]["encoder"] = ["own"]
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    def following(words: str) -> str:
        last = run("train", "demo", *words.split()).stdout.splitlines()[-1]
        return last.split(" Next: ")[1]

    assert following(POPULARITY) == "spectran evaluate demo"
    own_vectors(1)
    for stage in ("encode", "spectrum"):
        run(stage, "demo", "own")
    assert f"ranks/{cell(NEIGHBOUR)} was made from other vectors" in refused("evaluate", "demo")
    assert following(POPULARITY) == f"spectran train demo {NEIGHBOUR}"
    assert following(NEIGHBOUR) == f"spectran train demo {SVD}"
    assert following(SVD) == "spectran evaluate demo"
    run("evaluate", "demo")
    Path("artifacts/ranks", cell(NEIGHBOUR), "0.parquet").write_bytes(b"damaged")
    assert following(POPULARITY) == f"spectran train demo {NEIGHBOUR}"
