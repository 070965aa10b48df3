"""Which configuration comes next: the present one, then drawn ones, then what results suggest.

No configuration comes twice. All randomness of a trial follows from (seed, number of the trial), so
a search that goes on after a stop proposes what it would have proposed without one.

Source: Bergstra et al., NeurIPS 2011 (tree-structured Parzen estimator), as in Optuna.
Differs: a suggestion that was already tried is drawn again, and after some attempts replaced by a
uniform draw from what is left; values of a list count as unordered.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence

from pipeline.config import Choice
from pipeline.randomness import derive
from pipeline.tuning.journal import Trial, distributions, frozen, optuna
from pipeline.tuning.space import Space

ATTEMPTS = 32
"""Suggestions asked for before a uniform draw from what is left takes their place."""


def propose(
    space: Space, trials: Sequence[Trial], seed: int, random_trials: int
) -> dict[str, Choice]:
    """Return the configuration that follows the trials; at least one must be left.

    random_trials: this many come before results are looked at.
    """
    if not trials:
        return dict(space.first)
    if len(trials) >= random_trials:
        guided = _guided(space, trials, seed)
        if guided is not None:
            return guided
    return space.at(_untried(space, trials, seed))


def _untried(space: Space, trials: Sequence[Trial], seed: int) -> int:
    """Return the index of a configuration drawn uniformly from those not tried."""
    tried = sorted(space.index(trial.configuration) for trial in trials)
    # Python's generator, because the number of configurations may exceed 64 bits.
    draw = random.Random(derive(seed, "tune", "draw", len(trials)))
    index = draw.randrange(space.size - len(tried))
    for taken in tried:
        index += taken <= index
    return index


def _guided(space: Space, trials: Sequence[Trial], seed: int) -> dict[str, Choice] | None:
    """Return what the sampler suggests after these trials; None when it repeats itself."""
    library = optuna()
    tried = {space.index(trial.configuration) for trial in trials}
    study = library.create_study(direction="maximize")
    study.add_trials([frozen(trial, space) for trial in trials])
    for attempt in range(ATTEMPTS):
        number = derive(seed, "tune", "suggest", len(trials), attempt) % 2**32
        with warnings.catch_warnings():  # `multivariate` is called experimental in Optuna 4
            warnings.simplefilter("ignore", library.exceptions.ExperimentalWarning)
            study.sampler = library.samplers.TPESampler(
                seed=number, multivariate=True, n_startup_trials=1, n_ei_candidates=24
            )
        asked = study.ask(distributions(space))
        if space.index(asked.params) not in tried:
            return {key: asked.params[key] for key in space.choices}
        study.tell(asked, state=library.trial.TrialState.FAIL)
    return None
