"""`spectran diff`: two cells compared on the same users."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.command import command
from stages.run import Run

if TYPE_CHECKING:
    from pipeline.evaluation.outcomes import Outcomes


@command(
    "spectran diff demo/minilm/sasrec/spectran demo/none/sasrec/id",
    "spectran diff demo/minilm/sasrec/spectran demo/none/sasrec/id --slice unseen --json",
)
def diff(
    run: Run,
    first: Annotated[str, typer.Argument(help="dataset/encoder/backbone/method")],
    second: Annotated[str, typer.Argument(help="dataset/encoder/backbone/method")],
    split: Annotated[str, typer.Option("--split", help="test or valid.")] = "test",
    part: Annotated[
        str, typer.Option("--slice", help="all, warm, median, cold or unseen.")
    ] = "all",
) -> None:
    """Test FIRST against SECOND, user by user, for every metric and cut-off.

    Positive differences mean that FIRST is higher. p values are of this pair alone, uncorrected.
    """
    from pipeline import naming
    from pipeline.cells import NONE, Cell
    from pipeline.errors import ConfigError, near_miss
    from pipeline.evaluation.metrics import SLICES
    from pipeline.evaluation.outcomes import SPLITS, load_grid

    for option, value, known in (("--split", split, SPLITS), ("--slice", part, SLICES)):
        if value not in known:
            raise ConfigError(f"{option} {value}: unknown.{near_miss(value, known)}")
    one, two = Cell.parse(first), Cell.parse(second)
    if one.dataset != two.dataset:
        raise ConfigError(
            f"{one} and {two} are of different data sets, so they share no users. "
            f"Name two cells of {one.dataset}, or two of {two.dataset}."
        )
    run.params.dataset(one.dataset)
    for cell in (one, two):  # a misspelt name has no ranks either, and no command makes them
        if cell.encoder != NONE:
            run.params.encoder(cell.encoder)
        naming.settings("methods", cell.method, run.params.methods)
        if cell.trained:
            naming.settings("backbones", cell.backbone, run.params.backbones)
    a, b = load_grid(run.root, run.params, run.revisions["train"], [one, two])
    rows = compare_two(a, b, run.params.evaluate, split, part)
    content = {
        "first": str(one),
        "second": str(two),
        "split": split,
        "slice": part,
        "level": 1 - run.params.evaluate.alpha,
        "seeds": [list(a.seeds), list(b.seeds)],
        "rows": rows,
    }
    run.show(content, _text(content))


def compare_two(
    first: Outcomes, second: Outcomes, config: Any, split: str, part: str
) -> list[dict[str, Any]]:
    """Return one row per metric and cut-off; values are averaged over each cell's seeds."""
    from pipeline.evaluation.comparisons import paired
    from pipeline.evaluation.metrics import METRICS, in_slice

    a, b = first.of_split(split), second.of_split(split)
    keep = in_slice(a.train_count, part, config.strata)
    rows = []
    for metric, function in METRICS.items():
        for k in config.ks:
            x, y = (function(cell.rank[:, keep], k).mean(axis=0) for cell in (a, b))
            test = paired(x, y, config.alpha)
            rows.append(
                {
                    "metric": metric,
                    "k": k,
                    "users": test.users,
                    "first": float(x.mean()) if test.users else None,
                    "second": float(y.mean()) if test.users else None,
                    "difference": test.difference if test.users else None,
                    "low": test.low,
                    "high": test.high,
                    "p_t": test.p_t,
                    "p_wilcoxon": test.p_wilcoxon,
                }
            )
    return rows


def _text(content: dict[str, Any]) -> str:
    from pipeline.reporting.tables import column_title, number, p_value

    rows = content["rows"]
    users = rows[0]["users"] if rows else 0
    level = f"{100 * content['level']:g}% interval"
    heads = ("", "first", "second", "difference", level, "t test", "Wilcoxon")
    lines = [heads]
    for row in rows:
        interval = "-" if row["low"] is None else f"{number(row['low'])} to {number(row['high'])}"
        lines.append(
            (
                column_title(row["metric"], row["k"]),
                number(row["first"]),
                number(row["second"]),
                number(row["difference"]),
                interval,
                p_value(row["p_t"]),
                p_value(row["p_wilcoxon"]),
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    body = [
        "  ".join(
            [line[0].ljust(widths[0])]
            + [c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)]
        )
        for line in lines
    ]
    heading = (
        f"first   {content['first']}\nsecond  {content['second']}\n"
        f"{users} {content['split']} users, slice {content['slice']}; per user the mean "
        f"over seeds; p values uncorrected"
    )
    return "\n".join([heading, "", *body])
