"""Times that the logs of `spectran train` tell."""

from __future__ import annotations

import json

from pipeline.cells import Cell
from pipeline.reporting.logs import minutes, times


def test_minutes_count_reused_seeds_and_need_all(tmp_path):
    cell = Cell("demo", "none", "sasrec", "id")
    log = tmp_path / "demo-none-sasrec-id.jsonl"
    assert minutes(tmp_path, cell, [0]) is None
    events = [
        '{"event": "reuse", "seed": 0, "seconds": 60}',
        '{"event": "done", "seed": 1, "seconds": 30}',
        '{"ev',
    ]
    log.write_text("\n".join(events))
    assert minutes(tmp_path, cell, [0, 1]) == 1.5
    assert minutes(tmp_path, cell, [0, 1, 2]) is None


def test_times_are_means_over_seeds_and_need_all(tmp_path):
    cell = Cell("demo", "none", "sasrec", "id")
    told = [
        {"event": "done", "seed": 0, "seconds": 60, "epochs": 20},
        {"event": "reuse", "seed": 1, "seconds": 30, "epochs": 10},
    ]
    lines = [json.dumps(t | {"rank_seconds": 0.5 + t["seed"], "rank_users": 400}) for t in told]
    log = tmp_path / "demo-none-sasrec-id.jsonl"
    log.write_text("\n".join(lines))
    found = times(tmp_path, cell, [0, 1])
    assert (found.epoch_s, found.rank_s) == (3.0, 2.5)
    assert times(tmp_path, cell, [0, 1, 2]) is None
    log.write_text("\n".join([lines[0], json.dumps(told[1])]))
    assert times(tmp_path, cell, [0, 1]) is None, "a seed kept by an earlier version tells less"
    assert minutes(tmp_path, cell, [0, 1]) == 1.5


def test_an_untrained_cell_has_no_epochs(tmp_path):
    cell = Cell("demo", "none", "none", "popularity")
    told = {"event": "done", "seed": 0, "seconds": 0.0, "epochs": 0}
    line = json.dumps(told | {"rank_seconds": 0.2, "rank_users": 100})
    (tmp_path / "demo-none-none-popularity.jsonl").write_text(line)
    found = times(tmp_path, cell, [0])
    assert (found.epoch_s, found.rank_s) == (None, 2.0)
