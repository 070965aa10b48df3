"""`spectran tune`: the same number of trials for every method, judged on validation users."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.command import command
from stages.run import Run, pick_device

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.tuning.journal import Trial
    from pipeline.tuning.search import Planned, Search
    from pipeline.tuning.space import Configuration


@command(
    "spectran tune demo minilm sasrec spectran",
    "spectran tune demo minilm sasrec spectran --dry-run",
    "spectran tune demo minilm sasrec spectran --write",
    "spectran tune demo none sasrec id --trials 3 --out scratch/quick",
    writes=True,
    compute=True,
    resumes=True,
    memory="Set a smaller train.batch_size or train.width.",
)
def tune(
    run: Run,
    dataset: Annotated[str, typer.Argument(help="A block of `datasets`.")],
    encoder: Annotated[str, typer.Argument(help="A block of `encoders`; none without text.")],
    backbone: Annotated[str, typer.Argument(help="A block of `backbones`.")],
    method: Annotated[str, typer.Argument(help="A block of `methods`.")],
    trials: Annotated[
        int | None, typer.Option(min=1, help="Instead of tune.trials; needs --out.")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write the method's best choice into its block.")
    ] = False,
) -> None:
    """Search for settings of METHOD: `tune` of params.yaml says what may be tried, and how often.

    Keys of the method, of `train`, and of the backbone, whose block --write never changes.
    Every method gets the same number of trials, no configuration comes twice, and the present one
    is the first. Trials are judged by what early stopping watches; test users are not ranked.
    Finished trials and the state of the one under way survive a kill: run the same command again.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # repeatable sums on CUDA
    from pipeline import artifacts
    from pipeline.cells import Cell
    from pipeline.params import save_every_s
    from pipeline.training.fit import deterministic
    from pipeline.tuning.search import Search

    _check(run, trials, write)
    device = pick_device(run.device)
    cell = Cell(dataset, encoder, backbone, method)
    search = Search.prepare(
        run.params,
        run.root,
        run.revisions["train"],
        cell,
        cache=run.cache,
        device=device,
        threads=run.threads,
        save_every_s=save_every_s(),
        force=run.force,
    )
    if search.moved:
        run.say("tune: this search began from other values; it goes on. --force starts it anew")
    plan = search.plan()
    memory = search.present.memory_bytes()
    if run.plan(
        reads=search.present.reads,
        writes=[artifacts.TUNED.path(run.target, **cell.fields)],
        memory_bytes=memory,
        disk_bytes=search.present.disk_bytes(),
        device=device,
        device_bytes=memory,
        more={
            "space": {key: list(values) for key, values in search.space.choices.items()},
            "configurations": search.space.size,
            "trials": [_row(trial) for trial in plan],
        },
        text=_planned(search, plan),
    ):
        return
    deterministic(device, search.threads)
    run.log_to(dataset, encoder, backbone, method)
    done = search.run(run.log, run.progress)
    _finish(run, search, done, search.save(run.target, done), write)


def _check(run: Run, trials: int | None, write: bool) -> None:
    """Take --trials as a change of the parameters. Raises ConfigError for options that clash."""
    from pipeline.errors import ConfigError

    if trials is not None and run.out is None:
        raise ConfigError(
            "--trials without --out: every method is tuned with the same number of trials. "
            "Add --out scratch/NAME, or edit tune.trials in params.yaml."
        )
    if write and run.out is not None:
        raise ConfigError(
            "--write with --out: what was tried under other parameters must not be written into "
            "params.yaml. Leave one of them out."
        )
    if trials is not None:
        run.changes = {**run.changes, "tune.trials": trials}


def _finish(run: Run, search: Search, trials: list[Trial], path: Path, write: bool) -> None:
    """Show the trials and the best choice; write it when asked to."""
    from pipeline.errors import ConfigError
    from pipeline.tuning.search import best
    from pipeline.tuning.space import parted
    from pipeline.tuning.unwritten import unwritten
    from pipeline.tuning.write import block

    cell, chosen = search.cell, best(trials)
    of_method, of_backbone = parted(chosen.configuration)
    left = unwritten(run.params, cell.backbone, chosen.configuration)
    if left and write:
        raise ConfigError(left)
    changed, merging = _write(run, cell.method, of_method) if write else (False, [])
    following = cell.command if write else f"{_command(search)} --write"
    beside = "".join(f"{cell.backbone} with {k} {_word(v)}, " for k, v in of_backbone.items())
    text = [
        _table(search, trials),
        "",
        f"best: trial {chosen.number} of {len(trials)}, {beside}as a block of `methods`:",
        block(run.params.methods[cell.method], cell.method, of_method),
    ]
    written = [str(path), str(run.params_path)] if changed else [str(path)]
    content = {
        "objective": search.objective,
        "trials": [_row(trial) for trial in trials],
        "best": _row(chosen),
        "written": written,
        "changed_by_merge": merging,
        "next": None if run.out or left else following,
    }
    run.show(content, "\n".join(text))
    if merging:
        run.warn(f"{', '.join(merging)} merge the block of {cell.method} and changed with it.")
    end = left or f"Next: {following}"
    end = "A trial: tracked results stay as they were." if run.out else end
    same = f"; {run.params_path} holds the choice already" if write and not changed else ""
    run.say(f"wrote {' and '.join(written)}{same}. {end}")


def _write(run: Run, method: str, configuration: Configuration) -> tuple[bool, list[str]]:
    """Write the method's choice into params.yaml.

    Return whether that changed the file, and the other methods that change with it.
    """
    from pipeline.files import TEMPORARY, write_atomic
    from pipeline.tuning.write import write

    text = run.params_path.read_bytes().decode("utf-8")
    changed, merging = write(text, method, configuration)
    if changed == text:
        return False, []
    write_atomic(run.params_path, changed.encode("utf-8"), run.root / TEMPORARY)
    return True, merging


def _command(search: Search) -> str:
    return "spectran tune " + " ".join(search.cell.fields.values())


def _row(trial: Trial | Planned) -> dict[str, Any]:
    """Return a trial for --json; one to come has no value, and no parameters before results."""
    from dataclasses import asdict

    return asdict(trial)


def _planned(search: Search, plan: Sequence[Trial | Planned]) -> str:
    """Return the space and the trials that --dry-run shows."""
    names = search.space.choices
    width = max(len(name) for name in names)
    lines = [f"space: {search.space.size} configurations"]
    lines += [f"  {k:<{width}}  {', '.join(map(_word, v))}" for k, v in names.items()]
    lines += [f"trials: {len(plan)}, judged by {search.objective}", _table(search, plan)]
    return "\n".join(lines)


def _table(search: Search, trials: Sequence[Trial | Planned]) -> str:
    """Return the trials as a table; the best one is marked."""
    from pipeline.tuning.journal import Trial
    from pipeline.tuning.search import best

    done = [trial for trial in trials if isinstance(trial, Trial)]
    marked = best(done).number if any(trial.value is not None for trial in done) else None
    names = list(search.space.choices)
    rows = [["trial", search.objective, "best epoch", "seconds", *names]]
    for trial in trials:
        if isinstance(trial, Trial):
            value = "diverged" if trial.value is None else f"{trial.value:.4f}"
            numbers = [value, str(trial.best_epoch), f"{trial.seconds:.1f}"]
        else:
            numbers = ["-", "-", "-"]
        held = trial.configuration
        words = [_word(held[n]) for n in names] if held else ["from results"] + ["-"] * len(names)
        mark = " *" if trial.number == marked else ""
        rows.append([f"{trial.number}{mark}", *numbers, *words[: len(names)]])
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for row in rows:
        words = [word.rjust(width) for word, width in zip(row, widths, strict=True)]
        words[0] = row[0].ljust(widths[0])
        lines.append("  ".join(words))
    return "\n".join(lines)


def _word(value: Any) -> str:
    """Return a value as params.yaml has it."""
    from pipeline.params import scalar

    return scalar(value)
