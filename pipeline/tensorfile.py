"""Safetensors files read and written row by row, so that memory stays flat whatever their size.

Reading maps nothing: mapped pages count as memory. Writing lays the header out as the safetensors
library does (metadata first, equal dtypes by name, padded with blanks to 8 bytes), so the bytes
are those the library itself would write.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipeline.codecs import ALTERED, KEY, UNSEALED, Tensors
from pipeline.errors import ArtifactError
from pipeline.files import TEMPORARY, atomic

FLOAT32 = 4
"""Bytes of the one dtype these files hold."""

CHUNK_BYTES = 32 << 20


@dataclass(frozen=True)
class Rows:
    """One float32 matrix in a safetensors file."""

    path: Path
    offset: int
    """Of the first row, bytes from the start of the file."""
    shape: tuple[int, int]
    metadata: dict[str, Any]
    fail: Callable[[str], ArtifactError]
    """Makes the error for values that cannot be used, with the command that mends the file."""
    digest: str | None
    """SHA-256 of the matrix's bytes, where it is the only tensor of the file."""

    def chunks(
        self, step: int, start: int = 0, *, verify: bool = True
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, [<= step, H] float32) from row `start`; the buffer is used again.

        verify: compare the bytes with their checksum; ArtifactError is raised after the last chunk.
        """
        count, width = self.shape
        buffer = np.empty((min(step, max(count - start, 0)), width), np.float32)
        seen = hashlib.sha256()
        with self.path.open("rb", buffering=0) as handle:
            handle.seek(self.offset)
            skipped = np.empty((start, width), np.float32)
            self._fill(handle, skipped)
            seen.update(_bytes(skipped))
            for first in range(start, count, step):
                part = buffer[: min(step, count - first)]
                self._fill(handle, part)
                if verify:
                    seen.update(_bytes(part))
                yield first, part
        if verify and self.digest not in (None, seen.hexdigest()):
            raise self.fail(ALTERED)

    def _fill(self, handle: Any, part: np.ndarray) -> None:
        left = _bytes(part)
        while len(left):
            read = handle.readinto(left)
            if not read:
                raise self.fail("became shorter while it was read.")
            left = left[read:]


def _bytes(part: np.ndarray) -> memoryview:
    # Through uint8: a view of zero rows cannot be cast.
    return memoryview(part.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def open_rows(
    artifact: Tensors, root: Path, name: str, *, items: str | None = None, **cell: object
) -> Rows:
    """Check an artifact's header and return its matrix `name` for streamed reading.

    Raises ArtifactError when the file is missing, of another kind, made from other items,
    truncated, or the tensor is not a float32 matrix. Values are not looked at.
    """
    metadata = artifact.header(root, items=items, **cell)
    path = artifact.path(root, **cell)
    with path.open("rb") as handle:
        size = struct.unpack("<Q", handle.read(8))[0]
        fields = json.loads(handle.read(size))
    try:
        entry = fields[name]
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        last = max(f["data_offsets"][1] for key, f in fields.items() if key != "__metadata__")
    except (KeyError, TypeError, ValueError):
        raise artifact.fail(root, cell, f"holds no usable tensor `{name}`.") from None
    if dtype != "F32" or len(shape) != 2:
        raise artifact.fail(root, cell, f"has `{name}` as {dtype} {list(shape)}, not F32 [n, H].")
    found, expected = path.stat().st_size, 8 + size + last
    if found != expected or end - begin != math.prod(shape) * FLOAT32:
        raise artifact.fail(
            root, cell, f"is truncated or damaged ({found} bytes, its header says {expected})."
        )

    def fail(problem: str) -> ArtifactError:
        return artifact.fail(root, cell, problem)

    digest = metadata["data"] if (begin, end) == (0, last) else None
    return Rows(path, 8 + size + begin, (shape[0], shape[1]), metadata, fail, digest)


class Writer:
    """An open safetensors file whose float32 tensors are filled in any order."""

    def __init__(
        self, handle: BinaryIO, shapes: Mapping[str, Sequence[int]], metadata: str
    ) -> None:
        fields: dict[str, Any] = {"__metadata__": {KEY: metadata}}
        offset = 0
        for name in sorted(shapes):
            end = offset + math.prod(shapes[name]) * FLOAT32
            fields[name] = {
                "dtype": "F32",
                "shape": list(shapes[name]),
                "data_offsets": [offset, end],
            }
            offset = end
        text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        handle.write(struct.pack("<Q", len(text)) + text)
        self._seal = 8 + text.index(UNSEALED.encode())
        handle.truncate(8 + len(text) + offset)
        self._handle = handle
        self._start = 8 + len(text)
        self._fields = fields
        self._written = dict.fromkeys(shapes, 0)

    def put(self, name: str, values: np.ndarray, row: int = 0) -> None:
        """Write rows of a tensor from `row` on. Raises ArtifactError on NaN or infinity."""
        entry = self._fields[name]
        shape = entry["shape"]
        assert values.dtype == np.float32 and list(values.shape[1:]) == shape[1:]
        assert row + len(values) <= shape[0]
        if not np.isfinite(values).all():
            raise ArtifactError(f"`{name}` would hold NaN or infinity; nothing was written.")
        stride = math.prod(shape[1:]) * FLOAT32
        self._handle.seek(self._start + entry["data_offsets"][0] + row * stride)
        self._handle.write(np.ascontiguousarray(values).data.cast("B"))
        self._written[name] += len(values)

    def finish(self) -> None:
        """Check that every row of every tensor was written, and store the bytes' checksum."""
        for name, count in self._written.items():
            assert count == self._fields[name]["shape"][0], f"{name}: {count} rows written"
        self._handle.flush()
        digest = hashlib.sha256()
        self._handle.seek(self._start)
        while chunk := self._handle.read(1 << 20):
            digest.update(chunk)
        self._handle.seek(self._seal)
        self._handle.write(digest.hexdigest().encode())


@contextmanager
def write(
    artifact: Tensors,
    root: Path,
    shapes: Mapping[str, Sequence[int]],
    *,
    items: str,
    params: Mapping[str, Any],
    **cell: object,
) -> Iterator[Writer]:
    """Yield a Writer for an artifact's file, which appears whole when the block succeeds.

    shapes: tensor -> shape; all are float32. Raises ResourceError when the disk is full.
    """
    if artifact.layout is not None:
        assert set(shapes) == set(artifact.layout)
    path = artifact.path(root, **cell)
    with atomic(path, root / TEMPORARY) as temporary, temporary.open("w+b") as handle:
        writer = Writer(handle, shapes, artifact.metadata(items, params))
        yield writer
        writer.finish()
