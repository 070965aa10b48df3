"""`evaluate`: metrics from ranks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.numbers import Positive
from pipeline.strict import Strict


class Strata(Strict):
    """Classes of test targets by their number of training events; 0 events = unseen."""

    cold_at_most: Positive
    median_at_most: Positive

    @model_validator(mode="after")
    def _ascending(self) -> Strata:
        if self.cold_at_most >= self.median_at_most:
            raise ValueError(
                f"cold_at_most {self.cold_at_most} leaves no target between cold and "
                f"median_at_most {self.median_at_most}; write a smaller cold_at_most"
            )
        return self


class EvaluateConfig(Strict):
    """Metrics from ranks."""

    ks: Annotated[list[Positive], Field(min_length=1)]
    seen_items: Literal["candidates", "excluded"]
    """Whether items of the user's own history stay in the ranking."""
    strata: Strata
    alpha: Annotated[float, Field(gt=0, lt=1)]
    """Level of the corrected paired tests; intervals have level 1 - alpha."""
