"""The prompt that is right: what it paints must be the same before and after everything else, bit for bit."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from .case import Case
from .host_world import TAKEN, give, gives, world


def prompt(method: str, seed: int = 1, b: str = "b") -> dict[str, dict]:
    """An analogy from basis to picture."""
    pictures = {"a": give("a"), "a_prime": give("a_prime"), "b": give(b)}

    def node(kind: str, **inputs: Any) -> dict:
        return {"class_type": kind, "inputs": inputs}

    sampling = {"seed": seed, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    latents = {"positive": ["shown", 0], "negative": ["shown", 1], "latent_image": ["shown", 2]}
    shown = {"positive": give("conditioning"), "vae": give("vae"), "megapixels": 0.02}
    graph = {
        "basis": node("LoRWeBBasisLoader", basis_name="tanh_sum_4.safetensors", config_name="auto"),
        "mixture": node("LoRWeBAnalogyEncoder", basis=["basis", 0], **pictures),
        "patched": node(
            "LoRWeBMixedLoRAApply", model=give("model"), mixture=["mixture", 0], strength=1.0, method=method
        ),
        "shown": node("LoRWeBExtendedAttention", **shown, **pictures),
        "sampled": node("KSampler", model=["patched", 0], **latents, **sampling),
        "decoded": node("VAEDecode", samples=["sampled", 0], vae=give("vae")),
        "result": node("LoRWeBAnalogyResult", image=["decoded", 0], b=give(b)),
        "taken": node("FuzzTake", value=["result", 0]),
    }
    return {**graph, **gives(*graph.values())}


def make(seed: int, folder: Path) -> Case:
    """See Case. Merged for seed 0, at run time for 1."""
    around, method = world(), ("merge", "runtime")[seed]
    return Case("the good prompt", ("",), lambda: around.run(prompt(method)), _check, writes=True)


def _check(_: None) -> str:
    (picture,) = TAKEN
    assert picture.isfinite().all() and picture.std() > 0.01
    left = world().left_behind()
    assert not left, left
    return hashlib.sha256(picture.numpy().tobytes()).hexdigest()
