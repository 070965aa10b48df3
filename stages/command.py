"""Turning a function into a command: options, help, exit codes.

A command is a function `f(run, ...)` under `@command`; the decorator adds the common options to
its signature and turns a user's mistake into a message and exit code 2.
"""

from __future__ import annotations

import errno
import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from stages.run import Run, printable, size

USER_MISTAKE = 2
INTERRUPTED = 130

CURES = {
    errno.ENOSPC: "Free some space and run the same command again.",
    errno.EDQUOT: "Free some space and run the same command again.",
    errno.EACCES: "Change its permissions, or write elsewhere with --out.",
    errno.EROFS: "Write elsewhere with --out.",
    errno.EISDIR: "A file is expected there: name another place.",
    errno.ENOTDIR: "A folder is expected there: name another place.",
    errno.ENAMETOOLONG: "Use a shorter name.",
}
"""What to do when the system refuses a file for a reason outside the program."""

MORE_MEMORY = "Free some memory, or use a machine with more."


def parse_changes(pairs: Sequence[str], out: Path | None) -> dict[str, Any]:
    """Turn `--set a.b=1` into {"a.b": 1}. Raises ConfigError for `--set` without `--out`."""
    import yaml

    from pipeline.errors import ConfigError

    changes = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {pair}: expected KEY=VALUE, e.g. --set train.width=64.")
        try:
            changes[key] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError):  # ValueError: a date with a month 13
            raise ConfigError(f"--set {pair}: the value is not valid YAML.") from None
    if changes and out is None:
        raise ConfigError(
            "--set without --out: tracked outputs are made from params.yaml only. "
            "Add --out scratch/NAME, or edit params.yaml."
        )
    return changes


ParamsOption = Annotated[Path, typer.Option("--params", help="Parameter file.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Write below this folder instead of artifacts/.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Lay this over the parameters; may be repeated; needs --out.",
        metavar="KEY=VALUE",
    ),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Begin anew: forget what was kept of this work.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda:N.")]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, max=1024, help="CPU threads.")
]

_COMMON: dict[str, tuple[Any, Any]] = {
    "params": (ParamsOption, Path("params.yaml")),
    "json": (JsonOption, False),
    "quiet": (QuietOption, False),
}
_WRITES: dict[str, tuple[Any, Any]] = {
    "out": (OutOption, None),
    "set": (SetOption, None),
    "dry_run": (DryOption, False),
}
_RESUMES: dict[str, tuple[Any, Any]] = {"force": (ForceOption, False)}
_COMPUTE: dict[str, tuple[Any, Any]] = {
    "device": (DeviceOption, "auto"),
    "threads": (ThreadsOption, None),
}


@dataclass(frozen=True)
class Command:
    """A function of the command line: its Typer callback and its examples."""

    function: Callable[..., None]
    callback: Callable[..., None]
    name: str
    examples: tuple[str, ...]


COMMANDS: dict[str, Command] = {}
"""Filled by the decorator as stage modules are imported."""


def command(
    *examples: str,
    stage: bool = False,
    writes: bool = False,
    compute: bool = False,
    resumes: bool = False,
    memory: str = MORE_MEMORY,
    name: str | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command and return the plain function, so that tests call it with a Run.

    stage: it is a stage of dvc.yaml, and writes.
    writes: it writes artifacts (adds --out, --set, --dry-run).
    compute: it does long arithmetic (adds --device, --threads).
    resumes: the same command goes on where it was stopped (adds --force, which begins anew).
    memory: what to do when there was too little.
    """
    options = dict(_COMMON) | (_WRITES if stage or writes else {}) | (_COMPUTE if compute else {})
    options |= _RESUMES if resumes else {}

    def register(function: Callable[..., None]) -> Callable[..., None]:
        title = name or function.__name__.rstrip("_").replace("_", "-")
        own = [p for p in inspect.signature(function).parameters.values() if p.name != "run"]

        @functools.wraps(function)
        def callback(**values: Any) -> None:
            given = {key: values.pop(key) for key in options}
            with guarded(resumes=resumes and not given.get("force", False), memory=memory):
                out = given.get("out")
                run = Run(
                    name=title,
                    params_path=given["params"],
                    out=out,
                    changes=parse_changes(given.get("set") or (), out),
                    force=given.get("force", False),
                    json=given["json"],
                    quiet=given["quiet"],
                    dry_run=given.get("dry_run", False),
                    device=given.get("device", "auto"),
                    threads=given.get("threads"),
                )
                function(run, **values)

        extra = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for key, (kind, default) in options.items()
        ]
        own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        hints = inspect.get_annotations(function, eval_str=True)
        own = [p.replace(annotation=hints[p.name]) for p in own]
        callback.__signature__ = inspect.Signature([*own, *extra])  # type: ignore[attr-defined]
        callback.__annotations__ = {p.name: p.annotation for p in [*own, *extra]}
        del callback.__wrapped__
        COMMANDS[title] = Command(function, callback, title, examples)
        return function

    return register


def consent(about: str, question: str) -> bool:
    """Ask on stderr, below what the question is about: that is shown whatever the options."""
    print(printable(about), file=sys.stderr, flush=True)
    return typer.confirm(question, err=True)


@contextmanager
def guarded(*, resumes: bool, memory: str) -> Iterator[None]:
    """Turn a user's mistake or too little memory into a message and exit 2, Ctrl-C into exit 130.

    resumes: the same command goes on where it was stopped. memory: what to do about memory.
    """
    from pipeline.errors import SpectranError

    try:
        yield
    except SpectranError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr, flush=True)
        raise typer.Exit(USER_MISTAKE) from None
    except KeyboardInterrupt:
        then = ". Run the same command again to go on." if resumes else ""
        print(f"interrupted: nothing unfinished was kept under a final name{then}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        # The reader (head, less) has gone; point stdout elsewhere so that exit does not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except OSError as error:
        if error.errno == errno.ENOMEM:
            _tell_lack("this machine has too little memory.", memory)
        if error.errno not in CURES:
            raise
        where = f"{error.filename}: " if error.filename else ""
        said = f"{where}{error.strerror}. {CURES[error.errno]}"
        print(f"error: {printable(said)}", file=sys.stderr, flush=True)
        raise typer.Exit(USER_MISTAKE) from None
    except (MemoryError, RuntimeError) as error:
        lack = _too_little(error)
        if lack is None:
            raise
        _tell_lack(lack, memory)


def _tell_lack(lack: str, memory: str) -> NoReturn:
    print(f"error: {lack} {memory}", file=sys.stderr, flush=True)
    raise typer.Exit(USER_MISTAKE) from None


def _too_little(error: MemoryError | RuntimeError) -> str | None:
    """Return what lacks memory, if that is what an error of Python, NumPy or torch says."""
    text = str(error)
    says = re.search(r"out of memory|allocate memory|_ALLOC_FAILED", text)
    if not (says or isinstance(error, MemoryError)):
        return None
    place = "the GPU" if re.search("CUDA|CUBLAS|CUDNN", text) else "this machine"
    asked = re.search(r"allocate (\d[\d.]*) (\w+)", text)
    if not asked:
        return f"{place} has too little memory."
    amount = size(int(asked[1])) if asked[2] == "bytes" else f"{asked[1].rstrip('.')} {asked[2]}"
    return f"{place} has too little memory: {amount} more were asked for."
