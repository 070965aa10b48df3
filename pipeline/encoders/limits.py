"""What a model's own settings say of the block that names it: width and longest input."""

from __future__ import annotations

from typing import Any

from pipeline.config.text import Model
from pipeline.errors import ConfigError


def check_width(spec: Model, width: int | None) -> None:
    """Raise ConfigError unless the model's vectors are as wide as the block says."""
    if width is not None and width != spec.width:
        raise ConfigError(
            f"encoder model {spec.model!r} gives vectors of width {width}, params say "
            f"{spec.width}. Set `width: {width}`."
        )


def check_length(spec: Model, tokenizer: Any, settings: Any) -> None:
    """Raise ConfigError when the block asks for longer inputs than the model reads.

    settings: the model's config; None where it has none.
    """
    found = [getattr(tokenizer, "model_max_length", None)]
    found.append(getattr(settings, "max_position_embeddings", None))
    # Tokenizers without a limit state 10^30.
    limit = min((int(n) for n in found if n is not None and n < 10**9), default=None)
    if limit is not None and spec.max_tokens > limit:
        raise ConfigError(
            f"encoder model {spec.model!r} reads at most {limit} tokens, params say "
            f"max_tokens: {spec.max_tokens}. Set `max_tokens: {limit}` or less."
        )
