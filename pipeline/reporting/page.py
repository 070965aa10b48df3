"""The parts of the page: what each data set shows, from tables, statistics and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.cells import Cell
from pipeline.naming import flat
from pipeline.reporting.ablations import Ablation, ablation_groups
from pipeline.reporting.best import best_epoch, hardly_trained
from pipeline.reporting.charts import Panel, Series, axis, line_chart, line_class
from pipeline.reporting.collapse import LINES, collapse_charts, collapse_groups, collapse_table
from pipeline.reporting.data_card import data_card, plain, scalars
from pipeline.reporting.efficiency import Cost, cost_chart, cost_table, costs
from pipeline.reporting.findings import findings
from pipeline.reporting.logs import Times
from pipeline.reporting.methods import Origin
from pipeline.reporting.overview import KINDS, overview_chart
from pipeline.reporting.protocol import QUICK_LOOK
from pipeline.reporting.spectra import spectrum_charts, spectrum_views
from pipeline.reporting.tables import Numbers, column_title, number, p_value
from pipeline.reporting.weights import (
    Position,
    position_charts,
    positions,
    summary_rows,
    weights_table,
)
from pipeline.reporting.widths import Sweep, sweep_chart, sweep_table, sweeps

Curves = Mapping[Cell, Mapping[int, Sequence[Mapping[str, Any]]]]
"""Cell -> seed -> rows of CURVES."""


@dataclass(frozen=True)
class Chapter:
    """All that the page says about one data set."""

    numbers: Numbers
    protocol: str
    protocol_short: str
    settings: Sequence[Mapping[str, str]]
    """Methods and backbones that bring settings of their own: name, of, settings."""
    strata: str
    synthetic: bool
    quick: bool
    data: Mapping[str, Any]
    spectra: Mapping[str, Mapping[str, Any]]
    """Encoder -> SPECTRUM_STATS."""
    curves: Curves
    collapse: Sequence[Mapping[str, Any]]
    """Rows of COLLAPSE."""
    provenance: Mapping[str, Any]
    """Cell -> what made it."""
    sizes: Sequence[Mapping[str, Any]]
    """Rows of SIZES."""
    times: Mapping[Cell, Times]
    """Of the cells whose logs tell."""
    files: Mapping[str, str]
    """Backbone -> the file that reads its block."""
    ablations: Sequence[Ablation]
    """Methods and their variants."""
    monitor: str
    """The validation curve that stops training."""
    title: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", self.numbers.dataset)

    @property
    def findings(self) -> list[str]:
        """The numbers in plain words."""
        epochs = {
            self.numbers.label(cell): best_epoch(list(seeds.values()), self.monitor)
            for cell, seeds in self.curves.items()
        }
        return [*findings(self.numbers), *hardly_trained(epochs)]

    @property
    def overview(self) -> str:
        """Means and intervals of all cells; the line is the ID-only one."""
        return overview_chart(self.numbers)

    @property
    def tests(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """Paired tests at the main cut-off, by metric."""
        k = self.numbers.main_k
        return [(column_title(m, k), self.numbers.tests(m, k)) for m in ("ndcg", "hr")]

    @property
    def curve_panels(self) -> list[tuple[str, list[Panel]]]:
        """Small multiples by curve name, the one that stops training first."""
        names = {
            row["name"] for seeds in self.curves.values() for rows in seeds.values() for row in rows
        }
        ordered = sorted(names, key=lambda n: (n != self.monitor, not n.startswith("train/"), n))
        return [(name, self._panels(name)) for name in ordered]

    def _panels(self, name: str) -> list[Panel]:
        lines = {
            cell: [
                series(str(seed), rows, name, name == self.monitor) for seed, rows in seeds.items()
            ]
            for cell, seeds in self.curves.items()
        }
        lines = {cell: [s for s in found if s.points] for cell, found in lines.items()}
        every = [point for found in lines.values() for one in found for point in one.points]
        y = axis(name, [b for _, b in every], zero=name == self.monitor)
        x = axis("epoch", [a for a, _ in every], zero=True)
        return [
            Panel(
                self.numbers.label(cell),
                line_chart(found, x, y, f"{name} of {self.numbers.label(cell)}"),
            )
            for cell, found in lines.items()
            if found
        ]

    @property
    def spectrum_panels(self) -> list[tuple[str, list[str], list[Panel], list[dict[str, Any]]]]:
        """Per encoder: series names, charts, and one row of plain statistics per view."""
        found = []
        for encoder, stats in self.spectra.items():
            views = spectrum_views(stats)
            rows = [{"view": v, **scalars(content)} for v, content in views.items()]
            found.append((encoder, list(views), spectrum_charts(views), rows))
        return found

    @property
    def collapse_panels(self) -> list[Panel]:
        """Cumulative shares before and after training, one chart per table of item vectors."""
        return collapse_charts(collapse_groups(self.numbers, self.collapse))

    @property
    def collapse_rows(self) -> list[dict[str, str]]:
        """Statistics before and after training, one row per chart."""
        return collapse_table(collapse_groups(self.numbers, self.collapse))

    @property
    def weights_rows(self) -> list[dict[str, str]]:
        """What the cells with spectral attention learned, one row each."""
        return weights_table(self.numbers, self.curves, self.monitor)

    @property
    def weights_summary(self) -> list[dict[str, Any]]:
        """The same of every seed, with sums over the dimensions; for spectral_summary.csv."""
        return summary_rows(self.curves, self.monitor, self.provenance, self.spectra)

    @property
    def positions(self) -> list[Position]:
        """The learned f of the cells whose spectral position is a learned polynomial."""
        return positions(self.numbers, self.curves, self.monitor, self.provenance, self.spectra)

    @property
    def position_panels(self) -> list[Panel]:
        """f over the components, its start and Sigma; one chart per cell, one line per seed."""
        return position_charts(self.positions)

    @property
    def ablation_groups(self) -> list[tuple[str, Panel, list[dict[str, str]]]]:
        """Per text and backbone: what variants are worth, as a chart and as a table."""
        return ablation_groups(self.numbers, self.ablations)

    @property
    def sweeps(self) -> list[Sweep]:
        """The cells that differ only in their width."""
        return sweeps(self.numbers, self.provenance, self.files)

    @property
    def sweep_panel(self) -> Panel:
        """The main metric against the width."""
        return sweep_chart(self.numbers, self.sweeps)

    @property
    def sweep_rows(self) -> list[dict[str, str]]:
        """The same as a table."""
        return sweep_table(self.numbers, self.sweeps)

    @property
    def costs(self) -> list[Cost]:
        """Parameters and times of every cell."""
        return costs(self.numbers, self.sizes, self.times)

    @property
    def cost_panel(self) -> Panel:
        """The main metric against the trained parameters."""
        return cost_chart(self.numbers, {cost.cell: cost.parameters for cost in self.costs})

    @property
    def cost_rows(self) -> list[dict[str, str]]:
        """The same as a table, with times where the logs tell them."""
        return cost_table(self.numbers, self.costs)

    @property
    def card(self) -> list[tuple[str, list[tuple[str, str]], list[Mapping[str, Any]]]]:
        """The data card: groups of facts, or a table where the statistics hold a list of rows."""
        return data_card(self.data)

    @property
    def cells(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Provenance of every cell as key and value."""
        return [
            (name, [(key, plain(value)) for key, value in flat(content).items()])
            for name, content in self.provenance.items()
        ]


def series(name: str, rows: Sequence[Mapping[str, Any]], curve: str, mark: bool) -> Series:
    """Return one seed's curve; epochs of later phases continue those of earlier ones."""
    offset, last, phase = 0, 0, None
    points = []
    for row in rows:
        if row["phase"] != phase:
            offset, phase = offset + last, row["phase"]
        last = int(row["epoch"])
        if row["name"] == curve:
            points.append((float(offset + last), float(row["value"])))
    best = max(points, key=lambda p: p[1], default=None) if mark else None
    return Series(f"seed {name}", tuple(points), best)


def render(chapters: Sequence[Chapter], origins: Mapping[str, Sequence[Origin]]) -> str:
    """Return the page. Everything but our own charts is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "p_value": p_value}
    environment.globals |= {"line_class": line_class, "kinds": KINDS, "collapse_lines": LINES}
    return environment.get_template("report.html.j2").render(
        chapters=chapters, origins=origins, quick_look=QUICK_LOOK
    )
