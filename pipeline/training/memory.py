"""What a training step holds of a batch. No part of backbones: an edit of those retrains cells."""

from __future__ import annotations

from pipeline.model import MethodConfig


def per_history(backbone: MethodConfig, width: int) -> int:
    """Return the numbers per history that a step holds of a backbone, from above.

    For every event rows of the layers of a block, kept for the way back, and their gradients; for
    every pair of events the scores of each head, plain, weighted and dropped, and their gradients.
    Sizes go by the names that backbones give them; 0 for one that reads no history.
    """
    places = getattr(backbone, "history", -1) + 1  # a masked item may follow
    heads = getattr(backbone, "heads", 1)
    own = getattr(backbone, "attention_width", 0) + getattr(backbone, "linear_width", 0)
    # Without layers of their own widths, blocks have the usual ones, as wide as the items'.
    rows = 4 * width + 10 * heads * own if own else (20 + 3 * getattr(backbone, "inner", 1)) * width
    pairs = (5 * heads + (2 if getattr(backbone, "time_bias", False) else 0)) * places
    outside = 4 * width + 2 * places
    return places * (outside + getattr(backbone, "blocks", 1) * (rows + pairs))
