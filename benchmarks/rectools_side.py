"""RecTools' side of training_rectools.py; runs in RecTools' own environment."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as lightning
import rectools
import torch
from clock import Clock
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.item_net import IdEmbeddingsItemNet


class Timer(lightning.Callback):
    """Times epochs. RecTools copies it with its trainer, so what it finds is kept outside."""

    def __init__(self, clock: Clock, targets: list[int]) -> None:
        self.begin, self.advance, self.end = clock.begin, clock.advance, clock.end
        self.count = targets.append

    def __deepcopy__(self, memo: Any) -> Timer:
        return self

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self.begin()

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        if trainer.current_epoch == 0:  # the warm-up
            self.count(int((batch["y"] > 0).sum()))

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self.advance(0)
        self.end()


def train(folder: Path, settings: dict[str, Any], loss: str) -> dict[str, Any]:
    """Train RecTools' SASRec and return its times."""
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(settings["threads"])
    clock, targets = Clock(), []

    def trainer() -> Any:
        return lightning.Trainer(
            max_epochs=settings["epochs"] + 1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[Timer(clock, targets)],
        )

    built = model(settings, loss, trainer)
    built.fit(Dataset.construct(events(folder)))
    network = built.lightning_model.torch_model
    return {
        "seconds": clock.steps[1:],
        "cpu": clock.cpu[1:],
        "targets": sum(targets),
        "parameters": sum(p.numel() for p in network.parameters()),
        "versions": {
            "rectools": rectools.__version__,
            "torch": torch.__version__,
            "pytorch_lightning": lightning.__version__,
        },
    }


def events(folder: Path) -> pd.DataFrame:
    """Return the interactions that both sides read."""
    stored = np.load(folder / "sequences.npz")
    lengths = np.diff(stored["offsets"])
    seconds = pd.to_timedelta(np.arange(len(stored["items"])), unit="s")
    return pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(len(lengths)), lengths),
            "item_id": stored["items"],
            "weight": 1.0,
            "datetime": pd.Timestamp("2020-01-01") + seconds,
        }
    )


def model(settings: dict[str, Any], loss: str, trainer: Callable[[], Any]) -> SASRecModel:
    """Return RecTools' SASRec on item ids with the sizes of ours."""
    return SASRecModel(
        n_blocks=settings["blocks"],
        n_heads=settings["heads"],
        n_factors=settings["width"],
        session_max_len=settings["history"],
        dropout_rate=settings["dropout"],
        loss=loss,
        n_negatives=settings["negatives"],
        lr=settings["learning_rate"],
        batch_size=settings["batch_size"],
        item_net_block_types=(IdEmbeddingsItemNet,),
        similarity_module_kwargs={"distance": settings["similarity"]},
        lightning_module_kwargs={"logits_t": settings["temperature"]},
        get_trainer_func=trainer,
    )
