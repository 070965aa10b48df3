"""`spectran cache ls`, `verify`, `prune`: the cached rows of encoded texts, alone or in a team."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.command import USER_MISTAKE, DryOption, command
from stages.run import Run, size

if TYPE_CHECKING:
    from pipeline.encoders.upkeep import Freed, Stored, Strange

DAY_S = 86_400


@command("spectran cache ls", "spectran cache ls --json", name="cache ls")
def ls(run: Run) -> None:
    """List the cached rows of every model and its settings, and the encoder blocks they serve.

    The cache is .cache/ beside params.yaml, or the folder that SPECTRAN_CACHE names.
    """
    found, strange = listed(run)
    served, untold = blocks(run) if found else ({}, {})
    rows = [_row(one, served, untold) for one in found]
    content = {
        "folder": str(run.cache),
        "rows": rows,
        "untold": untold,
        "strange": _strange(strange),
    }
    lines = [_line(row) for row in rows]
    lines += _untold(untold, run.params.grid.encoder) if untold else []
    total = size(sum(row["bytes"] for row in rows))
    run.show(content, "\n".join([*lines, f"{run.cache}: {len(rows)} models, {total}"]))


@command("spectran cache verify", "spectran cache verify --json", name="cache verify")
def verify(run: Run) -> None:
    """Read every cached row and compare it with its checksum. Exit code 2 when one is damaged.

    Damage costs work, never a wrong result: such rows count as absent and are encoded again.
    """
    from pipeline.encoders.upkeep import problems

    found, strange = listed(run)
    untold = [f"{one.folder}: its rows cannot be told" for one in strange if one.damaged]
    said: list[str] = []
    count = sum(_count(one) for one in found)
    with run.progress("verify", count, "rows") as advance:
        for one in found:
            said += problems(one, advance)
    wrong = [*untold, *said]
    content = {"folder": str(run.cache), "rows": count, "problems": wrong}
    lines = [*wrong, f"{run.cache}: {count:,} rows, {len(wrong)} problems"]
    if said:  # prune leaves rows alone that cannot be told; the warning says what to do with them
        lines.append(
            "Run: spectran cache prune --damaged   (what it takes away is encoded again when it "
            "is needed)"
        )
    run.show({**content, "strange": _strange(strange)}, "\n".join(lines))
    if wrong:
        raise typer.Exit(USER_MISTAKE)


@command(
    "spectran cache prune --damaged",
    "spectran cache prune --older-than 90 --dry-run",
    "spectran cache prune --unused",
    name="cache prune",
)
def prune(
    run: Run,
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Rows that are damaged, torn, or there twice.")
    ] = False,
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than", min=0, help="Models not used for so many days.", metavar="DAYS"
        ),
    ] = None,
    unused: Annotated[
        bool, typer.Option("--unused", help="Models that no block of `encoders` means.")
    ] = False,
    dry_run: DryOption = False,
) -> None:
    """Free the space of cached rows that are damaged, old, or no longer in params.yaml.

    Rows that a running process is writing stay. What is needed again is encoded again.
    """
    from pipeline.encoders.upkeep import Freed, mend, remove
    from pipeline.errors import ConfigError

    if not (damaged or unused or older_than is not None):
        raise ConfigError(
            "cache prune: say what to take away: --damaged (rows), --older-than DAYS (models not "
            "used since) or --unused (models outside params.yaml); --dry-run shows it."
        )
    found, strange = listed(run)
    reasons = {one.folder: _old(one, older_than) for one in found}
    if unused and found:
        meant = _meant(run)
        unmeant = "no block of `encoders` means it"
        reasons |= {one.folder: unmeant for one in found if not meant(one)}
    done: list[dict[str, Any]] = []
    total = Freed()
    for one in found:
        reason = reasons[one.folder]
        if not reason and not damaged:
            continue
        freed = (remove if reason else mend)(one, dry_run=dry_run)
        total += freed
        reason = reason or "damaged, torn or there twice"
        done.append(_done(one, freed, reason))
        if freed.size_bytes or freed.busy:
            run.say(_said(one, freed, reason))
    verb = "would free" if dry_run else "freed"
    text = f"{verb} {size(total.size_bytes)}, {total.rows:,} rows"
    content = {"freed": done, "bytes": total.size_bytes, "rows": total.rows, "busy": total.busy}
    run.show({**content, "strange": _strange(strange), "dry_run": dry_run}, text)


# ---------------------------------------------------------------- what lies there, and for whom


def listed(run: Run) -> tuple[list[Stored], list[Strange]]:
    """Return the readable folders of the cache, and those that are not; warn of the latter."""
    from pipeline.encoders.upkeep import Strange, stored

    every = list(stored(run.cache))
    strange = [one for one in every if isinstance(one, Strange)]
    for one in strange:
        run.warn(f"{one.reason} It is left as it is.")
    return [one for one in every if not isinstance(one, Strange)], strange


def blocks(run: Run) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the encoder blocks by the key of their rows, and why others cannot be told.

    No model is loaded and nothing is asked of the network.
    """
    from pipeline.encoders import open_encoder
    from pipeline.encoders.rows import RowCache
    from pipeline.errors import SpectranError

    served: dict[str, list[str]] = {}
    untold: dict[str, str] = {}
    known: dict[str, str] = {}
    with _offline():
        for name, spec in run.params.encoders.items():
            if spec.engine == "vectors":
                continue  # its rows are not cached
            # Controls share the model of another block, whose files are hashed only once.
            same = json.dumps(spec.model_dump(mode="json", exclude={"transform", "template"}))
            try:
                if same not in known:
                    engine = open_encoder(spec, run.base, "cpu")
                    meaning = {**engine.identity(), "revision": run.revisions["encode"]}
                    known[same] = RowCache(run.cache, meaning, engine.width).folder.name
            except SpectranError as error:
                untold[name] = str(error)
            else:
                served.setdefault(known[same], []).append(name)
    return served, untold


def _meant(run: Run) -> Callable[[Stored], bool]:
    """Return whether a block of `encoders` means, or may mean, stored rows.

    A hub model that is not on this disk keeps all rows of its name, whatever their commit.
    Raises ConfigError when a block cannot be told at all.
    """
    from pipeline.encoders.hub import on_hub
    from pipeline.errors import ConfigError

    served, untold = blocks(run)
    names = {
        name: str(run.params.encoders[name].model)  # type: ignore[union-attr]
        for name in untold
        if on_hub(getattr(run.params.encoders[name], "model", "."), run.base)
    }
    reasons = "\n".join(f"encoders.{n}: {why}" for n, why in untold.items() if n not in names)
    if reasons:
        raise ConfigError(
            f"cache prune --unused: the rows of some encoder blocks cannot be told, so "
            f"none can be called unused. Mend or remove these blocks, or use --older-than.\n"
            f"{reasons}"
        )

    def meant(one: Stored) -> bool:
        model = one.meaning.get("model")
        name = model.get("name") if isinstance(model, dict) else None
        return one.folder.name in served or name in names.values()

    return meant


def _offline() -> Any:
    """Keep the hub out, where its library is installed."""
    from importlib.util import find_spec

    if find_spec("huggingface_hub") is None:
        return nullcontext()
    from pipeline.encoders.hub import hub_off

    return hub_off()


def _old(one: Stored, days: float | None) -> str:
    if days is None or one.used > time.time() - days * DAY_S:
        return ""
    return f"last used {_day(one.used)}"


# ---------------------------------------------------------------- words


def _row(one: Stored, served: dict[str, list[str]], untold: dict[str, str]) -> dict[str, Any]:
    known = served.get(one.folder.name, [])
    return {
        "key": one.folder.name,
        "engine": one.meaning.get("engine"),
        "model": one.meaning.get("model"),
        "width": one.width,
        "rows": _count(one),
        "bytes": one.size_bytes,
        "used": datetime.fromtimestamp(one.used, UTC).isoformat(timespec="seconds"),
        "blocks": known if known or not untold else None,
    }


def _line(row: dict[str, Any]) -> str:
    names = row["blocks"]
    serves = "not told" if names is None else ", ".join(names) or "no block"
    return (
        f"{row['key'][:12]}  {row['engine']} {_model(row['model'])}, width {row['width']}, "
        f"{row['rows']:,} rows, {size(row['bytes'])}, last used {row['used'][:10]}, for: {serves}"
    )


def _untold(untold: dict[str, str], used: list[str]) -> list[str]:
    """Say why the rows of used encoder blocks cannot be told, and count the other blocks."""
    lines = [
        f"encoders.{name}: its rows cannot be told: {why}"
        for name, why in untold.items()
        if name in used
    ]
    if idle := len(untold) - len(lines):
        lines.append(
            f"{idle} encoders outside grid.encoder: their rows cannot be told. "
            f"To list them: spectran cache ls --json   (untold)"
        )
    return lines


def _model(model: Any) -> str:
    """Return what names a model: its hub name, or the start of its checksum."""
    if not isinstance(model, dict):
        return str(model or "-")
    return " ".join(v[:12] if len(v) > 40 else v for v in map(str, model.values()) if v != "None")


def _done(one: Stored, freed: Freed, reason: str) -> dict[str, Any]:
    counts = {"bytes": freed.size_bytes, "rows": freed.rows, "busy": freed.busy}
    return {"key": one.folder.name, "reason": reason, **counts}


def _said(one: Stored, freed: Freed, reason: str) -> str:
    model = f"{one.meaning.get('engine')} {_model(one.meaning.get('model'))}"
    amount = f"{size(freed.size_bytes)}, {freed.rows:,} rows"
    busy = f"; {freed.busy} shards are being written and stay" if freed.busy else ""
    return f"{one.folder.name[:12]}  {model}: {amount}, {reason}{busy}"


def _count(one: Stored) -> int:
    with closing(one.cache):
        return len(one.cache)


def _strange(strange: list[Strange]) -> list[dict[str, Any]]:
    return [{"folder": str(one.folder), "reason": one.reason} for one in strange]


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
