"""`spectran clean --searches` deletes what finished searches kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from pipeline.tuning.journal import opened
from tests.stages.tune.commands import (
    APP,
    CELL,
    TUNED,
    answer,
    tune,
    without_clock,
)


def clean(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(APP, ["clean", "--searches", *words, "--json"])
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_finished_searches_are_deleted_when_asked_and_others_go_on(project: Path) -> None:
    assert clean("--dry-run")["found"] == []
    wanted = answer(*CELL)
    under_way = Path(".cache/tune/trials/unfinished")
    under_way.mkdir()
    (under_way / "state.safetensors").write_bytes(b"x")
    other = Path(".cache/tune/searches/other")
    other.mkdir()
    (other / "journal.log").write_bytes(b"")
    written = (project / "artifacts" / TUNED).read_bytes()
    found = clean("--dry-run")
    assert len(found["found"]) == 5 + 1 and found["deleted"] is False
    assert not {str(under_way), str(other)} & set(found["found"])
    assert clean("--yes")["deleted"] is True
    assert list(Path(".cache/tune/trials").iterdir()) == [under_way]
    assert list(Path(".cache/tune/searches").iterdir()) == [other]
    assert (project / "artifacts" / TUNED).read_bytes() == written
    assert without_clock(answer(*CELL)) == without_clock(wanted), "found again, trained again"


def test_a_journal_with_more_trials_than_its_result_stays(project: Path) -> None:
    assert tune(*CELL).exit_code == 0
    path = project / "artifacts" / TUNED
    content = json.loads(path.read_text())
    content["trials"] = content["trials"][:3]  # as before a longer search that was killed
    path.write_text(json.dumps(content))
    assert not any("searches" in found for found in clean("--dry-run")["found"])


def test_a_journal_in_use_stays(project: Path) -> None:
    assert tune(*CELL).exit_code == 0
    (folder,) = Path(".cache/tune/searches").iterdir()
    with opened(folder, fresh=False):
        assert str(folder) not in clean("--dry-run")["found"]
    assert str(folder) in clean("--dry-run")["found"]


def test_clean_asks_what_to_delete(project: Path) -> None:
    done = CliRunner().invoke(APP, ["clean"])
    said = "clean --stale   (or: spectran clean --searches, spectran clean --kept-seeds)"
    assert done.exit_code == 2 and said in done.stderr
