"""Gathering ranks of made-up cells into a card."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.cells import Cell
from stages.report import report

SPECTRAN = Cell("demo", "minilm", "sasrec", "spectran")


def bytes_of(card):
    return {path.name: path.read_bytes() for path in card.iterdir()}


def forget(measured, *cells):
    """Remove the ranks of cells, as on a machine that never trained them."""
    for cell in cells:
        shutil.rmtree(measured.root / "ranks" / Path(*str(cell).split("/")))


def gather(measured, *, add=True):
    report(measured.run("report", quiet=True), ["demo"], "tiny", True, add)
