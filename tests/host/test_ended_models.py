"""Patched models that end in every way there is: the model they were cloned from is as it was, bit for bit."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator

import parity
import pytest
import torch

METHODS = ("merge", "runtime")


@pytest.fixture(params=[True, False], ids=["gc", "no gc"], autouse=True)
def collector(request) -> Iterator[None]:
    """Python's collector of cycles, on and off."""
    (gc.enable if request.param else gc.disable)()
    yield
    gc.enable()
    gc.collect()


@pytest.fixture
def sample(host) -> Callable:
    """Two steps of the host's sampler on the fixture's inputs: MODEL → latent."""
    import comfy.sample

    inputs = parity.load_parity()
    values = {"pooled_output": inputs["pooled"], "guidance": 2.5, "reference_latents": [inputs["reference"]]}

    def sample(model, pictures: int = 1, callback: Callable | None = None) -> torch.Tensor:
        noise, positive = inputs["latent"].repeat(pictures, 1, 1, 1), [[inputs["txt"], values]]
        return comfy.sample.sample(
            model, noise, 2, 1.0, "euler", "simple", positive, positive, torch.zeros_like(noise), callback=callback
        )

    return sample


@pytest.fixture
def base(load_flux):
    """The MODEL that is patched."""
    return load_flux()


@pytest.fixture(autouse=True)
def unharmed(base, sample) -> Iterator[Callable]:
    """Check that the base is what it was before the test: weights, hooks, picture. Done after each test too."""
    before = {name: t.clone() for name, t in base.model.state_dict().items()}
    picture = sample(base)

    def unharmed() -> None:
        assert torch.equal(sample(base), picture)
        for module in base.model.modules():
            assert not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
        after = base.model.state_dict()
        assert not [name for name, t in before.items() if not torch.equal(t, after[name])]

    yield unharmed
    unharmed()


@pytest.fixture(params=METHODS)
def patch(request, host, mixture) -> Callable:
    """MODEL → the MODEL with the fixture's mixture, by either method."""
    return lambda model: host.apply.apply_mixture(model, mixture, method=request.param)


class Broken(Exception):
    """What goes wrong in these tests."""


def breaks(*_, **__):
    raise Broken


def test_before_it_is_loaded(base, patch, unharmed):
    patched = patch(base)
    unharmed()
    del patched


def test_loaded(base, patch, unharmed):
    import comfy.model_management

    patched = patch(base)
    comfy.model_management.load_models_gpu([patched])
    unharmed()
    comfy.model_management.load_models_gpu([patched])
    del patched


def test_after_sampling(base, patch, sample, unharmed):
    patched = patch(base)
    sample(patched)
    unharmed()
    sample(patched)
    del patched


def test_a_clone_of_a_model_that_has_run(base, patch, sample, unharmed):
    patched = patch(base)
    expected = sample(patched)
    clone = patched.clone()
    assert torch.equal(sample(clone), expected)
    unharmed()
    del patched
    assert torch.equal(sample(clone), expected)


def test_between_two_steps(base, patch, sample, unharmed):
    patched = patch(base)
    with pytest.raises(Broken):
        sample(patched, callback=breaks)
    unharmed()
    with pytest.raises(Broken):
        sample(patched, callback=breaks)
    del patched


def test_within_a_step(base, patch, sample, monkeypatch, unharmed):
    patched = patch(base)
    with monkeypatch.context() as broken, pytest.raises(Broken):
        broken.setattr(type(base.model.diffusion_model.final_layer), "forward", breaks)
        sample(patched)
    unharmed()
    with monkeypatch.context() as broken, pytest.raises(Broken):
        broken.setattr(type(base.model.diffusion_model.final_layer), "forward", breaks)
        sample(patched)
    del patched


def test_while_it_is_being_loaded(base, patch, sample, monkeypatch, unharmed):
    import comfy.model_management
    from comfy.model_patcher import ModelPatcher

    load = ModelPatcher.load

    def breaks_for_flux(patcher, *args, **kwargs):
        return breaks() if patcher.model is base.model else load(patcher, *args, **kwargs)

    def fail(patched) -> None:
        comfy.model_management.unload_all_models()
        with monkeypatch.context() as broken, pytest.raises(Broken):
            broken.setattr(ModelPatcher, "load", breaks_for_flux)
            sample(patched)

    patched = patch(base)
    fail(patched)
    unharmed()
    fail(patched)
    sample(patched)
    fail(patched)
    del patched


@pytest.mark.parametrize("done_before", [0, 1, 12])
def test_while_its_weights_are_being_patched(host, base, mixture, sample, monkeypatch, unharmed, done_before):
    import comfy.model_management

    adapter, done = host.apply.MixedLoRAAdapter, []
    calculate = adapter.calculate_weight

    def breaks_later(*args, **kwargs):
        done.append(1)
        return breaks() if len(done) > done_before else calculate(*args, **kwargs)

    patched = host.apply.apply_mixture(base, mixture, method="merge")
    comfy.model_management.unload_all_models()
    with monkeypatch.context() as broken, contextlib.suppress(Broken):
        broken.setattr(adapter, "calculate_weight", breaks_later)
        sample(patched)
    assert len(done) > done_before  # the host logs what a patch raises, or passes it on
    unharmed()


def test_in_a_cycle(base, patch, sample, unharmed):
    patched = patch(base)
    sample(patched)
    patched.attachments["itself"] = patched
    del patched
    unharmed()


def test_while_others_of_the_same_base_live(base, patch, sample, unharmed):
    other = patch(base)
    expected = sample(other)
    for end in (lambda: sample(patch(base)), lambda: patch(base), lambda: sample(patch(base).clone())):
        end()
        assert torch.equal(sample(other), expected)
    with pytest.raises(Broken):
        sample(patch(base), callback=breaks)
    assert torch.equal(sample(other), expected)
    cycle = patch(base)
    sample(cycle)
    cycle.attachments["itself"] = cycle
    del cycle
    assert torch.equal(sample(other), expected)
    unharmed()
    assert torch.equal(sample(other), expected)


def test_a_batch_of_analogies_that_fails(host, base, mixture, sample, unharmed):
    """Sampled with a latent of another batch: refused, and later runs are as before."""
    batch = mixture.basis.route(torch.randn(3, 3, 16, generator=torch.Generator().manual_seed(0)))
    patched = host.apply.apply_mixture(base, batch)
    expected = sample(patched, 3)
    for _ in range(3):
        with pytest.raises(host.core.LoRWebError, match="3 analogies, but 2 pictures"):
            sample(patched, 2)
        unharmed()
    assert torch.equal(sample(patched, 3), expected)


def test_unloaded_by_the_user(base, patch, sample, unharmed):
    import comfy.model_management

    patched = patch(base)
    expected = sample(patched)
    comfy.model_management.unload_all_models()
    unharmed()
    assert torch.equal(sample(patched), expected)
    comfy.model_management.unload_all_models()
    assert not torch.equal(sample(patched), sample(base))


def test_deep_clones_for_several_gpus(base, patch, sample, load_flux, unharmed):
    """As the host makes one for each further GPU; here they stay on the CPU."""
    if not hasattr(base, "deepclone_multigpu"):
        pytest.skip("this host has no clones for several GPUs")
    patched = patch(base)
    patched.cached_patcher_init = (load_flux, ())
    expected = sample(patched)
    deep = patched.deepclone_multigpu()
    assert deep.model is not base.model
    for ours, theirs in zip(patched.get_additional_models(), deep.get_additional_models(), strict=True):
        assert ours.model is not theirs.model
    assert torch.equal(sample(deep), expected)
    unharmed()
    with pytest.raises(Broken):
        sample(deep, callback=breaks)
    assert not any(module._forward_hooks for module in deep.model.modules())
    assert torch.equal(sample(patched), expected)
