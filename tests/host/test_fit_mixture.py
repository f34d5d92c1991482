"""Fit Mixture in a real host: a small FLUX, a pair of pictures, and a mixture that every node takes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import parity
import pytest
import standins
import torch


@pytest.fixture
def vae(host):
    import comfy.sd

    return comfy.sd.VAE(sd=standins.autoencoder())


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    day, night = (standins.picture(night, "house", (48, 48))[None] for night in (False, True))
    return day, night


@pytest.fixture
def fit(host, vae, pair) -> Callable:
    """The node as the host calls it, small and short."""

    def fit(model, **given):
        tensors = parity.load_parity()
        positive = [[tensors["txt"].float(), {"pooled_output": tensors["pooled"].float(), "guidance": 2.5}]]
        a, a_prime = pair
        widgets = {i.id: i.default for i in host.node("LoRWeBFitMixture").GET_SCHEMA().inputs if hasattr(i, "default")}
        small = {"steps": 6, "noises": 2, "megapixels": 0.01, "preview_every": 0, "a": a, "a_prime": a_prime}
        widgets = {key: value for key, value in (widgets | small | given).items() if value is not None}
        return host.node("LoRWeBFitMixture").execute(
            **{"model": model, "vae": vae, "positive": positive, **widgets}
        ).result

    return fit


def test_smoke(host, load_flux, fit, mixture):
    found, image, report = fit(load_flux(), mixture=mixture, rate=0.3)
    print(report, image.shape)
