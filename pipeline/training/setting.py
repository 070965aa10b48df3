"""What all seeds of a cell share while they train, refused where nothing can be learned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pipeline.config import TrainConfig
from pipeline.errors import ConfigError, DataError
from pipeline.evaluation.ranks import Question, count, ndcg, questions
from pipeline.model import Adapter, Method, SeqModel
from pipeline.randomness import generator
from pipeline.sampling.batches import Batch, HeldOut, Windows, epoch, held_out, windows
from pipeline.sampling.negatives import Pool
from pipeline.training.parameters import modules_of
from pipeline.training.steps import adapters
from pipeline.values import Sequences


def one_item(dataset: str) -> str:
    """Say that a catalogue is too small to rank."""
    return (
        f"train: {dataset}: the catalogue has one item, and ranking needs at least two. Use data "
        f"with more items, or lower datasets.{dataset}.preprocess.core."
    )


@dataclass(frozen=True)
class Setting:
    """What all seeds of a cell share while they train."""

    config: TrainConfig
    device: str
    cut: Windows
    pool: Pool
    questions: list[Question]
    """Of the validation users, on the device; their seen items are left out."""
    num_items: int

    @classmethod
    def of(cls, method: Method, data: Sequences, config: TrainConfig, device: str) -> Setting:
        """Cut windows and ask for held-out items as the method reads them.

        Raises DataError when there is nothing to train on or validate with, and ConfigError when
        all item vectors start at zero and are compared by their cosine.
        """
        length, times = method.model.length, method.model.reads_times
        cut = windows(data, length, config.positions, times=times)
        valid = held_out(data, "valid", times=times)
        _check(cut, valid, data)
        pool = Pool.of(config.loss, data.train_counts())
        if config.loss.similarity == "cosine":
            _refuse_zero_start(method, data.num_items)
        asked = list(questions(valid, length, data.num_items, device, seen=False))
        return cls(config, device, cut, pool, asked, data.num_items)

    def batches(self, model: SeqModel, seed: int, phase: str, number: int) -> Iterator[Batch]:
        """Yield the steps of one epoch of one seed, on the CPU."""
        name = (phase, number)
        examples = model.examples(generator(seed, "cloze", *name))
        config = self.config
        yield from epoch(
            self.cut,
            examples,
            self.pool,
            config.loss.negatives,
            config.batch_size,
            generator(seed, "order", *name),
            generator(seed, "negatives", *name),
        )

    def validate(self, model: SeqModel) -> float:
        """Return what early stopping watches. Raises DivergedError when a score is NaN."""
        with torch.inference_mode():
            counts = count(model.ranker(self.config.ranking), self.questions)
        return ndcg(counts["greater"], counts["equal"], self.config.monitor_k)


def _refuse_zero_start(method: Method, items: int) -> None:
    """Raise ConfigError when a whole item table starts at zero.

    A cosine has no gradient there: it is taken as that of rows SMALLEST_NORM long, 1e12 times too
    large, and Adam then hardly moves them for thousands of steps.
    """

    def has_empty_ids(adapter: Adapter) -> bool:
        return any(len(p) > items and not p.any() for p in adapter.parameters() if p.dim() == 2)

    empty = [adapter for adapter in adapters(method.model) if has_empty_ids(adapter)]
    modules = modules_of(method).eval()  # in training a table may draw numbers
    with torch.no_grad():
        if any(not adapter.table()[1:].any() for adapter in empty):
            raise ConfigError(
                "params.yaml: the item vectors all start at zero, from where a cosine cannot be "
                "trained. Set train.item_std, or the method's own id_std, above 0, or "
                "train.loss.similarity: dot."
            )
    modules.train()


def _check(cut: Windows, valid: HeldOut, data: Sequences) -> None:
    own = f"datasets.{data.dataset}.preprocess"
    if len(cut) == 0:
        raise DataError(
            f"train: {data.dataset}: no user has two training events, and at least one must. "
            f"Lower {own}.core, or use another {own}.split."
        )
    if len(valid) == 0:
        raise DataError(
            f"train: {data.dataset}: the validation split is empty, but early stopping watches "
            f"at least one user of it. Use data with more users, or another {own}.split."
        )
    if data.num_items < 2:
        raise DataError(one_item(data.dataset))
