"""What a killed cell had done: finished seeds, and the state of the seed under way.

Kept outside DVC outputs and safe to delete. The key of a seed is made from everything that its
result depends on, so stale work cannot be picked up and an added seed trains only itself.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.errors import ResourceError
from pipeline.files import sha256_file, write_atomic
from pipeline.training.progress import Checkpoint, OtherModelError, Progress

STATE = "state.safetensors"
DONE = "done.json"
OF = "of.json"
"""What the key of the folder is made from; there before anything else that is kept."""


def key(content: Mapping[str, Any]) -> str:
    """Return the name of a piece of work: SHA-256 of its sorted JSON, 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def origin(folder: Path) -> dict[str, Any] | None:
    """Return what an unfinished seed's folder is of; None for a finished or an unknown one.

    Versions before did not write it.
    """
    try:
        found = json.loads((folder / OF).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and not (folder / DONE).exists() else None


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Keep others from training a seed; yield False where one does, or the disk cannot tell."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


class SeedStore(Checkpoint):
    """The folder of one seed of one cell."""

    def __init__(self, area: Path, content: Mapping[str, Any], save_every_s: float = 10.0) -> None:
        """area: holds the folders of all seeds; content: what this one's result depends on."""
        self.folder = area / key(content)
        self.content = dict(content)
        self.save_every_s = save_every_s
        self._saved = time.monotonic()
        self._release: weakref.finalize[Any, Any] | None = None

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
        # The name beside it: variants of a method have tensors of the same names and shapes.
        content = save(tensors, {"progress": json.dumps(header), "of": self.folder.name})
        self._hold()
        write_atomic(self.folder / STATE, content)
        self._saved = time.monotonic()

    def load(self) -> Progress | None:
        """Return the saved state; an unreadable one counts as absent.

        Raises OtherModelError for one that was saved in another folder. Versions before did not
        write whose it is.
        """
        from safetensors import SafetensorError, safe_open

        path = self.folder / STATE
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                header = json.loads(metadata["progress"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, KeyError):
            return None
        if metadata.get("of", self.folder.name) != self.folder.name:
            raise OtherModelError
        with suppress(OSError, ResourceError):  # what cannot be written is told when it is saved
            self._hold()
        curves = [(int(e), str(p), str(n), float(v)) for e, p, n, v in header.pop("curves")]
        return Progress(**header, curves=curves, tensors=tensors)

    def _hold(self) -> None:
        """Make the folder and say what it is of; `alone` is refused until the seed is finished.

        Several processes may hold it: each writes the same.
        """
        while self._release is None or not self._release.alive:
            self.folder.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # removed again by one that was alone
                descriptor = os.open(self.folder, os.O_RDONLY)
                release = weakref.finalize(self, os.close, descriptor)
                with suppress(OSError):  # a disk without locks, on which `alone` is always refused
                    fcntl.flock(descriptor, fcntl.LOCK_SH)
                write_atomic(self.folder / OF, json.dumps(self.content, sort_keys=True).encode())
                if os.path.samestat(os.fstat(descriptor), self.folder.stat()):
                    self._release = release
                else:
                    release()

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
        self._hold()
        for name, path in files.items():
            write_atomic(self.folder / name, path.read_bytes())
        record = {"files": {n: sha256_file(self.folder / n) for n in files}, **numbers}
        write_atomic(self.folder / DONE, json.dumps(record, sort_keys=True).encode())
        (self.folder / STATE).unlink(missing_ok=True)
        if self._release is not None:
            self._release()

    def give(self, files: Mapping[str, Path], scratch: Path) -> None:
        """Copy a finished seed's files to where the cell wants them."""
        for name, path in files.items():
            write_atomic(path, (self.folder / name).read_bytes(), scratch)

    def forget(self) -> None:
        """Delete everything kept for this seed."""
        shutil.rmtree(self.folder, ignore_errors=True)
