"""How a basis is routed, from its config, and without one from its tensors: what is open is said."""

from __future__ import annotations

import logging

import pytest
import standins

from lorweb_core import LoRWebError, load_basis
from lorweb_core.config import BasisConfig

BLOCKS = standins.block_linears(hidden=16, doubles=1, singles=1)
SIGLIP = "google/siglip2-base-patch16-224"


@pytest.fixture
def warned(caplog):
    """The warning given since, or None; one at most."""

    def warned() -> str | None:
        assert len(caplog.messages) <= 1
        (message,) = caplog.messages or [None]
        caplog.clear()
        return message

    caplog.set_level(logging.WARNING)
    return warned


def stored(query: int | None, projected: bool = True, blocks: dict = BLOCKS) -> dict:
    weights = standins.basis(blocks, n=4, rank=2, keys=8 if projected else query, query=query)
    return weights if projected else {name: t for name, t in weights.items() if "att_lora_to_q" not in name}


@pytest.mark.parametrize("projected", [True, False])
def test_the_released_geometry_needs_no_config_and_no_warning(save, warned, projected):
    config = load_basis(save(stored(2304, projected))).config
    assert config == BasisConfig(query_projection_type="linear" if projected else "none")
    assert warned() is None


@pytest.mark.parametrize(
    ("width", "settings", "mode", "words"),
    [
        (768, {}, "aa'bb'", ["ca'-ca", "ca'-ca+cb", "caa'bb'", "caa'b", "caa'", "no config"]),
        (1024, {}, "paa'b", ["paa'b3", "cat-paa'b", "cat-paa'b3"]),
        (12, {}, "cat-aa'b", ["none that fits"]),
        (768, {"lora_heads": 2}, "aa'bb'", ["ca'-ca", "basis.yaml does not say"]),
        (768, {"external_query_model": SIGLIP}, "aa'bb'", [SIGLIP]),
        (1024, {"external_query_model": SIGLIP}, "cat-aa'b", ["none that fits"]),
    ],
)
def test_a_mode_that_is_left_open_is_chosen_and_said(save, warned, width, settings, mode, words):
    assert load_basis(save(stored(width), **settings)).config.query_mode == mode
    message = warned()
    for word in ("basis.safetensors", f"query_mode: {mode}", *words):
        assert word in message


def test_what_the_config_says_is_not_warned_about(save, warned):
    for mode in ("caa'", "ca'-ca+cb"):
        assert load_basis(save(stored(768), query_mode=mode)).config.query_mode == mode
    assert load_basis(save(stored(1024), query_mode="cat-paa'b3")).config.query_mode == "cat-paa'b3"
    settings = {"external_query": False, "query_mode": "caa'b", "pooling_type": "max"}
    config = load_basis(save(stored(None), **settings)).config
    assert (config.external_query, config.query_mode, config.pooling_type) == (False, "caa'b", "max")
    assert config.external_query_model is None
    assert warned() is None


def test_queries_as_wide_as_each_layers_input_are_its_input(save, warned):
    config = load_basis(save(stored(None))).config
    assert (config.external_query, config.query_mode, config.pooling_type) == (False, "aa'bb'", "avg")
    message = warned()
    assert "query_mode: aa'bb'" in message
    assert "pooling_type: avg" in message


def test_only_the_missing_key_is_warned_about(save, warned):
    config = load_basis(save(stored(None), external_query=False, query_mode="caa'")).config
    assert (config.query_mode, config.pooling_type) == ("caa'", "avg")
    message = warned()
    assert "pooling_type: avg" in message
    assert "query_mode" not in message


def test_inputs_that_are_all_equally_wide_leave_the_kind_of_query_open(save, warned):
    same = {"transformer_blocks.0": {"attn.to_q": (16, 16), "attn.to_k": (16, 16)}}
    assert not load_basis(save(stored(16, blocks=same))).config.external_query
    assert "external_query: false" in warned()
    wide = {"transformer_blocks.0": {"attn.to_q": (768, 16), "attn.to_k": (768, 16)}}
    assert load_basis(save(stored(768, blocks=wide))).config.query_mode == "aa'bb'"
    assert "external_query: true" in warned()
    assert load_basis(save(stored(768, blocks=wide), external_query=True, query_mode="caa'b")).config.external_query
    assert not load_basis(save(stored(768, blocks=wide), external_query=False)).config.external_query


@pytest.mark.parametrize("model", [None, "", 7, "some/encoder"])
def test_without_an_external_query_its_model_does_not_matter(save, model):
    settings = {"external_query": False, "query_mode": "aa'bb'", "external_query_model": model}
    assert load_basis(save(stored(None), **settings)).config.external_query_model is None


def test_without_projections_the_configs_width_of_keys_is_not_held_against_them(save):
    load_basis(save(stored(24, projected=False), query_projection_type="none", lora_keys_dim=128))


@pytest.mark.parametrize(
    ("projected", "stated", "words"),
    [(True, "none", "its layers have an att_lora_to_q"), (False, "linear", "no layer has an att_lora_to_q")],
)
def test_a_projection_that_the_config_contradicts(save, projected, stated, words):
    with pytest.raises(
        LoRWebError, match=f"basis.yaml says query_projection_type: {stated}, but basis.safetensors: {words}"
    ):
        load_basis(save(stored(24, projected), query_projection_type=stated))
