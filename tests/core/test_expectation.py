"""What a model expects of b': one forward pass from noise alone, with the mixture in its layers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from training_world import CHANNELS, EMBEDDING, PARTS, POOLED, WIDTH, TinyBase, TinyModel, plain_delta, tiny_basis

from lorweb_core import LoRABasis, LoRWebError
from lorweb_core.fitting.expectation import expect
from lorweb_core.training.data.batch import Text
from lorweb_core.training.seeds import generator

pytestmark = pytest.mark.usefixtures("one_thread")

CELL = (32 / 1024) ** 2
"""Megapixels of a grid of four cells of 16 pixels a side."""


class Encoders:
    """Encode pictures as one pixel of each 8 × 8, and every text alike."""

    identity = "tiny"
    text = Text(torch.randn(1, 2, WIDTH, generator=generator(9)), torch.randn(1, POOLED, generator=generator(10)))

    def encode_image(self, images: Tensor) -> Tensor:
        return images[:, ::8, ::8].movedim(-1, 1) * 2 - 1

    def encode_text(self, captions: list[str]) -> Text:
        return self.text


def loaded(base: TinyBase) -> LoRABasis:
    basis = tiny_basis(base)
    return LoRABasis(basis.published(), basis.config, (("tiny.safetensors", 0),))


def b() -> torch.Tensor:
    return torch.rand(16, 16, 3, generator=generator(3))


def test_it_is_the_noise_less_the_velocity_of_merged_weights_with_b_in_every_cell():
    base, encoders = TinyBase(), Encoders()
    basis = loaded(base)
    mixture = basis.route(torch.randn(PARTS * EMBEDDING, generator=generator(5)))
    got = expect(base, encoders, mixture, b(), CELL)

    weights = {name: value.detach().clone() for name, value in base.model.named_parameters()}
    for linear, parts in base.linears.items():
        for part in parts:
            layer = basis.layers[part.layer]
            delta = plain_delta(layer.A, layer.B, mixture.coefficients[part.layer])
            weights[f"{linear}.weight"][part.start : part.start + len(delta)] += delta
    row = torch.cat([b(), b()], 1)
    reference = encoders.encode_image(torch.cat([row, row])[None])
    noise = torch.randn(1, CHANNELS, 2, 2, generator=generator(0))
    with torch.no_grad():
        velocity = functional_call(TinyModel(), weights, (noise, torch.ones(1), reference, encoders.text))
    expected = base.decode(noise - velocity)[0]
    assert 0 < expected.mean() < 1
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_of_a_model_that_knows_the_mean_it_is_the_mean():
    base, encoders = TinyBase(), Encoders()
    mean = torch.rand(1, CHANNELS, 2, 2, generator=generator(8))
    base.velocity = lambda x, t, batch, every_token: x - mean  # at t = 1 x is the noise
    mixture = loaded(base).route(torch.zeros(PARTS * EMBEDDING))
    pixels = mean[0].movedim(0, -1).repeat_interleave(8, 0).repeat_interleave(8, 1)
    torch.testing.assert_close(expect(base, encoders, mixture, b(), CELL), pixels, rtol=0, atol=1e-6)


def test_the_base_is_left_as_it_was():
    base = TinyBase()
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    mixture = loaded(base).route(torch.zeros(PARTS * EMBEDDING))
    expect(base, Encoders(), mixture, b(), CELL)
    assert all(torch.equal(value, before[name]) for name, value in base.model.state_dict().items())
    assert not any(module._forward_hooks for module in base.model.modules())


def test_mixtures_of_which_nothing_can_be_told_are_refused():
    base = TinyBase()
    basis = loaded(base)
    two = basis.route(torch.randn(2, PARTS, EMBEDDING))
    with pytest.raises(LoRWebError, match=r"is of 2 analogies.*Make it with one b"):
        expect(base, Encoders(), two, b(), CELL)
    routed = replace(two, coefficients={})
    with pytest.raises(LoRWebError, match="routes by each layer's own input"):
        expect(base, Encoders(), routed, b(), CELL)
