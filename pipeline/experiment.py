"""One cell of the grid: its parts put together, its inputs read on first use, its results named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from pipeline import artifacts, naming
from pipeline.config import Params, TrainConfig
from pipeline.data.batches import SPLITS, held_out, windows
from pipeline.errors import ConfigError
from pipeline.evaluation.ranks import rank, table
from pipeline.files import sha256_file
from pipeline.model import Backbone, Method, MethodConfig, Parts, Scorer, Untrained
from pipeline.objectives.ranking import ranking_loss
from pipeline.training.fit import Checkpoint, Log, fit, initialised
from pipeline.values import Catalog, SemanticEmbeddings, Sequences, Spectrum

NO_SEED = 0
"""The single seed of untrained methods, which draw nothing."""


class CellInputs:
    """Inputs of a method, loaded on first use; reading one that NEEDS does not list is a bug."""

    def __init__(self, root: Path, dataset: str, encoder: str, needs: tuple[str, ...]) -> None:
        self.root, self.dataset, self.encoder, self.needs = root, dataset, encoder, needs

    @cached_property
    def catalog(self) -> Catalog:
        """The items."""
        return Catalog.load(self.root, self.dataset)

    @cached_property
    def sequences(self) -> Sequences:
        """The histories."""
        return Sequences.load(self.root, self.dataset, self.catalog)

    @cached_property
    def semantic(self) -> SemanticEmbeddings:
        """The text embeddings."""
        self._declared("semantic")
        return SemanticEmbeddings.load(self.root, self.dataset, self.encoder, self.catalog)

    def spectrum(self, view: str) -> Spectrum:
        """One view of their spectrum."""
        self._declared(f"spectrum:{view}")
        return Spectrum.load(self.root, self.dataset, self.encoder, view, self.catalog)

    def paths(self) -> dict[str, Path]:
        """Return the files this cell reads."""
        cell = {"dataset": self.dataset, "encoder": self.encoder}
        found = {a.name: a.path(self.root, **cell) for a in (artifacts.ITEMS, artifacts.SEQUENCES)}
        for need in self.needs:
            kind, _, view = need.partition(":")
            artifact = artifacts.SPECTRUM if kind == "spectrum" else artifacts.SEMANTIC
            found[need] = artifact.path(self.root, **cell, view=view)
        return found

    def check(self) -> None:
        """Raise ArtifactError when a text input is missing or made from other items."""
        cell = {"dataset": self.dataset, "encoder": self.encoder}
        for need in self.needs:
            kind, _, view = need.partition(":")
            artifact = artifacts.SPECTRUM if kind == "spectrum" else artifacts.SEMANTIC
            artifact.header(self.root, items=self.catalog.fingerprint, **cell, view=view)

    def _declared(self, need: str) -> None:
        if need not in self.needs:
            raise AssertionError(f"the method reads {need}, which its NEEDS does not list")


@dataclass(frozen=True)
class Experiment:
    """A prepared cell."""

    cell: Mapping[str, str]
    train: TrainConfig
    method: MethodConfig
    backbone: MethodConfig
    inputs: CellInputs
    revision: int
    build: Callable[[], Method | Untrained]
    trained: bool
    code: tuple[Path, Path]

    @classmethod
    def prepare(
        cls, params: Params, root: Path, revision: int, cell: Mapping[str, str]
    ) -> Experiment:
        """Check names, settings and inputs of a cell. Raises ConfigError or ArtifactError."""
        train = params.train_for(cell["dataset"])
        found = naming.module("methods", cell["method"])
        encoder_code = naming.module("backbones", cell["backbone"])
        method = naming.settings("methods", cell["method"], params.methods)
        backbone = naming.settings("backbones", cell["backbone"], params.backbones)
        assert isinstance(method, MethodConfig) and isinstance(backbone, MethodConfig)
        needs: tuple[str, ...] = found.NEEDS
        if needs and cell["encoder"] != "none":
            params.encoder(cell["encoder"])
        _fits(cell, needs)
        inputs = CellInputs(root, cell["dataset"], cell["encoder"], needs)
        inputs.check()
        _ = inputs.sequences

        def sequence_encoder(width: int) -> Backbone:
            built = encoder_code.build(backbone, width, train.dropout)
            assert isinstance(built, Backbone)
            return built

        def build() -> Method | Untrained:
            ranking = lambda: ranking_loss(train.loss)  # noqa: E731
            made = found.build(method, inputs, Parts(train, sequence_encoder, ranking))
            assert isinstance(made, Method | Untrained)
            return made

        trained = found.build.__annotations__.get("return") != "Untrained"
        if not trained and cell["backbone"] != "none":
            raise ConfigError(
                f"methods.{cell['method']} is not trained and reads no backbone. "
                f"Use the backbone `none`, found {cell['backbone']}."
            )
        if trained and cell["backbone"] == "none":
            encoder_code.build(backbone, train.width, train.dropout)
        code = tuple(Path(str(m.__file__)) for m in (found, encoder_code))
        return cls(
            cell, train, method, backbone, inputs, revision, build, trained, (code[0], code[1])
        )

    @property
    def seeds(self) -> list[int]:
        """Seeds of the cell."""
        return self.train.seeds if self.trained else [NO_SEED]

    @property
    def histories(self) -> int:
        """Training windows per epoch."""
        length = int(getattr(self.backbone, "history", 1))
        return len(windows(self.inputs.sequences, length, self.train.positions))

    @property
    def reads(self) -> list[Path]:
        """Files this cell reads."""
        return list(self.inputs.paths().values())

    def memory_bytes(self) -> int:
        """Return a rough need: libraries, inputs twice, six tables, one chunk of scores."""
        inputs = sum(path.stat().st_size for path in self.reads)
        tables = 6 * 4 * (len(self.inputs.catalog) + 1) * self.train.width
        return 500_000_000 + 2 * inputs + tables + 64_000_000

    def disk_bytes(self) -> int:
        """Return a rough need: the model, and the state kept for resuming."""
        return 6 * 4 * (len(self.inputs.catalog) + 1) * self.train.width * len(self.seeds)

    def outputs(self, root: Path, seed: int) -> dict[str, Path]:
        """Return the files of one seed by artifact name."""
        kinds: tuple[artifacts.Artifact, ...] = (artifacts.RANKS,)
        if self.trained:
            kinds = (artifacts.MODEL, artifacts.CURVES, artifacts.RANKS)
        return {a.name: a.path(root, **self.cell, seed=seed) for a in kinds}

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What the results depend on, but for the seed."""
        train = self.train.model_dump(mode="json", exclude={"seeds"})
        return {
            "cell": dict(self.cell),
            # Untrained cells do not re-run when `train` changes, so their bytes must not name it.
            "train": train if self.trained else None,
            "method": self.method.model_dump(mode="json"),
            "backbone": self.backbone.model_dump(mode="json"),
            "inputs": {name: sha256_file(path) for name, path in self.inputs.paths().items()},
            "revision": self.revision,
        }

    def identity(self, seed: int) -> dict[str, Any]:
        """Return what makes a stored result of this seed valid: provenance, code, torch."""
        code = [sha256_file(path) for path in self.code]
        return {**self.provenance, "code": code, "seed": seed, "torch": torch.__version__}

    def run_seed(
        self,
        seed: int,
        *,
        device: str,
        checkpoint: Checkpoint,
        log: Log,
        advance: Callable[[int], None],
    ) -> dict[str, Any]:
        """Train one seed and rank both held-out splits."""
        made = self._made(seed)
        if isinstance(made, Untrained):
            ranks = self._ranks(made.scorer, made.length, "cpu")
            return {"ranks": ranks, "best_epoch": 0, "seconds": 0.0}
        fitted = fit(
            made,
            self.inputs.sequences,
            self.train,
            seed,
            device=device,
            checkpoint=checkpoint,
            log=log,
            advance=advance,
        )
        fitted.model.eval()
        with torch.inference_mode():
            scorer = fitted.model.ranker(self.train.ranking)
            ranks = self._ranks(scorer, fitted.model.length, device)
        state = {n: t.cpu().numpy() for n, t in fitted.model.state_dict().items()}
        columns = list(zip(*fitted.curves, strict=True))
        curves = pa.table(dict(zip(("epoch", "phase", "name", "value"), columns, strict=True)))
        return {
            "ranks": ranks,
            "model": state,
            "curves": curves,
            "best_epoch": fitted.best_epoch,
            "seconds": fitted.seconds,
        }

    def save(self, root: Path, seed: int, result: Mapping[str, Any]) -> None:
        """Write the seed's artifacts; ranks come last, so that a listed seed is complete."""
        items = self.inputs.catalog.fingerprint
        params = {**self.provenance, "seed": seed}
        cell = {**self.cell, "seed": str(seed)}
        if self.trained:
            artifacts.MODEL.save(root, result["model"], items=items, params=params, **cell)
            artifacts.CURVES.save(root, result["curves"], items=items, params=params, **cell)
        artifacts.RANKS.save(root, result["ranks"], items=items, params=params, **cell)

    def _made(self, seed: int) -> Method | Untrained:
        if not self.trained:
            return self.build()
        return initialised(self.build, seed)  # type: ignore[arg-type]

    def _ranks(self, scorer: Scorer, length: int, device: str) -> pa.Table:
        data = self.inputs.sequences
        counts = []
        for split in SPLITS:
            held = held_out(data, split)
            counts.append((split, held, rank(scorer, held, length, data.num_items, device)))
        return table(counts, data.train_counts())


def _fits(cell: Mapping[str, str], needs: tuple[str, ...]) -> None:
    method, encoder = cell["method"], cell["encoder"]
    if needs and encoder == "none":
        raise ConfigError(
            f"methods.{method} reads item text: name an encoder instead of `none`, "
            f"e.g. spectran train {cell['dataset']} minilm {cell['backbone']} {method}"
        )
    if not needs and encoder != "none":
        raise ConfigError(
            f"methods.{method} reads no text, so its encoder is `none`, found {encoder}. "
            f"Run: spectran train {cell['dataset']} none {cell['backbone']} {method}"
        )
