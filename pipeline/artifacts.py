"""Every file exchanged between stages: its path, schema, checks, and how it is read and written.

A file carries one metadata key, `spectran`, with sorted JSON: artifact name, layout version, the
fingerprint of the catalogue it belongs to, and the parameters that made it. Its bytes depend on
nothing else, so identical runs give identical files.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
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
        content = save({k: np.ascontiguousarray(v) for k, v in arrays.items()}, {KEY: header})
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
        try:
            arrays = load(path.read_bytes())
        except (SafetensorError, ValueError) as error:
            raise self.fail(root, cell, f"is truncated or damaged ({error}).") from None
        self.check(root, arrays, cell)
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
        return _provenance(self, items, params)

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
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
        return path

    def load(
        self, root: Path, *, items: str | None = None, **cell: object
    ) -> tuple[pa.Table, dict[str, Any]]:
        """Return the table and the metadata after checking schema, version and catalogue."""
        path = self.path(root, **cell)
        try:
            table = pq.read_table(path, page_checksum_verification=True)
        except FileNotFoundError:
            raise missing(self, root, cell) from None
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0][:120]
            raise self.fail(root, cell, f"is truncated or damaged ({reason}).") from None
        text = (table.schema.metadata or {}).get(KEY.encode())
        if text is None:
            raise self.fail(root, cell, "is not a file of spectran.")
        header = _verify(self, root, text.decode(), items, cell)
        plain = self.schema
        if plain is not None and not table.schema.remove_metadata().equals(plain):
            found = ", ".join(f"{f.name} {f.type}" for f in table.schema)
            raise self.fail(root, cell, f"has the columns {found}; another layout is expected.")
        self._finite(root, table, cell)
        return table, header

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


def _provenance(artifact: Artifact, items: str, params: Mapping[str, Any]) -> str:
    content = {
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
    return dict(header)


# ---------------------------------------------------------------- the files

RAW = Artifact("raw", "raw/{dataset}.json", "spectran download {dataset}")
"""Manifest of raw files: name, size, SHA-256, origin. The files stay in the cache, so that data
whose terms forbid redistribution can never be pushed."""

ITEMS = Table(
    "items",
    "data/{dataset}/items.parquet",
    "spectran preprocess {dataset}",
    schema=pa.schema(
        [
            pa.field("item", pa.uint32()),
            pa.field("raw_item", pa.string()),
            pa.field("title", pa.string()),
            pa.field("brand", pa.string()),
            pa.field("categories", pa.string()),
            pa.field("description", pa.string()),
        ]
    ),
)
"""The catalogue: items 1..N by ascending raw id; text never null."""

SEQUENCES = Table(
    "sequences",
    "data/{dataset}/sequences.parquet",
    "spectran preprocess {dataset}",
    schema=pa.schema(
        [
            pa.field("user", pa.uint32()),
            pa.field("raw_user", pa.string()),
            pa.field("items", pa.list_(pa.uint32())),
            pa.field("times", pa.list_(pa.int64())),
            pa.field("train_end", pa.uint32()),
            pa.field("valid_at", pa.uint32()),
            pa.field("test_at", pa.uint32()),
        ]
    ),
)
"""Kept history per user, oldest first. Events before train_end may be inputs and targets;
valid_at and test_at index a target whose input is everything before it. times is null where only
the order is known."""

DATA_STATS = Artifact("data_stats", "data/{dataset}/stats.json", "spectran preprocess {dataset}")
"""Counts after every step, rejected rows by reason, ties, split sizes."""

SEMANTIC = Tensors(
    "semantic",
    "semantic/{dataset}/{encoder}.safetensors",
    "spectran encode {dataset} {encoder}",
    layout={"values": ("float32", ("N+1", "H"))},
)
"""Text embeddings; row 0 is padding and exactly zero."""

SPECTRUM = Tensors(
    "spectrum",
    "spectrum/{dataset}/{encoder}/{view}.safetensors",
    "spectran spectrum {dataset} {encoder}",
    layout={
        "mean": ("float32", ("H",)),
        "u": ("float32", ("N", "R")),
        "s": ("float32", ("R",)),
        "v": ("float32", ("H", "R")),
    },
)
"""Thin SVD of one view; row i-1 of u belongs to item i."""

SPECTRUM_STATS = Artifact(
    "spectrum_stats",
    "spectrum/{dataset}/{encoder}/stats.json",
    "spectran spectrum {dataset} {encoder}",
)

CELL = "{dataset}/{encoder}/{backbone}/{method}"
TRAIN = f"spectran train {CELL.replace('/', ' ')}"

MODEL = Tensors("model", f"models/{CELL}/{{seed}}.safetensors", TRAIN)
"""Trained tensors; frozen inputs are not copied."""

CURVES = Table(
    "curves",
    f"curves/{CELL}/{{seed}}.parquet",
    TRAIN,
    schema=pa.schema(
        [
            pa.field("epoch", pa.uint32()),
            pa.field("phase", pa.string()),
            pa.field("name", pa.string()),
            pa.field("value", pa.float64()),
        ]
    ),
)
"""Loss, validation metrics and norms per epoch; no clock."""

RANKS = Table(
    "ranks",
    f"ranks/{CELL}/{{seed}}.parquet",
    TRAIN,
    schema=pa.schema(
        [
            pa.field("user", pa.uint32()),
            pa.field("split", pa.string()),
            pa.field("target", pa.uint32()),
            pa.field("greater", pa.uint32()),
            pa.field("equal", pa.uint32()),
            pa.field("candidates", pa.uint32()),
            pa.field("greater_unseen", pa.uint32()),
            pa.field("equal_unseen", pa.uint32()),
            pa.field("candidates_unseen", pa.uint32()),
            pa.field("target_train_count", pa.uint32()),
        ]
    ),
)
"""For every validation and test user, how many other candidates score strictly better than the
target and how many equal it, among all items and among items outside the user's input history."""

METRICS = Table(
    "metrics",
    "metrics/{dataset}.parquet",
    "spectran evaluate {dataset}",
    schema=pa.schema(
        [
            pa.field("encoder", pa.string()),
            pa.field("backbone", pa.string()),
            pa.field("method", pa.string()),
            pa.field("split", pa.string()),
            pa.field("slice", pa.string()),
            pa.field("metric", pa.string()),
            pa.field("k", pa.uint32()),
            pa.field("users", pa.uint32()),
            pa.field("seeds", pa.uint32()),
            pa.field("mean", pa.float64()),
            pa.field("deviation", pa.float64()),
            pa.field("low", pa.float64()),
            pa.field("high", pa.float64()),
        ]
    ),
)
"""One row per cell, split, slice, metric and K: mean over users and seeds, deviation over seeds,
95% interval over users."""

COMPARISONS = Table(
    "comparisons",
    "comparisons/{dataset}.parquet",
    "spectran evaluate {dataset}",
    schema=pa.schema(
        [
            pa.field("encoder", pa.string()),
            pa.field("backbone", pa.string()),
            pa.field("method", pa.string()),
            pa.field("against", pa.string()),
            pa.field("other_encoder", pa.string()),
            pa.field("other_backbone", pa.string()),
            pa.field("other_method", pa.string()),
            pa.field("split", pa.string()),
            pa.field("metric", pa.string()),
            pa.field("k", pa.uint32()),
            pa.field("users", pa.uint32()),
            pa.field("difference", pa.float64()),
            pa.field("low", pa.float64()),
            pa.field("high", pa.float64()),
            pa.field("p_t", pa.float64()),
            pa.field("p_t_holm", pa.float64()),
            pa.field("p_wilcoxon", pa.float64()),
            pa.field("p_wilcoxon_holm", pa.float64()),
        ]
    ),
)
"""Paired tests over users: each cell against the ID-only one (`id`) and the best one (`best`)."""


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


ALL: Sequence[Artifact] = (
    RAW,
    ITEMS,
    SEQUENCES,
    DATA_STATS,
    SEMANTIC,
    SPECTRUM,
    SPECTRUM_STATS,
    MODEL,
    CURVES,
    RANKS,
    METRICS,
    COMPARISONS,
)
