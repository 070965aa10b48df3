"""The cells of the grid, and what lies beside them."""

import pytest

from pipeline.cells import Cell, all_cells, cells, leftovers, refuse_leftovers
from pipeline.config import Grid
from pipeline.errors import ArtifactError, ConfigError


def grid(**changes):
    values = {
        "dataset": ["demo", "toys"],
        "encoder": ["minilm", "hash"],
        "text": {"encoder": ["minilm", "hash"], "backbone": ["sasrec"], "method": ["morec"]},
        "plain": {"backbone": ["sasrec"], "method": ["id"]},
        "baseline": {"backbone": ["none"], "method": ["popularity"]},
        "baseline_text": {
            "encoder": ["minilm", "hash"],
            "backbone": ["none"],
            "method": ["text_neighbour"],
        },
        "ablation": {"encoder": ["hash"], "backbone": ["sasrec"], "method": ["morec_small"]},
        "control": {"encoder": ["hash_permuted"], "backbone": ["sasrec"], "method": ["morec"]},
        "protocol": {"encoder": ["hash"], "backbone": ["sasrec_bce"], "method": ["morec"]},
        "protocol_plain": {"backbone": ["sasrec_bce"], "method": ["id"]},
    }
    return Grid.model_validate(values | changes)


def test_cells_in_the_order_of_the_report():
    assert [str(cell) for cell in cells(grid(), "demo")] == [
        "demo/none/none/popularity",
        "demo/minilm/none/text_neighbour",
        "demo/hash/none/text_neighbour",
        "demo/none/sasrec/id",
        "demo/minilm/sasrec/morec",
        "demo/hash/sasrec/morec",
        "demo/hash/sasrec/morec_small",
        "demo/hash_permuted/sasrec/morec",
        "demo/none/sasrec_bce/id",
        "demo/hash/sasrec_bce/morec",
    ]
    assert len(all_cells(grid())) == 20


def test_a_data_set_outside_the_grid_is_refused():
    with pytest.raises(
        ConfigError,
        match=r"grid\.dataset: tois is not in it\. Did you mean toys\? Known: demo, toys",
    ):
        cells(grid(), "tois")


def test_a_cell_named_by_two_groups_is_refused():
    with pytest.raises(ConfigError, match="named twice: demo/none/sasrec/id"):
        cells(grid(baseline={"backbone": ["sasrec"], "method": ["id"]}), "demo")


@pytest.mark.parametrize("text", ["demo/none/sasrec", "demo/../sasrec/id", "demo/none/sasrec/ID"])
def test_what_is_no_cell_is_refused(text):
    with pytest.raises(ConfigError, match="not a cell"):
        Cell.parse(text)


def test_a_cell_is_read_as_it_is_written():
    cell = Cell("demo", "minilm", "sasrec", "morec")
    assert Cell.parse(str(cell)) == cell
    assert cell.command == "spectran train demo minilm sasrec morec"
    assert cell.trained and not Cell("demo", "none", "none", "popularity").trained


def test_leftovers_are_named_at_the_highest_folder(tmp_path):
    known = {Cell("demo", "none", "sasrec", "id"): (0, 1)}
    ranks = tmp_path / "ranks" / "demo"
    for name in (
        "none/sasrec/id/0.parquet",
        "none/sasrec/id/7.parquet",
        "none/sasrec/pad/0.parquet",
        "old/sasrec/id/0.parquet",
    ):
        (ranks / name).parent.mkdir(parents=True, exist_ok=True)
        (ranks / name).touch()
    found = [str(path.relative_to(ranks)) for path in leftovers(tmp_path, known, "demo")]
    assert found == ["none/sasrec/id/7.parquet", "none/sasrec/pad", "old"]
    with pytest.raises(ArtifactError, match=r"pad.*Run: spectran clean --stale"):
        refuse_leftovers(tmp_path, known, "demo")
    assert list(leftovers(tmp_path, known, "toys")) == []
