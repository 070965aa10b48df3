"""Scaled dot-product attention with a mask and dropout on its weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.layers.dropout import dropout


def attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, p: float, training: bool) -> Tensor:
    """Return softmax(Q K^T / sqrt(d)) V, [B, heads, L, d].

    q, k, v: [B, heads, L, d]; allowed: [B, 1, L, L] bool, which keys a query may see, at least one
    each; p: dropout of the weights. Source: Vaswani et al., NeurIPS 2017, equation 1.

    On a CPU written out: torch's fallback copies its inputs, and its dropout draws slowly; for
    short histories that is a third of the time of a block. In training written out everywhere:
    torch's kernels draw masks of their own, which seeds that train together could not share with
    their separate runs.
    """
    if q.device.type != "cpu" and not training:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    return dropout(weights, p, training) @ v
