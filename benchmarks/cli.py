"""How long a user waits for nothing: `spectran --help`, and `dvc repro` when all is up to date.

Run in a checkout after `dvc repro`: python benchmarks/cli.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HELP_LIMIT_S = 0.3
REPRO_LIMIT_S = 5.0


def seconds(*words: str) -> tuple[float, str]:
    """Run a command; return wall time and what it printed."""
    started = time.monotonic()
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return time.monotonic() - started, done.stdout


def main() -> int:
    """Print both times as one line of JSON; exit 1 when a limit is missed."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    programs = Path(sys.executable).parent
    os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    spectran = str(programs / "spectran")
    seconds(spectran, "--help")  # compiles
    help_s = statistics.median(seconds(spectran, "--help")[0] for _ in range(5))
    repro_s, output = seconds(sys.executable, "-m", "dvc", "repro")
    if "Running stage" in output:
        print("dvc repro had work to do; its time is not that of a no-op. Run again.")
        return 1
    numbers = {
        "help_s": round(help_s, 3),
        "help_limit_s": HELP_LIMIT_S,
        "repro_noop_s": round(repro_s, 3),
        "repro_noop_limit_s": REPRO_LIMIT_S,
    }
    print(json.dumps(numbers))
    return int(help_s > HELP_LIMIT_S or repro_s > REPRO_LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
