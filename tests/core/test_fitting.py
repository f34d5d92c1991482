"""Mixtures fitted to example pairs: gradients, one step by hand, what is kept, and what ends a fit."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from training_world import CHANNELS, EMBEDDING, PARTS, POOLED, WIDTH, TinyBase, TinyModel, plain_delta, tiny_basis

from lorweb_core import LoRABasis, LoRWebError, Mixture
from lorweb_core.config import BasisConfig
from lorweb_core.fitting.attached import AttachedBasis
from lorweb_core.fitting.augmentation import AS_IT_IS, View
from lorweb_core.fitting.coefficients import FITTED
from lorweb_core.fitting.examples import choose_tasks, choose_views, encode_examples, read_pairs
from lorweb_core.fitting.fit import APART, Callbacks, checked_start, fit_mixture
from lorweb_core.fitting.settings import FitSettings
from lorweb_core.fitting.state import FitState
from lorweb_core.runtime import LayerSlice
from lorweb_core.training.data.batch import Batch, Text
from lorweb_core.training.seeds import generator
from lorweb_core.training.trainable_basis import TrainableBasis

pytestmark = pytest.mark.usefixtures("one_thread")

_number = itertools.count()


def as_loaded(basis: TrainableBasis) -> LoRABasis:
    """Of a file of its own, as far as anyone asks."""
    return LoRABasis(basis.published(), basis.config, (("tiny.safetensors", next(_number)),))


class TinyEncoders:
    """Encode pictures as the mean colour of each 8 × 8 pixels, and every text alike."""

    identity = "tiny"

    def __init__(self) -> None:
        self.seen: list[Tensor] = []
        random = generator(9)
        self.text = Text(torch.randn(1, 2, WIDTH, generator=random), torch.randn(1, POOLED, generator=random))

    def encode_image(self, images: Tensor) -> Tensor:
        self.seen += [*images]
        return nn.functional.avg_pool2d(images.movedim(-1, 1), 8) * 4 - 2

    def encode_text(self, captions: list[str]) -> Text:
        return Text(*(part.expand(len(captions), *part.shape[1:]) for part in self.text))


def a_pair(seed: int = 0) -> tuple[Tensor, Tensor]:
    a = torch.rand(16, 16, 3, generator=generator(seed, 1))
    return a, 1 - a


def plain(**changed: object) -> FitSettings:
    """Grids of 32 pixels a side, and pairs as they are."""
    same = {"crops": False, "shifts": False, "flips": False, "checkpointing": False, "megapixels": 0.001, "pull": 0.0}
    return FitSettings(**{**same, **changed})


def fitted(**changed: object) -> Mixture:
    base = TinyBase()
    basis = as_loaded(tiny_basis(base))
    start = changed.pop("start", None)
    callbacks, state = changed.pop("callbacks", None), changed.pop("state", None)
    return fit_mixture(base, TinyEncoders(), basis, start, [a_pair()], plain(**changed), callbacks, state)


# The loss once more, by merged weights.


def known_analogy() -> tuple[Tensor, Batch]:
    """The target and what is shown, of `a_pair`: a in every cell."""
    encoders, (a, a_prime) = TinyEncoders(), a_pair()
    row = torch.cat([a, a], 1)
    reference = encoders.encode_image(torch.cat([row, row])[None])
    target = encoders.encode_image(a_prime[None])
    return target, Batch(target, reference, None, encoders.encode_text([""]), ("",))


def plain_loss(base: TinyBase, basis: LoRABasis, table: Tensor, t: float, noise: Tensor) -> Tensor:
    target, batch = known_analogy()
    weights = {name: value.detach() for name, value in base.model.named_parameters()}
    for linear, parts in base.linears.items():
        weight = weights[f"{linear}.weight"].clone()
        for part in parts:
            layer = basis.layers[part.layer]
            delta = plain_delta(layer.A, layer.B, table[list(basis.layers).index(part.layer)])
            weight[part.start : part.start + len(delta)] += delta
        weights[f"{linear}.weight"] = weight
    x = (1 - t) * target + t * noise
    velocity = functional_call(TinyModel(), weights, (x, torch.tensor([t]), batch.reference, batch.text))
    return (velocity - (noise - target)).square().mean()


def apart_loss(base: TinyBase, basis: LoRABasis, table: Tensor, seed: int) -> float:
    """Of the middles of eight parts of the levels, with noises that no step draws."""
    losses = []
    for i in range(APART):
        t = torch.special.ndtri(torch.tensor((i + 0.5) / APART)).sigmoid().item()
        noise = torch.randn(1, CHANNELS, 2, 2, generator=generator(seed, 4, i))
        losses.append(plain_loss(base, basis, table, t, noise).item())
    return sum(losses) / APART


@pytest.mark.parametrize("together", [1, 2, 8])
def test_a_step_is_adams_on_the_flow_matching_loss_of_the_coefficients(together):
    base = TinyBase()
    basis = as_loaded(tiny_basis(base))
    start = basis.route(torch.randn(PARTS * EMBEDDING, generator=generator(5)))
    found = fit_mixture(
        base, TinyEncoders(), basis, start, [a_pair()], plain(steps=1, noises=3, rate=0.01, together=together)
    )

    table = start.table.clone().requires_grad_()
    random = generator(50, 3, 0)
    torch.randint(1, (3,), generator=random)  # which analogy: there is one
    t, noise = torch.randn(3, generator=random).sigmoid(), torch.randn(3, CHANNELS, 2, 2, generator=random)
    loss = sum(plain_loss(base, basis, table, t[i].item(), noise[i : i + 1]) for i in range(3)) / 3
    (gradient,) = torch.autograd.grad(loss, table)
    # Adam's first step, with its bias corrected: the rate times the gradient's sign, but for tiny gradients.
    expected = start.table - 0.01 * gradient / (gradient.abs() + 1e-8)
    assert apart_loss(base, basis, expected, 50) < apart_loss(base, basis, start.table, 50)
    torch.testing.assert_close(found.table, expected, rtol=0, atol=2e-6)


def test_a_fit_keeps_the_origin_of_its_start():
    basis = as_loaded(tiny_basis(TinyBase()))
    start, origin = (basis.route(torch.randn(1, PARTS, EMBEDDING, generator=generator(seed))) for seed in (5, 6))
    found = fit_mixture(TinyBase(), TinyEncoders(), basis, replace(start, origin=origin), [a_pair()], plain(steps=2))
    assert not torch.equal(found.table, start.table)
    assert torch.equal(found.origin.table, origin.table)


@pytest.mark.parametrize(("mode", "known"), [("ca'-ca", True), ("cat-aa'b", False), ("ca'-ca+cb", False)])
def test_a_query_of_zeros_is_the_origin_where_the_mode_is_a_difference(mode, known):
    start = checked_start(as_loaded(tiny_basis(TinyBase(), query_mode=mode)), None)
    assert (start.origin is not None) == known
    assert not known or torch.equal(start.origin.table, start.table)


def test_the_pull_keeps_a_fit_near_its_start():
    free, held = fitted(steps=20), fitted(steps=20, pull=100.0)
    base = TinyBase()
    start = as_loaded(tiny_basis(base)).route(torch.zeros(PARTS * EMBEDDING)).table
    assert (held.table - start).norm() < 0.5 * (free.table - start).norm()


# Gradients


@pytest.mark.parametrize("pictures", [1, 2])
def test_gradients_of_fused_layers_are_those_of_finite_differences(pictures):
    base = TinyBase(torch.float64)
    base.model.requires_grad_(False)
    basis = as_loaded(tiny_basis(base))
    random = generator(3)
    x, reference = torch.randn(2, 2, CHANNELS, 4, 4, dtype=torch.float64, generator=random)
    text = Text(
        torch.randn(2, 2, WIDTH, dtype=torch.float64, generator=random),
        torch.randn(2, POOLED, dtype=torch.float64, generator=random),
    )
    t = torch.tensor([0.3, 0.8], dtype=torch.float64)
    shape = (len(basis.layers), 3) if pictures == 1 else (len(basis.layers), 2, 3)
    table = torch.randn(shape, dtype=torch.float64, generator=random).requires_grad_()
    attached = AttachedBasis(basis, base)

    def loss(table: Tensor) -> Tensor:
        attached.mix(table)
        return base.velocity(x, t, Batch(x, reference, None, text, ())).square().sum()

    with attached.attached():
        assert torch.autograd.gradcheck(loss, (table,))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_through_diffusers_flux_are_those_of_finite_differences(checkpointing):
    base, basis, batch = a_flux_base(torch.float64)
    table = basis.route(torch.ones(9)).table.double().requires_grad_()
    t = torch.tensor([0.6], dtype=torch.float64)
    attached = AttachedBasis(basis, base)

    def loss(table: Tensor) -> Tensor:
        attached.mix(table)
        v = base.velocity(batch.target, t, batch, every_token=False)
        return v.square().mean()

    with base.training(checkpointing), attached.attached():
        loss(table).backward()
        for direction in torch.randn(3, *table.shape, dtype=torch.float64, generator=generator(8)):
            with torch.no_grad():  # rotary positions are float32 in diffusers, whatever the model's dtype
                slope = (loss(table + 1e-3 * direction) - loss(table - 1e-3 * direction)) / 2e-3
            assert table.grad.flatten().dot(direction.flatten()).item() == pytest.approx(slope.item(), rel=1e-3)


def test_what_is_kept_for_the_backward_pass_is_a_product_of_width_n_r():
    """Neither the layer's input nor its output, each of 40 values a token."""
    base = TinyBase()
    base.model = nn.Sequential(nn.Linear(40, 40)).requires_grad_(False)
    base.linears, base.shapes = {"0": [LayerSlice("transformer.x", 0)]}, {"transformer.x": (40, 40)}
    made = TrainableBasis(base.shapes, BasisConfig(linear=2, loras_num=3, lora_keys_dim=4), 5)
    attached = AttachedBasis(as_loaded(made), base)
    kept: list[tuple[int, ...]] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    attached.mix(torch.randn(1, 3, requires_grad=True))
    x = torch.randn(1, 7, 40, requires_grad=True)
    with attached.attached(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        base.model(x).sum().backward()
    assert [shape for shape in kept if shape[-2:] == (7, 40)] == []
    assert (1, 7, 6) in kept
    assert x.grad is not None


def a_flux_base(dtype: torch.dtype = torch.float32):
    """A small FLUX with a basis for all of its blocks, and an analogy of which b' alone is denoised."""
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install .[cli]")
    from lorweb_core.diffusers_backend.base import FluxBase

    torch.manual_seed(0)
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=12,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    ).to(dtype)
    base = FluxBase(transformer.requires_grad_(False), TinyBase().decode)
    made = TrainableBasis(base.shapes, BasisConfig(linear=2, loras_num=4, lora_keys_dim=8), 9)
    for layer in made.layers:
        layer.up.data.normal_(0, 0.2)
    random = generator(1)
    tokens = torch.randn(1, 3, 24, generator=random)
    text = Text(tokens.to(dtype), torch.randn(1, 12, generator=random).to(dtype))
    target = torch.randn(1, 4, 4, 4, generator=random).to(dtype)
    reference = torch.randn(1, 4, 8, 8, generator=random).to(dtype)
    return base, as_loaded(made), Batch(target, reference, None, text, ("one",))


class FluxEncoders(TinyEncoders):
    """Four channels, and text of the small FLUX's widths."""

    def __init__(self) -> None:
        super().__init__()
        random = generator(9)
        self.text = Text(torch.randn(1, 3, 24, generator=random), torch.randn(1, 12, generator=random))

    def encode_image(self, images: Tensor) -> Tensor:
        latents = super().encode_image(images)
        return torch.cat([latents, latents[:, :1]], 1)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_model_is_afterwards_what_it_was_to_the_bit(checkpointing):
    base, basis, _ = a_flux_base()
    flagged = [parameter.requires_grad_(number % 2 == 0) for number, parameter in enumerate(base.model.parameters())]
    flags = [parameter.requires_grad for parameter in flagged]
    before = {name: values.clone() for name, values in base.model.state_dict().items()}
    settings = plain(steps=2, checkpointing=checkpointing, preview_every=1, preview_steps=2)
    fit_mixture(base, FluxEncoders(), basis, None, [a_pair()], settings)
    after = base.model.state_dict()
    assert after.keys() == before.keys() and all(after[name].equal(before[name]) for name in before)
    assert [parameter.requires_grad for parameter in base.model.parameters()] == flags
    assert all(parameter.grad is None for parameter in base.model.parameters())
    assert not any(module._forward_hooks for module in base.model.modules())
    assert not base.model.gradient_checkpointing


def test_checkpoints_and_inference_mode_change_nothing():
    tables = []
    for checkpointing in (False, True):
        base, basis, _ = a_flux_base()
        with torch.inference_mode():  # as nodes of the host run
            pair = tuple(picture.clone() for picture in a_pair())
            start = basis.route(torch.zeros(9))
            found = fit_mixture(base, FluxEncoders(), basis, start, [pair], plain(steps=5, checkpointing=checkpointing))
        tables.append(found.table)
    torch.testing.assert_close(*tables, rtol=0, atol=1e-5)


# What it comes to


@pytest.mark.parametrize("what", FITTED)
@pytest.mark.parametrize("softmax", [False, True])
def test_what_is_fitted_begins_at_the_start_and_comes_to_less(what, softmax):
    base = TinyBase()
    basis = as_loaded(tiny_basis(base, lora_softmax=softmax))
    start = basis.route(torch.randn(PARTS * EMBEDDING, generator=generator(5)))
    torch.testing.assert_close(FITTED[what](start)().detach(), start.table, rtol=0, atol=1e-6)
    found = fit_mixture(base, TinyEncoders(), basis, start, [a_pair()], plain(fitted=what, steps=10))
    assert apart_loss(base, basis, found.table, 50) < apart_loss(base, basis, start.table, 50)
    if softmax and what != "coefficients":
        torch.testing.assert_close(found.table.sum(-1), torch.ones(len(basis.layers)))


@pytest.mark.parametrize("heads", [1, 2])
def test_a_query_goes_through_the_basiss_own_routing(heads):
    basis = as_loaded(tiny_basis(TinyBase(), lora_heads=heads, lora_softmax=False))
    query = torch.randn(PARTS * EMBEDDING, generator=generator(5))
    made = FITTED["query"](basis.route(torch.zeros(PARTS * EMBEDDING)))
    made.query.data.copy_(query)
    torch.testing.assert_close(made().detach(), basis.route(query).table)


def test_a_fit_is_never_worse_than_its_start():
    """Steps this large only lead away."""
    base = TinyBase()
    start = as_loaded(tiny_basis(base)).route(torch.zeros(PARTS * EMBEDDING))
    assert torch.equal(fitted(steps=10, rate=10.0).table, start.table)


def test_the_same_seed_gives_the_same_bits_and_another_one_others():
    assert torch.equal(fitted(steps=6).table, fitted(steps=6).table)
    assert not torch.equal(fitted(steps=6).table, fitted(steps=6, seed=51).table)


class Cancelled(Exception):
    pass


class Watching(Callbacks):
    """Note what is heard, and cancel after so many steps."""

    cancels = (Cancelled,)

    def __init__(self, after: int = 1000):
        self.after = after
        self.losses: list[float] = []
        self.previews: list[Tensor] = []
        self.stopped: list[int] = []

    def on_step(self, step, steps) -> None:
        self.losses.append(step.loss)

    def on_preview(self, strip) -> None:
        self.previews.append(strip)

    def on_stop(self, best, done) -> None:
        self.stopped.append(done)

    def check_cancelled(self) -> None:
        if len(self.losses) == self.after:
            raise Cancelled


def test_cancelled_it_comes_to_the_best_so_far_and_again_to_all():
    whole, part = Watching(), Watching(after=7)
    best = fitted(steps=10, callbacks=part)
    assert part.stopped == [7] and len(part.losses) == 7
    assert torch.equal(best.table, fitted(steps=5).table)  # points are compared every five steps
    again = fitted(steps=10, callbacks=Watching())
    assert torch.equal(again.table, fitted(steps=10, callbacks=whole).table)
    assert whole.losses[:7] == part.losses and whole.stopped == []


@pytest.mark.parametrize("what", FITTED)
def test_given_where_it_stood_it_comes_to_what_one_without_a_break_does(what):
    states: list[FitState] = []
    whole, part = Watching(), Watching(after=7)
    part.on_state = states.append
    expected = fitted(steps=12, fitted=what, callbacks=whole)
    fitted(steps=12, fitted=what, callbacks=part)
    assert [state.done for state in states] == [*range(8)]
    again = Watching()
    assert torch.equal(fitted(steps=12, fitted=what, callbacks=again, state=states[-1]).table, expected.table)
    assert again.losses == whole.losses[7:]
    # A state is not changed by what is made of it, and one of all steps needs no other.
    assert torch.equal(fitted(steps=12, fitted=what, state=states[-1]).table, expected.table)
    assert torch.equal(fitted(steps=7, fitted=what, state=states[-1]).table, fitted(steps=7, fitted=what).table)


def test_previews_show_the_pair_and_what_the_best_point_makes_of_it():
    watching = Watching()
    fitted(steps=4, preview_every=2, preview_steps=1, callbacks=watching)
    assert len(watching.previews) == 2
    assert all(strip.shape[1] > 3 * 16 for strip in watching.previews)
    assert len(watching.losses) == 4


def test_a_loss_that_is_no_number_keeps_the_best_so_far(caplog):
    base = TinyBase()
    basis = as_loaded(tiny_basis(base))

    class Breaking(Watching):
        def on_step(self, step, steps) -> None:
            super().on_step(step, steps)
            if step.number == 6:
                base.model.out.weight.data.fill_(float("nan"))

    watching = Breaking()
    found = fit_mixture(base, TinyEncoders(), basis, None, [a_pair()], plain(steps=10), watching)
    assert len(watching.losses) == 6
    assert "step 7" in caplog.text and "best point so far" in caplog.text
    assert torch.equal(found.table, fitted(steps=5).table)


def test_a_fit_shows_its_pair_in_thumbnails_and_keeps_its_basis():
    found = fitted(steps=1)
    (shown,) = found.thumbnails
    assert torch.equal(shown.a, (a_pair()[0] * 255).round().byte())
    assert torch.equal(shown.a, shown.b)
    assert found.analogies == 1


# What it is fitted to


def test_one_pair_is_asked_for_where_nothing_shows_it():
    encoders, (a, a_prime) = TinyEncoders(), a_pair()
    examples = encode_examples(read_pairs([(a, a_prime)]), encoders, plain())
    whole = torch.cat([torch.cat([a, a], 1), torch.cat([a, a_prime], 1)])
    target, reference = encoders.seen
    assert torch.equal(reference, torch.cat([torch.cat([a, a], 1)] * 2))
    assert torch.equal(target, whole)
    (batch,) = examples.fitted
    assert batch.target.shape == (1, 3, 2, 2) and batch.place == (1, 1)
    torch.testing.assert_close(batch.target[0], TinyEncoders().encode_image(a_prime[None])[0])


def test_of_two_pairs_each_shows_the_other_and_of_three_the_last_one_judges():
    assert choose_tasks(1) == ([(0, None)], [(0, None)])
    assert choose_tasks(2) == ([(0, 1), (1, 0)], [(0, 1), (1, 0)])
    assert choose_tasks(3) == ([(0, 1), (1, 0)], [(2, 0), (2, 1)])
    encoders = TinyEncoders()
    (a, _), (b, b_prime) = pairs = [a_pair(0), a_pair(1)]
    encode_examples(read_pairs(pairs), encoders, plain())
    assert torch.equal(encoders.seen[1], torch.cat([torch.cat([b, b_prime], 1), torch.cat([a, a], 1)]))


def test_views_change_a_and_a_prime_alike_and_can_be_switched_off():
    assert choose_views(plain(views=5)) == [AS_IT_IS]
    changed = {"crops": True, "shifts": True, "flips": True}
    assert choose_views(FitSettings()) == [AS_IT_IS]
    assert choose_views(FitSettings(flips=True)) == [AS_IT_IS, View(flip=True)]
    views = choose_views(FitSettings(views=5, **changed))
    assert len(views) == 5 and views[0] == AS_IT_IS
    assert choose_views(FitSettings(views=5, **changed)) == views
    assert {view.flip for view in choose_views(FitSettings(views=9, **{**changed, "flips": False}))} == {False}
    assert {view.side for view in choose_views(FitSettings(views=9, **{**changed, "crops": False}))} == {1.0}
    assert {view.shift for view in choose_views(FitSettings(views=9, **{**changed, "shifts": False}))} == {(0.0, 0.0)}
    a, a_prime = a_pair()
    for view in views:
        torch.testing.assert_close(view.of(a_prime), 1 - view.of(a))


def test_a_view_is_what_it_says():
    picture = torch.rand(10, 20, 3)
    assert torch.equal(AS_IT_IS.of(picture), picture)
    assert torch.equal(View(flip=True).of(picture), picture.flip(1))
    assert torch.equal(View(side=0.5, place=(1.0, 0.0)).of(picture), picture[5:, :10])
    moved = View(shift=(0.1, -0.1)).of(picture)
    assert torch.equal(moved[1:, :-2], picture[:-1, 2:])
    assert torch.equal(moved[0], moved[1]) and torch.equal(moved[:, -1], moved[:, -3])


# Bad input


def refused(words: str, basis=None, start=None, pairs=None, **changed: object) -> None:
    base = TinyBase()
    basis = basis or as_loaded(tiny_basis(base))
    with pytest.raises(LoRWebError, match=words):
        fit_mixture(base, TinyEncoders(), basis, start, [a_pair()] if pairs is None else pairs, plain(**changed))


def test_refused_pairs():
    a, a_prime = a_pair()
    refused("There is no pair", pairs=[])
    refused("shows no change", pairs=[(a, (a + 0.01).clamp(0, 1))])
    refused("Pair 2 of 2 shows no change", pairs=[(a, a_prime), (a, a)])
    refused("pixels; expected at least 16", pairs=[(a[:4], a_prime)])
    refused("a_prime is a batch of 2 images", pairs=[(a, torch.stack([a_prime] * 2))])
    refused("not finite", pairs=[(a, a_prime * float("nan"))])


def test_refused_bases_and_mixtures():
    base = TinyBase()
    basis = as_loaded(tiny_basis(base))
    other = as_loaded(tiny_basis(base, seed=2))
    refused("of another basis", basis, other.route(torch.zeros(PARTS * EMBEDDING)))
    refused("of 2 analogies", basis, basis.route(torch.zeros(2, PARTS, EMBEDDING)))
    activation = tiny_basis(base, external_query=False, query_mode="aa'bb'")
    refused("routes by each layer's own input", as_loaded(activation))
    negative = Mixture(basis, {name: -torch.ones(3) for name in basis.layers})
    refused("negative coefficients", basis, negative, fitted="logits")
    lacking = LoRABasis(
        {**basis.layers, "transformer.y": basis.layers[next(iter(basis.layers))]}, basis.config, basis.identity
    )
    refused("lacks 1 of the", lacking)


def test_refused_settings():
    refused("fitted is 'weights'", fitted="weights")
    refused("steps is 0", steps=0)
    refused("rate is nan", rate=float("nan"))
    refused("noises is 0", noises=0)
    refused("pull is -1", pull=-1)


def test_a_start_that_gives_no_number_is_refused():
    base = TinyBase()
    base.model.out.weight.data.fill_(float("nan"))
    with pytest.raises(LoRWebError, match="loss of the start is not a finite number"):
        fit_mixture(base, TinyEncoders(), as_loaded(tiny_basis(base)), None, [a_pair()], plain())
