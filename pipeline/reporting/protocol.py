"""What a number means: the line that stands beside every table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import naming
from pipeline.cells import Cell
from pipeline.config import GBCELoss, Loss, Params, SampledSoftmaxLoss, SoftmaxLoss, Split, Strata
from pipeline.naming import flat
from pipeline.precedence import outranked

SYNTHETIC = "synthetic: generated data, not a measurement of real users"
QUICK_LOOK = "a quick look, not a result"


NEGATIVES_FROM = {
    "trained": "items with a training event",
    "catalogue": "the whole catalogue",
    "events": "the training events, popular items more often",
}
TARGETS = {
    "all": "every training event but a user's first",
    "last": "the last training event of a user",
    "prefixes": "every training event but a user's first, each with a history of its own",
}


def protocol(params: Params, dataset: str, shown: Sequence[Cell]) -> dict[str, str]:
    """Return the protocol of a data set as short phrases by topic, in reading order.

    shown: the cells whose own settings are hinted at; what the data set overrides for none of
    them is left out.
    """
    block, train, how = params.dataset(dataset), params.train_for(dataset), params.evaluate
    kept = block.preprocess.keep_last
    lines = {
        "data": SYNTHETIC if is_synthetic(params, dataset) else f"read as {block.source.format}",
        "filter": f"{block.preprocess.core}-core, "
        + (f"last {kept} events of a user" if kept else "all events of a user"),
        "split": split(block.preprocess.split),
        "candidates": "the whole catalogue",
        "ties": "counted half",
        "seen items": {
            "candidates": "stay candidates",
            "excluded": "excluded",
        }[how.seen_items],
        "strata": strata(how.strata),
        "K": ", ".join(str(k) for k in sorted(how.ks)),
        "epochs": f"at most {train.max_epochs}, patience {train.patience} "
        f"on validation NDCG@{train.monitor_k}"
        + (", seen items among the candidates" if how.seen_items == "excluded" else ""),
        "width": str(train.width),
        "seeds": ", ".join(str(seed) for seed in train.seeds),
        "trained on": TARGETS[train.positions],
        "loss": f"{loss(train.loss)}; ranked by {train.ranking}",
    }
    if own_settings(params, shown):
        lines["settings of their own"] = "in the table of that name"
    if changed := _overrides(params, dataset, shown):
        quick = f" ({QUICK_LOOK})" if is_quick(params, dataset) else ""
        lines["overrides"] = words(changed) + quick
    return lines


def _overrides(params: Params, dataset: str, shown: Sequence[Cell]) -> dict[str, Any]:
    """Return what the data set overrides in `train` for at least one of the cells."""
    idle = [outranked(params, cell) for cell in shown if cell.trained]
    return {
        key: f"{value} (but for settings of their own)" if any(key in i for i in idle) else value
        for key, value in flat(params.dataset(dataset).train, "train").items()
        if not idle or any(key not in i for i in idle)
    }


def loss(how: Loss) -> str:
    """Return the ranking loss in words."""
    if isinstance(how, SoftmaxLoss):
        what = "softmax over the whole catalogue"
    else:
        plural = "" if how.negatives == 1 else "s"
        what = f"{how.name}, {how.negatives} negative{plural} from "
        # Drawn by counts, an item without a training event has no chance.
        corrected = isinstance(how, SampledSoftmaxLoss) and how.draw_power > 0
        what += NEGATIVES_FROM["trained" if corrected else how.negatives_from]
    if isinstance(how, SampledSoftmaxLoss):
        by = f"by training events ^ {how.sampling_power:g}" if how.draw_power > 0 else "uniformly"
        what += f" drawn {by}, log-q corrected"
    if isinstance(how, GBCELoss):
        what += f", calibration {how.calibration:g}"
    return f"{what}, {how.similarity} / {how.temperature:g}"


def own_settings(params: Params, shown: Sequence[Cell]) -> list[dict[str, str]]:
    """Return the methods and backbones of cells that bring settings of their own.

    One row each, of the keys name, of (the file that reads it) and settings (`key = value, ...`):
    variants, and blocks that change `train`.
    """
    found: dict[str, dict[str, str]] = {}
    for cell in shown:
        for kind, name in (("backbones", cell.backbone), ("methods", cell.method)):
            blocks = getattr(params, kind)
            if changes := naming.changes(kind, name, blocks):
                file = naming.file_of(kind, name, blocks)
                found[name] = {"name": name, "of": file, "settings": words(changes)}
    return list(found.values())


def words(changes: Mapping[str, Any]) -> str:
    """Return dotted keys and their values as one phrase."""
    return ", ".join(f"{key} = {value}" for key, value in sorted(changes.items()))


def phrases(said: str) -> list[str]:
    """Return `key = value` of what `words` wrote, one by one."""
    return re.split(r", (?=[\w.]+ = )", said)


def is_quick(params: Params, dataset: str) -> bool:
    """Whether the data set is trained narrower, shorter or with fewer seeds than `train` says."""
    full, used = params.train, params.train_for(dataset)
    return (
        used.width < full.width
        or used.max_epochs < full.max_epochs
        or used.patience < full.patience
        or len(used.seeds) < len(full.seeds)
    )


def is_synthetic(params: Params, dataset: str) -> bool:
    """Whether the data were generated."""
    return params.dataset(dataset).source.origin.kind == "synthetic"


def strata(how: Strata) -> str:
    """Return the training events of a target that each stratum stands for."""
    cold, median = how.cold_at_most, how.median_at_most
    return (
        f"warm more than {median} training events, median {cold + 1} to {median}, "
        f"cold 1 to {cold}, unseen none"
    )


def split(how: Split) -> str:
    """Return the split in words."""
    if how.kind == "leave_one_out":
        return "leave one out (last event tests, the one before validates)"
    shares = ":".join(f"{share:.0%}" for share in (how.train, how.valid, 1 - how.train - how.valid))
    return f"{how.kind.replace('_', ' ')} {shares}"


def line(topics: dict[str, str]) -> str:
    """Return the topics as one line."""
    return "; ".join(f"{topic}: {text}" for topic, text in topics.items()) + "."


def short(topics: dict[str, str]) -> str:
    """Return the topics that CSV rows repeat."""
    kept = [topics["split"], "whole catalogue", "ties half", f"seen items {topics['seen items']}"]
    kept += [f"epochs {topics['epochs']}", f"width {topics['width']}"]
    return "; ".join(kept + ([QUICK_LOOK] if QUICK_LOOK in topics.get("overrides", "") else []))
