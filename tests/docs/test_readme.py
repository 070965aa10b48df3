"""What the README tells people to type exists, and what it names is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline import naming
from pipeline.params import load
from stages.cli import ORDER, build
from stages.command import COMMANDS as REGISTERED

README = Path("README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\w*\n(.*?)^```", README, flags=re.S | re.M)
LINES = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
COMMANDS = sorted({line for line in LINES if line.startswith("spectran ")})
TARGETS = sorted({line.split()[1] for line in LINES if line.startswith("make ")})


def test_the_readme_shows_commands() -> None:
    assert {"demo", "test"} <= set(TARGETS)
    assert len(COMMANDS) > 4


def test_the_flow_is_shown_whole_and_in_order() -> None:
    (flow,) = [block for block in BLOCKS if "spectran evaluate" in block]
    assert [line.split()[1] for line in flow.splitlines()] == list(ORDER)


@pytest.mark.parametrize("line", COMMANDS)
def test_command_and_its_options_exist(line: str) -> None:
    words = shlex.split(line)[1:]
    named = words[:2] if " ".join(words[:2]) in REGISTERED else words[:1]
    result = CliRunner().invoke(build(), [*named, "--help"])
    assert result.exit_code == 0, result.output
    for option in (word for word in words if word.startswith("--")):
        assert option in result.output, f"{words[0]} has no {option}"


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


def test_every_method_is_in_the_table() -> None:
    for name in naming.names("methods"):
        assert f"`{name}`" in README


def test_every_path_named_exists() -> None:
    for path in set(re.findall(r"`((?:pipeline|stages|tests|benchmarks)/[\w/]+\.?\w*)`", README)):
        assert "NAME" in path or Path(path).exists(), path
