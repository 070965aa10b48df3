"""The hash engine: equal everywhere, near for texts that share words."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from pipeline.encoders.hash import HashEncoder

RECORDED = [1, 1, -3, 1, -1, -1, -1, -1]
TEXTS = ["Red wooden train", "red WOODEN train!", "red plastic train", "blue kite", "", "caf\u00e9"]


def test_bytes_are_equal_in_another_process() -> None:
    here = HashEncoder(40, 7).encode(TEXTS)
    code = (
        "import sys; from pipeline.encoders.hash import HashEncoder; "
        f"sys.stdout.buffer.write(HashEncoder(40, 7).encode({TEXTS!r}).tobytes())"
    )
    environment = {"PYTHONHASHSEED": "5", "PATH": "/usr/bin:/bin"}
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env=environment
    )
    assert there.stdout == here.tobytes()


def test_first_numbers_are_these() -> None:
    """Recorded once: a change of them needs a new `version` in the identity."""
    row = HashEncoder(8, 0).encode(["red train"])[0]
    expected = np.array(RECORDED) / np.sqrt(np.square(RECORDED).sum())
    np.testing.assert_array_equal(row, expected.astype(np.float32))


def test_rows_do_not_depend_on_their_batch() -> None:
    engine = HashEncoder(32, 0)
    together = engine.encode(TEXTS)
    alone = np.vstack([engine.encode([text]) for text in TEXTS])
    np.testing.assert_array_equal(together, alone)


def test_rows_are_unit_and_case_and_punctuation_do_not_count() -> None:
    rows = HashEncoder(64, 0).encode(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 1, 1, 1, 0, 1], atol=1e-6)
    np.testing.assert_array_equal(rows[0], rows[1])


def test_shared_words_bring_texts_together() -> None:
    rows = HashEncoder(512, 0).encode(TEXTS)
    assert rows[0] @ rows[2] > 0.25 > abs(rows[0] @ rows[3])


def test_word_order_counts_through_pairs() -> None:
    rows = HashEncoder(64, 0).encode(["red train", "train red"])
    assert not np.array_equal(rows[0], rows[1])


def test_seed_and_width_are_part_of_the_identity() -> None:
    identities = [HashEncoder(8, 0).identity(), HashEncoder(8, 1).identity()]
    assert identities[0] != identities[1] != HashEncoder(9, 1).identity()
