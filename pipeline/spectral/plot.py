"""The picture of a spectrum: how much of the energy the leading components hold."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any


def energy_svg(views: Mapping[str, Mapping[str, Any]], title: str) -> bytes:
    """Return an SVG of cumulative energy per view; equal input gives equal bytes.

    views: view -> statistics of `pipeline.spectral.stats.describe`.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Ids in the file are drawn at random unless salted; text stays text, so fonts do not matter.
    with matplotlib.rc_context({"svg.hashsalt": "spectran", "svg.fonttype": "none"}):
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for name, view in views.items():
            energy = view["cumulative_energy"]
            label = f"{name} (effective rank {view['effective_rank']:.0f})"
            axes.plot(range(1, len(energy) + 1), energy, label=label)
        axes.set(xscale="log", ylim=(0, 1.02), xlabel="components", ylabel="cumulative energy")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", fontsize=8)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
