"""What a running command has: parameters, roots, progress, log, refusals and the last line."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.config import Params


@dataclass
class Run:
    """One invocation of a command."""

    name: str
    params_path: Path = Path("params.yaml")
    out: Path | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    force: bool = False
    json: bool = False
    quiet: bool = False
    dry_run: bool = False
    device: str = "auto"
    threads: int | None = None
    started: float = field(default_factory=time.monotonic)
    _log_path: Path | None = None

    @property
    def base(self) -> Path:
        """Folder of params.yaml."""
        return self.params_path.parent

    @property
    def root(self) -> Path:
        """Folder artifacts are read from."""
        return self.base / "artifacts"

    @property
    def target(self) -> Path:
        """Folder artifacts are written to: --out, or the root."""
        return self.out or self.root

    @cached_property
    def cache(self) -> Path:
        """Prunable store outside DVC outputs."""
        from pipeline.params import cache_folder

        return cache_folder(self.base)

    @cached_property
    def params(self) -> Params:
        """The checked parameters. Raises ConfigError listing every mistake."""
        from pipeline.params import load

        return load(self.params_path, self.changes)

    @cached_property
    def revisions(self) -> dict[str, int]:
        """The meaning of costly stages, as numbers. Raises ConfigError when one is missing."""
        from pipeline.params import read_revisions

        return read_revisions(self.base)

    # ------------------------------------------------------------ talking

    @property
    def _terminal(self) -> bool:
        return sys.stderr.isatty() and not self.quiet and not self.json

    def say(self, line: str) -> None:
        """Print one line for a person; silent with --quiet and --json."""
        if not self.quiet and not self.json:
            print(printable(line), flush=True)

    def warn(self, line: str) -> None:
        """Print one warning to stderr, whatever the options."""
        warn(line)

    def show(self, content: Any, text: str) -> None:
        """Print what was asked for: JSON with --json, else the text. Not silenced by --quiet."""
        print(json.dumps(content, sort_keys=True) if self.json else printable(text), flush=True)

    def log_to(self, *cell: str) -> None:
        """Open the JSON-lines log of this cell: logs/<command>/<cell>.jsonl, started afresh.

        With --out it lies in logs/out/, because the report reads minutes from the other.
        """
        folder = self.base / "logs" / ("out" if self.out else "") / self.name
        self._log_path = folder / ("-".join(cell) + ".jsonl")
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log_path.write_text("")

    def log(self, event: str, **fields: Any) -> None:
        """Record one event: a line of JSON in the log, `key=value` text on the console."""
        if self._log_path is not None:
            elapsed = round(time.monotonic() - self.started, 3)
            line = {"event": event, "elapsed_s": elapsed, **fields}
            try:
                with self._log_path.open("a", encoding="utf-8") as handle:
                    handle.write(json.dumps(line) + "\n")
            except OSError as error:  # a full disk, said without the file's name
                raise OSError(error.errno, error.strerror, str(self._log_path)) from None
        parts = [f"{key}={_short(value)}" for key, value in fields.items()]
        self.say(" ".join([f"{self.name} {event}", *parts]))

    @contextmanager
    def progress(
        self, title: str, total: int | None, unit: str, second: str | None = None
    ) -> Iterator[Callable[..., None]]:
        """Yield `advance(n)`; a bar with rate and time left on a terminal, nothing in a pipe.

        second: another unit with a rate of its own, counted by `advance(n, m)`.
        """
        if not self._terminal:
            yield lambda n, m=0: None
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            Task,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        class Rate(ProgressColumn):
            def render(self, task: Task) -> Text:
                speed = task.finished_speed or task.speed
                shown = f"{speed:,.0f} {unit}/s" if speed else f"- {unit}/s"
                if second and task.fields["seconds"] and task.elapsed:
                    shown += f", {task.fields['seconds'] / task.elapsed:,.0f} {second}/s"
                return Text(shown)

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            Rate(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=total, seconds=0)

            def advance(n: int, m: int = 0) -> None:
                bar.update(task, advance=n, seconds=bar.tasks[0].fields["seconds"] + m)

            yield advance

    # ------------------------------------------------------------ before and after the work

    def plan(
        self,
        *,
        reads: Sequence[Path],
        writes: Sequence[Path],
        memory_bytes: int,
        disk_bytes: int,
        device: str | None = None,
        device_bytes: int = 0,
        more: Mapping[str, Any] | None = None,
        text: str = "",
    ) -> bool:
        """Print device and estimated memory and disk; return True when --dry-run stops here.

        writes: the largest first; the disk of its folder must have the room.
        device_bytes: what this process itself will hold on a GPU. Asking how much is free starts
        CUDA here, which work that leaves its GPUs to other processes (vLLM) must not.
        more, text: what --dry-run shows beside files, with --json and without.
        Otherwise work begins, and remains of killed runs are removed.
        Raises ResourceError when the machine lacks the memory or the disk.
        """
        import psutil

        from pipeline.errors import ResourceError
        from pipeline.files import remove_orphans, scratches

        place = next(p for p in writes[0].absolute().parents if p.exists())
        free = shutil.disk_usage(place).free
        available = psutil.virtual_memory().available
        where = f"device {device}, " if device else ""
        self.say(
            f"{self.name}: {where}about {size(memory_bytes)} of memory ({size(available)} free) "
            f"and {size(disk_bytes)} of disk ({size(free)} free)"
        )
        limits = [
            (memory_bytes, available, "memory", "Close other programs or use a larger machine."),
            (disk_bytes, free, "disk", "Free some space, or write elsewhere with --out."),
        ]
        if device_bytes and device and device.startswith("cuda"):
            import torch

            there = torch.cuda.mem_get_info(device)[0]
            cure = "Free it of other programs, or use another --device."
            limits.append((device_bytes, there, f"memory on {device}", cure))
        for need, have, what, cure in limits:
            if need > have:
                raise ResourceError(
                    f"{self.name}: needs about {size(need)} of {what}, {size(have)} is free. {cure}"
                )
        if self.dry_run:
            plan = {
                "reads": [{"path": str(p), "exists": p.exists()} for p in reads],
                "writes": [str(p) for p in writes],
                "device": device,
                "memory_bytes": memory_bytes,
                "disk_bytes": disk_bytes,
                **(more or {}),
            }
            lines = [f"reads  {p}{'' if p.exists() else '   (missing)'}" for p in reads]
            lines += [f"writes {p}" for p in writes] + ([text] if text else [])
            self.show(plan, "\n".join(lines))
        else:
            for scratch in scratches(self.target):
                remove_orphans(scratch)
        return self.dry_run

    def done(self, written: Sequence[Path], what: str, following: str, **numbers: Any) -> None:
        """Print the closing line: what was written and what to run next; a trial ends here."""
        seconds = time.monotonic() - self.started
        total = sum(p.stat().st_size for p in written)
        names = ", ".join(str(p) for p in written[:2]) + (
            f" and {len(written) - 2} more" if len(written) > 2 else ""
        )
        if self.json:
            content = {
                "written": [str(p) for p in written],
                "bytes": total,
                "seconds": round(seconds, 3),
                "next": None if self.out else following,
                **numbers,
            }
            print(json.dumps(content, sort_keys=True), flush=True)
        else:
            end = (
                "A trial: tracked results stay as they were." if self.out else f"Next: {following}"
            )
            self.say(f"wrote {names}: {what}, {size(total)}, {seconds:.1f} s. {end}")


def warn(line: str) -> None:
    """Print one warning to stderr; for a process that has no run, too."""
    print(f"warning: {printable(line)}", file=sys.stderr, flush=True)


def size(count: int | float) -> str:
    """Return bytes for people: 1.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def printable(text: str) -> str:
    """Replace control characters: text from data must not steer the terminal."""
    return "".join(c if c == "\n" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def pick_device(name: str) -> str:
    """Resolve `auto`; raise ResourceError for a device that is not there."""
    import torch

    from pipeline.errors import ConfigError, ResourceError

    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return name
    kind, _, index = name.partition(":")
    if kind != "cuda" or not (index == "" or (index.isascii() and index.isdigit())):
        raise ConfigError(f"--device {name}: unknown. Allowed: auto, cpu, cuda:N.")
    count = torch.cuda.device_count()
    if int(index or 0) >= count:
        raise ResourceError(
            f"--device {name}: this machine has {count} CUDA devices. Use --device cpu."
        )
    return f"cuda:{index or 0}"
