"""What a killed cell had done: finished seeds, and the state of the seed under way.

Kept outside DVC outputs and safe to delete. The key of a seed is made from everything that its
result depends on, so stale work cannot be picked up and an added seed trains only itself.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.files import sha256_file, write_atomic
from pipeline.training.progress import Checkpoint, Progress

STATE = "state.safetensors"
DONE = "done.json"


def key(content: Mapping[str, Any]) -> str:
    """Return the name of a piece of work: SHA-256 of its sorted JSON, 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


class SeedStore(Checkpoint):
    """The folder of one seed of one cell."""

    def __init__(self, folder: Path, save_every_s: float = 10.0) -> None:
        self.folder = folder
        self.save_every_s = save_every_s
        self._saved = time.monotonic()

    # ------------------------------------------------------------ the seed under way

    def due(self) -> bool:
        """Return whether the last save is at least `save_every_s` seconds ago."""
        return time.monotonic() - self._saved >= self.save_every_s

    def save(self, progress: Progress) -> None:
        """Write the state."""
        from safetensors.torch import save

        header = {
            "phase": progress.phase,
            "epoch": progress.epoch,
            "best_value": progress.best_value,
            "best_epoch": progress.best_epoch,
            "seconds": progress.seconds,
            "curves": progress.curves,
        }
        tensors = {name: tensor.cpu() for name, tensor in progress.tensors.items()}
        content = save(tensors, {"progress": json.dumps(header)})
        write_atomic(self.folder / STATE, content)
        self._saved = time.monotonic()

    def load(self) -> Progress | None:
        """Return the saved state; an unreadable one counts as absent."""
        from safetensors import SafetensorError, safe_open

        path = self.folder / STATE
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                header = json.loads(file.metadata()["progress"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, KeyError):
            return None
        curves = [(int(e), str(p), str(n), float(v)) for e, p, n, v in header.pop("curves")]
        return Progress(**header, curves=curves, tensors=tensors)

    # ------------------------------------------------------------ finished seeds

    def finished(self) -> dict[str, Any] | None:
        """Return the record of a finished seed whose files are all intact."""
        try:
            record = json.loads((self.folder / DONE).read_text())
            for name, digest in record["files"].items():
                if sha256_file(self.folder / name) != digest:
                    return None
        except (OSError, ValueError, KeyError):
            return None
        return dict(record)

    def finish(self, files: Mapping[str, Path], **numbers: Any) -> None:
        """Keep copies of the seed's files; the record is written last, the state then removed."""
        for name, path in files.items():
            write_atomic(self.folder / name, path.read_bytes())
        record = {"files": {n: sha256_file(self.folder / n) for n in files}, **numbers}
        write_atomic(self.folder / DONE, json.dumps(record, sort_keys=True).encode())
        (self.folder / STATE).unlink(missing_ok=True)

    def give(self, files: Mapping[str, Path], scratch: Path) -> None:
        """Copy a finished seed's files to where the cell wants them."""
        for name, path in files.items():
            write_atomic(path, (self.folder / name).read_bytes(), scratch)

    def forget(self) -> None:
        """Delete everything kept for this seed."""
        shutil.rmtree(self.folder, ignore_errors=True)
