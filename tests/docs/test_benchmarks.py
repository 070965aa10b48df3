"""Every benchmark tells how it is used, from wherever it is started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted(
    path for path in Path("benchmarks").glob("*.py") if '__name__ == "__main__"' in path.read_text()
)


def test_there_are_benchmarks() -> None:
    assert {"training_rectools", "training_text", "training_seeds"} <= {s.stem for s in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_explains_itself(script: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(script.absolute()), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first = script.read_text()[3:].split("\n")[0]
    assert first in " ".join(done.stdout.split())
