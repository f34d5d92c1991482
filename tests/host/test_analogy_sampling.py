"""b' alone and kept references in the host's own FLUX, against plain computations."""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import parity
import pytest
import standins
import torch
import torch.nn.functional as F
import yaml
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


def shape(shown: tuple) -> tuple[int, ...]:
    return tuple(shown[2]["samples"].shape)


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


def test_b_prime_alone_comes_at_the_place_of_its_cell_for_several_pairs_too(load_flux, keep, show):
    images = {**pictures(3), "b": pictures()["b"]}
    model, shown = load_flux(), show("b' alone", demonstrations="all pairs", megapixels=0.03, **images)
    rows, columns = (side // 2 for side in shown[2]["samples"].shape[2:])
    reference = shown[0][0][1]["reference_latents"][0]
    assert reference.shape[2:] == (2 * 4 * rows, 2 * 2 * columns)
    assert error(sample(keep(model, every=1), shown), plain_sample(model, shown, (3 * rows, columns))) < 1e-4


@pytest.mark.parametrize(("sampled", "speed"), [("grid", "as published"), ("result", "b' alone")])
def test_what_the_mixture_was_trained_with_is_sampled_and_comes_back(host, show, tmp_path, sampled, speed):
    checkpoint = parity.write_checkpoint(tmp_path, "tanh_sum_4")
    config = checkpoint.with_suffix(".yaml")
    document = yaml.safe_load(config.read_text())
    document["config"]["process"][0]["train"] = {"sampled": sampled}
    config.write_text(yaml.safe_dump(document))
    mixture = host.core.load_basis(checkpoint).route(parity.load_parity()["query"])
    assert shape(show(mixture=mixture)) == shape(show(speed))
    assert shape(show("as published", mixture=mixture)) == shape(show())
    result, decoded = host.node("LoRWeBAnalogyResult").execute, torch.rand(1, 64, 96, 3)
    cell = decoded[:, 32:, 48:]
    assert torch.equal(result(decoded, mixture=mixture).result[0], cell if sampled == "grid" else decoded)
    for chosen, expected in {"as trained": cell, "whole grid": cell, "b' alone": decoded}.items():
        assert torch.equal(result(decoded, sampled=chosen).result[0], expected)


# References kept

REFRESHED = [
    ({"every": 0}, {0}),
    ({"every": 2}, {0, 2}),
    ({"every": 3}, {0, 3}),
    ({"shares": "0.25; 0.75"}, {0, 1, 3}),
]


@pytest.mark.parametrize(("inputs", "computed"), REFRESHED)
@pytest.mark.parametrize(
    ("speed", "layout"), [("as published", "grid"), ("b' alone", "grid"), ("b' alone", "sequence")]
)
def test_kept_references_are_frozen_ones(load_flux, keep, show, speed, layout, inputs, computed):
    model, shown = load_flux(), show(speed, layout=layout)
    place = (
        tuple(side // 2 for side in shown[2]["samples"].shape[2:])
        if (speed, layout) == ("b' alone", "grid")
        else (0, 0)
    )
    actual = sample(keep(model, **inputs), shown)
    assert error(actual, plain_sample(model, shown, place, lambda step: step in computed)) < 1e-4
    assert error(actual, plain_sample(model, shown, place)) > 1e-4


def test_references_kept_as_one_choice_are_computed_in_the_first_step(load_flux, keep, show, host, mixture):
    model = load_flux()
    expected = sample(keep(model, every=0), show("b' alone"))
    merged = host.apply.apply_mixture(model, mixture, 0.0)
    assert torch.equal(sample(merged, show("b' alone, references kept")), expected)
    every = sample(keep(merged, every=1), show("b' alone, references kept"))
    assert torch.equal(every, sample(keep(model, every=1), show("b' alone")))


@pytest.mark.parametrize("layout", ["grid", "sequence"])
@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_the_whole_grid_with_references_computed_in_each_step_is_as_before(load_flux, keep, show, layout, cfg):
    model = load_flux()
    plain = sample(model, show("as published", layout=layout), cfg)
    assert torch.equal(sample(keep(model, every=1), show("as published", layout=layout), cfg), plain)
    assert torch.equal(sample(keep(model, every=1), show(layout=layout), cfg), plain)


@pytest.mark.parametrize("speed", ["b' alone", "b' alone, references kept"])
def test_a_mixture_merged_and_at_run_time_gives_the_same(host, load_flux, show, mixture, speed):
    shown = show(speed)
    merged, added = (
        sample(host.apply.apply_mixture(load_flux(), mixture, method=method), shown, cfg=2.0)
        for method in ("merge", "runtime")
    )
    assert error(added, merged) < 1e-4
    assert error(sample(host.apply.apply_mixture(load_flux(), mixture, 0.0), shown, cfg=2.0), merged) > 1e-2


@pytest.fixture
def split(host, monkeypatch) -> Callable:
    """Let the host take positive and negative in one batch or apart, by step; return the batches' sizes."""
    import comfy.model_base

    def split(model, apart: Callable[[int], bool]) -> list[int]:
        batches: list[int] = []

        def required(self, shape, cond_shapes=()):
            return 1e18 if apart(len(batches)) and shape[0] > 1 else 1.0

        monkeypatch.setattr(comfy.model_base.BaseModel, "memory_required", required)
        model.model.diffusion_model.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
        return batches

    return split


@pytest.mark.parametrize("speed", ["b' alone", "b' alone, references kept"])
def test_positive_and_negative_in_one_batch_apart_or_by_turns(load_flux, keep, show, split, speed):
    model, shown = load_flux(), show(speed)
    kept = keep(model, every=0 if "kept" in speed else 1)
    alone = [sample(kept, shown, cfg=2.0)]
    for apart, sizes in (
        (lambda passes: False, [2] * STEPS),
        (lambda passes: True, [1] * 2 * STEPS),
        (lambda passes: passes > 1, [2, 2] + [1] * 2 * (STEPS - 2)),
        (lambda passes: passes < 2, [1, 1] + [2] * (STEPS - 1)),
    ):
        batches = split(model, apart)
        alone.append(sample(kept, shown, cfg=2.0))
        assert batches == sizes
    for picture in alone:
        assert error(picture, alone[0]) < 1e-5
    assert error(sample(kept, (shown[0], shown[0], shown[2]), cfg=2.0), alone[0]) > 1e-3


@pytest.mark.parametrize("layout", ["grid", "sequence"])
def test_a_batch_of_analogies_is_each_of_them_alone(host, load_flux, show, mixture, layout):
    images = pictures(2)
    patched = host.apply.apply_mixture(load_flux(), mixture, 0.0)
    positive, negative, latent = show("b' alone, references kept", layout=layout, **images)
    batch = sample(patched, (positive, negative, latent), cfg=2.0)
    for i in range(2):
        one = show("b' alone, references kept", layout=layout, **{name: both[i][None] for name, both in images.items()})
        single = sample(patched, (*one[:2], {**one[2], "batch_index": [i]}), cfg=2.0)
        assert error(batch[i], single[0]) < 1e-4
        assert error(batch[1 - i], single[0]) > 1e-2


@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_several_noises_for_one_analogy_share_what_the_first_ones_references_are(load_flux, keep, show, cfg, host):
    model, (positive, negative, latent) = keep(load_flux(), every=0), show("b' alone")
    kept = []
    model.set_model_sampler_post_cfg_function(lambda args: kept.append(held_bytes()) or args["denoised"])
    three = sample(model, (positive, negative, {"samples": latent["samples"].repeat(3, 1, 1, 1)}), cfg=cfg)
    assert set(kept) == {kept[0]}
    shared, kept[:] = kept[0], []
    singles = [sample(model, (positive, negative, {**latent, "batch_index": [i]}), cfg=cfg)[0] for i in range(3)]
    assert shared == kept[0] > 0
    assert error(three[0], singles[0]) < 1e-4
    for i in (1, 2):  # what the model sees of their own noise is missing
        assert 1e-5 < error(three[i], singles[i]) < 0.2


def test_pictures_with_coefficients_of_their_own_share_nothing(host, load_flux, show, mixture):
    both = mixture.basis.route(torch.cat([parity.load_parity()["query"], parity.load_parity()["query"].flip(1)]))
    patched = host.apply.apply_mixture(load_flux(), both, method="runtime")
    positive, negative, latent = show("b' alone, references kept")
    batch = sample(patched, (positive, negative, {"samples": latent["samples"].repeat(2, 1, 1, 1)}))
    for i, one in enumerate(both.split()):
        alone = host.apply.apply_mixture(load_flux(), one, method="runtime")
        single = sample(alone, (positive, negative, {**latent, "batch_index": [i]}))
        assert error(batch[i], single[0]) < 1e-4


@pytest.mark.parametrize("sampler", ["heun", "dpm_2", "dpmpp_2m"])
def test_samplers_with_several_passes_a_step(load_flux, keep, show, sampler):
    """References computed in each step are exact in steps of two passes too."""
    model, shown = load_flux(), show("b' alone")
    exact = sample(keep(model, every=1), shown, sampler=sampler)
    kept = sample(keep(model, every=0), shown, sampler=sampler)
    assert 1e-5 < error(kept, exact) < 0.3


# Beside others


def test_weights_and_another_override_see_the_references_that_are_kept(host, load_flux, keep, show):
    """A weight is a bias on keys, which an override of its own adds to plain attention here."""
    model, shown = load_flux(), show("b' alone")
    weigh = host.node("LoRWeBAnalogyAttention").execute

    def override(func, q, k, v, heads, mask=None, **kwargs):
        reference = torch.zeros(k.shape[2])
        rows = shown[0][0][1]["reference_latents"][0].shape[2] // 2
        counts = torch.tensor([3.0] * (rows // 2) + [2.0] * (rows // 2)).repeat_interleave(2 * 5)
        reference[-len(counts) :] = counts.log()
        weights = (q @ k.mT / math.sqrt(q.shape[-1]) + reference).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    own = keep(model, every=0)
    own.model_options["transformer_options"]["optimized_attention_override"] = override
    expected = sample(own, shown)
    for weighted in (
        weigh(keep(model, every=0), 3.0, 2.0).result[0],
        keep(weigh(model, 3.0, 2.0).result[0], every=0),
    ):
        assert error(sample(weighted, shown), expected) < 1e-4
    assert error(sample(keep(model, every=0), shown), expected) > 1e-3


def test_a_mask_with_a_row_for_each_query_loses_those_of_references(host):
    run = sys.modules[host.node("LoRWeBKeepReferences").__module__.replace("keep_references", "host.reference_run")]
    mask = torch.arange(2 * 5 * 5).view(2, 1, 5, 5)
    assert torch.equal(run._rows(mask, 3), mask[:, :, :3])
    assert run._rows(mask[:, :, :1], 3) is not None and run._rows(mask[:, :, :1], 3).shape == (2, 1, 1, 5)
    assert run._rows(None, 3) is None


def test_b_prime_alone_is_refused_on_a_model_that_would_misplace_it(host, load_flux, keep, show):
    with pytest.raises(host.core.LoRWebError, match="the model in the sampler does not know.*Keep References"):
        sample(load_flux(), show("b' alone"))
    sample(keep(load_flux()), show("b' alone"))
    with pytest.raises(host.core.LoRWebError, match="as published"):
        sample(load_flux(), show("b' alone"))
    sample(load_flux(), show("as published"))


def test_the_hosts_own_cache_is_refused_before_sampling(host, load_flux, keep, show):
    import nodes

    if "FluxKVCache" not in nodes.NODE_CLASS_MAPPINGS:
        from comfy_extras import nodes_flux

        if not hasattr(nodes_flux, "FluxKVCache"):
            pytest.skip("this ComfyUI has no Flux KV Cache")
        cache = nodes_flux.FluxKVCache
    else:
        cache = nodes.NODE_CLASS_MAPPINGS["FluxKVCache"]
    for model in (keep(cache.execute(load_flux()).result[0]), cache.execute(keep(load_flux())).result[0]):
        with pytest.raises(host.core.LoRWebError, match="Flux KV Cache, which .* fails on FLUX.1.*Keep References"):
            sample(model, show("as published"))


@pytest.mark.parametrize("mode", ["caa'b", "aa'bb'"])
def test_a_basis_that_looks_at_the_references_refuses_to_keep_them(host, load_flux, keep, show, tmp_path, mode):
    basis = host.core.load_basis(parity.write_activation_checkpoint(tmp_path, mode, "max"))
    routed = basis.route(None)
    patched = host.apply.apply_mixture(load_flux(), routed)
    shown = show("b' alone")
    assert sample(patched, shown).isfinite().all()
    with pytest.raises(host.core.LoRWebError, match="references cannot be kept"):
        sample(keep(patched, every=0), shown)
    with pytest.raises(host.core.LoRWebError, match="references cannot be kept"):
        show("b' alone, references kept", mixture=routed)


# Memory


def held() -> list:
    """What of references' keys and values there is in the process."""
    return [each for each in gc.get_objects() if type(each).__name__ == "KeptReferences" and each.nbytes]


def held_bytes() -> int:
    return sum(each.nbytes for each in held())


def test_nothing_is_left_after_a_run_or_an_interruption(load_flux, keep, show):
    import comfy.model_management

    model, shown, seen = keep(load_flux(), every=0), show("b' alone"), []

    def interrupt(*_) -> None:
        seen.append(held_bytes())
        if len(seen) > 1:
            raise comfy.model_management.InterruptProcessingException

    before = sample(model, shown)
    assert not held()
    options = {**model.model_options["transformer_options"]}
    interrupted = model.clone()
    interrupted.set_model_sampler_post_cfg_function(lambda args: interrupt() or args["denoised"])
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(interrupted, shown)
    assert seen[0] > 0
    assert not held()
    assert model.model_options["transformer_options"] == options
    assert torch.equal(sample(model, shown), before)


def test_with_little_memory_for_weights(load_flux, keep, show, low_vram):
    model, shown = load_flux(), show("b' alone, references kept")
    expected = sample(keep(model, every=0), shown)
    low_vram()
    assert error(sample(keep(model, every=0), shown), expected) < 1e-5
    assert model.model.model_lowvram


def test_runs_of_other_sizes_and_pictures_in_turn(load_flux, keep, show):
    model = keep(load_flux(), every=0)
    small, large = show("b' alone"), show("b' alone", megapixels=0.05)
    other = show("b' alone", b=1 - pictures()["b"])
    first = [sample(model, shown) for shown in (small, large, other)]
    again = [sample(model, shown) for shown in (other, small, large)]
    for picture, same in zip(first, (again[1], again[2], again[0])):
        assert torch.equal(picture, same)
    assert error(first[2], first[0]) > 1e-3


@pytest.mark.parametrize(
    ("inputs", "limit"), [({"stored": "8 bits"}, 2e-2), ({"place": "main memory"}, 1e-7), ({}, 1e-7)]
)
def test_other_forms_and_places(load_flux, keep, show, inputs, limit):
    model, shown = load_flux(), show("b' alone")
    exact = sample(keep(model, every=0), shown)
    assert error(sample(keep(model, every=0, **inputs), shown), exact) <= limit


@pytest.mark.parametrize("place", ["GPU", "main memory"])
def test_where_memory_lacks_they_are_computed_and_it_is_said_once(load_flux, keep, show, monkeypatch, caplog, place):
    model, shown = load_flux(), show("b' alone")
    exact = sample(keep(model, every=1), shown, cfg=2.0)
    (run,) = [module for name, module in sys.modules.items() if name.endswith("nodes.host.reference_run")]
    monkeypatch.setattr(run, "get_free_memory", lambda device: 0)
    monkeypatch.setattr(type(model), "get_free_memory", lambda self, device: 0)
    assert error(sample(keep(model, every=0, place=place), shown, cfg=2.0), exact) < 1e-6
    said = [r.getMessage() for r in caplog.records if "computed in each step" in r.getMessage()]
    assert len(said) == 1


def test_where_memory_ends_halfway_they_are_computed(load_flux, keep, show, monkeypatch, caplog):
    from comfy.model_management import OOM_EXCEPTION

    model, shown, kept = load_flux(), show("b' alone"), []
    exact = sample(keep(model, every=1), shown)
    (references,) = [module for name, module in sys.modules.items() if name.endswith("kept_references")]
    original = references.KeptReferences.keep

    def keep_some(self, *args):
        kept.append(args)
        if len(kept) > 1:
            raise OOM_EXCEPTION
        original(self, *args)

    monkeypatch.setattr(references.KeptReferences, "keep", keep_some)
    assert torch.equal(sample(keep(model, every=0), shown), exact)
    assert len(kept) == 2
    assert "computed in each step" in caplog.text


def test_the_host_is_asked_for_the_memory_of_what_is_kept(load_flux, keep, show, monkeypatch):
    import comfy.model_management

    model, shown, asked = load_flux(), show("b' alone"), []
    load = comfy.model_management.load_models_gpu

    def loaded(models, memory_required=0, minimum_memory_required=None, **kwargs):
        asked.append((memory_required, minimum_memory_required))
        return load(models, memory_required, minimum_memory_required=minimum_memory_required, **kwargs)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", loaded)
    for inputs in ({"every": 1}, {"every": 0}, {"every": 0, "place": "main memory"}):
        sample(keep(model, **inputs), shown)
    flux, tokens_ = model.model.diffusion_model, 60
    attentions = len(flux.double_blocks) + len(flux.single_blocks)
    needed = attentions * 2 * tokens_ * flux.hidden_size * 4
    (plain, least), (more, least_more), elsewhere = asked
    assert elsewhere == (plain, least)
    assert needed <= least_more - least < needed + 1e7
    assert 2 * needed <= more - plain


@pytest.mark.parametrize("part", ["diffusion_model", "diffusion_model.double_blocks.0"])
@pytest.mark.parametrize("speed", ["b' alone", "b' alone, references kept"])
def test_a_compiled_model_gives_the_same(host, load_flux, show, mixture, part, speed):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    shown = show(speed)
    merged = host.apply.apply_mixture(load_flux(), mixture, method="merge")
    expected = sample(merged, shown)
    set_torch_compile_wrapper(compiled := merged.clone(), backend="eager", keys=[part])
    assert error(sample(compiled, shown), expected) < 1e-5
    assert error(sample(merged, shown), expected) < 1e-7
