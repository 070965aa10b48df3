"""The `spectran` program. Commands are the functions that stage modules register."""

from __future__ import annotations

import _thread
import importlib
import inspect
import os
import pkgutil
import sys
import threading

import typer

import stages
from stages.command import COMMANDS

HELP = """From interaction logs and item text to text-enhanced next-item recommenders.

Stages, in order: download, preprocess, encode, spectrum, train, evaluate, collapse, report.
`dvc repro` runs them all; every stage also runs alone, by the command that stands in dvc.yaml.

\b
Examples:
  spectran ls
  spectran train demo minilm sasrec spectran
  spectran report
"""

GROUPS = {"cache": "Cached rows: cache ls, cache verify, cache prune."}
"""First word of commands with two words -> what they are about."""

SHORT = {
    "add": "Propose the params block of your own tables, and write it.",
    "cache ls": "List the cached rows of every model, and what they serve.",
    "cache prune": "Free the space of damaged, old or unused rows.",
    "check": "Check that params.yaml, dvc.yaml and the code agree.",
    "collapse": "Measure item vectors before and after training.",
    "diff": "Test one cell against another, user by user.",
    "download": "Fetch or generate the raw files of a data set.",
    "evaluate": "Compute metrics and paired tests from the ranks.",
    "ls": "List what there is: data, encoders, methods, finished seeds.",
    "preprocess": "Filter the log, number the items, split the histories.",
    "report": "Write the page and tables of all results, or a result card.",
    "spectrum": "Decompose embeddings into spectral components.",
    "train": "Train every seed of one cell and rank the whole catalogue.",
    "tune": "Search for settings of a method on validation users.",
    "verify": "Check that every artifact is whole and of the same items.",
}
"""What the list of commands says of one whose first sentence is too long for a line of it."""

ORDER = ("download", "preprocess", "encode", "spectrum", "train", "evaluate", "collapse", "report")


def build() -> typer.Typer:
    """Return the app with every command found in `stages/`."""
    app = typer.Typer(
        name="spectran",
        help=HELP,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    for module in pkgutil.iter_modules(stages.__path__):
        if module.name != "cli":
            importlib.import_module(f"stages.{module.name}")
    groups: dict[str, typer.Typer] = {}
    known = {name: place for place, name in enumerate(ORDER)}
    for name in sorted(COMMANDS, key=lambda n: (known.get(n, len(ORDER)), n)):
        entry = COMMANDS[name]
        examples = "\n".join(f"  {line}" for line in entry.examples)
        text = f"{inspect.getdoc(entry.function)}\n\n\b\nExamples:\n{examples}\n"
        group, _, last = name.rpartition(" ")
        if group and group not in groups:
            groups[group] = typer.Typer(help=GROUPS[group], no_args_is_help=True)
            app.add_typer(groups[group], name=group)
        groups.get(group, app).command(name=last, help=text, short_help=SHORT.get(name))(
            entry.callback
        )
    app.callback()(_program)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"spectran {version('spectran')}")
        raise typer.Exit


def _program(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


_program.__doc__ = HELP


def interrupt_again(lost: sys.UnraisableHookArgs) -> None:
    """Repeat a Ctrl-C that compiled code caught and could not raise: polars loses some."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        # Not at once: raised in here it would be lost again.
        threading.Timer(0.01, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(lost)


def main() -> None:
    """Run the program; exit codes: 0, 1 a bug, 2 a user's mistake, 130 Ctrl-C."""
    sys.unraisablehook = interrupt_again
    # Progress and logs stay readable in pipes; numerical libraries must not phone home.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        build()()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
