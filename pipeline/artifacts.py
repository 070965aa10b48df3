"""Every file exchanged between stages: its path, its schema and the command that makes it."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pipeline.codecs import Artifact, Table, Tensors, load_json, missing, save_json

__all__ = ["ALL", "Artifact", "Table", "Tensors", "load_json", "missing", "save_json"]

RAW = Artifact("raw", "raw/{dataset}.json", "spectran download {dataset}")
"""Manifest of raw files: name, size, SHA-256, origin. The files stay in the cache, so that data
whose terms forbid redistribution can never be pushed."""

ITEMS = Table(
    "items",
    "data/{dataset}/items.parquet",
    "spectran preprocess {dataset}",
    schema=pa.schema(
        [
            pa.field("item", pa.uint32()),
            pa.field("raw_item", pa.string()),
            pa.field("title", pa.string()),
            pa.field("brand", pa.string()),
            pa.field("categories", pa.string()),
            pa.field("description", pa.string()),
        ]
    ),
    row_group=1 << 16,
)
"""The catalogue: items 1..N by ascending raw id; text never null."""

SEQUENCES = Table(
    "sequences",
    "data/{dataset}/sequences.parquet",
    "spectran preprocess {dataset}",
    schema=pa.schema(
        [
            pa.field("user", pa.uint32()),
            pa.field("raw_user", pa.string()),
            pa.field("items", pa.list_(pa.uint32())),
            pa.field("times", pa.list_(pa.int64())),
            pa.field("train_end", pa.uint32()),
            pa.field("valid_at", pa.uint32()),
            pa.field("test_at", pa.uint32()),
        ]
    ),
)
"""Kept history per user, oldest first. Events before train_end may be inputs and targets;
valid_at and test_at index a target whose input is everything before it. times is null where only
the order is known."""

DATA_STATS = Artifact("data_stats", "data/{dataset}/stats.json", "spectran preprocess {dataset}")
"""Counts after every step, rejected rows by reason, ties, split sizes."""

SEMANTIC = Tensors(
    "semantic",
    "semantic/{dataset}/{encoder}.safetensors",
    "spectran encode {dataset} {encoder}",
    layout={"values": ("float32", ("N+1", "H"))},
)
"""Text embeddings; row 0 is padding and exactly zero."""

SEMANTIC_STATS = Artifact(
    "semantic_stats",
    "semantic/{dataset}/{encoder}.json",
    "spectran encode {dataset} {encoder}",
)
"""What the vectors look like: norms, mean cosine, neighbours of a few items, lengths of texts."""

SPECTRUM = Tensors(
    "spectrum",
    "spectrum/{dataset}/{encoder}/{view}.safetensors",
    "spectran spectrum {dataset} {encoder}",
    layout={
        "mean": ("float32", ("H",)),
        "u": ("float32", ("N", "R")),
        "s": ("float32", ("R",)),
        "v": ("float32", ("H", "R")),
    },
)
"""Thin SVD of one view; row i-1 of u belongs to item i."""

SPECTRUM_STATS = Artifact(
    "spectrum_stats",
    "spectrum/{dataset}/{encoder}/stats.json",
    "spectran spectrum {dataset} {encoder}",
)

CELL = "{dataset}/{encoder}/{backbone}/{method}"
TRAIN = f"spectran train {CELL.replace('/', ' ')}"

MODEL = Tensors("model", f"models/{CELL}/{{seed}}.safetensors", TRAIN)
"""Trained tensors; frozen inputs are not copied. Those that only the loss uses are named
`objectives.<term>.`; ranking needs none of them."""

CURVES = Table(
    "curves",
    f"curves/{CELL}/{{seed}}.parquet",
    TRAIN,
    schema=pa.schema(
        [
            pa.field("epoch", pa.uint32()),
            pa.field("phase", pa.string()),
            pa.field("name", pa.string()),
            pa.field("value", pa.float64()),
        ]
    ),
)
"""Loss, validation metrics and norms per epoch; no clock."""

RANKS = Table(
    "ranks",
    f"ranks/{CELL}/{{seed}}.parquet",
    TRAIN,
    schema=pa.schema(
        [
            pa.field("user", pa.uint32()),
            pa.field("split", pa.string()),
            pa.field("target", pa.uint32()),
            pa.field("greater", pa.uint32()),
            pa.field("equal", pa.uint32()),
            pa.field("candidates", pa.uint32()),
            pa.field("greater_unseen", pa.uint32()),
            pa.field("equal_unseen", pa.uint32()),
            pa.field("candidates_unseen", pa.uint32()),
            pa.field("target_train_count", pa.uint32()),
        ]
    ),
)
"""For every validation and test user, how many other candidates score strictly better than the
target and how many equal it, among all items and among items outside the user's input history."""

TUNED = Artifact("tuned", f"tuned/{CELL}.json", f"spectran tune {CELL.replace('/', ' ')}")
"""Trials of a search for settings, the best of them, and what they depend on; no clock."""

METRICS = Table(
    "metrics",
    "metrics/{dataset}.parquet",
    "spectran evaluate {dataset}",
    schema=pa.schema(
        [
            pa.field("encoder", pa.string()),
            pa.field("backbone", pa.string()),
            pa.field("method", pa.string()),
            pa.field("split", pa.string()),
            pa.field("slice", pa.string()),
            pa.field("metric", pa.string()),
            pa.field("k", pa.uint32()),
            pa.field("users", pa.uint32()),
            pa.field("seeds", pa.uint32()),
            pa.field("mean", pa.float64()),
            pa.field("deviation", pa.float64()),
            pa.field("low", pa.float64()),
            pa.field("high", pa.float64()),
        ]
    ),
)
"""One row per cell, split, slice, metric and K: mean over users and seeds, deviation over seeds,
interval over users."""

COMPARISONS = Table(
    "comparisons",
    "comparisons/{dataset}.parquet",
    "spectran evaluate {dataset}",
    schema=pa.schema(
        [
            pa.field("encoder", pa.string()),
            pa.field("backbone", pa.string()),
            pa.field("method", pa.string()),
            pa.field("against", pa.string()),
            pa.field("other_encoder", pa.string()),
            pa.field("other_backbone", pa.string()),
            pa.field("other_method", pa.string()),
            pa.field("split", pa.string()),
            pa.field("metric", pa.string()),
            pa.field("k", pa.uint32()),
            pa.field("users", pa.uint32()),
            pa.field("difference", pa.float64()),
            pa.field("low", pa.float64()),
            pa.field("high", pa.float64()),
            pa.field("p_t", pa.float64()),
            pa.field("p_t_holm", pa.float64()),
            pa.field("p_wilcoxon", pa.float64()),
            pa.field("p_wilcoxon_holm", pa.float64()),
        ]
    ),
)
"""Paired tests over users: each cell against the ID-only one (`id`) and the best one (`best`), and
text cells against the strongest trained one without text (`plain`) and against their own form on
text without meaning (`control`); variants against the method they are made from (`base`)."""

COLLAPSE = Table(
    "collapse",
    "collapse/{dataset}.parquet",
    "spectran collapse {dataset}",
    schema=pa.schema(
        [
            pa.field("encoder", pa.string()),
            pa.field("backbone", pa.string()),
            pa.field("method", pa.string()),
            pa.field("seed", pa.uint32()),
            pa.field("view", pa.string()),
            pa.field("part", pa.string()),
            pa.field("state", pa.string()),
            pa.field("items", pa.uint32()),
            pa.field("width", pa.uint32()),
            pa.field("top_10", pa.float64()),
            pa.field("effective_rank", pa.float64()),
            pa.field("participation_ratio", pa.float64()),
            pa.field("cumulative", pa.list_(pa.float64())),
        ]
    ),
)
"""Shares of the covariance spectrum of item vectors, one row per cell, seed, view, part and state.
part: `semantic` (what the text alone gives, before ID vectors join or in the loss) or `table`; a
view whose text stands in the loss only has both. state: `initial` or `trained`; cumulative: share
of the first 1..width directions. Null and empty where all vectors are the same."""

SIZES = Table(
    "sizes",
    "sizes/{dataset}.parquet",
    "spectran collapse {dataset}",
    schema=pa.schema(
        [
            pa.field("encoder", pa.string()),
            pa.field("backbone", pa.string()),
            pa.field("method", pa.string()),
            pa.field("method_parameters", pa.uint64()),
            pa.field("backbone_parameters", pa.uint64()),
        ]
    ),
)
"""Trained parameters of every trained cell: those of its backbone, and all others (item tables,
fusion, terms of the loss). Padding rows count."""

ALL: Sequence[Artifact] = (
    RAW,
    ITEMS,
    SEQUENCES,
    DATA_STATS,
    SEMANTIC,
    SEMANTIC_STATS,
    SPECTRUM,
    SPECTRUM_STATS,
    MODEL,
    CURVES,
    RANKS,
    TUNED,
    METRICS,
    COMPARISONS,
    COLLAPSE,
    SIZES,
)
