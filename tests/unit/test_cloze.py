"""Which items of a training sequence are hidden, and how often."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.randomness import generator
from pipeline.sampling.batches import History, next_items, windows
from pipeline.sampling.cloze import Masking, masked_items, question
from pipeline.values import Sequences


def sequences(lengths: list[int]) -> Sequences:
    """User u's events are 1, 2, 3, ..."""
    import pyarrow as pa

    size = np.array(lengths)
    none = np.full(len(lengths), -1)
    return Sequences(
        raw_users=pa.array([str(n) for n in range(len(lengths))]),
        items=np.concatenate([np.arange(1, n + 1) for n in lengths]).astype(np.int64),
        times=None,
        offsets=np.concatenate([[0], np.cumsum(size)]),
        train_end=size,
        valid_at=none,
        test_at=none.copy(),
        num_items=max(lengths),
        fingerprint="",
    )


def real(rows: int, width: int, events: int) -> torch.Tensor:
    return (torch.arange(width) >= width - events).expand(rows, width)


@pytest.mark.parametrize("events", [1, 2, 6])
@pytest.mark.parametrize("rho", [0.2, 0.6, 1.0])
def test_items_are_masked_at_the_rate_asked_for(events: int, rho: float) -> None:
    rows = 20_000
    masked = Masking(rho, 0.0).draw(real(rows, 6, events), generator(0, "cloze"))
    assert not masked[:, : 6 - events].any()
    assert masked.any(1).all()
    mean = events * rho + (1 - rho) ** events
    # one deviation of the mean count is below 1.3 / sqrt(20,000) = 0.009
    assert float(masked.sum(1).double().mean()) == pytest.approx(mean, abs=0.04)
    places = masked[:, 6 - events :].double().mean(0)
    assert torch.allclose(places, torch.full_like(places, mean / events), atol=0.02)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_sequences_hides_only_the_last_item(share: float) -> None:
    """rho = 1 hides all, so the two kinds can be told apart."""
    masked = Masking(1.0, share).draw(real(20_000, 5, 4), generator(0, "cloze"))
    assert masked[:, -1].all()
    alone = masked.sum(1) == 1
    assert float(alone.double().mean()) == pytest.approx(share, abs=0.02)
    assert (masked.sum(1)[~alone] == 4).all()


def test_a_sequence_is_the_history_and_its_target() -> None:
    cut = windows(sequences([6, 3]), 4, "all")
    rows = np.arange(len(cut))
    assert cut.sequences(rows).tolist() == [[1, 2, 3, 4, 5], [2, 3, 4, 5, 6], [0, 0, 1, 2, 3]]
    history, targets = next_items(cut, rows)
    assert history.masked is None
    assert cut.sequences(rows)[:, :-1].tolist() == history.items.tolist()
    assert (cut.sequences(rows)[:, 1:] == targets.numpy())[targets.numpy() > 0].all()


def test_what_is_hidden_is_the_target_and_nothing_else() -> None:
    cut = windows(sequences([9] * 50), 4, "all")
    rows = np.arange(len(cut))
    history, targets = masked_items(Masking(0.4, 0.1), generator(0, "cloze"), cut, rows)
    assert history.masked is not None
    assert torch.equal(history.masked, targets > 0)
    assert not history.items[history.masked].any()
    assert torch.equal(history.items + targets, torch.from_numpy(cut.sequences(rows)))


def test_masks_follow_from_their_stream() -> None:
    masking, shape = Masking(0.4, 0.1), real(30, 5, 5)
    first = masking.draw(shape, generator(0, "cloze", "fit", 1))
    assert torch.equal(first, masking.draw(shape, generator(0, "cloze", "fit", 1)))
    assert not torch.equal(first, masking.draw(shape, generator(0, "cloze", "fit", 2)))


def test_the_question_is_one_more_position() -> None:
    asked = question(History(torch.tensor([[0, 3, 1], [4, 2, 5]])))
    assert asked.items.tolist() == [[0, 3, 1, 0], [4, 2, 5, 0]]
    assert asked.masked is not None
    assert asked.masked.tolist() == [[False] * 3 + [True]] * 2
