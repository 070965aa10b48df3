"""What the artifacts hold once loaded: small frozen values that check themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import artifacts
from pipeline.errors import ArtifactError

NOT_HELD = -1
"""valid_at or test_at of a user without such a target, in memory."""


IDENTIFYING = ("raw_item", "title", "brand", "categories", "description")
"""Columns of ITEMS that make a catalogue what it is."""


def catalog_fingerprint(chunks: Callable[[str], Iterable[pa.Array]]) -> str:
    """Return the SHA-256 over raw ids and text: per column all lengths, then all bytes.

    chunks: yields a column in pieces, twice.
    """
    digest = hashlib.sha256()
    for name in IDENTIFYING:
        for part in (0, 1):
            for chunk in chunks(name):
                column = chunk.cast(pa.large_string())
                _, places, content = column.buffers()
                ends = np.frombuffer(places, "<i8")[column.offset : column.offset + len(column) + 1]
                if part == 0:
                    digest.update(np.diff(ends).tobytes())
                elif content is not None and len(ends):
                    digest.update(memoryview(content)[ends[0] : ends[-1]])
    return digest.hexdigest()


@dataclass(frozen=True)
class Catalog:
    """The items 1..N with their text."""

    table: pa.Table
    """Schema of `artifacts.ITEMS`."""
    fingerprint: str
    """SHA-256 over raw ids and text, in order; names the catalogue in every artifact."""

    @classmethod
    def of(cls, table: pa.Table) -> Catalog:
        """Build from a table in the schema of ITEMS; raises ArtifactError on a bad numbering."""
        numbers = table["item"].to_numpy()
        if not np.array_equal(numbers, np.arange(1, len(numbers) + 1)):
            raise ArtifactError("items: the column `item` must run from 1 to N without gaps.")
        for name in IDENTIFYING:
            if table[name].null_count:
                raise ArtifactError(f"items: the column `{name}` holds nulls.")
        fingerprint = catalog_fingerprint(lambda name: table[name].chunks)
        return cls(table, fingerprint)

    @classmethod
    def load(cls, root: Path, dataset: str) -> Catalog:
        """Read the catalogue of a data set."""
        table, header = artifacts.ITEMS.load(root, dataset=dataset)
        catalog = cls.of(table)
        if header["items"] != catalog.fingerprint:
            raise artifacts.ITEMS.fail(root, {"dataset": dataset}, "was altered after writing.")
        return catalog

    def save(self, root: Path, dataset: str, params: Mapping[str, Any]) -> Path:
        """Write the catalogue of a data set."""
        return artifacts.ITEMS.save(
            root, self.table, items=self.fingerprint, params=params, dataset=dataset
        )

    def __len__(self) -> int:
        return len(self.table)


@dataclass(frozen=True)
class Sequences:
    """All users' kept histories, flat: user i owns events offsets[i]:offsets[i+1]."""

    raw_users: pa.Array
    """[U] string."""
    items: np.ndarray
    """[E] int64, 1..N, oldest first within a user."""
    times: np.ndarray | None
    """[E] int64 seconds, or None where only the order is known."""
    offsets: np.ndarray
    """[U+1] int64."""
    train_end: np.ndarray
    """[U] int64: events before it (within the user) may be inputs and training targets."""
    valid_at: np.ndarray
    """[U] int64, index within the user, or NOT_HELD."""
    test_at: np.ndarray
    """[U] int64, index within the user, or NOT_HELD."""
    num_items: int
    """N."""
    fingerprint: str
    """Of the catalogue."""
    dataset: str = "D"
    """Name of the data set, for messages; D as long as it has none."""

    def __post_init__(self) -> None:
        lengths = np.diff(self.offsets)
        problems = {
            "an item outside 1..N": self.items.size
            and (self.items.min() < 1 or self.items.max() > self.num_items),
            "train_end beyond a history": (self.train_end > lengths).any(),
            "valid_at beyond a history": (self.valid_at >= lengths).any(),
            "test_at beyond a history": (self.test_at >= lengths).any(),
            "a training event at or after a held-out target": (
                (self.valid_at >= 0) & (self.train_end > self.valid_at)
            ).any()
            or ((self.test_at >= 0) & (self.train_end > self.test_at)).any(),
        }
        for problem, found in problems.items():
            if found:
                raise ArtifactError(f"sequences: {problem}. Run: spectran preprocess")

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.offsets) - 1

    @classmethod
    def load(cls, root: Path, dataset: str, catalog: Catalog) -> Sequences:
        """Read the sequences of a data set, checked against its catalogue."""
        table, _ = artifacts.SEQUENCES.load(root, items=catalog.fingerprint, dataset=dataset)
        lists = table["items"].combine_chunks()
        times = table["times"].combine_chunks()
        has_times = times.null_count == 0 and len(times) > 0
        held = {
            name: table[name].combine_chunks().cast(pa.int64()).fill_null(NOT_HELD)
            for name in ("train_end", "valid_at", "test_at")
        }
        return cls(
            raw_users=table["raw_user"].combine_chunks(),
            items=lists.flatten().to_numpy().astype(np.int64),
            times=times.flatten().to_numpy().astype(np.int64) if has_times else None,
            offsets=lists.offsets.to_numpy().astype(np.int64) - lists.offsets[0].as_py(),
            train_end=held["train_end"].to_numpy(),
            valid_at=held["valid_at"].to_numpy(),
            test_at=held["test_at"].to_numpy(),
            num_items=len(catalog),
            fingerprint=catalog.fingerprint,
            dataset=dataset,
        )

    def save(self, root: Path, dataset: str, params: Mapping[str, Any]) -> Path:
        """Write the sequences of a data set."""
        offsets = pa.array(self.offsets, pa.int32())

        def nested(values: np.ndarray, kind: pa.DataType) -> pa.Array:
            return pa.ListArray.from_arrays(offsets, pa.array(values, kind))

        def held(values: np.ndarray) -> pa.Array:
            return pa.array(values, pa.uint32(), mask=values < 0)

        table = pa.table(
            {
                "user": pa.array(np.arange(self.num_users), pa.uint32()),
                "raw_user": self.raw_users,
                "items": nested(self.items, pa.uint32()),
                "times": pa.nulls(self.num_users, pa.list_(pa.int64()))
                if self.times is None
                else nested(self.times, pa.int64()),
                "train_end": pa.array(self.train_end, pa.uint32()),
                "valid_at": held(self.valid_at),
                "test_at": held(self.test_at),
            }
        )
        return artifacts.SEQUENCES.save(
            root, table, items=self.fingerprint, params=params, dataset=dataset
        )

    def train_counts(self) -> np.ndarray:
        """Return [N+1] int64: training events per item (row 0 is 0)."""
        position = np.arange(len(self.items)) - np.repeat(self.offsets[:-1], np.diff(self.offsets))
        mask = position < np.repeat(self.train_end, np.diff(self.offsets))
        return np.bincount(self.items[mask], minlength=self.num_items + 1)


@dataclass(frozen=True)
class SemanticEmbeddings:
    """Text embeddings of the catalogue."""

    values: np.ndarray
    """[N+1, H] float32; row 0 zero."""
    fingerprint: str

    def __post_init__(self) -> None:
        if self.values[0].any():
            raise ArtifactError("semantic: row 0 is padding and must be zero.")

    @classmethod
    def load(cls, root: Path, dataset: str, encoder: str, catalog: Catalog) -> SemanticEmbeddings:
        """Read the embeddings of a data set by an encoder, checked against its catalogue."""
        cell = {"dataset": dataset, "encoder": encoder}
        arrays, _ = artifacts.SEMANTIC.load(root, items=catalog.fingerprint, **cell)
        values = arrays["values"]
        if len(values) != len(catalog) + 1:
            raise artifacts.SEMANTIC.fail(
                root, cell, f"holds {len(values) - 1} rows but there are {len(catalog)} items."
            )
        return cls(values, catalog.fingerprint)


@dataclass(frozen=True)
class Spectrum:
    """Thin SVD of one view of the text embeddings: view = u * s @ v.T (+ mean)."""

    view: str
    mean: np.ndarray
    """[H] float32; zero for views that are not centred."""
    u: np.ndarray
    """[N, R] float32; row i-1 belongs to item i."""
    s: np.ndarray
    """[R] float32, descending."""
    v: np.ndarray
    """[H, R] float32; the largest absolute entry of each column is positive."""
    fingerprint: str

    @classmethod
    def load(cls, root: Path, dataset: str, encoder: str, view: str, catalog: Catalog) -> Spectrum:
        """Read one view, checked against the catalogue."""
        cell = {"dataset": dataset, "encoder": encoder, "view": view}
        arrays, _ = artifacts.SPECTRUM.load(root, items=catalog.fingerprint, **cell)
        if len(arrays["u"]) != len(catalog):
            raise artifacts.SPECTRUM.fail(
                root, cell, f"holds {len(arrays['u'])} rows but there are {len(catalog)} items."
            )
        return cls(view, arrays["mean"], arrays["u"], arrays["s"], arrays["v"], catalog.fingerprint)
