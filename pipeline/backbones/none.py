"""No sequence encoder: the mark of untrained methods."""

from __future__ import annotations

from pipeline.errors import ConfigError
from pipeline.model import Backbone, MethodConfig


class Config(MethodConfig):
    """No settings."""


def build(config: Config, width: int, dropout: float, key: str = "train.width") -> Backbone:
    """Raise ConfigError: there is nothing to train."""
    raise ConfigError("backbone none: this method is trained and needs a backbone, e.g. sasrec.")
