"""`spectran check`: params.yaml, dvc.yaml and the code agree, before anything is run."""

from __future__ import annotations

import typer

from stages.command import COMMANDS, USER_MISTAKE, command
from stages.run import Run


@command("spectran check", "spectran check --json")
def check(run: Run) -> None:
    """Build every block of the parameters and compare them with dvc.yaml and the code."""
    from pipeline.checks.blocks import blocks, revisions, templates, unpinned
    from pipeline.checks.graph import graph
    from pipeline.checks.grid import grid, idle_overrides
    from pipeline.checks.installation import other_checkout, packaging
    from pipeline.errors import ConfigError
    from pipeline.tuning.space import mistakes

    problems: list[str] = []
    warnings: list[str] = []
    idle: list[str] = []
    problems += packaging()
    warnings += other_checkout(run.base)
    try:
        params = run.params
    except ConfigError as error:
        problems += str(error).splitlines()
    else:
        problems += blocks(params)
        problems += templates(params)
        problems += mistakes(params)
        problems += grid(params)
        problems += revisions(run.base)
        problems += graph(run.base, params, COMMANDS)
        loose = unpinned(params, run.base)
        warnings += [line for name, line in loose.items() if name in params.grid.encoder]
        idle += [name for name in loose if name not in params.grid.encoder]
        warnings += idle_overrides(params)
    problems = list(dict.fromkeys(problems))  # a block's may be those of a cell, too
    for line in warnings:
        run.warn(line)
    lines = problems or ["parameters, dvc.yaml and code agree"]
    if idle:
        lines = [
            *lines,
            f"{len(idle)} encoders outside grid.encoder take a hub model without its "
            "commit. To list them: spectran check --json   (idle_unpinned)",
        ]
    content = {"problems": problems, "warnings": warnings, "idle_unpinned": idle}
    run.show(content, "\n".join(lines))
    if problems:
        raise typer.Exit(USER_MISTAKE)
