"""b' alone and kept references in the host's own FLUX, against plain computations."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import parity
import pytest
import standins
import torch
import torch.nn.functional as F
from torch import Tensor

TEXT, POOLED = 96, 48  # widths of the fixture's FLUX
STEPS = 4


@pytest.fixture(scope="module")
def vae(host):
    import comfy.sd

    return comfy.sd.VAE(sd=standins.autoencoder())


def prompt(seed: int = 1, **values) -> list:
    generator = torch.Generator().manual_seed(seed)
    embedding, pool = (torch.randn(shape, generator=generator) for shape in ((1, 5, TEXT), (1, POOLED)))
    return [[embedding, {"pooled_output": pool, "guidance": 2.5, **values}]]


def pictures(count: int = 1, size: tuple[int, int] = (64, 96)) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {name: torch.rand((count, *size, 3), generator=generator) for name in ("a", "a_prime", "b")}


@pytest.fixture
def show(host, vae) -> Callable:
    """Give the conditioning node's positive, negative and latent."""

    def show(speed: str = "as trained", **inputs):
        inputs = {"positive": prompt(), "negative": prompt(7), "megapixels": 0.02, **pictures(), **inputs}
        return host.node("LoRWeBExtendedAttention").execute(vae=vae, speed=speed, **inputs).result[:3]

    return show


@pytest.fixture
def keep(host) -> Callable:
    """Let Keep References say how."""

    def keep(model, **inputs):
        return host.node("LoRWeBKeepReferences").execute(model, **inputs).result[0]

    return keep


def sample(model, shown: tuple, cfg: float = 1.0, sampler: str = "euler", steps: int = STEPS) -> Tensor:
    import nodes

    positive, negative, latent = shown
    (out,) = nodes.common_ksampler(model, 3, steps, cfg, sampler, "simple", positive, negative, latent)
    return out["samples"]


# A plain FLUX


class Attended(NamedTuple):
    k: Tensor
    v: Tensor


class Plain:
    """FLUX.1 written down from its weights, for one picture: what its tokens are, and where, is the caller's."""

    def __init__(self, flux: torch.nn.Module):
        self.weights = {name: t.float() for name, t in flux.state_dict().items()}
        self.heads, self.axes = flux.num_heads, flux.params.axes_dim
        self.depth = len(flux.double_blocks), len(flux.single_blocks)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def embed(self, name: str, x: Tensor) -> Tensor:
        return self.linear(f"{name}.out_layer", F.silu(self.linear(f"{name}.in_layer", x)))

    def qkv(self, name: str, norm: str, qkv: Tensor) -> list[Tensor]:
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)

        def normed(x: Tensor, which: str) -> Tensor:
            scale = next(t for key, t in self.weights.items() if key.startswith(f"{name}.{norm}.{which}_norm."))
            return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * scale

        return [normed(q, "query"), normed(k, "key"), v]

    def rotate(self, x: Tensor, ids: Tensor) -> Tensor:
        angles = [
            ids[:, axis, None] / 10000 ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
            for axis, width in enumerate(self.axes)
        ]
        angles = torch.cat(angles, -1).float()
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        turned = even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos()
        return torch.stack(turned, -1).flatten(-2)

    def velocity(
        self, img: Tensor, ids: Tensor, cond: dict, sigma: float, noise: int, frozen: list[Attended] | None = None
    ) -> tuple[Tensor, list[Attended]]:
        """Compute the velocity of the first `noise` tokens, and every attention's keys and values of the others.

        img: (1, tokens, 64). ids: (tokens, 3) of img. frozen: others' keys and values to use in place of their own.
        """

        def time(t: float) -> Tensor:
            angles = 1000 * t * torch.exp(-math.log(10000) * torch.arange(128) / 128)
            return torch.cat([angles.cos(), angles.sin()])[None]

        vec = self.embed("time_in", time(sigma)) + self.embed("guidance_in", time(cond["guidance"]))
        vec = vec + self.embed("vector_in", cond["pooled_output"])
        txt, img = self.linear("txt_in", cond["text"]), self.linear("img_in", img)
        split, last = txt.shape[1], txt.shape[1] + noise
        ids, seen = torch.cat([torch.zeros(split, 3), ids]), []

        def norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
            return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]

        def modulation(name: str, parts: int) -> tuple[Tensor, ...]:
            return self.linear(name, F.silu(vec)).chunk(parts, -1)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k = self.rotate(q, ids), self.rotate(k, ids)
            if frozen:
                k, v = (torch.cat([t[:, :, :last], f], 2) for t, f in zip((k, v), frozen[len(seen)]))
            seen.append(Attended(k[:, :, last:], v[:, :, last:]))
            weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
            return (weights @ v).transpose(1, 2).flatten(2)

        for i in range(self.depth[0]):
            name = f"double_blocks.{i}"
            mods = {s: modulation(f"{name}.{s}_mod.lin", 6) for s in ("txt", "img")}
            streams = {"txt": txt, "img": img}
            made = [
                self.qkv(
                    f"{name}.{s}_attn",
                    "norm",
                    self.linear(f"{name}.{s}_attn.qkv", norm(x, mods[s][1], mods[s][0])),
                )
                for s, x in streams.items()
            ]
            attended = attend(*(torch.cat(pair, 2) for pair in zip(*made)))
            for s, part in zip(streams, (attended[:, :split], attended[:, split:])):
                shift, scale, gate = mods[s][3:]
                x = streams[s] + mods[s][2][:, None] * self.linear(f"{name}.{s}_attn.proj", part)
                hidden = F.gelu(self.linear(f"{name}.{s}_mlp.0", norm(x, scale, shift)), approximate="tanh")
                streams[s] = x + gate[:, None] * self.linear(f"{name}.{s}_mlp.2", hidden)
            txt, img = streams["txt"], streams["img"]
        x = torch.cat([txt, img], 1)
        for i in range(self.depth[1]):
            name = f"single_blocks.{i}"
            shift, scale, gate = modulation(f"{name}.modulation.lin", 3)
            width = x.shape[-1]
            both = self.linear(f"{name}.linear1", norm(x, scale, shift))
            attended = attend(*self.qkv(name, "norm", both[..., : 3 * width]))
            hidden = F.gelu(both[..., 3 * width :], approximate="tanh")
            x = x + gate[:, None] * self.linear(f"{name}.linear2", torch.cat([attended, hidden], -1))
        shift, scale = modulation("final_layer.adaLN_modulation.1", 2)
        return self.linear("final_layer.linear", norm(x[:, split:last], scale, shift)), seen


def tokens(latent: Tensor) -> Tensor:
    """(1, 16, h, w) → (1, h/2 · w/2, 64)."""
    patches = latent.unflatten(2, (-1, 2)).unflatten(4, (-1, 2))  # b c h ph w pw
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def latent_of(tokens_: Tensor, height: int, width: int) -> Tensor:
    patches = tokens_.unflatten(1, (height // 2, width // 2)).unflatten(3, (16, 2, 2))
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def positions(index: int, latent: Tensor, row: int = 0, column: int = 0) -> Tensor:
    rows, columns = latent.shape[2] // 2, latent.shape[3] // 2
    grid = [[[index, row + r, column + c] for c in range(columns)] for r in range(rows)]
    return torch.tensor(grid, dtype=torch.float32).flatten(0, 1)


def plain_sample(
    model, shown: tuple, place: tuple[int, int], computed: Callable[[int], bool] = lambda step: True
) -> Tensor:
    """Sample by Euler's rule with a plain FLUX; in the other steps references are as they were when last computed."""
    import comfy.sample
    import comfy.samplers

    positive, _, latent = shown
    embedding, cond = positive[0]
    cond = {**cond, "text": embedding}
    references = [model.model.process_latent_in(t) for t in cond["reference_latents"]]
    noise = comfy.sample.prepare_noise(latent["samples"], 3)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
    ids = [positions(0, noise, *place), *(positions(i + 1, t) for i, t in enumerate(references))]
    plain, x, kept = Plain(model.model.diffusion_model), noise * sigmas[0], None
    for step, (now, after) in enumerate(pairwise(sigmas)):
        img = torch.cat([tokens(t) for t in (x, *references)], 1)
        frozen = None if computed(step) else kept
        velocity, kept = plain.velocity(img, torch.cat(ids), cond, now.item(), len(ids[0]), frozen)
        x = x + (after - now) * latent_of(velocity, *x.shape[2:])
    return model.model.process_latent_out(x)


def error(actual: Tensor, expected: Tensor) -> float:
    return parity.relative_error(actual, expected)


# b' alone


@pytest.mark.parametrize("layout", ["grid", "sequence"])
def test_b_prime_alone_is_a_plain_computation_of_its_tokens_at_their_places(load_flux, keep, show, layout):
    """At 0.02 megapixels cells of 5 by 8 tokens."""
    model, shown = load_flux(), show("b' alone", layout=layout)
    actual = sample(keep(model, every=1), shown)
    if layout == "grid":
        assert shown[2]["samples"].shape == (1, 16, 2 * 3, 2 * 5)
    place = (3, 5) if layout == "grid" else (0, 0)
    assert error(actual, plain_sample(model, shown, place)) < 1e-4
    if layout == "grid":
        assert error(actual, plain_sample(model, shown, (0, 0))) > 1e-3
