"""What a number means: the line that stands beside every table."""

from __future__ import annotations

from typing import Any

from pipeline.config import Params, Split, Strata

SYNTHETIC = "synthetic: generated data, not a measurement of real users"
QUICK_LOOK = "a quick look, not a result"


NEGATIVES_FROM = {"trained": "items with a training event", "catalogue": "the whole catalogue"}


def protocol(params: Params, dataset: str) -> dict[str, str]:
    """Return the protocol of a data set as short phrases by topic, in reading order."""
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
        f"on validation NDCG@{train.monitor_k}",
        "width": str(train.width),
        "seeds": ", ".join(str(seed) for seed in train.seeds),
        "loss": f"{train.loss.name}, {train.loss.negatives} negatives from "
        f"{NEGATIVES_FROM[train.loss.negatives_from]}, {train.loss.similarity} / "
        f"{train.loss.temperature:g}; ranked by {train.ranking}",
    }
    changed = flat(block.train)
    if changed:
        lines["overrides"] = ", ".join(
            f"train.{key} = {value}" for key, value in sorted(changed.items())
        ) + (f" ({QUICK_LOOK})" if is_quick(params, dataset) else "")
    return lines


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


def flat(block: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as dotted keys; lists stay values."""
    if not isinstance(block, dict):
        return {prefix: block}
    found: dict[str, Any] = {}
    for key, value in block.items():
        found |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found
