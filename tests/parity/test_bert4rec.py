"""BERT4Rec against the BERT of another library, and its size, masks, padding and ranking."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.adapters import IdTable
from pipeline.backbones import bert4rec, sasrec
from pipeline.errors import ConfigError
from pipeline.model import Fusion, SeqModel, View
from pipeline.sampling.batches import History

WIDTH, HEADS, LENGTH, ITEMS = 8, 2, 4, 9
SIZES = {"history": LENGTH, "blocks": 2, "inner": 4, "rho": 0.4, "last_only": 0.1}


def config(heads: int = HEADS, norm_eps: float = 1e-12) -> bert4rec.Config:
    return bert4rec.Config(**SIZES, heads=heads, init_std=0.02, norm_eps=norm_eps)


def encoder() -> bert4rec.BERT4Rec:
    torch.manual_seed(0)
    made = bert4rec.build(config(), WIDTH, 0.0)
    assert isinstance(made, bert4rec.BERT4Rec)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made.double().eval()


def model() -> SeqModel:
    made = SeqModel({"item": View(IdTable(ITEMS, WIDTH, 1.0), encoder())}, Fusion())
    return made.double().eval()


def history() -> History:
    """Three sequences of L+1 positions; masked items are 0 here, as in training."""
    items = torch.tensor([[0, 0, 3, 1, 0], [4, 0, 2, 5, 1], [0, 0, 0, 7, 0]])
    places = [[0, 0, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]]
    return History(items, torch.tensor(places, dtype=torch.bool))


def real(asked: History) -> torch.Tensor:
    assert asked.masked is not None
    return (asked.items > 0) | asked.masked


def test_states_equal_transformers_bert() -> None:
    from transformers import BertConfig, BertModel

    own, asked = encoder(), history()
    x = torch.randn(3, LENGTH + 1, WIDTH, dtype=torch.float64)
    settings = BertConfig(
        vocab_size=2,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        hidden_act="gelu",
        max_position_embeddings=LENGTH + 1,
        layer_norm_eps=1e-12,
        attn_implementation="eager",
    )
    other = BertModel(settings, add_pooling_layer=False).double().eval()
    with torch.no_grad():
        other.embeddings.token_type_embeddings.weight.zero_()
        other.embeddings.position_embeddings.weight.copy_(own.positions)
        other.embeddings.LayerNorm.load_state_dict(own.norm.state_dict())
        for block, layer in zip(own.blocks, other.encoder.layer, strict=True):
            parts = zip(
                (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value),
                block.project_in.weight.chunk(3),
                block.project_in.bias.chunk(3),
                strict=True,
            )
            for linear, weight, bias in parts:
                linear.weight.copy_(weight)
                linear.bias.copy_(bias)
            layer.attention.output.dense.load_state_dict(block.project_out.state_dict())
            layer.attention.output.LayerNorm.load_state_dict(block.norm_attention.state_dict())
            layer.intermediate.dense.load_state_dict(block.widen.state_dict())
            layer.output.dense.load_state_dict(block.narrow.state_dict())
            layer.output.LayerNorm.load_state_dict(block.norm_feed.state_dict())
        found = own(x, asked)
        shown = torch.where(asked.masked[..., None], own.mask, x)
        expected = other(inputs_embeds=shown, attention_mask=real(asked).long()).last_hidden_state
    assert torch.allclose(found[real(asked)], expected[real(asked)], atol=1e-12)
    assert not found[~real(asked)].any()


@pytest.mark.parametrize(("width", "blocks", "inner"), [(128, 2, 4), (8, 1, 3)])
def test_parameter_count(width: int, blocks: int, inner: int) -> None:
    """Mask, positions, input norm; per block four projections, two norms, two feed-forward maps."""
    sizes = config(heads=1).model_copy(update={"blocks": blocks, "inner": inner})
    d, wide = width, inner * width
    block = 4 * (d * d + d) + 2 * 2 * d + (d * wide + wide) + (wide * d + d)
    made = bert4rec.build(sizes, width, 0.1)
    count = sum(p.numel() for p in made.parameters())
    assert count == d + (LENGTH + 1) * d + 2 * d + blocks * block


def test_a_masked_item_is_not_seen() -> None:
    """Even where a history would still hold its id."""
    made, asked = model(), history()
    leaked = History(asked.items.masked_fill(asked.masked, 6), asked.masked)  # type: ignore[arg-type]
    with torch.no_grad():
        tables = made.tables()
        hidden, shown = (made.states(h, tables)["item"] for h in (asked, leaked))
        unmasked = made.states(History(leaked.items, torch.zeros_like(asked.masked)), tables)  # type: ignore[arg-type]
    assert torch.equal(hidden, shown)
    assert not torch.allclose(hidden[real(asked)], unmasked["item"][real(asked)])


def test_items_are_seen_from_both_sides() -> None:
    made, asked = encoder(), history()
    x = torch.randn(3, LENGTH + 1, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        before = made(x, asked)
        for place in (0, 4):
            changed = x.clone()
            changed[1, place] = torch.randn(WIDTH, dtype=torch.float64)
            moved = (made(changed, asked) - before).abs().amax(-1)
            assert (moved[1] > 1e-6).all()
            assert not moved[[0, 2]].any()


def test_padding_vectors_and_places_change_nothing() -> None:
    made, asked = encoder(), history()
    x = torch.randn(3, LENGTH + 1, WIDTH, dtype=torch.float64)
    kept = real(asked)
    with torch.no_grad():
        before = made(x, asked)
        after = made(torch.where(kept[..., None], x, torch.randn_like(x)), asked)
        made.positions[0] = torch.randn(WIDTH)  # used by the second sequence only
        moved = made(x, asked)
    assert torch.equal(before[kept], after[kept])
    assert torch.equal(before[[0, 2]], moved[[0, 2]])
    assert not torch.allclose(before[1], moved[1])


def test_ranking_asks_for_the_item_after_the_history() -> None:
    """L items and the mask at position L: all L+1 positions of a full history take part."""
    made = model()
    items = torch.tensor([[3, 1, 4, 2], [0, 0, 0, 5]])
    own = made.backbones["item"]
    assert isinstance(own, bert4rec.BERT4Rec) and own.positions.shape[0] == LENGTH + 1
    table = made.tables()["item"]
    with torch.no_grad():
        found = made.ranker("dot")(History(items))
        x = torch.cat([table[items], own.mask.expand(2, 1, WIDTH)], 1)
        ids = torch.tensor([[3, 1, 4, 2, 8], [0, 0, 0, 5, 8]])  # every place but padding is real
        whole = own(x, History(ids, torch.zeros_like(ids, dtype=torch.bool)))[:, -1]
        assert torch.allclose(found, whole @ table[1:].T, atol=1e-12)
        own.positions[0] = torch.randn(WIDTH)
        moved = (made.ranker("dot")(History(items)) - found).abs().amax(1)
    assert moved[0] > 1e-6
    assert moved[1] == 0


def test_a_model_asks_its_views_for_one_kind_of_target() -> None:
    causal = sasrec.build(
        sasrec.Config(history=LENGTH, blocks=1, heads=1, init_std=0.02, norm_eps=1e-8), WIDTH, 0.0
    )
    views = {
        "id": View(IdTable(ITEMS, WIDTH, 1.0), encoder()),
        "text": View(IdTable(ITEMS, WIDTH, 1.0), causal),
    }
    with pytest.raises(ValueError, match="different targets"):
        SeqModel(views, Fusion())


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match=r"backbones\.bert4rec\.heads: 3 does not divide"):
        bert4rec.build(config(heads=3), WIDTH, 0.0)
