"""`spectran report`: complete, self-contained, escaped, and the same every time."""

from __future__ import annotations

import csv
import io
import re

from pipeline import artifacts
from pipeline.reporting.methods import described
from stages.report import FILES, report


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
    stats["views"]["<b onload=x>"] = stats["views"]["unit"]
    artifacts.save_json(
        artifacts.SPECTRUM_STATS, evaluated.root, stats, dataset="demo", encoder="minilm"
    )
    report(evaluated.run("report", quiet=True))
    assert "<b onload" not in (evaluated.root / "report" / "index.html").read_text()


def test_the_same_inputs_give_the_same_bytes(evaluated, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        report(evaluated.run("report", out=folder, quiet=True))
    for name in FILES:
        first, second = ((folder / "report" / name).read_bytes() for folder in folders)
        assert first == second, name


def test_synthetic_data_and_short_training_are_said(page):
    heading = page[page.index('<section id="demo"') : page.index("<h3>Results")]
    assert "synthetic" in heading and "a quick look, not a result" in heading


def test_a_protocol_stands_beside_every_table_of_numbers(page):
    numbers = page.count('<table class="numbers">')
    assert numbers == 4  # results, strata, two paired tests that share one line
    assert page.count("<b>Protocol.</b>") == 4  # and the costs, which hold a column of NDCG
    for part in ("user time 80%:10%:10%", "ties: counted half", "seen items: stay candidates",
                 "epochs: at most 12", "width: 32", "train.width = 32"):  # fmt: skip
        assert page.count(part) == 4, part


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


def test_settings_of_their_own_are_listed_once(evaluated):
    text = (evaluated.root / "report" / "results.md").read_text()
    assert text.count("| spectran | spectran | train.dropout = 0.3, ") == 1
    page = (evaluated.root / "report" / "index.html").read_text()
    assert page.count("<td>spectran</td><td>spectran</td><td>train.dropout = 0.3, ") == 1
    assert "settings of their own: in the table of that name" in page


def test_markdown_marks_the_best(evaluated):
    text = (evaluated.root / "report" / "results.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| spectran"))
    assert line.count("**") == 8 and line.count("(+)") == 4
    assert text.count("Protocol.") == 2


def test_markdown_says_of_tests_only_where_values_are_tested(evaluated):
    text = (evaluated.root / "report" / "results.md").read_text()
    results, strata = text.split("### NDCG@20 by how often")
    assert "no mark: not told apart from it, or such an id itself" in results
    assert "told apart" not in strata and "(+)" not in strata
    bold = "Bold: highest of its column. In brackets: 95% interval over users.\n\nProtocol."
    assert bold in strata and bold not in results


def test_docstring_blocks_end_at_the_next_one(tmp_path):
    path = tmp_path / "x.py"
    path.write_text(
        '"""X: a thing.\n\nSource: a paper,\nequation 3.\nDiffers: width.\nMasks: 2.\n\nMore."""'
    )
    found = described("x", path)
    assert (found.summary, found.source, found.differs) == (
        "X: a thing.", "a paper, equation 3.", "width. Masks: 2.",
    )  # fmt: skip
    assert described("absent", tmp_path / "absent.py").source == ""


def test_origins_stand_in_groups(page):
    part = page[page.index('<section id="methods"') :]
    assert re.findall("<h3>(.*?)</h3>", part) == [
        "Methods", "Backbones", "Losses", "Text encoders and their spectra",
    ]  # fmt: skip
    losses = part[part.index("<h3>Losses") : part.index("<h3>Text encoders")]
    assert re.findall('<th scope="row">(.*?)<small>', losses) == ["infonce"]
    assert "one that equals a position&#39;s target is left out" in losses
