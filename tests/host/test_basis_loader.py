"""LoRWeB Basis Loader: a basis with the training config beside it, and without."""

from __future__ import annotations

import json
import logging

import pytest
import standins
from safetensors.torch import save_file

RELEASED = 3 * 768
"""Width of the released basis's query: a, a' and b by CLIP ViT-L/14, one after the other."""


@pytest.mark.parametrize("config", [None, {"query_mode": "cat-aa'b"}])
def test_a_basis_without_its_config_is_the_released_kind_and_says_so(host, caplog, config):
    path = host.models / "lorweb" / f"alone-{config is None}.safetensors"
    save_file(standins.basis(standins.block_linears(16, 1, 1), n=4, rank=2, keys=8, query=RELEASED), path)
    if config:
        told = {"config": {"process": [{"network": {"network_kwargs": config}}]}}
        path.with_suffix(".yaml").write_text(json.dumps(told))
    with caplog.at_level(logging.WARNING):
        (basis,) = host.node("LoRWeBBasisLoader").execute(path.name).result
    assert (basis.config.query_mode, basis.config.external_query_model) == ("cat-aa'b", "openai/clip-vit-large-patch14")
    assert basis.config.external_query and basis.config.lora_softmax
    said = f"{path.name} has no training config beside it" in caplog.text
    assert said == (config is None)
    assert not said or "query is cat-aa'b of openai/clip-vit-large-patch14" in caplog.text
