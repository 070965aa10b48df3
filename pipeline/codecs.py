"""How artifacts are read, checked and written: tensors, tables and JSON.

A file carries one metadata key, `spectran`, with sorted JSON: artifact name, layout version, the
fingerprint of the catalogue it belongs to, and the parameters that made it. Its bytes depend on
nothing else, so identical runs give identical files.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ArtifactError
from pipeline.files import TEMPORARY, atomic, write_atomic

KEY = "spectran"
"""The single metadata key; several would be written in varying order."""

UNSEALED = "unsealed" * 8
"""Stands in the metadata for the SHA-256 of all tensor bytes until these are known."""

ALTERED = "was altered after writing: its values do not have the checksum in its header."


@dataclass(frozen=True)
class Artifact:
    """One kind of file: where it lies below the artifact root and which command makes it."""

    name: str
    template: str
    """Path with {dataset}, {encoder}, ... filled in from the cell."""
    command: str
    """The command that makes it, with the same fields."""
    version: int = 1
    """Layout version, checked on load."""

    def path(self, root: Path, **cell: object) -> Path:
        """Return the path of the cell's file."""
        return root / self.template.format(**cell)

    def fail(self, root: Path, cell: Mapping[str, object], problem: str) -> ArtifactError:
        """Return the error for a file that cannot be used, with the command that mends it."""
        path = self.path(root, **cell)
        return ArtifactError(f"{path} {problem} Run: {self.command.format(**cell)}")


@dataclass(frozen=True)
class Tensors(Artifact):
    """A safetensors file of named arrays."""

    layout: Mapping[str, tuple[str, tuple[str, ...]]] | None = None
    """Tensor -> (dtype, shape letters); None admits any tensors (models)."""

    def save(
        self,
        root: Path,
        arrays: Mapping[str, np.ndarray],
        *,
        items: str,
        params: Mapping[str, Any],
        **cell: object,
    ) -> Path:
        """Check and write the arrays; return the path. Raises ArtifactError on a bad value."""
        from safetensors.numpy import save

        self.check(root, arrays, cell)
        header = self.metadata(items, params)
        content = seal(save({k: np.ascontiguousarray(v) for k, v in arrays.items()}, {KEY: header}))
        path = self.path(root, **cell)
        write_atomic(path, content, root / TEMPORARY)
        return path

    def load(
        self, root: Path, *, items: str | None = None, **cell: object
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the arrays and the metadata; `items` is the fingerprint they must belong to."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path = self.path(root, **cell)
        header = self.header(root, items=items, **cell)
        content = path.read_bytes()
        try:
            arrays = load(content)
        except (SafetensorError, ValueError) as error:
            raise self.fail(root, cell, f"is truncated or damaged ({error}).") from None
        self.check(root, arrays, cell)
        if _data_digest(content) != header["data"]:
            raise self.fail(root, cell, ALTERED)
        return arrays, header

    def header(self, root: Path, *, items: str | None = None, **cell: object) -> dict[str, Any]:
        """Return the metadata after checking name, version and catalogue, without the tensors."""
        path = self.path(root, **cell)
        try:
            with path.open("rb") as handle:
                size = struct.unpack("<Q", handle.read(8))[0]
                if size > 100_000_000:
                    raise ValueError("header too large")
                fields = json.loads(handle.read(size))
            text = fields["__metadata__"][KEY]
        except FileNotFoundError:
            raise missing(self, root, cell) from None
        except (struct.error, ValueError, KeyError):
            raise self.fail(root, cell, "is truncated or not a file of spectran.") from None
        return self.verify(root, text, items, cell)

    def metadata(self, items: str, params: Mapping[str, Any]) -> str:
        """Return the JSON stored under the single metadata key."""
        return _provenance(self, items, params, data=UNSEALED)

    def verify(
        self, root: Path, text: str, items: str | None, cell: Mapping[str, object]
    ) -> dict[str, Any]:
        """Check name, version and catalogue fingerprint in the stored JSON."""
        return _verify(self, root, text, items, cell)

    def check(
        self, root: Path, arrays: Mapping[str, np.ndarray], cell: Mapping[str, object]
    ) -> None:
        """Raise ArtifactError unless names, dtypes, shapes and values are what the layout says."""
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise self.fail(root, cell, f"holds NaN or infinity in `{name}`.")
        if self.layout is None:
            return
        if set(arrays) != set(self.layout):
            found = ", ".join(sorted(arrays))
            raise self.fail(root, cell, f"holds {found}, expected {', '.join(self.layout)}.")
        sizes: dict[str, int] = {}
        for name, (dtype, letters) in self.layout.items():
            array = arrays[name]
            if array.dtype != np.dtype(dtype):
                raise self.fail(root, cell, f"has `{name}` as {array.dtype}, expected {dtype}.")
            if len(letters) != array.ndim or any(
                sizes.setdefault(letter, size) != size
                for letter, size in zip(letters, array.shape, strict=True)
            ):
                expected = ", ".join(letters)
                raise self.fail(
                    root, cell, f"has `{name}` of shape {array.shape}, expected [{expected}]."
                )


@dataclass(frozen=True)
class Table(Artifact):
    """A Parquet file with a fixed schema."""

    schema: pa.Schema | None = None
    row_group: int | None = None
    """Rows per group where the table is read in windows; None leaves the library's choice."""

    def save(
        self, root: Path, table: pa.Table, *, items: str, params: Mapping[str, Any], **cell: object
    ) -> Path:
        """Check and write the table; return the path."""
        path = self.path(root, **cell)
        plain = self.schema
        assert plain is not None
        try:
            table = table.select(plain.names).cast(plain)
        except (pa.ArrowInvalid, KeyError) as error:
            raise self.fail(root, cell, f"would not fit its schema ({error}).") from None
        self._finite(root, table, cell)
        table = table.replace_schema_metadata({KEY: _provenance(self, items, params)})
        with atomic(path, root / TEMPORARY) as temporary:
            pq.write_table(
                table,
                temporary,
                compression="zstd",
                write_page_checksum=True,
                row_group_size=self.row_group,
            )
        return path

    def load(
        self, root: Path, *, items: str | None = None, **cell: object
    ) -> tuple[pa.Table, dict[str, Any]]:
        """Return the table and the metadata after checking schema, version and catalogue."""
        with self._reading(root, cell):
            table = pq.read_table(self.path(root, **cell), page_checksum_verification=True)
        header = self._described(root, table.schema, items, cell)
        self._finite(root, table, cell)
        return table, header

    def open(self, root: Path, **cell: object) -> tuple[int, dict[str, Any]]:
        """Return the number of rows and the metadata, checked as by `load`; reads no column."""
        with self._reading(root, cell), pq.ParquetFile(self.path(root, **cell)) as file:
            count, schema = file.metadata.num_rows, file.schema_arrow
        return count, self._described(root, schema, None, cell)

    def batches(
        self, root: Path, columns: Sequence[str], size: int, **cell: object
    ) -> Iterator[pa.RecordBatch]:
        """Yield some columns in batches of at most `size` rows; memory stays flat."""
        with (
            self._reading(root, cell),
            pq.ParquetFile(
                self.path(root, **cell), page_checksum_verification=True, pre_buffer=False
            ) as file,
        ):
            yield from file.iter_batches(size, columns=list(columns), use_threads=False)

    @contextmanager
    def _reading(self, root: Path, cell: Mapping[str, object]) -> Iterator[None]:
        """Turn what the library raises on an absent or damaged file into the error that helps."""
        try:
            yield
        except FileNotFoundError:
            raise missing(self, root, cell) from None
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0][:120]
            raise self.fail(root, cell, f"is truncated or damaged ({reason}).") from None

    def _described(
        self, root: Path, schema: pa.Schema, items: str | None, cell: Mapping[str, object]
    ) -> dict[str, Any]:
        """Return the metadata after checking version, catalogue and columns."""
        text = (schema.metadata or {}).get(KEY.encode())
        if text is None:
            raise self.fail(root, cell, "is not a file of spectran.")
        header = _verify(self, root, text.decode(), items, cell)
        plain = self.schema
        if plain is not None and not schema.remove_metadata().equals(plain):
            found = ", ".join(f"{f.name} {f.type}" for f in schema)
            raise self.fail(root, cell, f"has the columns {found}; another layout is expected.")
        return header

    def _finite(self, root: Path, table: pa.Table, cell: Mapping[str, object]) -> None:
        for field in table.schema:
            if pa.types.is_floating(field.type):
                values = table[field.name].drop_null().to_numpy()
                if not np.isfinite(values).all():
                    raise self.fail(root, cell, f"holds NaN or infinity in `{field.name}`.")


def missing(artifact: Artifact, root: Path, cell: Mapping[str, object]) -> ArtifactError:
    """Return the error for an absent file: the command that makes it, or dvc pull."""
    path = artifact.path(root, **cell)
    command = artifact.command.format(**cell)
    return ArtifactError(f"{path} is missing. Run: {command}   (or: dvc pull)")


def seal(content: bytes) -> bytes:
    """Put the checksum of a safetensors file's values into its metadata."""
    return content.replace(UNSEALED.encode(), _data_digest(content).encode(), 1)


def _data_digest(content: bytes) -> str:
    start = 8 + struct.unpack("<Q", content[:8])[0]
    return hashlib.sha256(memoryview(content)[start:]).hexdigest()


def _provenance(artifact: Artifact, items: str, params: Mapping[str, Any], **more: str) -> str:
    content = {
        **more,
        "artifact": artifact.name,
        "items": items,
        "params": params,
        "version": artifact.version,
    }
    return json.dumps(content, sort_keys=True, ensure_ascii=True)


def _verify(
    artifact: Artifact, root: Path, text: str, items: str | None, cell: Mapping[str, object]
) -> dict[str, Any]:
    try:
        header = json.loads(text)
        name, version, made_from = header["artifact"], header["version"], header["items"]
    except (ValueError, KeyError, TypeError):
        raise artifact.fail(root, cell, "has damaged metadata.") from None
    if name != artifact.name:
        raise artifact.fail(root, cell, f"is a {name} file, expected {artifact.name}.")
    if version != artifact.version:
        raise artifact.fail(
            root, cell, f"has layout version {version}, this spectran reads {artifact.version}."
        )
    if items is not None and made_from != items:
        raise artifact.fail(
            root,
            cell,
            f"was made from other items ({made_from[:8]}.., the catalogue is {items[:8]}..).",
        )
    _refuse_other_cell(artifact, root, header, cell)
    return dict(header)


def _refuse_other_cell(
    artifact: Artifact, root: Path, header: Mapping[str, Any], cell: Mapping[str, object]
) -> None:
    """Raise ArtifactError for a trained file that lies where another cell or seed belongs."""
    made = header.get("params")
    if not isinstance(made, Mapping) or not isinstance(made.get("cell"), Mapping):
        return
    names = {**made["cell"], "seed": made.get("seed")}
    if any(name in cell and str(cell[name]) != str(told) for name, told in names.items()):
        # A header keeps its keys sorted.
        parts = ("dataset", "encoder", "backbone", "method", "seed")
        of = "/".join(str(names[part]) for part in parts if part in names)
        raise artifact.fail(root, cell, f"is of {of}: it was copied or renamed.")


def save_json(artifact: Artifact, root: Path, content: Mapping[str, Any], **cell: object) -> Path:
    """Write a JSON artifact (sorted keys, one final newline); return the path."""
    path = artifact.path(root, **cell)
    wrapped = {"artifact": artifact.name, "version": artifact.version, **content}
    text = json.dumps(wrapped, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(path, (text + "\n").encode(), root / TEMPORARY)
    return path


def load_json(artifact: Artifact, root: Path, **cell: object) -> dict[str, Any]:
    """Return the content of a JSON artifact. Raises ArtifactError when absent or damaged."""
    path = artifact.path(root, **cell)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        name, version = content["artifact"], content["version"]
    except FileNotFoundError:
        raise missing(artifact, root, cell) from None
    except (ValueError, KeyError, TypeError):
        raise artifact.fail(root, cell, "is truncated or damaged.") from None
    if (name, version) != (artifact.name, artifact.version):
        raise artifact.fail(root, cell, f"is {name} version {version}; it cannot be read.")
    return dict(content)
