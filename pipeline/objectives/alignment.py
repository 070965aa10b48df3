"""Losses that pull two sets of item vectors towards each other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.layers.cosine import unit_rows
from pipeline.layers.draws import Draw, drawn
from pipeline.layers.packing import Packing
from pipeline.model import Objective, SeqModel, Views
from pipeline.sampling.batches import Batch

NEVER = -1e9
"""A logit whose share is 0 in float32, and finite, so that a row of nothing else is not NaN."""


class Pair(nn.Module):
    """Two vectors of an item, of one width: what the item's own vector gives, and what text gives.

    Its parameters train with the loss that compares them.
    """

    @abstractmethod
    def forward(self, vectors: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return two [n, D'] of item vectors [n, D] and ids [n]."""

    def semantic(self) -> Tensor | None:
        """Return what the text alone gives, [N, D']; None: nothing that training changes."""
        return None


class Columns(Pair):
    """The first columns of an item vector and the rest of them, equally many."""

    def forward(self, vectors: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return two [n, D / 2]."""
        first, second = vectors.chunk(2, dim=-1)
        return first, second


class TextToItem(Pair):
    """The item vector, and its text brought to the same width.

    rows: [N, H] frozen text; projector: [n, H] to [n, D].
    """

    def __init__(self, rows: Tensor, projector: nn.Module) -> None:
        super().__init__()
        self.register_buffer("rows", rows, persistent=False)
        self.rows: Tensor
        self.projector = projector

    def forward(self, vectors: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return two [n, D]."""
        return vectors, self.projector(F.embedding(items - 1, self.rows))

    def semantic(self) -> Tensor:
        """Return the projected text of all items, [N, D]."""
        found: Tensor = self.projector(self.rows)
        return found


class ItemToText(Pair):
    """What a projector makes of the item vector, and the text.

    rows: [N, H] frozen text; projector: [n, D] to [n, H].
    """

    def __init__(self, rows: Tensor, projector: nn.Module) -> None:
        super().__init__()
        self.register_buffer("rows", rows, persistent=False)
        self.rows: Tensor
        self.projector = projector

    def forward(self, vectors: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return two [n, H]."""
        return self.projector(vectors), F.embedding(items - 1, self.rows)


def cosine_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return 1 - mean_i cos(x_i, y_i), in [0, 2], of two [n, D].

    Source: RLMRec as re-implemented by AlphaFuse (Hugo-Chinn/AlphaFuse, models/backbone_SASRec.py,
    reconstruct_con_loss and reconstruct_gen_loss).
    """
    return 1 - F.cosine_similarity(x, y, dim=-1).mean()


def contrast(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    """Return mean_i -log softmax_j(cos(x_i, y_j) / tau) at j = i, at least 0, of two [n, D].

    One-sided: x_i is to find its own y among those of the other items. Holds [n, n].
    Source: RLMRec (HKUDS/RLMRec, encoder/models/loss_utils.py, cal_infonce_loss and ssl_con_loss).
    Differs: their 1e-8 in roots and logarithms are left out.
    """
    logits_nn = unit_rows(x) @ unit_rows(y).T / temperature
    return -logits_nn.log_softmax(-1).diagonal().mean()


class Alignment(Objective):
    """A loss over the two vectors of each item.

    pair: makes the two vectors. loss: takes them, two [n, D'], to a scalar. items_per_step: items
    of a step, drawn without replacement from torch's global generator; None: all items. The mean
    over those drawn is that over all in expectation, where an item's loss hangs on no other item.
    """

    def __init__(
        self,
        view: str,
        pair: Pair,
        loss: Callable[[Tensor, Tensor], Tensor],
        items_per_step: int | None,
    ) -> None:
        super().__init__()
        self.view = view
        self.pair = pair
        self.loss = loss
        self.items_per_step = items_per_step

    def forward(self, model: SeqModel, batch: Batch, tables: Views, states: Views) -> Tensor:
        """Return the loss of the items of a step."""
        table = tables[self.view]
        items = self._items(len(table) - 1, table.device)
        return self.loss(*self.pair(F.embedding(items, table), items))

    def semantic(self) -> Views:
        """Return the text that the items are aligned with, where it is trained."""
        text = self.pair.semantic()
        return {} if text is None else {self.view: text}

    def _items(self, count: int, device: torch.device) -> Tensor:
        if self.items_per_step is None or self.items_per_step >= count:
            return torch.arange(1, count + 1, device=device)
        return drawn(Draw("order", (count,)), device)[: self.items_per_step] + 1


class SoftContrast(Objective):
    """Contrast of two views over the items of the batch's histories, with soft targets.

        p_ij = softmax_j(x_i . y_j / tau)          q_ij = softmax_j(y_i . x_j / tau)
        t_ij = softmax_j(tau (x_i . x_j + y_i . y_j) / 2)
        loss = -1/2 mean_i sum_j ( t_ij log p_ij + t_ji log q_ij )

    Items count as often as they occur; the gradient also flows through the targets.
    Source: LLM-ESR, Contrastive_Loss2 (liuqidong07/LLM-ESR, models/utils.py, LLMESR.py: x is the
    text, y the ID view).
    Differs: none known.
    """

    def __init__(self, x: str, y: str, temperature: float) -> None:
        super().__init__()
        self.x, self.y = x, y
        self.temperature = temperature

    def forward(self, model: SeqModel, batch: Batch, tables: Views, states: Views) -> Tensor:
        """Return the mean over all events of the histories; T^2 for T events."""
        seen = batch.history.items
        packing = Packing(seen > 0)
        items = packing.pack(seen).squeeze(1)
        x_TD, y_TD = F.embedding(items, tables[self.x]), F.embedding(items, tables[self.y])
        logits_TT = x_TD @ y_TD.T / self.temperature
        within_TT = (x_TD @ x_TD.T + y_TD @ y_TD.T) / 2 * self.temperature
        if packing.fixed:
            return self._among_real(logits_TT, within_TT, packing.real.flatten())
        targets_TT = within_TT.softmax(-1)
        forth = (targets_TT * logits_TT.log_softmax(-1)).sum()
        back = (targets_TT * logits_TT.log_softmax(0)).sum()
        return -(forth + back) / (2 * len(items))

    def _among_real(self, logits_TT: Tensor, within_TT: Tensor, real_T: Tensor) -> Tensor:
        """Return the same where only some rows and columns count."""
        outside = ~(real_T[:, None] & real_T)
        logits_TT = logits_TT.masked_fill(outside, NEVER)
        targets_TT = within_TT.masked_fill(outside, NEVER).softmax(-1) * real_T[:, None]
        both = logits_TT.log_softmax(-1) + logits_TT.log_softmax(0)
        return -(targets_TT * both).sum() / (2 * real_T.sum())
