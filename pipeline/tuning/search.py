"""A search for the settings of one cell: what it depends on, its trials, and its result.

Every trial trains one seed and is judged by what early stopping watches; test users are never
ranked. A finished trial is kept twice: in the journal of its search, and under the key of
everything that its value depends on, so that a search over other lists does not repeat it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline import artifacts
from pipeline.cells import PARTS, Cell
from pipeline.config import Params
from pipeline.errors import ConfigError, DataError, DivergedError, SpectranError
from pipeline.experiment.prepared import Experiment
from pipeline.training.progress import Log
from pipeline.training.store import SeedStore, key
from pipeline.tuning import journal
from pipeline.tuning.journal import Journal, Trial
from pipeline.tuning.propose import propose
from pipeline.tuning.space import Configuration, Space, area, lay, space_for

SEARCHES, TRIALS = "searches", "trials"
"""Folders of the cache: journals, and single trials under the key of all they depend on."""

Bar = Callable[[str, int | None, str], AbstractContextManager[Callable[[int], None]]]
"""Progress of one trial: title, total, unit."""


@dataclass(frozen=True)
class Planned:
    """A trial that was not run yet; without a configuration where results must decide it."""

    number: int
    configuration: Configuration | None


@dataclass(frozen=True)
class Search:
    """A prepared search."""

    params: Params
    root: Path
    revision: int
    cell: Cell
    present: Experiment
    """The cell at its present values."""
    space: Space
    cache: Path
    device: str
    threads: int
    save_every_s: float
    force: bool
    """Forget what was kept of this search."""

    @classmethod
    def prepare(
        cls,
        params: Params,
        root: Path,
        revision: int,
        cell: Cell,
        *,
        cache: Path,
        device: str,
        threads: int | None,
        save_every_s: float,
        force: bool = False,
    ) -> Search:
        """Check names, settings, inputs and lists. Raises ConfigError or ArtifactError."""
        present = Experiment.prepare(params, root, revision, cell.fields)
        if not present.trained:
            raise ConfigError(f"methods.{cell.method} is not trained: there is nothing to search.")
        space = space_for(params, cell.dataset, cell.backbone, cell.method)
        journal.optuna()
        search = cls(
            params,
            root,
            revision,
            cell,
            present,
            space,
            cache / "tune",
            device,
            threads or present.train.threads,
            save_every_s,
            force,
        )
        began = next(iter(search.finished()), None)
        return replace(search, space=replace(space, first=began.configuration)) if began else search

    @property
    def moved(self) -> bool:
        """Whether the search began from other values than the present ones, e.g. before a write."""
        cell = self.cell
        today = space_for(self.params, cell.dataset, cell.backbone, cell.method)
        return dict(today.first) != dict(self.space.first)

    @property
    def objective(self) -> str:
        """Name of the value that is maximised."""
        return f"valid/ndcg@{self.present.train.monitor_k}"

    @property
    def budget(self) -> int:
        """Number of trials: that of params.yaml, or all configurations where fewer exist."""
        return min(self.params.tune.trials, self.space.size)

    @cached_property
    def depends(self) -> dict[str, Any]:
        """What the trials depend on: the cell's identity without what is searched, and the lists.

        The number of trials is not in it: a longer search goes on where a shorter one ended.
        """
        identity = self._identity(self.present)
        for name in self.space.listed:
            part, own = area(name)
            identity[part] = _without(identity[part], own.split("."))
        tune = self.params.tune
        return {
            **identity,
            "space": {name: list(values) for name, values in self.space.listed.items()},
            "search_seed": tune.seed,
            "random_trials": tune.random_trials,
            "optuna": str(journal.optuna().__version__),
        }

    @property
    def folder(self) -> Path:
        """Where the journal is kept."""
        return self.cache / SEARCHES / key(self.depends)

    def finished(self) -> list[Trial]:
        """Return the finished trials, at most as many as are wanted."""
        return [] if self.force else journal.read(self.folder)[: self.budget]

    def plan(self) -> list[Trial | Planned]:
        """Return the trials that are finished and those to come, without running any."""
        finished = self.finished()
        known = list(finished)
        listed: list[Trial | Planned] = [*finished]
        for number in range(len(finished), self.budget):
            if number >= self.params.tune.random_trials and number > len(finished):
                listed.append(Planned(number, None))
                continue
            configuration = self._next(known)
            known.append(Trial(number, configuration, None, 0, 0.0))
            listed.append(Planned(number, configuration))
        return listed

    def run(self, log: Log, bar: Bar) -> list[Trial]:
        """Run the trials that are not finished; return all of them in order.

        Raises DataError when no trial could be trained.
        """
        with journal.opened(self.folder, fresh=self.force) as kept:
            trials = list(self._trials(kept, log, bar))
        if all(trial.value is None for trial in trials):
            raise DataError(
                f"tune: none of {len(trials)} configurations could be trained: the loss is not "
                f"finite. Lower train.learning_rate, or look at the inputs."
            )
        return trials

    def save(self, root: Path, trials: list[Trial]) -> Path:
        """Write the result as an artifact; its bytes hold no clock."""
        rows = [
            {
                "number": trial.number,
                "configuration": dict(trial.configuration),
                "value": trial.value,
                "best_epoch": trial.best_epoch,
            }
            for trial in trials
        ]
        content = {
            "objective": self.objective,
            "trials": rows,
            "best": rows[best(trials).number],
            "depends": self.depends,
        }
        return artifacts.save_json(artifacts.TUNED, root, content, **self.cell.fields)

    def _trials(self, kept: Journal, log: Log, bar: Bar) -> Iterator[Trial]:
        done = kept.trials()[: self.budget]
        for trial in done:
            _say(log, "reuse", trial)
            yield trial
        for number in range(len(done), self.budget):
            trial = self._evaluate(number, self._next(done), log, bar)
            kept.add(trial, self.space)
            done.append(trial)
            _say(log, "trial", trial)
            yield trial

    def _next(self, trials: list[Trial]) -> Configuration:
        tune = self.params.tune
        return propose(self.space, trials, tune.seed, tune.random_trials)

    def _evaluate(self, number: int, configuration: Configuration, log: Log, bar: Bar) -> Trial:
        """Train one configuration, or take its kept result."""
        params = lay(self.params, self.cell.backbone, self.cell.method, configuration)
        try:
            work = Experiment.prepare(params, self.root, self.revision, self.cell.fields)
        except SpectranError as error:
            raise type(error)(f"{error}\n{self._blame(number, configuration)}") from None
        store = SeedStore(self.cache / TRIALS, self._identity(work), self.save_every_s)
        if self.force:
            store.forget()
        record = store.finished()
        if record is None:
            record = self._fit(work, number, configuration, store, log, bar)
        return Trial(
            number, configuration, record["value"], record["best_epoch"], record["seconds"]
        )

    def _fit(
        self,
        work: Experiment,
        number: int,
        configuration: Configuration,
        store: SeedStore,
        log: Log,
        bar: Bar,
    ) -> dict[str, Any]:
        def numbered(event: str, **fields: Any) -> None:
            log(event, trial=number, **fields)

        total = work.train.max_epochs * work.histories
        with bar(f"{self.cell.method} trial {number}", total, "histories") as advance:
            try:
                fitted = work.fit_seed(
                    self.params.tune.train_seed,
                    device=self.device,
                    checkpoint=store,
                    log=numbered,
                    advance=advance,
                )
            except DivergedError:
                record = {"value": None, "best_epoch": 0, "seconds": 0.0}
            except SpectranError as error:
                raise type(error)(f"{error}\n{self._blame(number, configuration)}") from None
            else:
                record = {
                    "value": fitted.best_value,
                    "best_epoch": fitted.best_epoch,
                    "seconds": round(fitted.seconds, 3),
                }
        store.finish({}, **record)
        return record

    def _identity(self, work: Experiment) -> dict[str, Any]:
        identity = work.identity(self.params.tune.train_seed)
        return {**identity, "device": self.device.split(":")[0], "threads": self.threads}

    def _blame(self, number: int, configuration: Configuration) -> str:
        values = ", ".join(f"{name} = {value}" for name, value in configuration.items())
        return f"tune: this is trial {number}: {values}. Take one of these values out of the lists."


def finished_searches(root: Path, cache: Path) -> Iterator[Path]:
    """Yield the journals whose trials all stand in a written result, and that nobody uses.

    root: artifacts; cache: as `Search.cache`. Raises ArtifactError for a damaged result.
    """
    for path in sorted(root.glob(artifacts.TUNED.template.format(**dict.fromkeys(PARTS, "*")))):
        names = path.relative_to(root).with_suffix("").parts[-len(PARTS) :]
        written = artifacts.load_json(artifacts.TUNED, root, **dict(zip(PARTS, names, strict=True)))
        folder = cache / SEARCHES / key(written["depends"])
        if not folder.is_dir() or journal.in_use(folder):
            continue
        if len(journal.read(folder)) <= len(written["trials"]):
            yield folder


def best(trials: list[Trial]) -> Trial:
    """Return the trial with the highest value; of equal ones the first."""
    return max(trials, key=lambda trial: -1.0 if trial.value is None else trial.value)


def _without(block: Mapping[str, Any], path: list[str]) -> dict[str, Any]:
    """Return nested mappings without one key."""
    first, *rest = path
    if not rest:
        return {name: value for name, value in block.items() if name != first}
    return {**block, first: _without(block[first], rest)}


def _say(log: Log, event: str, trial: Trial) -> None:
    log(
        event,
        number=trial.number,
        value=trial.value,
        best_epoch=trial.best_epoch,
        seconds=trial.seconds,
        configuration=dict(trial.configuration),
    )
