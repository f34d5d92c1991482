"""Layouts, batches, several demonstrations and attention weights, in the host's own FLUX."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from itertools import pairwise

import parity
import pytest
import standins
import torch
from host_process import FLUX_1, build_model

TEXT, POOLED = 96, 48  # widths of the fixture's FLUX


@pytest.fixture(scope="module")
def vae(host):
    import comfy.sd

    return comfy.sd.VAE(sd=standins.autoencoder())


@pytest.fixture
def show(host, vae) -> Callable:
    """The conditioning node's four results."""

    def show(images: dict[str, torch.Tensor] | None = None, **inputs):
        inputs = {"positive": prompt(), "megapixels": 0.02} | (images or pictures(1, 1)) | inputs
        return host.node("LoRWeBExtendedAttention").execute(vae=vae, **inputs).result

    return show


def pictures(a: int, b: int) -> dict[str, torch.Tensor]:
    """Batches of so many, each input of another shape."""
    generator = torch.Generator().manual_seed(2)
    sizes = {"a": (a, 64, 96, 3), "a_prime": (a, 80, 96, 3), "b": (b, 96, 64, 3)}
    return {name: torch.rand(size, generator=generator) for name, size in sizes.items()}


def prompt(text: int = TEXT, pooled: int = POOLED, **values) -> list:
    generator = torch.Generator().manual_seed(1)
    embedding, pool = (torch.randn(shape, generator=generator) for shape in ((1, 5, text), (1, pooled)))
    return [[embedding, {"pooled_output": pool, "guidance": 2.5, **values}]]


def references(conditioning: list) -> list[torch.Tensor]:
    return conditioning[0][1]["reference_latents"]


def sample(model, positive: list, latent: dict, negative: list | None = None, cfg: float = 1.0, steps: int = 2):
    import nodes

    negative = positive if negative is None else negative
    (out,) = nodes.common_ksampler(model, 3, steps, cfg, "euler", "simple", positive, negative, latent)
    return out["samples"]


# Batches and demonstrations


@pytest.mark.parametrize("layout", ["grid", "sequence"])
@pytest.mark.parametrize(("a", "b"), [(1, 3), (3, 3)])
def test_a_batch_is_shown_as_each_of_its_analogies_alone(show, layout, a, b):
    images = pictures(a, b)
    positive, negative, latent, overview = show(images, layout=layout, fit="pad")
    assert latent["samples"].shape[0] == overview.shape[0] == b
    for i in range(b):
        alone = {name: batch[min(i, len(batch) - 1)][None] for name, batch in images.items()}
        one, _, one_latent, one_overview = show(alone, layout=layout, fit="pad")
        assert latent["samples"][:1].shape == one_latent["samples"].shape
        assert torch.equal(overview[i], one_overview[0])
        for conditioning in (positive, negative):
            assert len(references(conditioning)) == len(references(one))
            for many, single in zip(references(conditioning), references(one)):
                torch.testing.assert_close(many[i], single[0])


@pytest.mark.parametrize("layout", ["grid", "sequence"])
def test_a_batch_is_sampled_as_each_of_its_analogies_alone(show, load_flux, layout):
    model, images = load_flux(), pictures(2, 2)
    positive, _, latent, _ = show(images, layout=layout)
    batch = sample(model, positive, latent)
    for i in range(2):
        one, _, one_latent, _ = show({name: both[i][None] for name, both in images.items()}, layout=layout)
        single = sample(model, one, {**one_latent, "batch_index": [i]})
        assert parity.relative_error(batch[i], single[0]) < 1e-4
        assert parity.relative_error(batch[1 - i], single[0]) > 1e-2


def test_of_several_pairs_for_one_b_the_first_or_all_are_shown(show):
    images = pictures(3, 1)
    for layout, count in {"grid": 1, "sequence": 7}.items():
        one, *_ = show({name: batch[:1] for name, batch in images.items()}, layout=layout)
        first, *_ = show(images, layout=layout)
        assert all(torch.equal(x, y) for x, y in zip(references(first), references(one)))
        every, _, latent, overview = show(images, layout=layout, demonstrations="all pairs")
        assert len(references(every)) == count
        assert len(latent["samples"]) == len(overview) == 1


def test_all_pairs_are_rows_of_the_grid_and_b_prime_comes_back_from_the_last(host, show, vae):
    """With a model that would hand the reference back, b' is b in the autoencoder's resolution, 8 pixels."""
    b = standins.picture(False, "tree", size=(120, 160))[None]
    house = {name: standins.picture(name == "a_prime", "house", size=(90, 120)) for name in ("a", "a_prime")}
    images = {name: image.expand(3, -1, -1, -1) for name, image in house.items()} | {"b": b}
    positive, _, latent, _ = show(images, demonstrations="all pairs", megapixels=0.8)
    (reference,) = references(positive)
    assert reference.shape == latent["samples"].shape
    (back,) = host.node("LoRWeBAnalogyResult").execute(vae.decode(reference), b, pairs=3).result
    assert back.shape == b.shape
    assert (back - b).abs().mean() < 0.06


def test_results_of_a_batch(host):
    result = host.node("LoRWeBAnalogyResult").execute
    grids = torch.rand(4, 64, 96, 3)
    for bs in (1, 2, 4):
        (out,) = result(grids, torch.rand(bs, 40, 50, 4)).result
        assert out.shape == (4, 40, 50, 3)
        torch.testing.assert_close(out[1:2], result(grids[1:2], torch.rand(1, 40, 50, 3)).result[0])
    with pytest.raises(host.core.LoRWebError, match="4 images and 3 b's"):
        result(grids, torch.rand(3, 40, 50, 3))
    (whole,) = result(grids, torch.rand(1, 64, 96, 3), layout="sequence").result
    assert torch.equal(whole, grids)


@pytest.mark.parametrize(
    ("images", "inputs", "words"),
    [
        (pictures(2, 3), {}, "2 pairs .* and 3 b's"),
        (pictures(1, 1), {"layout": "row"}, "'row'.*grid, sequence"),
        (pictures(1, 1), {"demonstrations": "two"}, "'two'.*first pair, all pairs"),
        (pictures(1, 1), {"layout": "sequence", "megapixels": 0.0}, "megapixels is 0.0"),
    ],
)
def test_what_does_not_fit_is_said(host, show, images, inputs, words):
    with pytest.raises(host.core.LoRWebError, match=words):
        show(images, **inputs)


# The sequence


@pytest.mark.parametrize("pairs", [1, 2])
def test_frame_indices_are_3_for_a_2_for_a_prime_1_for_b(show, load_flux, vae, monkeypatch, pairs):
    """What the host's FLUX turns into tokens, at which index: flat pictures, to be told apart by their colours."""
    from comfy.ldm.flux.model import Flux

    model, seen = load_flux(), {}
    red, green, blue = torch.eye(3)
    white = torch.ones(3)

    def flat(*colours: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return torch.stack(colours)[:, None, None].expand(-1, *size, 3)

    def process_img(self, x, index=0, **kwargs):
        img, ids = original(self, x, index=index, **kwargs)
        assert (ids[..., 0] == index).all()
        assert ids[0, 0, 1:].tolist() == [0, 0]  # not moved aside
        picture = vae.decode(model.model.process_latent_out(x))[0]
        seen[int(index)] = (x.shape[2:], picture[picture.shape[0] // 2, picture.shape[1] // 2])
        return img, ids

    original = Flux.process_img
    monkeypatch.setattr(Flux, "process_img", process_img)
    images = {
        "a": flat(*(red, white)[:pairs], size=(64, 96)),
        "a_prime": flat(*(green, red + green)[:pairs], size=(48, 48)),
        "b": flat(blue, size=(96, 64)),
    }
    positive, _, latent, _ = show(images, layout="sequence", demonstrations="all pairs")
    sample(model, positive, latent, steps=1)
    expected = {1: blue, 2: green, 3: red, **({4: red + green, 5: white} if pairs == 2 else {})}
    assert seen.keys() == {0, *expected}
    for index, colour in expected.items():
        torch.testing.assert_close(seen[index][1], colour, atol=0.02, rtol=0)
        assert seen[index][0] == (latent["samples"].shape[2:] if index == 1 else (14, 22))


def test_of_a_model_that_paints_its_reference_at_the_next_index_a_sequence_is_b(host, show, vae):
    import comfy.sd

    weights = standins.flux(1, 1, text=TEXT, pooled=POOLED)
    model = comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": torch.float32})
    names, scenes = ("a", "a_prime", "b"), ((False, "house"), (True, "house"), (False, "tree"))
    sizes = (128, 96), (96, 96), (96, 160)
    images = {name: standins.picture(*scene, size)[None] for name, scene, size in zip(names, scenes, sizes)}
    positive, _, latent, _ = show(images, layout="sequence", megapixels=0.03)
    painted = vae.decode(sample(model, positive, latent, steps=6))
    (back,) = host.node("LoRWeBAnalogyResult").execute(painted, images["b"], layout="sequence").result
    assert back.shape == images["b"].shape
    error = (back - images["b"]).abs().mean()
    assert error < 0.08
    assert error < (back - images["b"].flip(2)).abs().mean() / 2


def test_the_sequence_wants_the_frame_indices_for_itself(host, show):
    other = torch.zeros(1, 16, 4, 4)
    given, methods = prompt(reference_latents=[other]), prompt(reference_latents_method="uxo")
    for name in ("positive", "negative"):
        with pytest.raises(host.core.LoRWebError, match=f"{name} already has reference images.*layout grid"):
            show(layout="sequence", **{name: given})
        with pytest.raises(host.core.LoRWebError, match=f"{name} has the reference method 'uxo'.*layout grid"):
            show(layout="sequence", **{name: methods})
    kept, *_ = show(layout="grid", positive=given)
    assert references(kept)[0] is other
    kept, *_ = show(layout="grid", positive=methods)
    assert kept[0][1]["reference_latents_method"] == "uxo"
    again, *_ = show(layout="sequence", positive=prompt(reference_latents_method="index"))
    assert again[0][1]["reference_latents_method"] == "index"
    assert "reference_latents_method" not in show(layout="grid")[0][0][1]


# Attention weights


@pytest.fixture
def attention(host):
    """The node's module."""
    return sys.modules[host.node("LoRWeBAnalogyAttention").__module__]


TOKENS = (2, 3), (3, 5), (4, 2)  # rows and columns of references
BEFORE = 5 + 16  # text and noise of `forward`


def forward(model, tokens=TOKENS, override: Callable | None = None, dtype=torch.float32, **kwargs) -> torch.Tensor:
    """One forward pass of a MODEL's FLUX with the host's wrappers in it; `override` takes over each attention."""
    generator = torch.Generator().manual_seed(4)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    options = {"wrappers": model.wrappers}
    if override is not None:
        options["optimized_attention_override"] = override
    return model.model.diffusion_model(
        normal(2, 16, 8, 8),
        torch.tensor([0.6, 0.6]),
        normal(2, 5, TEXT),
        normal(2, POOLED),
        torch.tensor([2.5, 2.5]),
        [normal(2, 16, 2 * rows, 2 * columns) for rows, columns in tokens],
        None,
        options,
        ref_latents_method="index",
        **kwargs,
    )


def repeated(counts: list[int]) -> Callable:
    """Plain attention in which each key is there so many times; `counts` are of the last keys."""

    def override(func: Callable, q, k, v, heads: int, mask=None, **kwargs) -> torch.Tensor:
        assert mask is None
        times = torch.tensor([1] * (k.shape[2] - len(counts)) + counts)
        k, v = (t.repeat_interleave(times, 2) for t in (k, v))
        weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    return override


# Layout, pairs, references (rows, columns) → how often each of their tokens counts for weights of 3 (pairs) and 2 (b).
COUNTED = [
    ("sequence", 1, TOKENS, [2] * 6 + [3] * 15 + [3] * 8),
    ("sequence", 2, (*TOKENS, (1, 2), (2, 1)), [2] * 6 + [3] * 15 + [3] * 8 + [3] * 4),
    ("grid", 1, ((4, 3),), [3] * 6 + [2] * 6),
    ("grid", 1, ((2, 2), (4, 3)), [3] * 6 + [2] * 6),  # the first is another node's
    ("grid", 3, ((8, 3),), [3] * 18 + [2] * 6),
]


@pytest.mark.parametrize(("layout", "pairs", "tokens", "counts"), COUNTED)
@pytest.mark.parametrize("function", ["pytorch", "sub_quad", "split", "basic"])
def test_a_weight_of_n_is_the_tokens_shown_n_times(host, attention, load_flux, layout, pairs, tokens, counts, function):
    """In the whole model, double and single blocks, by each of the host's attention functions."""
    import comfy.ldm.modules.attention

    function = getattr(comfy.ldm.modules.attention, f"attention_{function}")
    model = load_flux()
    weighted = attention.weigh_references(model, 3.0, 2.0, layout, pairs)
    expected = forward(model, tokens, repeated(counts))
    actual = forward(weighted, tokens, lambda func, *args, **kwargs: function(*args, **kwargs))
    assert parity.relative_error(actual, expected) < 1e-5
    assert parity.relative_error(forward(model, tokens), expected) > 1e-3


def test_more_weight_is_more_attention(attention, load_flux):
    """The share of attention that the pair's keys get rises with their weight as softmax says, to all of it."""
    model, shares = load_flux(), []

    def share(func: Callable, q, k, v, heads: int, mask=None, **kwargs) -> torch.Tensor:
        logits = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
        weights = (logits if mask is None else logits + mask).softmax(-1)
        if len(shares[-1]) == 0:  # later blocks see what the first one did
            shares[-1].append(weights[..., BEFORE + 6 :].sum(-1))
        return func(q, k, v, heads, mask=mask, **kwargs)

    tried = [0.01, 0.5, 1.0, 2.0, 100.0]
    for weight in tried:
        shares.append([])
        forward(attention.weigh_references(model, weight, 1.0, "sequence"), override=share)
    (plain,) = shares[tried.index(1.0)]
    for weight, (actual,) in zip(tried, shares):
        torch.testing.assert_close(actual, weight * plain / (weight * plain + 1 - plain))
    assert all((less < more).all() for (less,), (more,) in pairwise(shares))


def test_weights_of_1_cost_nothing(host, attention, load_flux):
    model = load_flux()
    (same,) = host.node("LoRWeBAnalogyAttention").execute(model, 1.0, 1.0, "sequence").result
    assert same is not model
    assert same.wrappers == model.wrappers
    assert same.model_options == model.model_options
    assert torch.equal(forward(same), forward(model))
    before = forward(model)
    weighted = attention.weigh_references(model, 2.0, 1.0, "sequence")
    assert not torch.equal(forward(weighted), before)
    assert torch.equal(forward(model), before)  # the model given is as it was


def test_chained_weights_multiply(attention, load_flux):
    model = load_flux()
    twice = attention.weigh_references(attention.weigh_references(model, 2.0, 3.0, "sequence"), 2.0, 0.5, "sequence")
    once = attention.weigh_references(model, 4.0, 1.5, "sequence")
    assert parity.relative_error(forward(twice), forward(once)) < 1e-6


@pytest.mark.parametrize("shape", [(50, 50), (2, 50, 50), (2, 1, 50, 50), (1, 1, 1, 50)])
def test_a_mask_that_was_there_stays(attention, load_flux, shape):
    """Masked keys stay masked, biases add up; (queries, keys) of all or of each in the batch."""
    model = load_flux()
    tokens, weighted = BEFORE + 29, attention.weigh_references(model, 3.0, 2.0, "sequence")
    assert tokens == shape[-1]
    generator = torch.Generator().manual_seed(5)
    allowed = torch.rand(shape, generator=generator) > 0.3
    bias = torch.randn(shape, generator=generator)
    weights = torch.tensor([1] * BEFORE + [2] * 6 + [3] * 23).log()
    plain = {name: forward(model, attention_mask=m) for name, m in {"bool": allowed, "float": bias}.items()}
    for name, mask in {"bool": allowed, "float": bias}.items():
        logits = torch.where(mask, 0.0, -math.inf) if mask.dtype == torch.bool else mask
        actual = forward(weighted, attention_mask=mask)
        assert parity.relative_error(actual, forward(model, attention_mask=logits + weights)) < 1e-6
        assert parity.relative_error(actual, plain[name]) > 1e-3


def test_a_mask_for_other_tokens_is_said(host, attention, load_flux):
    weighted = attention.weigh_references(load_flux(), 3.0, 2.0, "sequence")
    with pytest.raises(host.core.LoRWebError, match="attention mask for 21 tokens, but .* 50"):
        forward(weighted, attention_mask=torch.ones(21, 21))


def test_half_precision(attention, load_flux):
    """The mask goes along with what the model computes in."""
    exact, rounded = (load_flux(dtype) for dtype in (torch.float32, torch.bfloat16))
    outputs = [
        forward(attention.weigh_references(model, 5.0, 0.3, "sequence"), dtype=dtype)
        for model, dtype in ((exact, torch.float32), (rounded, torch.bfloat16))
    ]
    assert outputs[1].dtype == torch.bfloat16
    assert parity.relative_error(outputs[1].float(), outputs[0]) < 5e-2


@pytest.mark.parametrize("layout", ["grid", "sequence"])
def test_weights_act_in_sampling_on_both_conditionings(show, attention, load_flux, layout):
    model = load_flux()
    positive, negative, latent, _ = show(pictures(2, 2), layout=layout, negative=prompt())
    plain = sample(model, positive, latent, negative, cfg=2.0)
    same = sample(attention.weigh_references(model, 1.0, 1.0, layout), positive, latent, negative, cfg=2.0)
    assert torch.equal(same, plain)
    weighted = sample(attention.weigh_references(model, 3.0, 1.0, layout), positive, latent, negative, cfg=2.0)
    assert weighted.isfinite().all()
    assert parity.relative_error(weighted, plain) > 1e-3


def test_references_of_another_layout_are_said_when_sampling(host, show, attention, load_flux):
    weighted = attention.weigh_references(load_flux(), 2.0, 1.0, "sequence")
    positive, _, latent, _ = show(layout="sequence")
    for wrong, count in ((prompt(), 0), (show()[0], 1)):
        with pytest.raises(host.core.LoRWebError, match=f"given {count} reference images.*'sequence' with 1 .*has 3"):
            sample(weighted, wrong, latent)
    with pytest.raises(host.core.LoRWebError, match="given 0 reference images.*its negative too"):
        sample(weighted, positive, latent, prompt(), cfg=2.0)


def test_an_analogy_says_layout_and_pairs_in_place_of_the_widgets(host, show, load_flux):
    settings = {"layout": "sequence", "demonstrations": "all pairs"}
    several = pictures(2, 1)
    (analogy,) = host.node("LoRWeBAnalogy").execute(*several.values(), **settings).result
    positive, _, latent, _ = show(several, **settings)
    weigh = host.node("LoRWeBAnalogyAttention").execute
    (one,) = weigh(load_flux(), 2.0, 1.0, "sequence", 2).result
    (other,) = weigh(load_flux(), 2.0, 1.0, analogy=analogy).result
    assert torch.equal(sample(other, positive, latent), sample(one, positive, latent))


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_weights_that_are_no_numbers_above_0_are_refused_before_sampling(host, weight):
    execute = host.node("LoRWeBAnalogyAttention").execute
    for name in ("example_weight", "b_weight"):
        with pytest.raises(host.core.LoRWebError, match=f"{name} is {weight}; expected a number"):
            execute(build_model("Flux", FLUX_1), **{name: weight})


def test_another_model_is_refused(host):
    with pytest.raises(host.core.LoRWebError, match="Flux2, but Analogy Attention is for FLUX.1"):
        host.node("LoRWeBAnalogyAttention").execute(
            build_model("Flux2", FLUX_1 | {"image_model": "flux2", "vec_in_dim": None}), 2.0
        )
