"""A project folder that looks as if every cell of the demo grid had been trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline import artifacts, naming
from pipeline.cells import cells
from pipeline.params import load
from pipeline.reporting import published
from stages.run import Run

TREE = Path(__file__).resolve().parents[2]
ITEMS = "a" * 64
NUM_ITEMS = 500
VALID, TEST = 40, 90
SKILL = {
    "popularity": 2.0,
    "transition": 5.0,
    "text_neighbour": 4.0,
    "id": 5.0,
    "llminit": 9.0,
    "morec": 4.5,
    "alphafuse": 6.0,
    "svd": 7.0,
    "spectran": 14.0,
    "spectran_sigma": 9.0,
    "spectran_identity": 13.9,
    "llminit_equal": 8.5,
    "id_light": 4.8,
}
"""Larger is better: ranks are drawn from N ** (u ** (skill / 1.6))."""
TIMES = {"epochs": 12, "rank_seconds": 0.65, "rank_users": VALID + TEST}
"""What the log of every seed says beside its 90 s."""
SIZES = {"id": (37_792, 6_560), "spectran": (87_717, 6_560)}
"""Parameters of the method and of its backbone, of those methods that the tests ask for."""
MARKUP = '<script>alert("title")</script>'


class Measured:
    """The folder, its parameters, and a writer for single cells."""

    def __init__(self, base: Path) -> None:
        self.base, self.root = base, base / "artifacts"
        self.params_path = base / "params.yaml"
        self.params_path.write_text(Path("params.yaml").read_text())
        (base / "revisions.yaml").write_text(Path("revisions.yaml").read_text())
        self.reread()
        rng = np.random.default_rng(7)
        users = VALID + TEST
        self.targets = rng.integers(1, NUM_ITEMS + 1, size=users)
        self.counts = rng.choice([0, 0, 1, 3, 6, 9, 30, 50, 80, 200], size=users)
        self.split = ["valid"] * VALID + ["test"] * TEST
        self.sequences = "b" * 64
        self.made: dict[str, Any] = {}
        """What the header of ranks says beside."""

    def reread(self) -> None:
        """Take the cells that params.yaml names now."""
        self.params = load(self.params_path)
        self.cells = cells(self.params.grid, "demo")

    def table(self, method: str, seed: int, users: int = VALID + TEST) -> pa.Table:
        """Ranks of one seed; a user's luck is shared by all methods."""
        luck = np.random.default_rng(3).random(VALID + TEST)
        noise = np.random.default_rng([seed, len(method)]).random(VALID + TEST)
        ease = np.where(self.counts == 0, 0.45, 1.0) if method != "text_neighbour" else 1.0
        share = (0.8 * luck + 0.2 * noise) ** (SKILL[method] * ease / 1.6)
        greater = np.minimum((NUM_ITEMS - 1) * share, NUM_ITEMS - 5).astype(np.int64)
        equal = np.where(self.counts == 0, 3, 0)
        columns = {
            "user": np.arange(VALID + TEST),
            "split": self.split,
            "target": self.targets,
            "greater": greater,
            "equal": equal,
            "candidates": np.full(VALID + TEST, NUM_ITEMS),
            "greater_unseen": np.maximum(greater - 2, 0),
            "equal_unseen": equal,
            "candidates_unseen": np.full(VALID + TEST, NUM_ITEMS - 2),
            "target_train_count": self.counts,
        }
        table = pa.table({name: pa.array(values) for name, values in columns.items()})
        return table.slice(0, users)

    def run(self, name: str, **options: Any) -> Run:
        """An invocation of a command in this folder."""
        return Run(name=name, params_path=self.params_path, **options)

    def save(self, cell, seed: int, table: pa.Table | None = None, items: str = ITEMS) -> Path:
        """Write the ranks of one seed as `spectran train` does."""
        train = cell.train(self.params).model_dump(mode="json", exclude={"seeds"})
        made = {
            "cell": cell.fields,
            "train": train if cell.trained else None,
            "inputs": {"sequences": self.sequences},
            "method": self._settings("methods", cell.method),
            "backbone": self._settings("backbones", cell.backbone),
            "seed": seed,
            "note": MARKUP,
            **self.made,
        }
        table = self.table(cell.method, seed) if table is None else table
        return artifacts.RANKS.save(
            self.root, table, items=items, params=made, **cell.fields, seed=seed
        )

    def _settings(self, kind: str, name: str) -> dict[str, Any]:
        blocks = getattr(self.params, kind)
        known = name in blocks
        return naming.settings(kind, name, blocks).model_dump(mode="json") if known else {}

    def save_all(self) -> None:
        """Write ranks, curves, logs and statistics of the whole grid."""
        for cell in self.cells:
            lines = []
            for seed in cell.seeds(self.params):
                self.save(cell, seed)
                if cell.trained:
                    self._curve(cell, seed)
                told = {"event": "done", "seed": seed, "seconds": 90.0} | TIMES
                lines.append(json.dumps(told) + "\n")
            log = self.base / "logs" / "train" / ("-".join(cell.fields.values()) + ".jsonl")
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text("".join(lines))
        artifacts.save_json(
            artifacts.DATA_STATS,
            self.root,
            {
                "users": 2940,
                "items": 1180,
                "interactions": 24317,
                "longest_title": MARKUP,
                "steps": [
                    {"step": "read", "users": 3000, "items": 1200, "rows": 30101},
                    {"step": "core 5", "users": 2940, "items": 1180, "rows": 29004, "rounds": 2},
                ],
                "split": {"train": 2352, "valid": 294, "test": 294},
                "history_length": {"0": 5, "0.25": 6, "0.5": 8, "1": 13},
            },
            dataset="demo",
        )
        self.save_collapse()
        decay = np.arange(1, 385, dtype=float)
        views = {}
        for name, power in (("unit", 0.6), ("centred", 0.4)):
            s = decay**-power
            views[name] = {
                "singular_values": s.tolist(),
                "cumulative_energy": (np.cumsum(s**2) / np.sum(s**2)).tolist(),
                "effective_rank": 211.3,
                "mean_cosine": 0.213,
            }
        artifacts.save_json(
            artifacts.SPECTRUM_STATS, self.root, {"views": views}, dataset="demo", encoder="minilm"
        )

    def add_text_part(self, method: str, effective_rank: float) -> None:
        """Measure a text part beside the whole vectors of a method, before and after training."""
        table, header = artifacts.COLLAPSE.load(self.root, dataset="demo")
        rows = table.to_pylist()
        own = [row for row in rows if row["method"] == method]
        rows += [row | {"part": "semantic", "effective_rank": effective_rank} for row in own]
        artifacts.COLLAPSE.save(
            self.root,
            pa.Table.from_pylist(rows, schema=artifacts.COLLAPSE.schema),
            items=header["items"],
            params=header["params"],
            dataset="demo",
        )

    def save_collapse(self) -> None:
        """Write what `spectran collapse` measures: a steep spectrum, flatter after training."""
        trained = [cell for cell in self.cells if cell.trained]
        rows = []
        for place, cell in enumerate(trained):
            for seed in cell.seeds(self.params):
                for state, power in (("initial", 2.0), ("trained", 1.0)):
                    values = np.arange(1, 33) ** -(power + 0.1 * place + 0.01 * seed)
                    cumulative = np.cumsum(values) / values.sum()
                    rows.append(
                        {
                            **cell.fields,
                            "seed": seed,
                            "view": "item",
                            "part": "table" if cell.method == "id" else "semantic",
                            "state": state,
                            "items": 1180,
                            "width": 32,
                            "top_10": cumulative[9],
                            "effective_rank": 30.0 / power + seed,
                            "participation_ratio": 20.0 / power,
                            "cumulative": cumulative.tolist(),
                        }
                    )
        made = {"models": {str(cell): list(cell.seeds(self.params)) for cell in trained}}
        table = pa.Table.from_pylist(rows)
        artifacts.COLLAPSE.save(self.root, table, items=ITEMS, params=made, dataset="demo")
        sizes = [
            cell.fields
            | dict(
                zip(
                    ("method_parameters", "backbone_parameters"),
                    SIZES.get(cell.method, (40_000, 6_560)),
                    strict=True,
                )
            )
            for cell in trained
        ]
        table = pa.Table.from_pylist(sizes, schema=artifacts.SIZES.schema)
        artifacts.SIZES.save(self.root, table, items=ITEMS, params=made, dataset="demo")

    def _curve(self, cell, seed: int) -> None:
        rows = []
        for epoch in range(1, 13):
            top = SKILL[cell.method] / 60
            value = top * (1 - np.exp(-epoch / 3)) - 0.002 * max(0, epoch - 8) + 0.002 * seed
            named = [("train/loss", 4 * 0.9**epoch), ("valid/ndcg@20", value)]
            if cell.method == "spectran":
                named += [("principal", 30.5), ("subordinate", 170.25), ("position_0", 0.75)]
                named += [("position_1", 0.5 + seed), ("position_2", -0.25)]
            for name, number in named:
                rows.append({"epoch": epoch, "phase": "train", "name": name, "value": number})
        artifacts.CURVES.save(
            self.root, pa.Table.from_pylist(rows), items=ITEMS, params={}, **cell.fields, seed=seed
        )


@pytest.fixture(scope="session")
def _measured_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Measured(tmp_path_factory.mktemp("measured"))
    made.save_all()
    return made.base


@pytest.fixture(scope="session")
def _evaluated_once(_measured_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from stages.evaluate import evaluate
    from stages.report import report

    base = tmp_path_factory.mktemp("evaluated")
    shutil.copytree(_measured_once, base, dirs_exist_ok=True)
    made = Measured(base)
    evaluate(made.run("evaluate", quiet=True), "demo")
    report(made.run("report", quiet=True))
    report(made.run("report", quiet=True), ["demo"], "tiny", True)
    return base


@pytest.fixture
def measured(_measured_once: Path, tmp_path: Path) -> Measured:
    """The folder with every artifact that training and spectra leave."""
    shutil.copytree(_measured_once, tmp_path, dirs_exist_ok=True)
    return Measured(tmp_path)


@pytest.fixture
def evaluated(_evaluated_once: Path, tmp_path: Path) -> Measured:
    """The folder after `evaluate`, `report` and a card named tiny."""
    shutil.copytree(_evaluated_once, tmp_path, dirs_exist_ok=True)
    return Measured(tmp_path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Parameters, graph and code of this repository, to be changed."""
    for name in ("params.yaml", "dvc.yaml", "revisions.yaml"):
        (tmp_path / name).write_text((TREE / name).read_text())
    for name in ("pipeline", "stages"):
        (tmp_path / name).symlink_to(TREE / name)
    return tmp_path


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let the paper report the demo data as it does Toys, LLMInit by the demo's own cell."""
    text = published.REFERENCE.read_text().replace("toys:", "demo:")
    reference = tmp_path / "reference.yaml"
    reference.write_text(text.replace("llminit_var:", "llminit:"))
    monkeypatch.setattr(published, "REFERENCE", reference)
