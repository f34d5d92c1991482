"""Fit Mixture in a real host: a small FLUX, a pair of pictures, and a mixture that every node takes."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from contextlib import contextmanager
from types import SimpleNamespace

import parity
import pytest
import standins
import torch
from host_models import hooks, unchanged, weights

pytestmark = pytest.mark.usefixtures("one_thread")

INPUTS = ("latent", "reference", "txt", "pooled")


def module(host, name: str):
    return sys.modules[f"{host.core.__name__.removesuffix('.lorweb_core')}.{name}"]


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """A house by day and by night, (1, H, W, 3) each."""
    return tuple(standins.picture(night, "house", (48, 48))[None] for night in (False, True))


@pytest.fixture
def fit(host, vae, pair) -> Callable:
    """The node as the host calls it, small and short: a pair as it is, in cells of 48 pixels."""

    def fit(model, text=None, **given):
        tensors = text or parity.load_parity()
        positive = [[tensors["txt"].float(), {"pooled_output": tensors["pooled"].float(), "guidance": 2.5}]]
        widgets = {i.id: i.default for i in host.node("LoRWeBFitMixture").GET_SCHEMA().inputs if hasattr(i, "default")}
        small = {
            "a": pair[0],
            "a_prime": pair[1],
            "steps": 6,
            "rate": 0.3,
            "noises": 1,
            "megapixels": 0.01,
            "gradient_checkpointing": False,
            "preview_every": 0,
            **dict.fromkeys(("crops", "shifts", "flips"), False),
        }
        inputs = {"model": model, "vae": vae, "positive": positive, **widgets, **small, **given}
        inputs = {key: value for key, value in inputs.items() if value is not None}
        return host.node("LoRWeBFitMixture").execute(**inputs).result

    return fit


# What comes out


def test_a_mixture_comes_closer_to_its_example_and_leaves_the_model_as_it_was(host, load_flux, velocity, mixture, fit):
    import comfy.model_management

    model = load_flux()
    parameters = list(model.model.diffusion_model.parameters())
    for number, parameter in enumerate(parameters):
        parameter.requires_grad_(number % 2 == 0)
    flags = [parameter.requires_grad for parameter in parameters]
    before, untouched = weights(model), velocity(model)
    found, strip, report = fit(model, mixture=mixture, steps=7, gradient_checkpointing=True)

    assert unchanged(model, before)
    assert [p.requires_grad for p in model.model.diffusion_model.parameters()] == flags
    assert all(p.grad is None for p in model.model.diffusion_model.parameters())
    assert hooks(model) == 0
    assert not comfy.model_management.in_training
    torch.testing.assert_close(velocity(model), untouched, rtol=0, atol=0)

    report = json.loads(report)
    assert report["steps"] == len(report["loss"]) == 7
    apart = report["kept_apart"]
    assert list(apart["after_step"]) == ["5"]
    assert apart["at_best"] <= apart["after_step"]["5"] < 0.9 * apart["at_the_start"]
    assert found.basis is mixture.basis
    assert not torch.equal(found.table, mixture.table)
    assert (strip.ndim, strip.shape[-1]) == (4, 3)


def test_without_a_mixture_it_begins_at_a_query_of_zeros(load_flux, mixture, fit):
    model, zeros = load_flux(), mixture.basis.route(torch.zeros(mixture.basis.query_width))
    found = fit(model, basis=mixture.basis, steps=2)[0]
    assert torch.equal(found.table, fit(model, mixture=zeros, steps=2)[0].table)


def test_no_steps_give_back_where_it_begins_and_need_no_model(mixture, fit):
    width = mixture.basis.query_width
    several = mixture.basis.route(torch.randn(2, width, generator=torch.Generator().manual_seed(0)))
    found, shown, report = fit(object(), mixture=several, steps=0)
    assert found is several
    assert shown.std() > 0.05
    assert json.loads(report) == {"steps": 0}
    found, *_ = fit(object(), basis=mixture.basis, steps=0)
    torch.testing.assert_close(found.table, mixture.basis.route(torch.zeros(width)).table)


@pytest.mark.parametrize("fitted", ["logits", "query"])
def test_other_things_can_be_fitted(load_flux, mixture, fit, fitted):
    report = json.loads(fit(load_flux(), mixture=mixture, fitted=fitted)[2])
    assert report["kept_apart"]["at_best"] < report["kept_apart"]["at_the_start"]


def test_every_node_takes_what_is_fitted(host, load_flux, velocity, mixture, fit):
    model = load_flux()
    found = fit(model, mixture=mixture, steps=3)[0]
    nodes = {name: host.node(f"LoRWeB{name}") for name in ("SaveMixture", "LoadMixture", "MixtureInspector")}
    name = nodes["SaveMixture"].execute(found, "fitted").result[0]
    (loaded,) = nodes["LoadMixture"].execute(mixture.basis, name).result
    assert torch.equal(loaded.table, found.table)
    assert len(nodes["MixtureInspector"].execute(found, mixture).result) == 2
    both = {"mixture_1": mixture, "mixture_2": found, "weight_1": 0.0, "weight_2": 1.0}
    blended = host.node("LoRWeBMixtureBlend").execute(**both).result[0]
    torch.testing.assert_close(blended.table, found.table)
    plain = velocity(model)
    merged, runtime = (velocity(host.apply.apply_mixture(model, found, 1.0, way)) for way in ("merge", "runtime"))
    torch.testing.assert_close(merged, runtime, rtol=0, atol=2e-4)
    assert parity.relative_error(merged, plain) > 1e-3


# The preview


def shifted_times(steps: int, tokens: int) -> list[float]:
    """FLUX's noise levels, from 1 to 0 (arXiv 2403.03206, as the published pipeline shifts them)."""
    shift = math.exp(0.5 + 0.65 * (tokens - 256) / (4096 - 256))
    return [shift / (shift + 1 / t - 1) for t in torch.linspace(1, 0, steps + 1)[:-1].tolist()] + [0.0]


def test_mixed_lora_apply_makes_of_the_example_what_the_preview_shows(
    host, load_flux, vae, pair, mixture, fit, monkeypatch
):
    import comfy.sample
    import comfy.samplers

    shown, previews = [], module(host, "lorweb_core.fitting.preview")
    make = previews.make_example
    monkeypatch.setattr(previews, "make_example", lambda *given: shown.append(make(*given)) or shown[-1])
    model, (a, _) = load_flux(), pair
    found = fit(model, mixture=mixture, seed=7)[0]

    tensors = parity.load_parity()
    positive = [[tensors["txt"].float(), {"pooled_output": tensors["pooled"].float(), "guidance": 2.5}]]
    # Nothing shows the edit: a stands in every cell.
    result = host.node("LoRWeBExtendedAttention").execute(positive, vae, a, a, a, 0.01, speed="b' alone").result
    positive, negative, latent, grid = result
    height, width = (side // 8 for side in grid.shape[1:3])
    random = module(host, "lorweb_core.training.seeds").generator(7)
    noise = torch.randn(1, 16, height, width, generator=random)[..., height // 2 :, width // 2 :]
    times = torch.tensor(shifted_times(8, height * width // 4))

    def sampled(model) -> torch.Tensor:
        euler = comfy.samplers.sampler_object("euler")
        return comfy.sample.sample_custom(
            model, noise, 1.0, euler, times, positive, negative, latent["samples"], disable_pbar=True
        )

    ways = {way: sampled(host.apply.apply_mixture(model, found, 1.0, way)) for way in ("merge", "runtime")}
    (made,) = shown
    for latents in ways.values():
        assert parity.relative_error(vae.decode(latents)[0].clamp(0, 1), made) < 1e-4
    without = sampled(host.apply.apply_mixture(model, found, 0.0))
    assert parity.relative_error(vae.decode(without)[0].clamp(0, 1), made) > 1e-2


def test_the_bar_has_the_previews_and_the_node_its_losses(host, load_flux, mixture, fit, monkeypatch):
    import comfy.utils
    from comfy_execution.utils import CurrentNodeContext

    updates, said = [], []
    monkeypatch.setattr(
        comfy.utils,
        "PROGRESS_BAR_HOOK",
        lambda value, total, preview, node_id=None: updates.append((value, total, preview)),
    )
    instance = SimpleNamespace(send_progress_text=lambda text, node_id: said.append((node_id, text)))
    server = SimpleNamespace(PromptServer=SimpleNamespace(instance=instance))
    monkeypatch.setitem(sys.modules, "server", server)
    with CurrentNodeContext("prompt", "12", 0):
        _, strip, report = fit(load_flux(), mixture=mixture, steps=3, preview_every=2)
    previews = [(value, total, *preview) for value, total, preview in updates if preview]
    assert [(value, total, kind, side) for value, total, kind, _, side in previews] == [
        (value, 3, "JPEG", 1024) for value in (2, 3)
    ]
    assert previews[-1][3].size == (strip.shape[2], strip.shape[1])
    report = json.loads(report)
    told = [f"step {number} of 3: loss {loss:.4f}" for number, loss in enumerate(report["loss"], 1)]
    assert [text.split("\n")[0] for _, text in said] == [*told, "3 steps"]
    begin, best = (report["kept_apart"][when] for when in ("at_the_start", "at_best"))
    assert said[-1][1].split("\n")[1] == f"kept apart: {begin:.4f} at the start, {best:.4f} at best"
    assert {node for node, _ in said} == {"12"}


# Cancelled


@pytest.fixture
def cancel_in(host, monkeypatch) -> Callable:
    """Have the user press Cancel before the forward pass of this number."""
    import comfy.model_management

    base = module(host, "nodes.host.training_model").HostBase
    velocity = base.velocity

    def cancel_in(number: int) -> None:
        calls = []

        def cancelling(*args):
            calls.append(args)
            if len(calls) == number:
                comfy.model_management.interrupt_current_processing()
            return velocity(*args)

        monkeypatch.setattr(base, "velocity", cancelling)

    yield cancel_in


# Eight passes judge the start, one is a step's, and after the fifth step eight judge again.
@pytest.mark.parametrize(
    ("number", "done"), [(9, 0), (11, 2), (16, 4), (24, 7)], ids=["first step", "step", "judging", "at the end"]
)
def test_cancelled_and_run_again_equals_uninterrupted(
    host, load_flux, mixture, fit, cancel_in, monkeypatch, caplog, number, done
):
    import comfy.model_management

    whole, _, expected = fit(load_flux(), mixture=mixture, steps=7)
    model = load_flux()
    before = weights(model)
    cancel_in(number)
    with caplog.at_level("INFO"), pytest.raises(comfy.model_management.InterruptProcessingException):
        fit(model, mixture=mixture, steps=7)
    monkeypatch.undo()
    assert unchanged(model, before)
    assert hooks(model) == 0
    assert not comfy.model_management.in_training
    assert (f"Stopped after step {done}. The same settings go on" in caplog.text) == (done > 0)

    with caplog.at_level("INFO"):
        again, _, report = fit(model, mixture=mixture, steps=7)
    assert (f"goes on after step {done}." in caplog.text) == (done > 0)
    assert torch.equal(again.table, whole.table)
    report, expected = json.loads(report), json.loads(expected)
    assert report["loss"] == expected["loss"]
    assert report["kept_apart"] == expected["kept_apart"]


def test_the_best_before_a_cancel_comes_with_as_many_steps_as_were_done(
    host, load_flux, mixture, fit, cancel_in, monkeypatch
):
    import comfy.model_management

    expected = fit(load_flux(), mixture=mixture, steps=3)[0]
    model = load_flux()
    cancel_in(12)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        fit(model, mixture=mixture, steps=9)
    monkeypatch.undo()
    begun = module(host, "lorweb_core.fitting.fit").Fit
    monkeypatch.setattr(begun, "step", lambda fit: 1 / 0)  # none is needed any more
    assert torch.equal(fit(model, mixture=mixture, steps=3)[0].table, expected.table)


def test_more_steps_go_on_and_fewer_begin_anew(load_flux, mixture, fit):
    short, long = (fit(load_flux(), mixture=mixture, steps=steps)[0].table for steps in (3, 8))
    model = load_flux()
    assert torch.equal(fit(model, mixture=mixture, steps=3)[0].table, short)
    assert torch.equal(fit(model, mixture=mixture, steps=8)[0].table, long)
    assert torch.equal(fit(model, mixture=mixture, steps=3)[0].table, short)


def test_another_fit_begins_anew(host, load_flux, mixture, fit, pair):
    expected = fit(load_flux(), mixture=mixture, steps=2, seed=51)[0].table
    model = load_flux()
    fit(model, mixture=mixture, steps=2)
    assert torch.equal(fit(model, mixture=mixture, steps=2, seed=51)[0].table, expected)

    identify = module(host, "nodes.host.kept_fits").identify
    settings = module(host, "lorweb_core.fitting.settings").FitSettings
    pairs = [(pair[0][0], pair[1][0])]
    changed = [
        {"settings": settings(**one)}
        for one in ({"rate": 0.1}, {"fitted": "logits"}, {"noises": 2}, {"flips": True}, {"pull": 1.0})
    ]
    changed += [{"pairs": [(pair[1][0], pair[0][0])]}, {"start": mixture.with_table(2 * mixture.table)}]
    changed += [{"encoders": "of another prompt"}]
    plain = {"start": mixture, "pairs": pairs, "settings": settings(), "encoders": "mine"}
    told = [identify(**plain | one) for one in [{}, *changed]]
    assert len(set(told)) == len(told)
    assert told[0] == identify(**plain | {"settings": settings(steps=3, preview_every=1)})


def test_a_fit_through_another_model_begins_anew(host, load_flux, mixture, fit):
    """Merging leaves the model's own weights as they are, and its clone has the same ones beneath."""
    merged = host.apply.apply_mixture(load_flux(), mixture, method="merge")
    expected = fit(merged, mixture=mixture, steps=2)[0].table
    model = load_flux()
    plain = fit(model, mixture=mixture, steps=2)[0].table
    found = fit(host.apply.apply_mixture(model, mixture, method="merge"), mixture=mixture, steps=2)[0].table
    assert torch.equal(found, expected)
    assert not torch.equal(found, plain)


# Through the host's blocks


@pytest.fixture
def loss_of(host):
    """A context with the loss of a MODEL by the coefficients of a basis of its layers, and these."""
    fitting, batch = (module(host, f"lorweb_core.{name}") for name in ("fitting.attached", "training.data.batch"))

    @contextmanager
    def loss_of(model, inputs: dict, checkpointing: bool):
        with torch.inference_mode(False):
            base = module(host, "nodes.host.training_model").HostBase(model, None)
            basis = basis_of(host, model)
            table = torch.randn(len(basis.layers), 3, generator=torch.Generator().manual_seed(2)).requires_grad_()
            x, reference, words, pooled = (inputs[name].clone().to(base.dtype) for name in INPUTS)
            given = batch.Batch(x, reference, None, batch.Text(words, pooled), ())
            with base.training(checkpointing):
                attached = fitting.AttachedBasis(basis, base)

                def loss(coefficients: torch.Tensor) -> torch.Tensor:
                    attached.mix(coefficients)
                    velocity = base.velocity(x, torch.tensor([0.6]), given)
                    return velocity.double().square().mean()

                with attached.attached():
                    yield loss, table

    return loss_of


STRIDE = 0.02
"""How far finite differences go, of all coefficients together."""


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_finite_differences(load_flux, loss_of, checkpointing):
    """Through the host's blocks, which write over tensors that gradients need, for b' alone at its place."""
    inputs = {**parity.load_parity()}
    latent = inputs["latent"]
    inputs["latent"] = latent[..., latent.shape[-2] // 4 * 2 :, latent.shape[-1] // 4 * 2 :]
    with loss_of(load_flux(), inputs, checkpointing) as (loss, table):
        (gradient,) = torch.autograd.grad(loss(table), table)
        uphill = gradient / gradient.norm()
        random = torch.Generator().manual_seed(3)
        others = [torch.randn(table.shape, generator=random) for _ in range(2)]
        for direction in (uphill, *((uphill + d / d.norm()) / 2**0.5 for d in others)):
            with torch.no_grad():
                numeric = (loss(table + STRIDE * direction) - loss(table - STRIDE * direction)).item() / (2 * STRIDE)
            assert (gradient * direction).sum().item() == pytest.approx(numeric, rel=1e-3)


# Format → 1 − cosine with the gradients of the same model in bfloat16. Measured, rounded up.
FORMATS = {
    "float16": 1e-5,
    "fp8_e4m3fn": 0.02,
    "fp8 scaled": 0.004,
    "fp8 scaled, newer files": 0.004,
    "mxfp8": 0.004,
    "nvfp4": 0.03,
    "int8": 0.001,
    "GGUF Q8_0": 0.001,
    "GGUF Q4_0": 0.03,
}


@pytest.mark.parametrize("name", FORMATS)
def test_gradients_go_through_quantized_weights(in_format, loss_of, name):
    sizes = {"latent": (1, 16, 8, 8), "reference": (1, 16, 8, 8), "txt": (1, 7, 64), "pooled": (1, 768)}
    random = torch.Generator().manual_seed(3)
    inputs = {key: torch.randn(size, generator=random) for key, size in sizes.items()}

    def gradient(form: str) -> torch.Tensor:
        with loss_of(in_format(form), inputs, True) as (loss, table):
            return torch.autograd.grad(loss(table), table)[0].flatten().double()

    found = gradient(name)
    error = 1 - torch.cosine_similarity(found, gradient("bfloat16"), dim=0).item()
    assert error < FORMATS[name]


# What is refused, and what ends it


def test_a_model_with_a_mixture_around_its_forward_pass_is_refused(host, load_flux, mixture, fit):
    with pytest.raises(host.core.LoRWebError, match="patches around its forward pass.*set the method to merge"):
        fit(host.apply.apply_mixture(load_flux(), mixture, method="runtime"), mixture=mixture)


@pytest.mark.parametrize("name", ["convrot_w4a4", "asym_w4a8_int8"])
def test_a_format_without_gradients_is_refused(host, in_format, mixture, fit, name):
    with pytest.raises(host.core.LoRWebError, match=f"stored as {name}, .* no gradients"):
        fit(in_format(name), mixture=mixture)


def test_bad_input_says_so_before_anything_is_loaded(host, load_flux, mixture, basis, fit, pair, monkeypatch):
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda *_, **__: 1 / 0)
    two = mixture.basis.route(parity.load_parity()["query"].repeat(2, 1, 1))
    for given, message in (
        ({}, "neither a mixture nor a basis"),
        ({"mixture": mixture, "a": torch.cat([pair[0]] * 2)}, "a is a batch of 2 and a_prime of 1"),
        ({"mixture": two}, "of 2 analogies; a fit begins at one"),
        ({"basis": basis(None, external_query=False)}, "routes by each layer's own input"),
        ({"mixture": mixture, "basis": basis()}, "of another basis"),
        ({"basis": basis()}, "maps 16 to 16 values in .* Load the FLUX.1 Kontext"),
        ({"mixture": mixture, "rate": 0.0}, "rate is 0.0; expected a number from"),
        ({"mixture": mixture, "fitted": "all"}, "fitted is 'all'; expected one of"),
    ):
        with pytest.raises(host.core.LoRWebError, match=message):
            fit(load_flux(), **given)


def test_a_pair_that_shows_no_change_says_so(host, load_flux, mixture, fit, pair):
    with pytest.raises(host.core.LoRWebError, match="shows no change"):
        fit(load_flux(), mixture=mixture, a_prime=pair[0])


def test_too_little_memory_is_said_before_anything_is_loaded(host, load_flux, mixture, fit, monkeypatch):
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10_000, 10_000_000))
    model = load_flux()
    model.load_device = torch.device("cuda")
    with pytest.raises(host.core.LoRWebError, match=r"needs about 0.1 GB .*cuda has 0.0 GB. Less is needed with"):
        fit(model, mixture=mixture, megapixels=1.0)


def test_numbers_that_are_none_end_it_and_keep_the_best_before(host, load_flux, mixture, fit, monkeypatch, caplog):
    base = module(host, "nodes.host.training_model").HostBase
    velocity, calls = base.velocity, []

    def broken(*args):
        calls.append(args)
        return velocity(*args) * (float("nan") if len(calls) == 8 + 5 + 8 + 1 else 1.0)

    expected = fit(load_flux(), mixture=mixture, steps=5)[0]
    model = load_flux()
    before = weights(model)
    monkeypatch.setattr(base, "velocity", broken)
    found, _, report = fit(model, mixture=mixture, steps=9)
    assert "step 6 or its gradient is not a finite number. The best point so far is kept." in caplog.text
    assert torch.equal(found.table, expected.table)
    assert json.loads(report)["steps"] == 5
    assert unchanged(model, before)
    assert hooks(model) == 0


def test_several_pairs_are_fitted_together(host, load_flux, mixture, fit):
    a, a_prime = (
        torch.stack([standins.picture(night, shape, (48, 48)) for shape in ("house", "tree")])
        for night in (False, True)
    )
    found, _, report = fit(load_flux(), mixture=mixture, a=a, a_prime=a_prime)
    report = json.loads(report)["kept_apart"]
    assert report["at_best"] < report["at_the_start"]
    assert found.analogies == 1


@pytest.mark.parametrize("name", ["bfloat16", "fp8_e4m3fn", "GGUF Q4_0"])
def test_models_in_other_formats_are_fitted_and_stay_as_they_were(host, in_format, fit, name):
    model = in_format(name)
    # The state_dict of GGUF has stand-ins without values.
    stored = [values.as_subclass(torch.Tensor) for values in model.model.diffusion_model.parameters()]
    before = [values.clone() for values in stored]
    basis = basis_of(host, model)
    text = {"txt": torch.randn(1, 7, 64), "pooled": torch.randn(1, 768)}
    found = fit(model, text, basis=basis, steps=2, rate=0.1, gradient_checkpointing=True)[0]
    assert all(map(torch.equal, (v.view(torch.uint8) for v in stored), (v.view(torch.uint8) for v in before)))
    assert found.table.isfinite().all()


SIDE, WORDS = 512, 64


@pytest.mark.parametrize("name", ["bfloat16", "fp8_e4m3fn", "GGUF Q4_0"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_memory_told_is_what_autograd_keeps(host, in_format, loss_of, name, checkpointing):
    model, latents = in_format(name), SIDE // 8
    shapes = {
        "latent": (1, 16, latents // 2, latents // 2),
        "reference": (1, 16, latents, latents),
        "txt": (1, WORDS, 64),
        "pooled": (1, 768),
    }
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with loss_of(model, {key: torch.randn(shape) for key, shape in shapes.items()}, checkpointing) as (loss, table):
        own = {p.as_subclass(torch.Tensor).untyped_storage().data_ptr() for p in model.model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = loss(table)
        forward = sum(size for at, size in kept.items() if at not in own)
        result.backward()
    base = module(host, "nodes.host.training_model").HostBase(model, None)
    settings = module(host, "lorweb_core.fitting.settings").FitSettings(
        megapixels=(SIDE / 1024) ** 2, checkpointing=checkpointing
    )
    size = module(host, "lorweb_core.grid").Size(SIDE, SIDE)
    told = module(host, "lorweb_core.fitting.memory").estimate_fit(
        basis_of(host, model), base, settings, size, WORDS, base.stored, base.converted
    )
    # The backward pass's own: gradients in a block, and with checkpoints what one block keeps while it is gone through.
    tensor = (5 * (SIDE // 16) ** 2 // 4 + WORDS) * 256 * base.dtype.itemsize
    ranks = 3 * 2 * 14 * tensor / 256
    activations = told.activations - (12 + (18 if checkpointing else 0)) * tensor - ranks
    layers = told.base - base.stored
    if checkpointing:
        assert 0.8 * activations < forward < 1.2 * activations
    else:
        assert 0.8 * (activations + layers) < forward < 1.2 * (activations + layers)
    assert (layers > 0) == base.converted


def basis_of(host, model):
    """A basis of random LoRAs for all of a model's layers."""
    base = module(host, "nodes.host.training_model").HostBase(model, None)
    config = module(host, "lorweb_core.config").BasisConfig(linear=2, loras_num=3, lora_keys_dim=4)
    torch.manual_seed(1)
    with torch.inference_mode(False):
        made = module(host, "lorweb_core.training.trainable_basis").TrainableBasis(base.shapes, config, 6)
        for layer in made.layers:
            torch.nn.init.normal_(layer.up, std=0.05)
    return host.core.LoRABasis(made.published(), config, (("drawn.safetensors", 0),))


def test_every_pair_of_an_analogy_is_fitted(host, load_flux, mixture, fit, pair):
    a, a_prime = pair
    model, flipped = load_flux(), [image.flip(2) for image in pair]
    more = {"more_a": {"a_2": flipped[0]}, "more_a_prime": {"a_prime_2": flipped[1]}}
    (analogy,) = host.node("LoRWeBAnalogy").execute(a, a_prime, a, **more).result
    batch = {"a": torch.cat([a, flipped[0]]), "a_prime": torch.cat([a_prime, flipped[1]])}
    one = fit(model, mixture=mixture, steps=2, **batch)[0]
    other = fit(model, mixture=mixture, steps=2, analogy=analogy, a=None, a_prime=None)[0]
    assert torch.equal(other.table, one.table)
    with pytest.raises(host.core.LoRWebError, match="Fit Mixture has an analogy and also a_prime"):
        fit(model, mixture=mixture, analogy=analogy, a=None)
