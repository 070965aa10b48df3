"""What the README tells people to type exists, and what it names is there."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from pipeline import naming
from pipeline.params import load
from stages.cli import ORDER, build
from stages.command import COMMANDS as REGISTERED

APP = typer.main.get_command(build())
README = Path("README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\w*\n(.*?)^```", README, flags=re.S | re.M)
LINES = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
PROSE = re.sub(r"^```\w*\n.*?^```", "", README, flags=re.S | re.M)
SPANS = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", PROSE)]
SHORT = [f"spectran {s}" for s in SPANS if s.split()[0] in REGISTERED and " -" in s]
COMMANDS = sorted({line for line in LINES + SPANS + SHORT if line.startswith("spectran ")})
OPTIONS = sorted({word for span in SPANS for word in span.split()[:1] if word.startswith("-")})
"""What the text calls by the option alone."""
TARGETS = sorted({line.split()[1] for line in LINES + SPANS if line.startswith("make ")})


def test_the_readme_shows_commands() -> None:
    assert {"demo", "test"} <= set(TARGETS)
    assert len(COMMANDS) > 4


def test_the_flow_is_shown_whole_and_in_order() -> None:
    (flow,) = [block for block in BLOCKS if "spectran evaluate" in block]
    assert [line.split()[1] for line in flow.splitlines()] == list(ORDER)


def lacking(line: str) -> list[str]:
    """Return what a line names that `spectran` does not have: the command, or its options."""
    words = shlex.split(line)[1:]
    named = " ".join(words[:2]) if " ".join(words[:2]) in REGISTERED else words[0]
    if named not in REGISTERED:
        return [named]
    given = [word.partition("=")[0] for word in words if word.startswith("-")]
    return [option for option in given if option not in options(named)]


def options(name: str) -> set[str]:
    """Return every way to write every option of a command."""
    found: Any = APP
    for word in name.split():
        found = found.commands[word]
    given = [one for one in found.params if one.param_type_name == "option"]
    return {"--help", *(way for one in given for way in (*one.opts, *one.secondary_opts))}


@pytest.mark.parametrize("line", COMMANDS)
def test_command_and_its_options_exist(line: str) -> None:
    assert lacking(line) == []


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ("spectran train demo none sasrec id --seed", ["--seed"]),
        ("spectran train demo none sasrec id --set=train.width=8 --one-by-one -q", []),
        ("spectran cache prune --older 90 --unused", ["--older"]),
        ("spectran cach ls", ["cach"]),
    ],
)
def test_a_part_of_an_option_or_of_a_command_is_noticed(line: str, missing: list[str]) -> None:
    assert lacking(line) == missing


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_named_alone_is_one_of_a_command_or_a_benchmark(option: str) -> None:
    programs = "".join(path.read_text() for path in Path("benchmarks").glob("*.py"))
    known = set(re.findall(r'add_argument\("(--[\w-]+)"', programs))
    assert option in known.union(*map(options, REGISTERED))


@pytest.mark.parametrize("line", [c for c in COMMANDS if c.split()[1] == "train"])
def test_cell_exists(line: str) -> None:
    dataset, encoder, backbone, method = line.split()[2:6]
    params = load(Path("params.yaml"))
    params.dataset(dataset)
    if encoder != "none":
        params.encoder(encoder)
    naming.settings("backbones", backbone, params.backbones)
    naming.settings("methods", method, params.methods)


@pytest.mark.parametrize("target", TARGETS)
def test_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", Path("Makefile").read_text(), flags=re.M)


def test_make_lists_every_target_and_nothing_else() -> None:
    targets = re.findall(r"^([\w-]+):(?!=)", Path("Makefile").read_text(), flags=re.M)
    done = subprocess.run(
        ["make", "--no-print-directory", "help"], capture_output=True, text=True, check=True
    )
    listed = re.findall(r"^make ([\w-]+) +\w", done.stdout, flags=re.M)
    assert sorted(["help", *listed]) == sorted(targets)
    assert done.stdout.endswith("Python to make it with.\n")


def test_every_method_is_in_the_table() -> None:
    for name in naming.names("methods"):
        assert f"`{name}`" in README


def test_every_file_of_a_card_that_holds_times_is_named_as_one() -> None:
    (told,) = re.findall(r"Only the page.*?free\s+of\s+the\s+clock", README, flags=re.S)
    files = [*Path("artifacts/report/cards/toys_searched").iterdir()]
    texts = {path.name: path.read_text() for path in files if path.suffix != ".parquet"}
    timed = {n for n, text in texts.items() if re.search(r"epoch_s|s per epoch|minutes", text)}
    assert timed and timed <= set(re.findall(r"`([\w.]+)`", told))


def test_every_path_named_exists() -> None:
    for path in set(re.findall(r"`((?:pipeline|stages|tests|benchmarks)/[\w/]+\.?\w*)`", README)):
        assert "NAME" in path or Path(path).exists(), path
