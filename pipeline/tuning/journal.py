"""Finished trials of a search, in Optuna's journal: one line each, appended when it is done.

The journal lies outside DVC outputs and is safe to delete. What a killed search had written stays;
a trial that was under way is proposed again and goes on from its own state.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipeline.errors import ResourceError
from pipeline.tuning.space import Configuration, Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import CategoricalDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

FILE = "journal.log"
NAME = "tune"


@dataclass(frozen=True)
class Trial:
    """One configuration and how well it did."""

    number: int
    configuration: Configuration
    value: float | None
    """Best validation value; None when the loss or a score was not finite."""
    best_epoch: int
    seconds: float


def optuna() -> ModuleType:
    """Return the library. Raises ResourceError when it is not installed."""
    try:
        import optuna
    except ImportError:
        raise ResourceError(
            "tune: Optuna is not installed. Run: pip install -e '.[tune]'   (in the repository)"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def distributions(space: Space) -> dict[str, CategoricalDistribution]:
    """Return the space as Optuna knows it."""
    kind = optuna().distributions.CategoricalDistribution
    return {key: kind(values) for key, values in space.choices.items()}


def frozen(trial: Trial, space: Space) -> FrozenTrial:
    """Return a finished trial as Optuna knows it; one without a value counts as the worst."""
    library = optuna()
    states = library.trial.TrialState
    made: FrozenTrial = library.trial.create_trial(
        state=states.PRUNED if trial.value is None else states.COMPLETE,
        value=trial.value,
        params=dict(trial.configuration),
        distributions=distributions(space),
        user_attrs={"best_epoch": trial.best_epoch, "seconds": trial.seconds},
    )
    return made


class Journal:
    """The finished trials of one search; open it with `opened`."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def trials(self) -> list[Trial]:
        """Return the finished trials in order."""
        return _trials(self._study)

    def add(self, trial: Trial, space: Space) -> None:
        """Append a finished trial, in one line."""
        self._study.add_trial(frozen(trial, space))


@contextmanager
def opened(folder: Path, *, fresh: bool) -> Iterator[Journal]:
    """Yield the journal below a folder, for this process alone; an unreadable one starts afresh.

    fresh: start afresh in any case. Raises ResourceError when another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResourceError(
                "tune: another process searches this cell with the same settings. Wait for it, or "
                "stop it and run this command again."
            ) from None
        for stale in folder.glob(f"{FILE}.lock*"):  # of a process killed while it wrote
            stale.unlink()
        _mend(folder / FILE)
        study = None if fresh else _study(folder / FILE)
        if study is None:
            (folder / FILE).unlink(missing_ok=True)
            study = optuna().create_study(
                study_name=NAME, storage=_storage(folder / FILE), direction="maximize"
            )
        yield Journal(study)


def in_use(folder: Path) -> bool:
    """Whether a process searches with the journal below a folder."""
    try:
        with (folder / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def read(folder: Path) -> list[Trial]:
    """Return the finished trials below a folder without writing; none when unreadable."""
    study = _study(folder / FILE)
    return [] if study is None else _trials(study)


def _study(path: Path) -> Study | None:
    """Return the study in a journal; None when there is none, or it cannot be read."""
    if not path.exists():
        return None
    try:
        study: Study = optuna().load_study(study_name=NAME, storage=_storage(path))
        _trials(study)
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError):
        return None
    return study


def _storage(path: Path) -> BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(path)))


def _mend(path: Path) -> None:
    """Cut off a line that a full disk or a power cut left unfinished: the next would join it."""
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        path.write_bytes(content[: content.rfind(b"\n") + 1])


def _trials(study: Study) -> list[Trial]:
    found = []
    for number, trial in enumerate(study.get_trials(deepcopy=False)):
        attributes: dict[str, Any] = trial.user_attrs
        value = trial.value if trial.state.name == "COMPLETE" else None
        found.append(
            Trial(
                number,
                dict(trial.params),
                value,
                int(attributes["best_epoch"]),
                float(attributes["seconds"]),
            )
        )
    return found
