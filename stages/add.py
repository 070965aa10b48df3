"""`spectran add`: propose a params block for the user's own tables."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.command import command, consent
from stages.run import Run

if TYPE_CHECKING:
    from pipeline.config import Preprocess
    from pipeline.data.raw import RawTables

NONE = "none"

STEPS = {
    "core": 5,
    "min_rating": None,
    "require_title": True,
    "repeats": "keep",
    "keep_last": None,
    "ties": "source",
    "ties_seed": 0,
    "split": {"kind": "user_time", "train": 0.8, "valid": 0.1},
    "short_users": "drop",
}
"""Proposed where params.yaml has no anchored `preprocess` to share."""


NEEDED = ("user", "item", "item_id", "title")
"""Roles whose column must be there; for the others, `none` says that there is none."""


def _column(what: str, needed: bool = False) -> Any:
    absent = "" if needed else f"; `{NONE}` when there is none"
    return typer.Option(help=f"Column of {what}{absent}.", show_default="guessed")


@command(
    "spectran add clicks.csv products.csv --name shop",
    "spectran add log.parquet items.jsonl --name shop --user customer --time when --time-unit ms",
    "spectran add log.csv items.csv --name shop --only --yes",
)
def add(
    run: Run,
    interactions: Annotated[
        Path, typer.Argument(help="CSV, JSON lines or Parquet: one event a row.")
    ],
    items: Annotated[Path, typer.Argument(help="CSV, JSON lines or Parquet: one item a row.")],
    name: Annotated[str, typer.Option(help="Name of the data set: a letter, then a-z, 0-9, _.")],
    user: Annotated[str | None, _column("user ids", needed=True)] = None,
    item: Annotated[str | None, _column("item ids in the log", needed=True)] = None,
    time: Annotated[str | None, _column("times")] = None,
    time_unit: Annotated[
        str | None, typer.Option(help="s, ms, us, ns; `none` for dates.", show_default="guessed")
    ] = None,
    position: Annotated[str | None, _column("places in the history")] = None,
    rating: Annotated[str | None, _column("ratings")] = None,
    item_id: Annotated[str | None, _column("ids in the item table", needed=True)] = None,
    title: Annotated[str | None, _column("titles", needed=True)] = None,
    brand: Annotated[str | None, _column("brands")] = None,
    categories: Annotated[str | None, _column("categories")] = None,
    description: Annotated[str | None, _column("descriptions")] = None,
    core: Annotated[
        int | None,
        typer.Option(min=1, help="Least events per user and item.", show_default="guessed"),
    ] = None,
    max_rejected_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of rows that may be unreadable.")
    ] = 0.01,
    only: Annotated[
        bool, typer.Option("--only", help="Put the grid on this data set alone.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Write without asking.")] = False,
) -> None:
    """Propose the params block of your own tables, show what they become, and write it.

    Columns are guessed by name and content; every guess has an option. The tables go through the
    steps of preprocess, so what it would refuse is refused here.
    """
    from pipeline.adding import propose, register
    from pipeline.adding.preview import preview
    from pipeline.config import Source
    from pipeline.data.prepare import intern, prepare
    from pipeline.data.rejects import settle
    from pipeline.data.sources import table
    from pipeline.errors import ConfigError
    from pipeline.strict import build

    text = _check(run, name, interactions, items)
    words = {"user": user, "item": item, "time": time, "position": position, "rating": rating}
    words |= {"item_id": item_id, "title": title, "brand": brand}
    words |= {"categories": categories, "description": description}
    given = {
        role: column if role in NEEDED else _nothing(column)
        for role, column in words.items()
        if column is not None
    }
    log, catalogue = propose.sample(interactions), propose.sample(items)
    try:
        columns = propose.guess(log, catalogue, given)
    except ConfigError as error:
        if not given and propose.swapped(log, catalogue):
            hint = f" Swapped? The interactions come first: {items} {interactions}"
            raise ConfigError(f"{error}{hint}") from error
        raise
    unit = _nothing(time_unit)
    if time_unit is None and columns.time is not None:
        unit = propose.unit_of(log[columns.time])
    files = {
        "interactions": register.relative(interactions, run.base),
        "items": register.relative(items, run.base),
    }
    source = build(
        Source,
        {
            "format": "table",
            "origin": {"kind": "local", "files": files},
            "columns": columns.model_dump(),
            "time_unit": unit,
            "max_rejected_share": max_rejected_share,
        },
        "add",
    )
    raw = table.read({"interactions": interactions, "items": items}, source)
    settle(raw, source.max_rejected_share, name, run.cache)
    shared = register.shared_preprocess(text)
    preprocess, reasons = _preprocess(raw, core, None if shared is None else shared[1])
    interned = intern([raw.interactions], preprocess.min_rating is not None)
    made = prepare(interned, raw.items, preprocess, name)
    added = register.block(name, source, preprocess, shared)
    changed = register.insert(text, name, added, only)
    _still_valid(run, changed, name)
    grid = "alone" if only else "too"
    shown = [*preview(raw, made, preprocess), *reasons]
    proposed = "\n".join([*shown, f"block for params.yaml (grid.dataset {grid}):", added])
    if yes or not sys.stdin.isatty():
        run.say(proposed)
        if not yes:
            raise ConfigError("nothing was written: there is no terminal to ask in. Add --yes.")
    elif not consent(proposed, f"Write this to {run.params_path}?"):
        run.say("nothing was written")
        return
    _write(run, changed)
    following = f"spectran download {name}"
    run.show(
        {"dataset": name, "written": str(run.params_path), "next": following},
        f"wrote {run.params_path}. Next: {following}   (or everything: dvc repro)",
    )


def _nothing(word: str | None) -> str | None:
    return None if word == NONE else word


def _check(run: Run, name: str, *paths: Path) -> str:
    """Return the text of params.yaml after checking the name and the paths."""
    from pipeline.errors import ConfigError
    from pipeline.params import new_name_problem

    if problem := new_name_problem(name):
        raise ConfigError(f"--name {name}: {problem}. Take another, such as shop.")
    if name in run.params.datasets:
        raise ConfigError(
            f"--name {name}: params.yaml has a data set of that name. Take another, or edit "
            f"datasets.{name} by hand."
        )
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"{path}: no such file. Name the interactions, then the items.")
    return run.params_path.read_bytes().decode("utf-8")  # read_text would change line ends


def _preprocess(
    raw: RawTables, core: int | None, shared: Mapping[str, Any] | None
) -> tuple[Preprocess, list[str]]:
    """Return the proposed steps and the reasons for what is not obvious."""
    from pipeline.adding.propose import core_for
    from pipeline.config import Preprocess
    from pipeline.strict import build

    values = dict(shared) if shared is not None else dict(STEPS)
    why = []
    if core is None:
        core, reason = core_for(raw)
        why.append(reason)
    values["core"] = core
    if values["keep_last"] is not None:
        # The shared value was chosen for another log; here it may take most of every history.
        cut = values["keep_last"]
        values["keep_last"] = None
        why.append(f"keep_last null: no history is cut (the shared block keeps the last {cut})")
    untimed = raw.interactions["time"].null_count()
    if untimed:
        values["split"] = {"kind": "leave_one_out", "train": 1.0, "valid": 0.0}
        why.append(
            f"split leave_one_out: {untimed} of {len(raw.interactions)} events have no time, and "
            f"the other splits compare times between users"
        )
    if values["min_rating"] is not None and not raw.interactions["rating"].count():
        values["min_rating"] = None
        why.append("min_rating null: no event has a rating")
    return build(Preprocess, values, "add"), why


def _still_valid(run: Run, changed: str, name: str) -> None:
    """Refuse to write a params.yaml that does not load, or whose other values would change."""
    from pipeline.files import atomic
    from pipeline.params import load

    target = run.cache / "add" / name / run.params_path.name  # messages begin with the file's name
    with atomic(target, run.cache / "add") as draft:
        draft.write_bytes(changed.encode("utf-8"))
    try:
        after = load(target)
    finally:
        target.unlink()
        target.parent.rmdir()
    before = run.params
    others = {key: block for key, block in after.datasets.items() if key != name}
    assert others == before.datasets and after.train == before.train


def _write(run: Run, changed: str) -> None:
    from pipeline.files import write_atomic

    write_atomic(run.params_path, changed.encode(), run.cache / "add")
