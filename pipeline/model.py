"""The parts of a method: item tables, sequence encoders, their fusion, objectives, phases.

A score is always query . key: fusions of several views are written as one inner product, so that
ranking, evaluation and every loss stay the same for all methods.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, PrivateAttr
from torch import Tensor, nn

from pipeline.layers.cosine import unit_rows
from pipeline.sampling.batches import Batch, Examples, History, next_items
from pipeline.sampling.cloze import Masking, masked_items, question

if TYPE_CHECKING:
    from pipeline.config import TrainConfig
    from pipeline.values import Catalog, SemanticEmbeddings, Sequences, Spectrum

Views = dict[str, Tensor]
"""Keyed by view name."""

Similarity = Literal["cosine", "dot"]

Targets = Literal["next", "cloze"]
"""What a state is to find: the item after its position, or the item masked at it."""


@dataclass(frozen=True)
class Before:
    """Metadata of a setting that came later: what results of before it were made with.

    Not a default: params.yaml still has to say the value.
    """

    value: str | float | bool | None


class MethodConfig(BaseModel):
    """Settings of one method or backbone; subclasses give every field a unit and no default."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    _block: str | None = PrivateAttr(default=None)

    @property
    def block(self) -> str:
        """The block of params.yaml to edit, for messages: of a variant its own, not its file's."""
        return self._block or self.__module__.removeprefix("pipeline.")

    def at(self, block: str) -> Self:
        """Return these settings as read from a block, e.g. `methods.whitenrec_plus`."""
        found = self.model_copy()
        found._block = block
        return found

    @classmethod
    def completed(cls, made: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings that made a file, with those that there were not yet then."""
        marks = ((name, mark) for name, info in cls.model_fields.items() for mark in info.metadata)
        added = {name: mark.value for name, mark in marks if isinstance(mark, Before)}
        return {**added, **made}


class Rates(NamedTuple):
    """How a parameter is optimised; None: as `train` says."""

    weight_decay: float | None = None
    learning_rate: float | None = None


class Adapter(nn.Module):
    """Item ids to item vectors; owns whatever it trains."""

    width: int
    selective: bool = False
    """Whether `rows_of` costs less than `table`."""

    @abstractmethod
    def table(self) -> Tensor:
        """Return [N+1, D]; row 0 is zero."""

    def rows_of(self, items: Tensor) -> Tensor:
        """Return the rows [M, D] of the table for items [M]."""
        return F.embedding(items, self.table())

    def semantic(self) -> Tensor | None:
        """Return what the text alone gives, [N+1, D'], before ID vectors join it; None: no text."""
        return None

    def rates(self) -> Mapping[str, Rates]:
        """Return own parameters (by name) that are trained at other rates than `train` says."""
        return {}

    def after_step(self) -> None:
        """Restore constraints after an optimiser step."""

    def measures(self) -> dict[str, float]:
        """Return numbers worth a learning curve, e.g. sizes of the parts."""
        return {}


class Backbone(nn.Module):
    """Item vectors in order to user states.

    A backbone with cloze targets reads L+1 positions: a history and the masked item after it.
    """

    targets: ClassVar[Targets] = "next"
    width: int
    length: int
    """L, events of the history."""
    reads_times: bool = False
    """Whether `forward` needs `history.times`; data without times are then refused."""
    masking: Masking | None = None
    """How training sequences are masked; only for cloze targets."""

    @abstractmethod
    def forward(self, x_BLD: Tensor, history: History) -> Tensor:
        """Return states [B, L, D]; position l has seen the items up to l, or all (cloze)."""


class View(NamedTuple):
    """One item table with the encoder that reads it; two views may share a backbone."""

    adapter: Adapter
    backbone: Backbone


class Fusion(nn.Module):
    """Joins views. The default, for one view, changes nothing."""

    def mix(self, x: Views, history: History) -> Views:
        """Exchange between views before their backbones; {view: [B, L, D_v]} in and out.

        Position l may depend on the items up to l only, as in every backbone.
        """
        return x

    def query(self, states: Views, similarity: Similarity) -> Tensor:
        """Join states {view: [..., D_v]} into queries [..., D], normalised for cosine."""
        (state,) = states.values()
        return unit_rows(state) if similarity == "cosine" else state

    def key(self, tables: Views, similarity: Similarity) -> Tensor:
        """Join tables {view: [N+1, D_v]} into keys [N+1, D], normalised for cosine."""
        (table,) = tables.values()
        return unit_rows(table) if similarity == "cosine" else table


class SeqModel(nn.Module):
    """Views and their fusion.

    Raises ValueError when the views' backbones have different targets.
    """

    def __init__(self, views: Mapping[str, View], fusion: Fusion) -> None:
        super().__init__()
        self.adapters = nn.ModuleDict({name: view.adapter for name, view in views.items()})
        # A shared backbone is held once, under the first view that reads by it: a saved state
        # would otherwise carry it once per view.
        owners: dict[Backbone, str] = {}
        self.read_by = {n: owners.setdefault(view.backbone, n) for n, view in views.items()}
        self.backbones = nn.ModuleDict({name: backbone for backbone, name in owners.items()})
        self.fusion = fusion
        kinds = {(view.backbone.targets, view.backbone.masking) for view in views.values()}
        if len(kinds) > 1:
            raise ValueError(f"the views' backbones have different targets: {kinds}")
        ((self.targets, self.masking),) = kinds

    @property
    def length(self) -> int:
        """L of the longest history any backbone reads."""
        return max(_backbone(b).length for b in self.backbones.values())

    @property
    def reads_times(self) -> bool:
        """Whether any backbone reads times."""
        return any(_backbone(b).reads_times for b in self.backbones.values())

    @property
    def item_tables(self) -> list[Adapter]:
        """Adapters of the views."""
        return [_adapter(module) for module in self.adapters.values()]

    def tables(self, items: Tensor | None = None) -> Views:
        """Return every view's item table; computed once per step or evaluation.

        items: [M], whose rows to return instead of all, [M, D_v].
        """
        found = zip(self.adapters, self.item_tables, strict=True)
        return {name: a.table() if items is None else a.rows_of(items) for name, a in found}

    def states(self, history: History, tables: Views) -> Views:
        """Return every view's states [B, L, D_v]."""
        x = {name: F.embedding(history.items, table) for name, table in tables.items()}
        mixed = self.fusion.mix(x, history)
        return {
            name: self.backbones[owner](mixed[name], history)
            for name, owner in self.read_by.items()
        }

    def examples(self, masks: torch.Generator) -> Examples:
        """Return what makes histories and targets of training windows; masks: for cloze targets."""
        if self.masking is None:
            return next_items
        return partial(masked_items, self.masking, masks)

    def ranker(self, similarity: Similarity) -> Scorer:
        """Return the scores of whole catalogues, with keys computed once."""
        tables = self.tables()
        keys = self.fusion.key(tables, similarity)[1:]
        cloze = self.targets == "cloze"

        def score(history: History) -> Tensor:
            asked = question(history) if cloze else history
            states = {name: s[:, -1] for name, s in self.states(asked, tables).items()}
            return self.fusion.query(states, similarity) @ keys.T

        return score


def _adapter(module: nn.Module) -> Adapter:
    assert isinstance(module, Adapter)
    return module


def _backbone(module: nn.Module) -> Backbone:
    assert isinstance(module, Backbone)
    return module


Scorer = Callable[[History], Tensor]
"""Histories to scores [B, N]; column j belongs to item j + 1."""


class Objective(nn.Module):
    """A term of the loss; may own parameters."""

    stackable: ClassVar[bool] = True
    """Whether several seeds may train in one batched pass, see `training.stacked.stackable`."""
    reads_batch_only: ClassVar[bool] = False
    """Whether it needs no rows of the tables but those of the batch's items, and no item ids."""

    @abstractmethod
    def forward(self, model: SeqModel, batch: Batch, tables: Views, states: Views) -> Tensor:
        """Return a scalar, the mean over targets."""

    def semantic(self) -> Views:
        """Return what this term alone makes of the text, {view: [N, D']}, where it trains it."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One stretch of training with early stopping of its own."""

    name: str
    objectives: Mapping[str, tuple[float, Objective]]
    """Name -> (weight, term)."""
    train: tuple[str, ...] = ("*",)
    """Globs of parameter names; the rest is frozen."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A composition that can be trained."""

    model: SeqModel
    phases: tuple[Phase, ...]


@dataclass(frozen=True, kw_only=True)
class Untrained:
    """A baseline without parameters."""

    scorer: Scorer
    length: int
    """Events of the history it reads."""


class Inputs(Protocol):
    """What a method may read; reading something that its NEEDS does not list raises."""

    @property
    def catalog(self) -> Catalog:
        """The items."""

    @property
    def sequences(self) -> Sequences:
        """The histories."""

    @property
    def semantic(self) -> SemanticEmbeddings:
        """The text embeddings (NEEDS `semantic`)."""

    def spectrum(self, view: str) -> Spectrum:
        """One view of their spectrum (NEEDS `spectrum:<view>`)."""


@dataclass(frozen=True)
class Parts:
    """What the experiment gives every method: the shared protocol."""

    train: TrainConfig
    backbone: Callable[[int], Backbone]
    """Makes the cell's backbone for an item width."""
    ranking: Callable[[], Objective]
    """Makes the shared ranking loss."""
    width_key: str = "train.width"
    """Where params.yaml sets the cell's width, for messages."""


def single(adapter: Adapter, parts: Parts) -> Method:
    """Return the method of one view and one phase, trained by the shared ranking loss."""
    model = SeqModel({"item": View(adapter, parts.backbone(adapter.width))}, Fusion())
    return Method(
        model=model, phases=(Phase(name="fit", objectives={"ranking": (1.0, parts.ranking())}),)
    )


def with_padding(rows: Tensor) -> Tensor:
    """Prepend the zero row of id 0: [N, D] to [N+1, D]."""
    return F.pad(rows, (0, 0, 1, 0))


def normal_table(rows: int, width: int, std: float) -> nn.Parameter:
    """Return a parameter [rows + 1, width] drawn from N(0, std^2) with row 0 zero."""
    table = torch.randn(rows + 1, width) * std
    table[0] = 0
    return nn.Parameter(table)
