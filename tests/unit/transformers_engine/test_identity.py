"""What changes the meaning of a row, and what is read for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.transformers_engine.engines import (
    TEXTS,
    Folder,
    adapter,
    engine,
)

pytest.importorskip("transformers", reason="needs the extra `encode`")


CHANGES = [
    {"layer": 1},
    {"norm": "pre"},
    {"pooling": "last"},
    {"bidirectional": True},
    {"normalize": True},
    {"max_tokens": 32},
    {"dtype": "bfloat16"},
    {"trust_remote_code": True},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_what_changes_a_vector_changes_the_identity(folder: Folder, change: dict[str, Any]) -> None:
    path = folder("llama")
    found = engine(path, **change).identity()
    assert found != engine(path).identity()
    assert json.loads(json.dumps(found)) == found


def test_batches_and_template_do_not_change_the_identity(folder: Folder) -> None:
    path = folder("llama")
    other = engine(path, batch_size=2, batch_tokens=99, template="{brand}")
    assert other.identity() == engine(path).identity()


def test_identity_follows_weights_tokenizer_and_adapters_not_the_place(
    folder: Folder, copy: Path, tmp_path: Path
) -> None:
    plain = engine(folder("llama")).identity()
    assert engine("copy", base=copy.parent).identity() == plain
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text() + " ")
    assert engine(copy).identity() != plain
    seen = [plain]
    for content in (b"one", b"two"):
        place = tmp_path / content.decode()
        place.mkdir()
        (place / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        (place / "adapter_model.safetensors").write_bytes(content)
        seen.append(engine(folder("llama"), adapters=[adapter(place)]).identity())
    pair = [adapter(tmp_path / name) for name in ("one", "two")]
    seen += [engine(folder("llama"), adapters=order).identity() for order in (pair, pair[::-1])]
    assert all(a != b for i, a in enumerate(seen) for b in seen[:i])


def test_pinned_hub_models_are_identified_without_asking() -> None:
    commit = "0" * 40
    found = engine(
        "org/model", revision=commit, adapters=[{"model": "org/lora", "revision": commit}]
    )
    assert found.identity()["model"] == {"name": "org/model", "commit": commit}
    assert found.identity()["adapters"] == [{"name": "org/lora", "commit": commit}]
    assert found.memory_bytes() > 0  # what is not fetched counts nothing, and is not fetched


def test_preparing_loads_no_weights(folder: Folder) -> None:
    found = engine(folder("llama"))
    found.identity()
    assert not {"tokenizer", "settings"} & set(vars(found.files))
    found.prepare(TEXTS)
    assert "_model" not in vars(found)


def test_memory_counts_weights_in_the_dtype_they_run_in(folder: Folder) -> None:
    path = folder("llama")
    full, half = (engine(path, dtype=d).memory_bytes() for d in ("float32", "bfloat16"))
    from transformers import AutoModelForCausalLM

    count = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(path).parameters())
    assert full - half == 2 * count
