"""One analogy in place of pictures and settings that have to agree."""

from __future__ import annotations

import pytest
import standins
import torch


def pictures(n: int = 1) -> list[torch.Tensor]:
    scenes = (False, "house"), (True, "house"), (False, "tree")
    return [standins.picture(*scene, size=(128, 96))[None].repeat(n, 1, 1, 1) for scene in scenes]


def positive() -> list:
    return [[torch.zeros(1, 8, 16), {"pooled_output": torch.zeros(1, 16)}]]


@pytest.mark.parametrize("speed", ["as published", "b' alone"])
@pytest.mark.parametrize("layout", ["grid", "sequence"])
def test_an_analogy_conditions_and_cuts_as_pictures_and_settings_do(host, vae, layout, speed):
    settings = {"fit": "pad", "layout": layout, "megapixels": 0.1}
    sampled = {"as published": "whole grid", "b' alone": "b' alone"}[speed]
    condition, cut = host.node("LoRWeBExtendedAttention").execute, host.node("LoRWeBAnalogyResult").execute
    (analogy,) = host.node("LoRWeBAnalogy").execute(*pictures(), **settings, speed=speed).result
    old = condition(positive(), vae, *pictures(), **settings, speed=speed).result
    new = condition(positive(), vae, analogy=analogy).result
    for before, after in zip(old[:2], new[:2], strict=True):
        for one, other in zip(before[0][1]["reference_latents"], after[0][1]["reference_latents"], strict=True):
            assert torch.equal(one, other)
        assert before[0][1]["model_conds"].keys() == after[0][1]["model_conds"].keys()
    assert torch.equal(old[2]["samples"], new[2]["samples"])
    assert torch.equal(old[3], new[3])
    height, width = (8 * side for side in new[2]["samples"].shape[-2:])
    decoded = torch.rand(1, height, width, 3)
    (one,) = cut(decoded, pictures()[2], fit="pad", layout=layout, sampled=sampled).result
    (other,) = cut(decoded, analogy=analogy).result
    assert torch.equal(one, other)


def test_an_analogy_and_pictures_are_refused_in_words(host, vae):
    a, a_prime, b = pictures()
    (analogy,) = host.node("LoRWeBAnalogy").execute(a, a_prime, b).result
    with pytest.raises(host.core.LoRWebError, match="Conditioning has an analogy and also a and b. Unlink"):
        host.node("LoRWeBExtendedAttention").execute(positive(), vae, a=a, b=b, analogy=analogy)
    with pytest.raises(host.core.LoRWebError, match="Analogy Result has an analogy and also b"):
        host.node("LoRWeBAnalogyResult").execute(a, b, analogy=analogy)


def test_neither_an_analogy_nor_all_pictures_are_refused_in_words(host, vae):
    with pytest.raises(host.core.LoRWebError, match="Conditioning has no a_prime and no b. Link Analogy"):
        host.node("LoRWeBExtendedAttention").execute(positive(), vae, a=pictures()[0])


def test_further_pairs_come_through_growing_inputs(host):
    a, a_prime, b = pictures()
    execute = host.node("LoRWeBAnalogy").execute
    (analogy,) = execute(a, a_prime, b, {"a_2": a[:, :64], "a_4": b}, {"a_prime_2": a, "a_prime_4": a}).result
    (triplet,) = analogy.triplets
    assert [before.shape[0] for before, _ in triplet.pairs] == [a.shape[1], 64, b.shape[1]]
    assert analogy.pairs == 1
    with pytest.raises(host.core.LoRWebError, match="Analogy has a_prime_3, but nothing that it is a pair with"):
        execute(a, a_prime, b, {}, {"a_prime_3": a})
    with pytest.raises(host.core.LoRWebError, match="a_2 is 3; expected a IMAGE"):
        execute(a, a_prime, b, {"a_2": 3}, {})
