"""`train` and `tune`: losses, the training protocol, the search for settings."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.config.numbers import Positive, Share
from pipeline.strict import Strict

DrawnFrom = Literal["trained", "catalogue", "events"]
Positions = Literal["all", "last", "prefixes"]
Similarity = Literal["cosine", "dot"]


class SampledLoss(Strict):
    """What the losses share that compare a target with drawn items."""

    name: str
    negatives: Positive
    """Drawn per history, shared by its positions."""
    negatives_from: DrawnFrom
    """trained: items with a training event, each as likely; catalogue: all items, each as likely;
    events: items in proportion to their training events. An item that is a negative much more often
    than a target is pushed away from every user, which hides what its text says. In proportion to
    events none is, and InfoNCE then learns how much likelier than usual an item is for this user:
    popularity is taken out, which suits logs whose next items are new or rare."""
    similarity: Similarity
    temperature: Annotated[float, Field(gt=0)]
    """Divides the similarity."""

    @property
    def draw_power(self) -> float:
        """Items are drawn in proportion to their training events to this power; 0 = uniformly."""
        return 1.0 if self.negatives_from == "events" else 0.0


class InfoNCELoss(SampledLoss):
    """Cross-entropy of the target against the negatives, uncorrected."""

    name: Literal["infonce"]


class SampledSoftmaxLoss(SampledLoss):
    """Cross-entropy against negatives that are weighted to stand for all items they come from."""

    name: Literal["sampled_softmax"]
    sampling_power: Share
    """Items are drawn in proportion to their training events to this power: 0 = uniformly, 1 =
    proportionally. Above 0, items without a training event are never drawn, and
    negatives_from must be `trained`."""

    @model_validator(mode="after")
    def _one_way_to_draw(self) -> SampledSoftmaxLoss:
        if self.negatives_from == "events":
            raise ValueError(
                "negatives_from: events is not for this loss, which corrects for how it draws; "
                "write trained, and sampling_power: 1 for draws in proportion to training events"
            )
        if self.negatives_from == "catalogue" and self.sampling_power > 0:
            raise ValueError(
                f"negatives_from: catalogue, but sampling_power: {self.sampling_power:g} never "
                "draws items without a training event; write trained, or sampling_power: 0"
            )
        return self

    @property
    def draw_power(self) -> float:
        """See `sampling_power`."""
        return self.sampling_power


class BCELoss(SampledLoss):
    """Binary cross-entropy of the target against the mean of the negatives."""

    name: Literal["bce"]


class GBCELoss(SampledLoss):
    """Binary cross-entropy whose positive term makes up for the share of negatives drawn."""

    name: Literal["gbce"]
    calibration: Share
    """t: 0 = plain binary cross-entropy, 1 = fully calibrated scores."""

    @model_validator(mode="after")
    def _even_draws(self) -> GBCELoss:
        if self.negatives_from == "events":
            raise ValueError(
                "negatives_from: events is not for this loss, whose calibration supposes even "
                "draws; write trained or catalogue"
            )
        return self


class SoftmaxLoss(Strict):
    """Cross-entropy of the target against the whole catalogue, items without an event included."""

    name: Literal["softmax"]
    similarity: Similarity
    temperature: Annotated[float, Field(gt=0)]
    """Divides the similarity."""

    negatives: ClassVar[int] = 0
    negatives_from: ClassVar[DrawnFrom] = "catalogue"
    draw_power: ClassVar[float] = 0.0


Loss = Annotated[
    InfoNCELoss | SoftmaxLoss | SampledSoftmaxLoss | BCELoss | GBCELoss,
    Field(discriminator="name"),
]
"""Ranking loss, shared by all methods. All tell `negatives`, `negatives_from`, `draw_power`."""


class TrainConfig(Strict):
    """Training protocol, shared by all methods and backbones."""

    width: Positive
    """Item vector size D."""
    seeds: Annotated[list[int], Field(min_length=1)]
    max_epochs: Positive
    patience: Positive
    """Epochs without a better validation value before training stops."""
    monitor_k: Positive
    """Early stopping watches validation NDCG at this cut-off, among all items, seen ones included.
    Not to be set by a backbone or method: all cells of a data set are stopped by the same curve."""
    batch_size: Positive
    """Histories per step."""
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    """L2 term of Adam (coupled, as in the reference code). ID vectors of items that no loss touches
    (without a training event, where negatives are drawn from trained items) have no other gradient,
    and Adam brings them to zero within some epochs, however small the term is."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    positions: Positions
    """all: every event but a user's first is a target once, many in one history; last: only the
    last training event; prefixes: as all, but every target ends a history of its own, like the rows
    of public code. A backbone with cloze targets reads the same windows and masks events of its own
    choice: with prefixes each event but a user's first is the last of a sequence once."""
    item_std: Annotated[float, Field(ge=0)]
    """Standard deviation of initial ID vectors."""
    loss: Loss
    ranking: Similarity
    """Similarity used to rank."""
    adam_betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
    """Decay of Adam's running means of the gradient and of its square."""
    adam_eps: Annotated[float, Field(gt=0)]
    """Added to the root of Adam's second mean."""
    threads: Positive
    """CPU threads of training; part of the params because sums depend on it in the last bit."""

    @model_validator(mode="after")
    def _seeds_differ(self) -> TrainConfig:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: a seed is named twice; a repeated seed is no new run")
        return self


Choice = bool | int | float | str | None
"""One value that a search may try; checked by the model that the key belongs to."""

Choices = Annotated[list[Choice], Field(min_length=1)]


class Tune(Strict):
    """Search for settings of a method: what may be tried, and how often."""

    trials: Positive
    """Configurations tried for every method; fewer only where fewer exist."""
    random_trials: Positive
    """The first ones, the present values included, that are drawn before results guide the rest."""
    seed: int
    """Of the draws."""
    train_seed: int
    """Seed that every configuration is trained with."""
    space: dict[str, Choices]
    """For all methods: `train.KEY` -> values."""
    methods: dict[str, dict[str, Choices]]
    """Method -> its own keys (or further `train.KEY`) -> values; variants take those of their
    file."""
    backbones: dict[str, dict[str, Choices]]
    """Backbone -> its own keys -> values; variants take those of their file, but for keys that they
    change themselves: these make the variant."""
