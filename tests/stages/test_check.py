"""`spectran check` on a small tree: parameters, dvc.yaml and the code of this repository."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from pipeline import artifacts
from pipeline.checks.standin import StandIn
from stages.check import check
from stages.cli import build
from stages.run import Run

build()

Edit = Callable[[dict[str, Any]], object]


def edit(file: Path, change: Edit) -> None:
    content = yaml.safe_load(file.read_text())
    change(content)
    file.write_text(yaml.safe_dump(content, sort_keys=False))


def run(tree: Path, name: str, **options: Any) -> Run:
    return Run(name=name, params_path=tree / "params.yaml", **options)


def test_check_finds_nothing_in_what_is_shipped(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(run(tree, "check"))
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == "parameters, dvc.yaml and code agree" and said.err == ""


def problems(tree: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(typer.Exit) as stopped:
        check(run(tree, "check", json=True))
    assert stopped.value.exit_code == 2
    return list(json.loads(capsys.readouterr().out)["problems"])


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("params", lambda c: c["methods"]["spectran"].update(ordr=3), "Did you mean order?"),
        ("params", lambda c: c["methods"]["spectran"].pop("order"), "methods.spectran: order"),
        (
            "params",  # not in the grid
            lambda c: c["methods"]["id_heavy"].update(train={"dropuot": 0.1}),
            "methods.id_heavy.train): dropuot: unknown key. Did you mean dropout?",
        ),
        ("params", lambda c: c["methods"].update(spectrum={}), "no pipeline/methods/spectrum.py"),
        ("params", lambda c: c["backbones"]["sasrec"].update(heads=0), "backbones.sasrec: heads"),
        ("params", lambda c: c["grid"]["dataset"].append("toy"), "Did you mean toys?"),
        ("params", lambda c: c["grid"]["encoder"].append("minilmm"), "Did you mean minilm?"),
        ("params", lambda c: c["grid"]["text"]["method"].append("pda"), "grid.text.method: pda"),
        ("params", lambda c: c["grid"]["plain"]["method"].append("morec"), "morec reads semantic"),
        ("params", lambda c: c["grid"]["plain"]["method"].append("popularity"), "is not trained"),
        ("params", lambda c: c["grid"]["baseline"]["method"].append("id"), "is trained"),
        ("params", lambda c: c["grid"]["baseline"]["backbone"].append("sasrec"), "takes none"),
        ("params", lambda c: c["grid"]["plain"]["method"].append("id"), "named twice"),
        ("params", lambda c: c["datasets"]["demo"]["source"].update(format="amzon2014"),
         "Did you mean amazon2014?"),
        ("params", lambda c: c["grid"]["text"]["encoder"].append("hash"), "not in grid.encoder"),
        ("params", lambda c: c["methods"]["id"].update(of="di"), "no pipeline/methods/di.py"),
        ("params", lambda c: c["methods"]["id"].update(of=1), "methods.id.of: 1 is not the name"),
        ("params", lambda c: c["methods"]["id"].update(of="id"), "Move it to one of grid.ablation"),
        ("params", lambda c: c["methods"]["id"].update(train=3), "expected values of `train`"),
        ("params", lambda c: c["methods"]["id"].update(train={"widht": 3}), "Did you mean width?"),
        ("params", lambda c: c["encoders"]["minilm"].update(template="{titel}"),
         "params.yaml: encoders.minilm: template '{titel}': unknown field {titel}. Did you mean t"),
        ("params", lambda c: c["encoders"]["hash"].update(template="an item"),
         "params.yaml: encoders.hash: template 'an item': names no field"),
        ("params", lambda c: c["spectrum"].update(views=[]), "spectrum.views: List should have at"),
        ("params", lambda c: c["evaluate"]["strata"].update(cold_at_most=60),
         "evaluate.strata: Value error, cold_at_most 60 leaves no target between cold and median"),
        ("params", lambda c: c["evaluate"]["strata"].update(median_at_most=6), "cold_at_most 6 le"),
        ("params", lambda c: c["grid"]["text"]["method"].append("id"),
         "grid.text.method: id reads no text, so `spectran train` refuses it with an encoder"),
        ("revisions", lambda c: c.pop("train"), "revisions.yaml: train: found None, allowed is"),
        ("revisions", lambda c: c.update(trian=1), "revisions.yaml: trian: unknown key"),
        ("params", lambda c: c["datasets"]["demo"]["source"].update(format="tabel"),
         "datasets.demo.source.format: tabel is unknown. Did you mean table?"),
        ("params", lambda c: c["datasets"]["toys"]["source"]["origin"].update(files={"log": "x"}),
         "datasets.toys.source.origin.files: found log, but the format table reads interactions"),
        ("dvc", lambda c: c["stages"]["train"]["deps"].pop(3), "llminit reads spectrum"),
        ("dvc", lambda c: c["stages"].pop("baseline"), "the stage baseline"),
        ("dvc", lambda c: c["stages"]["train"]["matrix"].update(method="${grid.plain.method}"),
         "expected ${grid.text.method}"),
        ("dvc", lambda c: c["stages"]["report"].update(cmd="python report.py"), "not a command"),
        ("dvc", lambda c: c["stages"]["report"]["deps"].append("stages/old.py"), "stages/old.py"),
    ],
)  # fmt: skip
def test_check_names_what_does_not_agree(
    tree: Path, capsys: pytest.CaptureFixture[str], file: str, change: Edit, said: str
) -> None:
    edit(tree / f"{file}.yaml", change)
    found = problems(tree, capsys)
    assert any(said in line for line in found), found


def test_check_names_every_cell_that_reads_a_view_which_is_not_made(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def unlist(content: dict[str, Any]) -> None:
        content["spectrum"]["views"] = ["unit"]
        content["methods"]["svd"]["view"] = "raw"
        content["grid"]["dataset"] = ["demo", "toys"]
        content["grid"]["text"] |= {"backbone": ["sasrec", "hstu"], "method": ["llminit", "svd"]}
        variant = {**content["methods"]["llminit"], "of": "llminit", "kind": "var"}
        content["methods"]["llminit_raw"] = variant
        content["grid"]["ablation"] = {
            "encoder": ["minilm"], "backbone": ["sasrec"], "method": ["llminit_raw", "spectran"],
        }  # fmt: skip

    edit(tree / "params.yaml", unlist)
    found = problems(tree, capsys)
    assert found == [
        f"params.yaml: spectrum.views: lists unit, but {view} is read by "
        f"{dataset}/minilm/sasrec/{method}, {dataset}/minilm/hstu/{method}. Use other methods, "
        f"or add {view} there and run: spectran spectrum {dataset} minilm"
        for dataset in ("demo", "toys")
        for view, method in (("centred", "llminit"), ("raw", "svd"))
    ]


def test_check_tells_once_that_a_backbone_of_the_grid_does_not_fit_a_width(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def misfit(content: dict[str, Any]) -> None:
        content["backbones"]["sasrec"]["heads"] = 3
        content["backbones"]["bert4rec"]["heads"] = 3  # not in the grid
        content["methods"]["morec"]["train"]["width"] = 33  # fits
        content["methods"]["svd"]["train"]["width"] = 16

    edit(tree / "params.yaml", misfit)
    assert problems(tree, capsys) == [
        f"params.yaml: backbones.sasrec.heads: 3 does not divide the width {width} ({where}"
        f"train.width). Allowed: a divisor of {width}. Write one, or another width."
        for width, where in ((32, "datasets.demo."), (16, "methods.svd."))
    ]


def test_check_tells_methods_whose_sizes_do_not_fit(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before hours of encoding: own widths, widths in two, and encoders that are too narrow."""

    def misfit(content: dict[str, Any]) -> None:
        supply(content)
        content["encoders"]["own"]["width"] = 24
        content["grid"]["text"] |= {
            "encoder": ["minilm", "own"], "backbone": ["sasrec"],
            "method": ["morec", "llm_esr", "svd", "whitenrec_plus"],
        }  # fmt: skip
        content["methods"]["morec"] |= {"text_width": 3, "train": {"width": 28}}
        content["methods"]["llm_esr"]["train"]["width"] = 27
        content["methods"]["whitenrec_plus"] = {
            **content["methods"]["whitenrec"], "of": "whitenrec", "groups": [5]
        }  # fmt: skip

    edit(tree / "params.yaml", misfit)
    told = problems(tree, capsys)
    for expected in (
        "params.yaml: methods.morec.text_width: 3 does not fit methods.morec.train.width 28",
        "params.yaml: methods.llm_esr.train.width: 27 is odd, but methods.llm_esr halves it.",
        "params.yaml: methods.svd with encoders.own: the unit spectrum has 24 components, "
        "datasets.demo.train.width asks for 32: the encoder has 24 dimensions.",
        "params.yaml: methods.whitenrec_plus.groups: 5 does not divide",
    ):
        assert [line for line in told if expected in line], expected


def test_check_says_nothing_of_sizes_that_are_not_known(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither for an encoder without a block nor for one that a method does not read."""

    def mistake(content: dict[str, Any]) -> None:
        content["grid"]["text"] |= {"encoder": ["minlm"], "method": ["svd"]}
        content["grid"]["plain"]["method"] = ["id", "morec"]

    edit(tree / "params.yaml", mistake)
    told = problems(tree, capsys)
    assert len(told) == 2 and not [line for line in told if "dimensions" in line or "width" in line]


def test_items_of_the_look_have_all_that_a_method_may_read() -> None:
    """As an own method that reads brands does."""
    items = StandIn(columns=8, width=4).catalog
    assert items.table.schema == artifacts.ITEMS.schema and len(items) == len(items.table) == 12


def test_check_builds_nothing_huge(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A width of 200,000 takes terabytes for the backbone alone, which is tried without numbers."""
    made = []
    monkeypatch.setattr("pipeline.checks.dry.StandIn", lambda *sizes: made.append(sizes))

    def widen(content: dict[str, Any]) -> None:
        content["datasets"]["demo"]["train"]["width"] = 200_000
        content["grid"]["plain"]["backbone"] = ["sasrec", "bert4rec", "hstu"]

    edit(tree / "params.yaml", widen)
    check(run(tree, "check"))
    assert not made and "code agree" in capsys.readouterr().out
    edit(tree / "params.yaml", lambda c: c["backbones"]["sasrec"].update(heads=3))
    assert problems(tree, capsys) == [
        "params.yaml: backbones.sasrec.heads: 3 does not divide the width 200000 "
        "(datasets.demo.train.width). Allowed: a divisor of 200000. Write one, or another width."
    ]


def test_check_leaves_to_the_run_what_only_the_data_tell(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether a threshold leaves a null space depends on the eigenvalues of real text."""
    edit(tree / "params.yaml", lambda c: c["methods"]["alphafuse"].update(null_threshold=1e-12))
    check(run(tree, "check"))
    assert "code agree" in capsys.readouterr().out


def test_check_tells_every_cell_with_impossible_training(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoil(content: dict[str, Any]) -> None:
        content["methods"]["morec"]["train"] = {"width": 0}
        content["methods"]["svd"]["train"] = {"widht": 8}

    edit(tree / "params.yaml", spoil)
    found = problems(tree, capsys)
    assert [line.split(": ")[0] for line in found] == [
        f"train (with datasets.demo.train and methods.{name}.train)" for name in ("morec", "svd")
    ]


def test_check_tells_that_dvc_cannot_go_through_a_grid_without_trained_cells(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def untrained(content: dict[str, Any]) -> None:
        for name in ("text", "plain"):
            content["grid"][name]["method"] = []

    edit(tree / "params.yaml", untrained)
    (said,) = problems(tree, capsys)
    assert said.startswith("params.yaml: grid: none of its cells is trained")
    assert "Add id to grid.plain.method" in said
    edit(tree / "params.yaml", lambda c: c["grid"]["plain"].update(method=["id"]))
    check(run(tree, "check"))


def test_check_warns_of_a_data_set_s_value_that_methods_outrank(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def override(content: dict[str, Any]) -> None:
        content["datasets"]["demo"]["train"] |= {"dropout": 0.6, "batch_size": 128}
        content["methods"]["svd"]["train"]["dropout"] = 0.6

    edit(tree / "params.yaml", override)
    check(run(tree, "check"))
    said = capsys.readouterr().err
    assert "datasets.demo.train.dropout is outranked by methods.id.train (0.3), " in said
    assert "methods.svd" not in said and "batch_size" not in said and "width" not in said


def test_check_warns_of_each_unpinned_hub_model_in_use(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def unpin(content: dict[str, Any]) -> None:
        blocks = content["encoders"]
        blocks["hub"] = blocks["minilm"] | {"model": "owner/name", "revision": "main"}
        blocks["pinned"] = blocks["hub"] | {"revision": "0" * 40}
        blocks["folder"] = blocks["minilm"] | {"model": "models/own"}
        blocks["lora"] = blocks["llm2vec_llama3_8b"] | {"revision": "0" * 40}
        blocks["lora"]["adapters"] = [{"model": "owner/lora", "revision": None}]
        used = ("hub", "pinned", "folder", "lora", "hash", "text_embedding_3_small")
        content["grid"]["encoder"] += used

    (tree / "models" / "own").mkdir(parents=True)
    edit(tree / "params.yaml", unpin)
    check(run(tree, "check"))
    said = capsys.readouterr().err
    assert "encoders.hub: the hub may serve another owner/name (revision: main)" in said
    assert "encoders.lora: the hub may serve another owner/lora (revision: null) tomorrow" in said
    assert said.count("the hub may serve") == 2


def test_check_counts_unused_unpinned_encoders_and_lists_them_when_asked(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(run(tree, "check", json=True))
    said = json.loads(capsys.readouterr().out)
    assert said["warnings"] == []
    idle = said["idle_unpinned"]
    assert {"qwen3_8b", "llm2vec_llama3_8b", "bge_large_en_v1_5"} <= set(idle)
    assert not {"all_minilm_l6_v2", "hash", "text_embedding_3_small", "minilm_permuted"} & set(idle)
    check(run(tree, "check"))
    _, line = capsys.readouterr().out.splitlines()
    assert line == (
        f"{len(idle)} encoders outside grid.encoder take a hub model without its commit. "
        "To list them: spectran check --json   (idle_unpinned)"
    )


def supply(content: dict[str, Any]) -> None:
    """Add an encoder of supplied vectors to what is encoded."""
    content["encoders"]["own"] = {
        "engine": "vectors",
        "path": "own.npy",
        "sha256": None,
        "name": None,
        "ids": "ids.txt",
        "min_matched": 0.9,
        "width": 64,
        "transform": None,
    }
    content["grid"]["encoder"].append("own")


@pytest.mark.parametrize(
    "change",
    [
        lambda grid: None,
        lambda grid: grid["control"].update(encoder=["own"], backbone=["sasrec"], method=["id"]),
        lambda grid: grid["control"].update(encoder=["own"], backbone=[], method=["morec"]),
    ],
    ids=["in no group", "no method reads text", "no cell"],
)
def test_check_refuses_supplied_vectors_that_nothing_reads(
    tree: Path, capsys: pytest.CaptureFixture[str], change: Edit
) -> None:
    edit(tree / "params.yaml", lambda c: (supply(c), change(c["grid"])))
    found = [line for line in problems(tree, capsys) if "reads no text" not in line]
    assert len(found) == 1 and "own holds supplied vectors, but no method" in found[0]


@pytest.mark.parametrize("group", ["text", "baseline_text"])
def test_check_accepts_supplied_vectors_that_are_read(
    tree: Path, capsys: pytest.CaptureFixture[str], group: str
) -> None:
    def use(content: dict[str, Any]) -> None:
        supply(content)
        content["grid"][group]["encoder"].append("own")

    edit(tree / "params.yaml", use)
    check(run(tree, "check"))
    assert "code agree" in capsys.readouterr().out


def test_check_lets_other_encoders_be_decomposed_only(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(tree / "params.yaml", lambda c: c["grid"]["encoder"].append("hash"))
    check(run(tree, "check"))
    assert "code agree" in capsys.readouterr().out


def test_check_refuses_a_second_owner_of_the_package_names(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    owners = {"pipeline": ["spectran", "pipeline"], "stages": ["spectran"]}
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: owners)
    found = problems(tree, capsys)
    assert len(found) == 1 and "pip uninstall pipeline" in found[0]
