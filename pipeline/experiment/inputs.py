"""What a cell reads: items, histories, text and spectra, each loaded on first use."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from pipeline import artifacts
from pipeline.cells import input_path
from pipeline.values import Catalog, SemanticEmbeddings, Sequences, Spectrum


class CellInputs:
    """Inputs of a method, loaded on first use; reading one that NEEDS does not list is a bug."""

    def __init__(self, root: Path, dataset: str, encoder: str, needs: tuple[str, ...]) -> None:
        self.root, self.dataset, self.encoder, self.needs = root, dataset, encoder, needs

    @cached_property
    def catalog(self) -> Catalog:
        """The items."""
        return Catalog.load(self.root, self.dataset)

    @cached_property
    def sequences(self) -> Sequences:
        """The histories."""
        return Sequences.load(self.root, self.dataset, self.catalog)

    @cached_property
    def semantic(self) -> SemanticEmbeddings:
        """The text embeddings."""
        self._declared("semantic")
        return SemanticEmbeddings.load(self.root, self.dataset, self.encoder, self.catalog)

    def spectrum(self, view: str) -> Spectrum:
        """One view of their spectrum."""
        self._declared(f"spectrum:{view}")
        return Spectrum.load(self.root, self.dataset, self.encoder, view, self.catalog)

    def paths(self) -> dict[str, Path]:
        """Return the files this cell reads."""
        names = (artifacts.ITEMS.name, artifacts.SEQUENCES.name, *self.needs)
        return {name: input_path(self.root, self.dataset, self.encoder, name) for name in names}

    def check(self) -> None:
        """Raise ArtifactError when a text input is missing or made from other items."""
        cell = {"dataset": self.dataset, "encoder": self.encoder}
        for need in self.needs:
            kind, _, view = need.partition(":")
            artifact = artifacts.SPECTRUM if kind == "spectrum" else artifacts.SEMANTIC
            artifact.header(self.root, items=self.catalog.fingerprint, **cell, view=view)

    def _declared(self, need: str) -> None:
        if need not in self.needs:
            raise AssertionError(f"the method reads {need}, which its NEEDS does not list")
