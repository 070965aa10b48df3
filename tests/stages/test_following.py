"""What every command names as next leads from nothing to the report."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cells import cells
from pipeline.params import load
from stages.cli import ORDER, build
from tests import plain

APP = build()


def test_what_is_named_as_next_leads_to_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPECTRAN_CACHE", raising=False)
    (tmp_path / "revisions.yaml").write_text(Path("revisions.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    content = plain.content()
    grid = content["grid"]
    grid["encoder"] = ["hash"]
    grid["text"] |= {"encoder": ["hash"], "method": ["spectran", "morec"]}
    grid["baseline_text"] |= {"encoder": ["hash"]}
    demo = content["datasets"]["demo"]
    demo["source"]["origin"] |= {"users": 300, "items": 120}
    demo["train"] = {"width": 8, "max_epochs": 1, "patience": 1, "seeds": [0]}
    content["encoders"]["hash"]["width"] = 24
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    line, done = "spectran download demo", []
    while line.startswith("spectran "):
        result = CliRunner().invoke(APP, line.split()[1:])
        assert result.exit_code == 0, f"{line}: {result.output}"
        assert line not in done, "a circle"
        done.append(line)
        line = result.stdout.splitlines()[-1].split("Next: ")[1]
    assert line == "open artifacts/report/index.html" and Path(line.split()[1]).exists()
    wanted = {cell.command for cell in cells(load(Path("params.yaml")).grid, "demo")}
    trained = [line for line in done if line.split()[1] == "train"]
    assert sorted(trained) == sorted(wanted)
    stages = [line.split()[1] for line in done if line not in trained[1:]]
    assert stages == list(ORDER)
