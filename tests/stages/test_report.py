"""`spectran report`: complete, self-contained, escaped, and the same every time."""

from __future__ import annotations

import csv
import io
import re

import pyarrow as pa
import pytest

from pipeline import artifacts
from pipeline.errors import ArtifactError, ConfigError
from pipeline.params import load
from pipeline.reporting.methods import describe
from stages.report import report


@pytest.fixture
def page(evaluated):
    return (evaluated.root / "report" / "index.html").read_text()


def test_the_page_says_where_it_lies(evaluated, capsys):
    report(evaluated.run("report"))
    out = capsys.readouterr().out
    assert f"report: file://{evaluated.root}/report/index.html" in out


def test_nothing_remote_is_asked_for(page):
    links = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]*)""", page)
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"url\(|@import|<script|<link|<iframe|<img", page)
    assert "default-src 'none'" in page


def test_text_from_data_is_escaped(page):
    assert "&lt;script&gt;alert(&#34;title&#34;)&lt;/script&gt;" in page
    assert "<script" not in page


def test_a_hostile_view_name_is_escaped_inside_charts(evaluated):
    stats = artifacts.load_json(
        artifacts.SPECTRUM_STATS, evaluated.root, dataset="demo", encoder="minilm"
    )
    block = stats["views"].pop("unit")
    stats["views"]["<b onload=x>"] = block
    artifacts.save_json(
        artifacts.SPECTRUM_STATS, evaluated.root, stats, dataset="demo", encoder="minilm"
    )
    report(evaluated.run("report", quiet=True))
    assert "<b onload" not in (evaluated.root / "report" / "index.html").read_text()


def test_the_same_inputs_give_the_same_bytes(evaluated, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        report(evaluated.run("report", out=folder, quiet=True))
    for name in ("index.html", "results.csv", "results.md"):
        first, second = ((folder / "report" / name).read_bytes() for folder in folders)
        assert first == second, name


def test_synthetic_data_and_short_training_are_said(page):
    heading = page[page.index('<section id="demo"') : page.index("<h3>Results")]
    assert "synthetic" in heading and "a quick look, not a result" in heading


def test_a_protocol_stands_beside_every_table_of_numbers(page):
    numbers = page.count('<table class="numbers">')
    assert numbers == 4  # results, strata, two paired tests that share one line
    assert page.count("<b>Protocol.</b>") == 3
    for part in ("user time 80%:10%:10%", "ties: counted half", "seen items: stay candidates",
                 "epochs: at most 12", "width: 32", "train.width = 32"):  # fmt: skip
        assert page.count(part) == 3, part


def test_the_highest_of_a_column_is_marked_once_per_column(page):
    results = page[page.index("<h3>Results") : page.index("<h3>By how often")]
    assert results.count('<td class="best">') == 4
    row = next(r for r in results.split("<tr>") if r.startswith('<th scope="row">spectran'))
    row = row.split("</tr>")[0]
    assert row.count('class="best"') == 4 and row.count("&#9650;") == 4


def test_every_section_is_there(page):
    for part in ("Learning curves", "Spectrum of the text embeddings, minilm", "Data card",
                 "Provenance of every cell", "demo/minilm/sasrec/spectran", "24,317",
                 "ranks_sha256", "SpecTran, equations 3 and 7-12"):  # fmt: skip
        assert part in page, part


def test_collapse_shows_every_trained_method_before_and_after(page, evaluated):
    part = page[page.index("<h3>Spectral collapse") : page.index("<h3>What spectral")]
    assert part.count("<svg") == 2
    assert "before training" in part and "after training" in part
    trained = [cell for cell in evaluated.cells if cell.trained]
    assert part.count("<polyline") == 2 * len(trained)
    for place, cell in enumerate(trained):
        assert f'<span class="key line s{place}"></span>{cell.method}' in part
    rows = {
        re.search("<td>(.*?)</td>", row)[1]: re.findall("<td>(.*?)</td>", row)[1:]
        for row in part.split("<tr>")[2:]
    }
    assert set(rows) == {cell.method for cell in trained}
    assert rows["id"][:2] == ["whole vectors", "32"] and rows["morec"][0] == "text part"
    # The mean of seeds 0 and 1: ranks 15, 16 before and 30, 31 after.
    assert rows["morec"][4:6] == ["15.5", "30.5"]
    assert rows["morec"][6:8] == ["10.0", "20.0"]


def test_a_table_without_spread_is_a_dash(evaluated):
    table, header = artifacts.COLLAPSE.load(evaluated.root, dataset="demo")
    rows = table.to_pylist()
    for row in rows:
        if (row["method"], row["state"]) == ("id", "initial"):
            row |= {"top_10": None, "effective_rank": None, "participation_ratio": None}
            row["cumulative"] = []
    artifacts.COLLAPSE.save(
        evaluated.root,
        pa.Table.from_pylist(rows, schema=table.schema),
        items=header["items"],
        params=header["params"],
        dataset="demo",
    )
    report(evaluated.run("report", quiet=True))
    page = (evaluated.root / "report" / "index.html").read_text()
    row = next(
        r for r in page[page.index("<h3>Spectral collapse") :].split("<tr>") if "<td>id<" in r
    )
    assert re.findall("<td>(.*?)</td>", row)[3::2] == ["-"] * 3


def test_collapse_of_other_cells_is_refused(evaluated):
    table, header = artifacts.COLLAPSE.load(evaluated.root, dataset="demo")
    made = {"models": {"demo/none/sasrec/id": [0]}}
    artifacts.COLLAPSE.save(
        evaluated.root, table, items=header["items"], params=made, dataset="demo"
    )
    with pytest.raises(ArtifactError, match=r"other cells or seeds.*Run: spectran collapse demo"):
        report(evaluated.run("report"))


def test_missing_collapse_names_the_command(evaluated):
    artifacts.COLLAPSE.path(evaluated.root, dataset="demo").unlink()
    with pytest.raises(ArtifactError, match=r"is missing\. Run: spectran collapse demo"):
        report(evaluated.run("report"))


def test_the_data_card_names_quantiles_and_keeps_late_columns(page):
    card = page[page.index("<h3>Data card") :]
    for part in (
        "<dt>minimum</dt><dd>5</dd>",
        "<dt>25% quantile</dt>",
        "<dt>median</dt><dd>8</dd>",
    ):
        assert part in card, part
    assert '<th scope="col">rounds</th>' in card


def test_csv_holds_every_metric_with_tests_and_protocol(evaluated):
    rows = list(csv.DictReader(io.StringIO((evaluated.root / "report/results.csv").read_text())))
    metrics = artifacts.METRICS.load(evaluated.root, dataset="demo")[0]
    assert len(rows) == len(metrics)
    assert all("user time" in row["protocol"] for row in rows)
    test = next(
        r for r in rows
        if (r["method"], r["split"], r["slice"], r["metric"], r["k"])
        == ("spectran", "test", "all", "ndcg", "20")
    )  # fmt: skip
    assert float(test["difference_id"]) > 0 and float(test["p_t_holm_id"]) < 0.05
    assert test["p_t_holm_best"] == ""


def test_markdown_marks_the_best(evaluated):
    text = (evaluated.root / "report" / "results.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| spectran"))
    assert line.count("**") == 8 and line.count("(+)") == 4
    assert text.count("Protocol.") == 2


def test_metrics_of_another_grid_are_refused(evaluated):
    text = evaluated.params_path.read_text()
    evaluated.params_path.write_text(text.replace("morec, alphafuse", "alphafuse"))
    load(evaluated.params_path)
    with pytest.raises(ArtifactError, match=r"other cells than params\.yaml names under grid"):
        report(evaluated.run("report"))


def test_metrics_of_other_settings_are_refused(evaluated):
    text = evaluated.params_path.read_text()
    evaluated.params_path.write_text(text.replace("cold_at_most: 6", "cold_at_most: 7"))
    with pytest.raises(
        ArtifactError, match=r"other values of evaluate.*Run: spectran evaluate demo"
    ):
        report(evaluated.run("report"))


def test_missing_metrics_name_the_command(measured):
    with pytest.raises(ArtifactError, match=r"is missing\. Run: spectran evaluate demo"):
        report(measured.run("report"))


def test_data_sets_without_a_card_are_refused(evaluated):
    with pytest.raises(ConfigError, match="Run: spectran report"):
        report(evaluated.run("report"), ["demo"])


def test_docstring_blocks_end_at_the_next_one(tmp_path):
    (tmp_path / "x.py").write_text(
        '"""X: a thing.\n\nSource: a paper,\nequation 3.\nDiffers: width.\n\nMore."""'
    )
    found = describe("x", folder=tmp_path)
    assert (found.summary, found.source, found.differs) == (
        "X: a thing.", "a paper, equation 3.", "width.",
    )  # fmt: skip
    assert describe("absent", folder=tmp_path).source == ""


@pytest.mark.parametrize("name", ["id", "spectran", "popularity", "text_neighbour"])
def test_shipped_methods_say_their_source(name):
    assert describe(name).source and describe(name).differs


def test_the_page_shows_what_spectral_attention_learned(page):
    start = page.index("What spectral attention learned")
    shown = re.sub("<[^>]+>", " ", page[start : page.index("Data card", start)]).split()
    for word in ("principal", "30.5", "170.2", "a0", "0.75"):
        assert word in shown
