"""What spectral attention learned, on the page and as tables."""

from __future__ import annotations

import re

import pytest

from pipeline import artifacts
from pipeline.errors import ArtifactError
from stages.report import report
from tests.stages.report.tables import read


def test_the_page_shows_what_spectral_attention_learned(page):
    start = page.index("What spectral attention learned")
    shown = re.sub("<[^>]+>", " ", page[start : page.index("Data card", start)]).split()
    for word in ("principal", "30.5", "170.2", "a0", "0.75"):
        assert word in shown


def test_the_learned_f_stands_beside_its_start_and_the_spectrum(page, evaluated):
    part = page[page.index("<h4>Spectral position") : page.index("<h3>Efficiency")]
    assert part.count("<svg") == 1
    assert part.count("<polyline") == 4  # start, singular values, two seeds
    rows = read(evaluated, "spectral_weights.csv")
    assert len(rows) == 2 * 32, "every component of the width, every seed"
    s = [(i + 1.0) ** -0.6 for i in range(32)]
    for row in rows:
        i, seed = int(row["component"]) - 1, int(row["seed"])
        r = s[i] / s[0]
        assert float(row["singular_value"]) == pytest.approx(s[i], rel=1e-5)
        assert float(row["start"]) == pytest.approx(s[0] * (1 + r + r * r), rel=1e-5)
        learned = s[0] * (0.75 + (0.5 + seed) * r - 0.25 * r * r)
        assert float(row["learned"]) == pytest.approx(learned, rel=1e-5)


def test_every_seed_s_weights_are_written_with_their_sums(evaluated):
    rows = read(evaluated, "spectral_summary.csv")
    assert [(r["method"], r["seed"]) for r in rows] == [("spectran", "0"), ("spectran", "1")]
    for row in rows:
        assert (row["dataset"], row["encoder"], row["backbone"]) == ("demo", "minilm", "sasrec")
        assert (row["principal_mean"], row["subordinate_mean"]) == ("30.5", "170.25")
        # The text part has all 32 columns of the demo's width.
        assert (row["principal_sum"], row["subordinate_sum"]) == ("976", "5448")
        assert (row["lambda"], row["zeros"]) == ("", "")
        a = [row["a_0"], row["a_1"], row["a_2"]]
        assert a == ["0.75", str(0.5 + int(row["seed"])), "-0.25"]


def test_a_view_without_statistics_names_the_command(evaluated):
    where = {"dataset": "demo", "encoder": "minilm"}
    stats = artifacts.load_json(artifacts.SPECTRUM_STATS, evaluated.root, **where)
    del stats["views"]["unit"]
    artifacts.save_json(artifacts.SPECTRUM_STATS, evaluated.root, stats, **where)
    with pytest.raises(ArtifactError, match=r"view `unit`.*Run: spectran spectrum demo minilm"):
        report(evaluated.run("report"))
