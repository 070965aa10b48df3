"""A temporary clone of this tree with a tiny grid, in which the real `dvc repro` has run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

TREE = Path(__file__).resolve().parents[2]

GRID = {
    "dataset": ["demo"],
    "encoder": ["hash"],
    "text": {"encoder": ["hash"], "backbone": ["sasrec"], "method": ["spectran"]},
    "plain": {"backbone": ["sasrec"], "method": ["id"]},
    "baseline": {"backbone": ["none"], "method": ["popularity"]},
    "ablation": {"encoder": [], "backbone": [], "method": []},
    "control": {"encoder": [], "backbone": [], "method": []},
    "protocol": {"encoder": [], "backbone": [], "method": []},
    "protocol_plain": {"backbone": [], "method": []},
    "baseline_text": {"encoder": ["hash"], "backbone": ["none"], "method": ["text_neighbour"]},
}
CELLS = {"train@demo-hash-sasrec-spectran", "train_plain@demo-sasrec-id"}
WATCHING = "baseline_text@demo-hash-none-text_neighbour"
"""Its block may be a variant, so it looks at all methods; ranking anew takes a second."""
BASELINES = {"baseline@demo-none-popularity", WATCHING}
METRICS = {"evaluate@demo", "report"}
"""What runs again when only an evaluation setting changes."""
RESULTS = METRICS | {"collapse@demo"}
ALL = (
    CELLS
    | BASELINES
    | RESULTS
    | {
        "download@demo",
        "preprocess@demo",
        "encode@demo-hash",
        "spectrum@demo-hash",
    }
)


@dataclass
class Clone:
    """A checkout with its own code, parameters, cache and `spectran` program."""

    path: Path
    env: dict[str, str]

    @classmethod
    def at(cls, path: Path) -> Clone:
        """Return the checkout at `path`; its commands run its own code, not the installed one."""
        programs = path.parent / f"{path.name} programs"
        programs.mkdir()
        script = programs / "spectran"
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m stages.cli "$@"\n')
        script.chmod(0o755)
        env = {k: v for k, v in os.environ.items() if k not in ("SPECTRAN_CACHE", "SPECTRAN_DATA")}
        env |= {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(path),
            "DVC_SITE_CACHE_DIR": str(path.parent / f"{path.name} site"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@localhost",
            "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@localhost",
        }  # fmt: skip
        return cls(path, env)

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command here; its output is shown when the test fails."""
        done = subprocess.run(
            words, cwd=self.path, env=self.env, text=True, capture_output=True, timeout=300
        )
        if check and done.returncode:
            pytest.fail(f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def dvc(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run dvc."""
        return self.run(sys.executable, "-m", "dvc", *words, check=check)

    def git(self, *words: str) -> str:
        """Run git and return what it printed."""
        return self.run("git", *words).stdout

    def repro(self) -> set[str]:
        """Run `dvc repro` and return the stages that ran."""
        return ran(self.dvc("repro").stdout)

    def lock(self) -> dict[str, Any]:
        """Return the sections of the lock file by stage."""
        return dict(yaml.safe_load((self.path / "dvc.lock").read_text())["stages"])

    def params(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Edit params.yaml."""
        file = self.path / "params.yaml"
        content = yaml.safe_load(file.read_text())
        change(content)
        file.write_text(yaml.safe_dump(content, sort_keys=False))

    def commit(self) -> None:
        """Commit everything that git does not ignore."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "state")

    def bytes(self) -> dict[str, bytes]:
        """Return the content of every artifact."""
        root = self.path / "artifacts"
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def ran(output: str) -> set[str]:
    """Return the names in DVC's lines `Running stage 'x':`."""
    return set(re.findall(r"Running stage '([^']+)'", output))


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Return the stages whose sections of the lock file differ."""
    return {name for name in before | after if before.get(name) != after.get(name)}


def _tiny(content: dict[str, Any]) -> None:
    content["grid"] = GRID
    demo = content["datasets"]["demo"]
    demo["source"]["origin"] |= {"users": 300, "items": 120}
    demo["train"] = {"width": 16, "max_epochs": 2, "patience": 2, "seeds": [0]}
    content["encoders"]["hash"]["width"] = 24


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clone, str]:
    """A clone after its first `dvc repro`, and what that printed. Do not change it: copy it."""
    folder = tmp_path_factory.mktemp("a clone") / "with blanks"
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=TREE, capture_output=True, check=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, names):
        if (TREE / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TREE / name, folder / name)
    clone = Clone.at(folder)
    clone.params(_tiny)
    clone.git("init", "--quiet")
    clone.commit()
    return clone, clone.dvc("repro").stdout


@pytest.fixture(scope="module")
def clone(finished: tuple[Clone, str], tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A copy of the finished clone that a module's tests may change, in their order."""
    folder = tmp_path_factory.mktemp("copy") / "copy"
    shutil.copytree(finished[0].path, folder, symlinks=True)
    return Clone.at(folder)
