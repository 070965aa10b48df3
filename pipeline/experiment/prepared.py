"""One cell of the grid: its parts put together, its inputs read on first use, its results named."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from pipeline import artifacts, naming
from pipeline.agreement import difference, refuse_other_inputs
from pipeline.cells import UNTRAINED_SEEDS
from pipeline.config import Params, TrainConfig
from pipeline.errors import ArtifactError, DataError, DivergedError
from pipeline.evaluation.ranks import CHUNK_BYTES, rank, table
from pipeline.experiment.inputs import CellInputs
from pipeline.experiment.item_vectors import ItemVectors, item_vectors
from pipeline.experiment.parts import (
    builder,
    code_of,
    refuse_absent_times,
    refuse_misfit,
    refuse_unlisted_views,
)
from pipeline.files import sha256_file
from pipeline.model import (
    Backbone,
    Method,
    MethodConfig,
    Scorer,
    Untrained,
)
from pipeline.sampling.batches import SPLITS, held_out, windows
from pipeline.training.fit import Fitted, fit, initialised
from pipeline.training.memory import per_history
from pipeline.training.parameters import Trained, modules_of, trained_numbers
from pipeline.training.progress import Checkpoint, Log
from pipeline.training.saved import load_state, saved_state
from pipeline.training.setting import one_item
from pipeline.training.steps import LOSS


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
    held: int
    """Numbers per item that a training step holds beside the tables, as the method's file says."""

    @classmethod
    def prepare(
        cls, params: Params, root: Path, revision: int, cell: Mapping[str, str]
    ) -> Experiment:
        """Check names, settings and inputs of a cell.

        Raises ConfigError, ArtifactError also for inputs made with other values than `params` has,
        or DataError for a catalogue of one item.
        """
        train = params.train_for(cell["dataset"], cell["backbone"], cell["method"])
        method = naming.settings("methods", cell["method"], params.methods)
        backbone = naming.settings("backbones", cell["backbone"], params.backbones)
        found = code_of("methods", cell["method"], params.methods)
        encoder_code = code_of("backbones", cell["backbone"], params.backbones)
        needs = naming.needs(found, method)
        trained = not naming.is_untrained(found)
        refuse_misfit(params, cell, bool(needs), trained)
        inputs = CellInputs(root, cell["dataset"], cell["encoder"], needs)
        if len(inputs.catalog) < 2:
            raise DataError(one_item(cell["dataset"]))
        try:
            inputs.check()
        except ArtifactError:
            refuse_unlisted_views(params, cell, needs)
            raise
        refuse_other_inputs(root, params, cell["dataset"], cell["encoder"], needs)
        _ = inputs.sequences
        key = params.width_key(cell["dataset"], cell["backbone"], cell["method"])
        if trained:
            # Refuses sizes that do not fit.
            built: Backbone = encoder_code.build(backbone, train.width, train.dropout, key)
            refuse_absent_times(cell, built, inputs)
        build = builder(found, encoder_code, method, backbone, inputs, train, key)
        code = (Path(str(found.__file__)), Path(str(encoder_code.__file__)))
        held = 0
        if hasattr(found, "held"):
            held = found.held(method, params.encoder(cell["encoder"]).width, train.width)
        return cls(cell, train, method, backbone, inputs, revision, build, trained, code, held)

    @property
    def seeds(self) -> list[int]:
        """Seeds of the cell."""
        return list(self.train.seeds if self.trained else UNTRAINED_SEEDS)

    @property
    def histories(self) -> int:
        """Training windows per epoch."""
        length = int(getattr(self.backbone, "history", 1))
        return len(windows(self.inputs.sequences, length, self.train.positions))

    @property
    def reads(self) -> list[Path]:
        """Files this cell reads."""
        return list(self.inputs.paths().values())

    def memory_bytes(self, seeds: int = 1, processes: int = 1) -> int:
        """Return a rough need: libraries, inputs, tables, what a step holds, scores of ranking.

        An input lies there as bytes, as an array, in the model, and once more on the way. A trained
        table needs itself, gradient and moments (4); their copies in the best, the present and the
        next state (9); and the keys it ranks by, with their gradient. A step holds what the method
        makes of all items, and what the backbone makes of a batch of histories: its layers, and
        attention of every event to every other. Not counted: what the loss makes of a batch, and
        the attention of a second view. seeds: trained at a time in one process. processes: that
        train at a time; more than one are children of another, which holds libraries and inputs
        too.
        """
        inputs = 600_000_000 + 4 * sum(path.stat().st_size for path in self.reads)
        tables = 15 * self.train.width if self.trained else 0
        numbers = (len(self.inputs.catalog) + 1) * (tables + self.held)
        if self.trained:
            batch = min(self.train.batch_size, self.histories)
            numbers += batch * per_history(self.backbone, self.train.width)
        parent = inputs if processes > 1 else 0
        return parent + processes * (inputs + 4 * numbers * seeds + CHUNK_BYTES)

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

    def fit_seed(
        self,
        seed: int,
        *,
        device: str,
        checkpoint: Checkpoint,
        log: Log,
        advance: Callable[[int], None],
    ) -> Fitted:
        """Train one seed of a trained method. Validation users are ranked, test users are not."""
        return fit(
            self._start(seed),
            self.inputs.sequences,
            self.train,
            seed,
            device=device,
            checkpoint=checkpoint,
            log=log,
            advance=advance,
        )

    @cached_property
    def stackable(self) -> bool:
        """Whether seeds of this cell can train together."""
        from pipeline.training.stacked import stackable

        return self.trained and stackable(self._start(self.seeds[0]))

    def run_together(
        self,
        checkpoints: Mapping[int, Checkpoint],
        *,
        device: str,
        log: Log,
        advance: Callable[[int], None],
    ) -> Iterator[tuple[int, dict[str, Any] | DivergedError]]:
        """Train some seeds in one batched pass; yield what `run_seed` returns as each ends."""
        from pipeline.training.stacked import fit_together

        for seed, found in fit_together(
            {seed: self._start(seed) for seed in checkpoints},
            self.inputs.sequences,
            self.train,
            device=device,
            checkpoints=checkpoints,
            log=log,
            advance=advance,
        ):
            if isinstance(found, DivergedError):
                yield seed, found
            else:
                yield seed, self._result(found, device)

    def run_seed(
        self,
        seed: int,
        *,
        device: str,
        checkpoint: Checkpoint,
        log: Log,
        advance: Callable[[int], None],
    ) -> dict[str, Any]:
        """Train one seed and rank both held-out splits.

        rank_seconds: one pass over the held-out users, the item table built first.
        """
        if not self.trained:
            made = self.build()
            assert isinstance(made, Untrained)
            started = time.monotonic()
            ranks = self._ranks(made.scorer, made.length, "cpu", times=False)
            ranked = time.monotonic() - started
            return {
                "ranks": ranks,
                "best_epoch": 0,
                "epochs": 0,
                "seconds": 0.0,
                "rank_seconds": ranked,
            }
        fitted = self.fit_seed(seed, device=device, checkpoint=checkpoint, log=log, advance=advance)
        return self._result(fitted, device)

    def _result(self, fitted: Fitted, device: str) -> dict[str, Any]:
        """Rank both held-out splits by a trained model; return all that is kept of a seed."""
        fitted.model.eval()
        started = time.monotonic()
        with torch.inference_mode():
            model = fitted.model
            scorer = model.ranker(self.train.ranking)
            # Counts are copied to the CPU, which waits for the device.
            ranks = self._ranks(scorer, model.length, device, times=model.reads_times)
        ranked = time.monotonic() - started
        state = {n: t.cpu().numpy() for n, t in saved_state(fitted.method).items()}
        columns = list(zip(*fitted.curves, strict=True))
        curves = pa.table(dict(zip(("epoch", "phase", "name", "value"), columns, strict=True)))
        return {
            "ranks": ranks,
            "model": state,
            "curves": curves,
            "best_epoch": fitted.best_epoch,
            "epochs": sum(name == LOSS for _, _, name, _ in fitted.curves),
            "seconds": fitted.seconds,
            "rank_seconds": ranked,
        }

    def trained_numbers(self) -> Trained:
        """Return how many numbers training changes; zero for an untrained method."""
        return trained_numbers(self._start(self.seeds[0])) if self.trained else Trained(0, 0)

    def item_vectors(self, seed: int) -> Iterator[ItemVectors]:
        """Yield the item vectors that a seed starts from, drawn again, and those it ended with.

        Raises ArtifactError when the saved model is missing or was made otherwise.
        """
        cell = {**self.cell, "seed": str(seed)}
        root, items = self.inputs.root, self.inputs.catalog.fingerprint
        arrays, header = artifacts.MODEL.load(root, items=items, **cell)
        made = header["params"]
        blocks = (("method", self.method), ("backbone", self.backbone))
        made |= {name: block.completed(made.get(name) or {}) for name, block in blocks}
        now = json.loads(json.dumps({**self.provenance, "seed": seed}))
        if made != now:
            found = difference(made, now, "")
            told = f", {found.key} = {found.was!r}, now {found.now!r}" if found else ""
            why = f"was trained with other settings or inputs{told}."
            raise artifacts.MODEL.fail(root, cell, why)
        method = self._start(seed)
        modules_of(method).eval()
        # Scalars are stored as one number.
        wanted = {name: tuple(tensor.shape) or (1,) for name, tensor in saved_state(method).items()}
        if {name: array.shape or (1,) for name, array in arrays.items()} != wanted:
            raise artifacts.MODEL.fail(root, cell, "holds other tensors than the method has now.")
        yield from item_vectors(method, "initial")
        load_state(method, {name: torch.from_numpy(array) for name, array in arrays.items()})
        yield from item_vectors(method, "trained")

    def save(self, root: Path, seed: int, result: Mapping[str, Any]) -> None:
        """Write the seed's artifacts; ranks come last, so that a listed seed is complete."""
        items = self.inputs.catalog.fingerprint
        params = {**self.provenance, "seed": seed}
        cell = {**self.cell, "seed": str(seed)}
        if self.trained:
            artifacts.MODEL.save(root, result["model"], items=items, params=params, **cell)
            artifacts.CURVES.save(root, result["curves"], items=items, params=params, **cell)
        artifacts.RANKS.save(root, result["ranks"], items=items, params=params, **cell)

    def _start(self, seed: int) -> Method:
        """Return the method with the initial values of a seed."""
        return initialised(self.build, seed)  # type: ignore[arg-type]

    def _ranks(self, scorer: Scorer, length: int, device: str, *, times: bool) -> pa.Table:
        data = self.inputs.sequences
        counts = []
        for split in SPLITS:
            held = held_out(data, split, times=times)
            counts.append((split, held, rank(scorer, held, length, data.num_items, device)))
        return table(counts, data.train_counts())
