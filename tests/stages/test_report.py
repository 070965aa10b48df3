"""`spectran report`: complete, self-contained, escaped, and the same every time."""

from __future__ import annotations

import csv
import io
import math
import re
import shutil
from functools import partial

import pyarrow as pa
import pytest
import yaml

from pipeline import artifacts
from pipeline.cells import cells
from pipeline.errors import ArtifactError, ConfigError
from pipeline.files import sha256_file
from pipeline.params import load
from pipeline.reporting import published
from pipeline.reporting.methods import described
from stages.evaluate import evaluate
from stages.report import FILES, report
from tests.conftest import TinyInputs


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


def test_two_parts_of_one_view_are_two_lines(evaluated):
    """A text that stands in the loss only is measured beside the vectors that rank."""
    evaluated.add_text_part("id", effective_rank=7.0)
    report(evaluated.run("report", quiet=True))
    page = (evaluated.root / "report" / "index.html").read_text()
    part = page[page.index("<h3>Spectral collapse") : page.index("<h3>What spectral")]
    trained = [cell.method for cell in evaluated.cells if cell.trained]
    assert part.count("<polyline") == 2 * (len(trained) + 1)
    rows = [re.findall("<td>(.*?)</td>", row) for row in part.split("<tr>")[2:]]
    found = {row[0]: row[1:] for row in rows if row[0].startswith("id")}
    assert list(found) == ["id, whole vectors", "id, text part"]
    ranks = {name: row[4:6] for name, row in found.items()}
    assert ranks == {"id, whole vectors": ["15.5", "30.5"], "id, text part": ["7.0", "7.0"]}
    assert {row[0] for row in rows} >= set(trained) - {"id"}


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


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("max_epochs: 12,", "max_epochs: 99,",
         r"demo/none/sasrec/id, made with train\.max_epochs = 12, params\.yaml says 99\. "
         r"Run: spectran train demo none sasrec id +and then: spectran evaluate demo"),
        ("  id: {train: {dropout: 0.3,", "  id: {train: {dropout: 0.6,",
         r"sasrec/id, made with train\.dropout = 0\.3, params\.yaml says 0\.6\. "),
        ("    order: 3\n", "    order: 2\n",
         r"minilm/sasrec/spectran, made with methods\.spectran\.order = 3, params\.yaml says 2\. "),
        ("    blocks: 2\n    heads: 1\n    init_std", "    blocks: 1\n    heads: 1\n    init_std",
         r"made with backbones\.sasrec\.blocks = 2, params\.yaml says 1\. "),
    ],
)  # fmt: skip
def test_a_protocol_that_did_not_make_the_metrics_is_refused(evaluated, old, new, said):
    text = evaluated.params_path.read_text()
    assert text.count(old) == 1
    evaluated.params_path.write_text(text.replace(old, new))
    with pytest.raises(ArtifactError, match=said):
        report(evaluated.run("report"))


@pytest.mark.parametrize("command", ["report", "evaluate"])
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("keep_last: 13", "keep_last: 4", r"keep_last = 13, params\.yaml says 4\. "),
        ("core: 5", "core: 10", r"core = 5, params\.yaml says 10\. "),
        ("split: {kind: user_time, train: 0.8,", "split: {kind: user_time, train: 0.7,",
         r"split\.train = 0\.8, params\.yaml says 0\.7\. "),
        ("ties_seed: 0", "ties_seed: 1", None),
    ],
)  # fmt: skip
def test_data_of_another_preprocess_are_refused(evaluated, command, old, new, said):
    """A seed that nothing draws with changes no number."""
    tiny = TinyInputs()
    settings = evaluated.params.dataset("demo").preprocess.model_dump()
    evaluated.sequences = sha256_file(tiny.sequences.save(evaluated.root, "demo", settings))
    evaluated.save_all()
    text = evaluated.params_path.read_text()
    evaluated.params_path.write_text(text.replace(old, new, 1))
    tried = run_stage(evaluated, command)
    if said is None:
        tried()
        return
    wanted = rf"made with datasets\.demo\.preprocess\.{said}Run: spectran preprocess demo"
    with pytest.raises(ArtifactError, match=wanted):
        tried()


@pytest.mark.parametrize("command", ["report", "evaluate"])
def test_data_that_do_not_tell_their_preprocess_are_taken(evaluated, command):
    evaluated.sequences = sha256_file(TinyInputs().sequences.save(evaluated.root, "demo", {}))
    evaluated.save_all()
    run_stage(evaluated, command)()


def run_stage(made, command):
    run = made.run(command, quiet=True)
    return partial(report, run) if command == "report" else partial(evaluate, run, "demo")


def test_missing_metrics_name_the_command(measured):
    with pytest.raises(ArtifactError, match=r"is missing\. Run: spectran evaluate demo"):
        report(measured.run("report"))


def test_data_sets_without_a_card_are_refused(evaluated):
    with pytest.raises(ConfigError, match="Run: spectran report"):
        report(evaluated.run("report"), ["demo"])


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


def test_the_page_shows_what_spectral_attention_learned(page):
    start = page.index("What spectral attention learned")
    shown = re.sub("<[^>]+>", " ", page[start : page.index("Data card", start)]).split()
    for word in ("principal", "30.5", "170.2", "a0", "0.75"):
        assert word in shown


# ------------------------------------------------------------------------- f of the polynomial


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


# ------------------------------------------------------------------------- efficiency


def test_parameters_and_times_of_every_cell(page, evaluated):
    part = page[page.index("<h3>Efficiency") : page.index("<h3>Settings of their own")]
    heads = re.findall('<th scope="col">(.*?)</th>', part)
    assert heads == ["cell", "method", "backbone", "all parameters", "s per epoch",
                     "s per 1,000 users", "NDCG@20"]  # fmt: skip
    rows = {r[0]: r[1:] for r in (re.findall("<td>(.*?)</td>", r) for r in part.split("<tr>")[2:])}
    assert set(rows) == {cell.method for cell in evaluated.cells}
    # 90 s over 12 epochs; 0.65 s over 130 users.
    assert rows["spectran"][:5] == ["87,717", "6,560", "94,277", "7.5", "5"]
    assert rows["popularity"][:3] == ["0", "0", "0"]
    trained = [cell for cell in evaluated.cells if cell.trained]
    assert part.count("<circle") == len(trained), "a logarithm has no place for 0"
    written = {row["method"]: row for row in read(evaluated, "efficiency.csv")}
    row = written["id"]
    assert (row["method_parameters"], row["backbone_parameters"]) == ("37792", "6560")
    assert (row["parameters"], row["epoch_s"], row["rank_s_per_1000_users"]) == (
        "44352",
        "7.5",
        "5",
    )
    assert float(row["ndcg"]) == pytest.approx(naive_ndcg(evaluated, "id", 20), rel=1e-5)


def test_without_logs_there_are_no_times(evaluated):
    shutil.rmtree(evaluated.base / "logs")
    report(evaluated.run("report", quiet=True))
    page = (evaluated.root / "report" / "index.html").read_text()
    part = page[page.index("<h3>Efficiency") : page.index("<h3>Settings of their own")]
    assert "87,717" in part and "s per epoch" not in part and "clock" not in part
    assert {row["epoch_s"] for row in read(evaluated, "efficiency.csv")} == {""}


def test_sizes_of_other_cells_are_refused(evaluated):
    table, header = artifacts.SIZES.load(evaluated.root, dataset="demo")
    made = {"models": {"demo/none/sasrec/id": [0]}}
    artifacts.SIZES.save(evaluated.root, table, items=header["items"], params=made, dataset="demo")
    with pytest.raises(ArtifactError, match=r"other cells or seeds.*Run: spectran collapse demo"):
        report(evaluated.run("report"))


# ------------------------------------------------------------------------- widths


def read(made, name):
    """Rows of a table that the report wrote."""
    return list(csv.DictReader(io.StringIO((made.root / "report" / name).read_text())))


def naive_ndcg(made, method, k, backbone="sasrec"):
    """Mean NDCG@k over seeds and test users, one user at a time."""
    (cell,) = (c for c in made.cells if (c.method, c.backbone) == (method, backbone))
    values = []
    for seed in cell.seeds(made.params):
        for row in artifacts.RANKS.load(made.root, **cell.fields, seed=seed)[0].to_pylist():
            rank = 1 + row["greater"] + row["equal"] / 2
            if row["split"] == "test":
                values.append(1 / math.log2(rank + 1) if rank <= k else 0.0)
    return sum(values) / len(values)


@pytest.fixture
def swept(measured):
    """Two methods also at widths 16 and 64, of which 16 ranks worse."""
    content = yaml.safe_load(measured.params_path.read_text())
    names = ["sasrec_d64", "sasrec_d16", "sasrec_softmax"]
    content["grid"]["protocol"] = {
        "encoder": ["minilm"], "backbone": names, "method": ["spectran"]
    }  # fmt: skip
    content["grid"]["protocol_plain"] = {"backbone": names, "method": ["id"]}
    measured.params_path.write_text(yaml.safe_dump(content, sort_keys=False))
    made = measured
    made.params = load(made.params_path)
    made.cells = cells(made.params.grid, "demo")
    made.save_all()
    for cell in made.cells:
        for seed in cell.seeds(made.params) if cell.backbone == "sasrec_d16" else ():
            table = made.table("popularity", seed)
            made.save(cell, seed, table)
    evaluate(made.run("evaluate", quiet=True), "demo")
    report(made.run("report", quiet=True))
    return made


def test_widths_are_one_line_per_method(swept):
    page = (swept.root / "report" / "index.html").read_text()
    part = page[page.index("<h3>Width of the item") : page.index("<h3>Spectrum of the text")]
    assert part.count("<polyline") == 2 and part.count('class="line interval') == 2 * 3
    assert re.findall('<th scope="col">(.*?)</th>', part) == ["method", "16", "32", "64"]
    rows = {r[0]: r[1:] for r in (re.findall("<td>(.*?)</td>", r) for r in part.split("<tr>")[2:])}
    assert set(rows) == {"id", "spectran"}, "another loss is no width"
    for method, texts in rows.items():
        for backbone, text in zip(("sasrec_d16", "sasrec", "sasrec_d64"), texts, strict=True):
            wanted = f"{naive_ndcg(swept, method, 20, backbone):.4f}"[1:]
            assert text.startswith(f"{wanted} [."), (method, backbone)
    assert "<td>sasrec_d16</td><td>sasrec</td><td>train.width = 16</td>" in page


def test_widths_csv_holds_every_metric(swept):
    rows = read(swept, "widths.csv")
    shown = {(r["method"], r["width"]) for r in rows}
    assert shown == {(m, w) for m in ("id", "spectran") for w in ("16", "32", "64")}
    assert {r["backbone"] for r in rows} == {"sasrec"}
    assert len(rows) == 6 * 3 * len(swept.params.evaluate.ks)
    for row in rows:
        if row["metric"] == "ndcg":
            block = {"32": "sasrec"}.get(row["width"], f"sasrec_d{row['width']}")
            wanted = naive_ndcg(swept, row["method"], int(row["k"]), block)
            assert float(row["mean"]) == pytest.approx(wanted, rel=1e-5)


def test_one_width_is_no_section(page, evaluated):
    assert "Width of the item vectors" not in page
    text = (evaluated.root / "report" / "widths.csv").read_text()
    assert text.startswith("dataset,encoder,backbone,method,width,") and text.count("\n") == 1


# ------------------------------------------------------------------------- ablations


@pytest.fixture
def ablated(measured, monkeypatch, tmp_path):
    """Two variants of spectran on a data set that the paper is said to report."""
    reference = tmp_path / "reference.yaml"
    reference.write_text(published.REFERENCE.read_text().replace("toys:", "demo:"))
    monkeypatch.setattr(published, "REFERENCE", reference)
    content = yaml.safe_load(measured.params_path.read_text())
    content["grid"]["ablation"] = {
        "encoder": ["minilm"], "backbone": ["sasrec"],
        "method": ["spectran_sigma", "spectran_identity"],
    }  # fmt: skip
    measured.params_path.write_text(yaml.safe_dump(content, sort_keys=False))
    measured.reread()
    measured.save_all()
    evaluate(measured.run("evaluate", quiet=True), "demo")
    report(measured.run("report", quiet=True))
    return measured


def test_ablations_are_a_table_and_a_figure(ablated):
    page = (ablated.root / "report" / "index.html").read_text()
    part = page[page.index("<h3>Ablations") : page.index("<h3>Spectrum of the text")]
    assert "<h4>minilm, sasrec</h4>" in part and "<b>Protocol.</b>" in part
    assert part.count("<svg") == 1 and part.count('class="whisker text"') == 2
    assert re.findall('<th scope="col">(.*?)</th>', part) == [
        "method", "of", "NDCG@20", "difference", "verdict",
        "NDCG@20 difference in the paper", "changes",
    ]  # fmt: skip
    rows = {r[0]: r[1:] for r in (re.findall("<td>(.*?)</td>", r) for r in part.split("<tr>")[2:])}
    assert list(rows) == ["spectran", "spectran_sigma", "spectran_identity"]
    for method, row in rows.items():
        assert row[1].startswith(f"{naive_ndcg(ablated, method, 20):.4f}"[1:])
    sigma = rows["spectran_sigma"]
    assert (sigma[0], sigma[3], sigma[5]) == ("spectran", "below", "position = sigma")
    assert sigma[4] == "-.0034", "the paper's .0449 less .0483"
    assert "Table 3" in part
    assert page.count("<small>what it is a variant of</small>") == 4


def test_ablations_csv_holds_every_metric(ablated):
    rows = read(ablated, "ablations.csv")
    assert len(rows) == 3 * 3 * len(ablated.params.evaluate.ks)
    means = {(r["method"], r["metric"], r["k"]): float(r["mean"]) for r in rows}
    for row in rows:
        assert (row["dataset"], row["base"], row["users"]) == ("demo", "spectran", "90")
        if row["method"] != "spectran":
            key = row["metric"], row["k"]
            gap = means[row["method"], *key] - means["spectran", *key]
            assert float(row["difference"]) == pytest.approx(gap, abs=1e-5)
            assert float(row["difference_low"]) <= float(row["difference"])
    printed = {r["method"]: r["paper_difference"] for r in rows if r["paper_difference"]}
    assert printed == {"spectran_sigma": "-0.0034", "spectran_identity": "-0.0142"}


def test_ablations_have_the_same_bytes_again(ablated, tmp_path):
    report(ablated.run("report", out=tmp_path / "again", quiet=True))
    for name in ("index.html", "ablations.csv"):
        first, second = (folder / "report" / name for folder in (ablated.root, tmp_path / "again"))
        assert first.read_bytes() == second.read_bytes(), name


def test_comparisons_without_variants_name_the_command(ablated):
    table, header = artifacts.COMPARISONS.load(ablated.root, dataset="demo")
    rows = [row for row in table.to_pylist() if row["against"] != "base"]
    artifacts.COMPARISONS.save(
        ablated.root,
        pa.Table.from_pylist(rows, schema=table.schema),
        items=header["items"],
        params=header["params"],
        dataset="demo",
    )
    with pytest.raises(ArtifactError, match=r"spectran_sigma against.*Run: spectran evaluate demo"):
        report(ablated.run("report"))


def test_no_variant_is_no_section(page, evaluated):
    assert "Ablations" not in page
    text = (evaluated.root / "report" / "ablations.csv").read_text()
    assert text.startswith("dataset,encoder,backbone,base,method,") and text.count("\n") == 1
