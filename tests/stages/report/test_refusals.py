"""Metrics that params.yaml does not describe are not reported."""

from __future__ import annotations

from functools import partial

import pytest

from pipeline.errors import ArtifactError, ConfigError
from pipeline.files import sha256_file
from pipeline.params import load
from stages.evaluate import evaluate
from stages.report import report
from tests.conftest import TinyInputs


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
    evaluate(evaluated.run("evaluate", quiet=True), "demo")
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
    evaluate(evaluated.run("evaluate", quiet=True), "demo")
    run_stage(evaluated, command)()


def test_metrics_of_other_sequences_than_are_there_now_are_refused(evaluated):
    """Ranks were made again, and nobody ran `evaluate` since."""
    evaluated.sequences = sha256_file(TinyInputs().sequences.save(evaluated.root, "demo", {}))
    evaluated.save_all()
    wanted = r"demo.* holds demo/.*, made from other .* and then: spectran evaluate demo$"
    with pytest.raises(ArtifactError, match=wanted):
        report(evaluated.run("report"))


def run_stage(made, command):
    run = made.run(command, quiet=True)
    return partial(report, run) if command == "report" else partial(evaluate, run, "demo")


def test_missing_metrics_name_the_command(measured):
    with pytest.raises(ArtifactError, match=r"is missing\. Run: spectran evaluate demo"):
        report(measured.run("report"))


def test_data_sets_without_a_card_are_refused(evaluated):
    with pytest.raises(ConfigError, match="Run: spectran report"):
        report(evaluated.run("report"), ["demo"])
