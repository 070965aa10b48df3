"""What an embeddings server answers: vectors as JSON, or the reason why there are none."""

from __future__ import annotations

import base64
import json

import numpy as np


def read_vectors(content: bytes, count: int) -> list[np.ndarray]:
    """Return `count` vectors by their `index`, each [H] float64, or float32 of base64.

    Numbers are not looked at, and null, which some servers write for NaN, is NaN.
    Raises JSONDecodeError for what is not JSON, ValueError with the problem for what is not
    exactly these vectors.
    """
    answer = json.loads(content.decode("utf-8", "replace"))
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
        raise ValueError("has no list `data` of embeddings")
    if len(data) != count:
        raise ValueError(f"holds {len(data)} vectors for {count} texts")
    order = [entry.get("index") for entry in data]
    if not all(type(place) is int for place in order) or set(order) != set(range(count)):
        raise ValueError(f"does not number its {count} vectors by `index` from 0")
    found: dict[int, np.ndarray] = {}
    for place, entry in zip(order, data, strict=True):
        vector = _vector(entry.get("embedding"))
        if vector is None:
            raise ValueError("holds an embedding that is neither numbers nor base64 of float32")
        found[place] = vector
    return [found[place] for place in range(count)]


def read_message(content: bytes) -> str:
    """Return what a refusal says, in OpenAI's form, in that of older vLLM, or as plain text."""
    text = content.decode("utf-8", "replace")
    try:
        body = json.loads(text)
    except ValueError:
        return text
    if isinstance(body, dict):
        error = body.get("error")
        for part in (error, body):
            if isinstance(part, dict) and isinstance(part.get("message"), str):
                return str(part["message"])
        if isinstance(error, str):
            return error
    return text


def _vector(embedding: object) -> np.ndarray | None:
    """Return numbers, or base64 of little-endian float32, as [H]; None for anything else."""
    try:
        if isinstance(embedding, str):
            return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
        if isinstance(embedding, list):
            found = np.array(embedding, np.float64)
            return found if found.ndim == 1 else None
    except (ValueError, TypeError, OverflowError):
        pass
    return None
