"""A small catalogue with text that tells which items belong together."""

from __future__ import annotations

import io
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline import artifacts, config
from pipeline.params import load
from pipeline.values import Catalog, SemanticEmbeddings, Sequences, Spectrum
from tests import plain

ITEMS = 24
WIDTH = 8


def pytest_configure() -> None:
    """Hear Ctrl-C, and let programs under test hear it: shells start background jobs deaf to it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Terminal(io.StringIO):
    """What a person types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="session")
def params(tmp_path_factory: pytest.TempPathFactory) -> config.Params:
    changes = {
        "train.width": WIDTH,
        "train.max_epochs": 3,
        "train.batch_size": 8,
        "train.threads": 1,
        "train.loss.negatives": 6,
    }
    path = tmp_path_factory.mktemp("plain") / "params.yaml"
    path.write_text(plain.text())
    return load(path, changes)


def tiny_catalog() -> Catalog:
    blank = [""] * ITEMS
    table = pa.table(
        {
            "item": pa.array(range(1, ITEMS + 1), pa.uint32()),
            "raw_item": [f"i{n:02d}" for n in range(ITEMS)],
            "title": [f"title {n}" for n in range(ITEMS)],
            "brand": blank,
            "categories": blank,
            "description": blank,
        }
    )
    return Catalog.of(table)


def tiny_sequences(catalog: Catalog, users: int = 20, length: int = 6) -> Sequences:
    """Every user walks up the catalogue from an own start: the next item is learnable."""
    starts = np.arange(users) % ITEMS
    items = (starts[:, None] + np.arange(length)) % ITEMS + 1
    train_end = np.full(users, length - 2)
    return Sequences(
        raw_users=pa.array([f"u{n}" for n in range(users)]),
        items=items.ravel().astype(np.int64),
        times=None,
        offsets=np.arange(users + 1) * length,
        train_end=train_end,
        valid_at=train_end.copy(),
        test_at=train_end + 1,
        num_items=ITEMS,
        fingerprint=catalog.fingerprint,
    )


def tiny_text(width: int = 12) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(ITEMS + 1, width)).astype(np.float32)
    values[0] = 0
    return values


def spectrum_of(values: np.ndarray, view: str, fingerprint: str) -> Spectrum:
    """Decompose by numpy: independent of the project's own decomposition."""
    rows = values[1:].astype(np.float64)
    mean = np.zeros(rows.shape[1])
    if view == "unit":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    else:
        mean = rows.mean(0)
        rows = rows - mean
    u, s, vt = np.linalg.svd(rows, full_matrices=False)
    kept = s > 1e-4 * s[0]
    parts = (mean, u[:, kept], s[kept], vt[kept].T)
    return Spectrum(view, *(p.astype(np.float32) for p in parts), fingerprint)


class TinyInputs:
    """Everything a method may read, in memory."""

    def __init__(self) -> None:
        self.catalog = tiny_catalog()
        self.sequences = tiny_sequences(self.catalog)
        self.semantic = SemanticEmbeddings(tiny_text(), self.catalog.fingerprint)

    def spectrum(self, view: str) -> Spectrum:
        return spectrum_of(self.semantic.values, view, self.catalog.fingerprint)


@pytest.fixture
def inputs() -> TinyInputs:
    """Tiny models run faster, and repeatably, on one thread."""
    import torch

    torch.set_num_threads(1)
    return TinyInputs()


@pytest.fixture(scope="module")
def offline() -> Iterator[None]:
    """Any connection fails the test."""
    patch = pytest.MonkeyPatch()

    def refuse(*_: Any) -> None:
        raise AssertionError("a model on this disk must not need the network")

    patch.setattr(socket.socket, "connect", refuse)
    patch.setattr(socket, "getaddrinfo", refuse)
    patch.delenv("HF_HUB_OFFLINE", raising=False)
    yield
    patch.undo()


@pytest.fixture
def tiny_root(tmp_path: Path) -> Path:
    """A project folder with params.yaml and the artifacts `tiny` by encoder `hash`."""
    root = tmp_path / "artifacts"
    made = TinyInputs()
    made.catalog.save(root, "demo", {})
    made.sequences.save(root, "demo", {})
    fingerprint = made.catalog.fingerprint
    cell = {"dataset": "demo", "encoder": "hash"}
    artifacts.SEMANTIC.save(
        root, {"values": made.semantic.values}, items=fingerprint, params={}, **cell
    )
    for view in ("unit", "centred"):
        found = made.spectrum(view)
        arrays = {"mean": found.mean, "u": found.u, "s": found.s, "v": found.v}
        artifacts.SPECTRUM.save(root, arrays, items=fingerprint, params={}, **cell, view=view)
    (tmp_path / "params.yaml").write_text(plain.text())
    (tmp_path / "revisions.yaml").write_text(Path("revisions.yaml").read_text())
    return tmp_path
