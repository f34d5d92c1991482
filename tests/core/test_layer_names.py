from __future__ import annotations

import pytest
import standins

from lorweb_core import LoRWebError
from lorweb_core.layer_names import KINDS, STREAMS, parse, select

FLUX = [
    f"transformer.{block}.{name}" for block, layers in standins.block_linears(3072, 19, 38).items() for name in layers
]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("transformer.transformer_blocks.3.attn.to_q", ("double", 3, "attention", "image")),
        ("transformer.transformer_blocks.3.attn.add_k_proj", ("double", 3, "attention", "text")),
        ("transformer.transformer_blocks.18.attn.to_out.0", ("double", 18, "attention", "image")),
        ("transformer.transformer_blocks.18.attn.to_add_out", ("double", 18, "attention", "text")),
        ("transformer.transformer_blocks.0.ff.net.0.proj", ("double", 0, "MLP", "image")),
        ("transformer.transformer_blocks.0.ff_context.net.2", ("double", 0, "MLP", "text")),
        ("transformer.transformer_blocks.0.norm1.linear", ("double", 0, "modulation", "image")),
        ("transformer.transformer_blocks.0.norm1_context.linear", ("double", 0, "modulation", "text")),
        ("transformer.single_transformer_blocks.37.norm.linear", ("single", 37, "modulation", "both")),
        ("transformer.single_transformer_blocks.37.attn.to_v", ("single", 37, "attention", "both")),
        ("transformer.single_transformer_blocks.37.proj_mlp", ("single", 37, "MLP", "both")),
        ("transformer.single_transformer_blocks.37.proj_out", ("single", 37, "MLP", "both")),
        ("transformer.x_embedder", ("other", 0, "MLP", "both")),
    ],
)
def test_a_name_says_where_a_layer_is_and_what_it_does(name, expected):
    assert parse(name) == expected


def test_kinds_and_streams_split_the_494_layers_of_flux():
    assert len(FLUX) == 494
    assert [sum(select(FLUX, kind=kind)) for kind in KINDS] == [2 * 19 + 38, 8 * 19 + 3 * 38, 4 * 19 + 2 * 38]
    assert [sum(select(FLUX, stream=stream)) for stream in STREAMS] == [7 * 19, 7 * 19, 6 * 38]


@pytest.mark.parametrize(
    ("blocks", "count"),
    [
        ("all", 494),
        ("", 494),
        ("double", 14 * 19),
        ("single", 6 * 38),
        ("double 0-1", 28),
        ("single 37", 6),
        ("double 18-99, single 0", 14 + 6),
        (" double  3 - 4 ,double 4", 28),
    ],
)
def test_blocks_are_chosen_by_sort_and_number(blocks, count):
    assert sum(select(FLUX, blocks)) == count


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"blocks": "0-4"}, "blocks is '0-4'; expected 'all', or blocks such as"),
        ({"blocks": "double 3-"}, "expected 'all'"),
        ({"blocks": "triple"}, "expected 'all'"),
        ({"blocks": "double 40"}, "no layer of blocks 'double 40'"),
        ({"blocks": "double 4-3"}, "no layer"),
        ({"blocks": "single", "stream": "text"}, "no layer"),
        ({"kind": "norm"}, "kind is 'norm'; expected one of: all, modulation, attention, MLP"),
        ({"stream": "audio"}, "stream is 'audio'"),
    ],
)
def test_choices_that_mean_nothing_are_refused(choice, message):
    with pytest.raises(LoRWebError, match=message):
        select(FLUX, **choice)
