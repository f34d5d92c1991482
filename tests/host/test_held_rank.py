"""A mixture at run time in a lower rank, against weights with torch's own cut of the dense sum in them."""

from __future__ import annotations

import gc
import weakref

import parity
import pytest
import torch


def cut_into_weights(host, model, mixture, coefficients, rank: int, strength: float = 1.0):
    """Add scale · Σ c_n (A_n B_n)ᵀ of each layer, cut to a rank by torch.linalg.svd, to the weights of `model`."""
    weights = {name: t.clone() for name, t in model.model.state_dict().items()}
    for name, key in host.apply._host_keys(model, mixture.basis).items():
        layer = mixture.basis.layers[name]
        factors = zip(coefficients[name].double(), layer.A.double(), layer.B.double())
        U, S, Vh = torch.linalg.svd(layer.scale * sum(c * (a @ b).T for c, a, b in factors), full_matrices=False)
        delta = (U[:, :rank] * S[:rank]) @ Vh[:rank]
        key, start = (key[0], key[1][1]) if isinstance(key, tuple) else (key, 0)
        weights[key][start : start + len(delta)] += strength * delta.float()
    model.model.load_state_dict(weights)
    return model


def held_columns(model) -> int:
    """Count the columns that the model at run time holds of all layers."""
    ((packed,),) = model.additional_models.values()
    return sum(sum(linear.columns) for _, linear in packed.model.items())


def said(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if "held at run time" in r.getMessage()]


@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_a_rank_is_that_of_the_dense_sum_cut(host, load_flux, mixture, velocity, caplog, strength):
    expected = velocity(cut_into_weights(host, load_flux(), mixture, mixture.coefficients, 3, strength))
    whole = velocity(host.apply.apply_mixture(load_flux(), mixture, strength, "runtime"))
    with caplog.at_level("INFO"):
        patched = host.apply.apply_mixture(load_flux(), mixture, strength, "runtime", run_time_rank=3)
    assert held_columns(patched) == 3 * len(mixture.basis.layers)
    assert parity.relative_error(velocity(patched), expected) < 1e-5
    assert parity.relative_error(whole, expected) > 1e-3
    (told,) = said(caplog)
    assert "held at run time in rank 3, 38% of the whole; the largest error of a layer is " in told


def test_low_vram_and_unloading(host, load_flux, mixture, velocity, monkeypatch):
    import comfy.model_management

    patched = host.apply.apply_mixture(load_flux(), mixture, 1.0, "runtime", run_time_rank=3)
    expected = velocity(patched)
    comfy.model_management.unload_all_models()
    assert parity.relative_error(velocity(patched), expected) < 1e-6
    comfy.model_management.unload_all_models()
    monkeypatch.setattr(comfy.model_management, "is_device_cpu", lambda device: False)
    monkeypatch.setattr(comfy.model_management, "vram_state", comfy.model_management.VRAMState.NO_VRAM)
    assert parity.relative_error(velocity(patched), expected) < 1e-6


def test_without_numbers_the_method_runtime_is_whole(host, load_flux, mixture, caplog):
    with caplog.at_level("INFO"):
        patched = host.apply.apply_mixture(load_flux(), mixture, 1.0, "runtime")
    assert held_columns(patched) == 8 * len(mixture.basis.layers)
    assert not said(caplog)


@pytest.mark.parametrize("numbers", [{"run_time_rank": 8}, {"run_time_rank": 4096}])
def test_a_rank_of_all_is_exact(host, load_flux, mixture, velocity, caplog, numbers):
    with caplog.at_level("INFO"):
        patched = host.apply.apply_mixture(load_flux(), mixture, 1.0, "runtime", **numbers)
    expected = velocity(host.apply.apply_mixture(load_flux(), mixture, 1.0, "runtime"))
    assert torch.equal(velocity(patched), expected)
    (told,) = said(caplog)
    assert f"in all its rank, exact: rank {numbers['run_time_rank']} is no less" in told


def test_by_an_error_the_log_says_the_ranks(host, load_flux, mixture, caplog):
    with caplog.at_level("INFO"):
        patched = host.apply.apply_mixture(load_flux(), mixture, 1.0, "runtime", run_time_error=0.3)
    assert held_columns(patched) < 8 * len(mixture.basis.layers)
    (told,) = said(caplog)
    error = float(told.rpartition(" is ")[2].rstrip("%."))
    assert 0 < error <= 30
    assert "in ranks " in told


def of_low_rank(mixture):
    """Make a basis whose LoRAs of a layer are all alike: its mixtures have rank 2."""
    layers = {
        name: layer._replace(A=layer.A[:1].expand_as(layer.A), B=layer.B[:1].expand_as(layer.B))
        for name, layer in mixture.basis.layers.items()
    }
    mixture.basis.layers.update(layers)
    return mixture


@pytest.mark.parametrize(("low", "share"), [(True, 0.25), (False, 1.0)])
def test_auto_takes_what_leaves_out_less_than_1_percent_where_it_is_light(
    host, load_flux, mixture, velocity, caplog, low, share
):
    """Of weights in 8 bits, for which auto takes run time."""
    mixture = of_low_rank(mixture) if low else mixture
    with caplog.at_level("INFO"):
        patched = host.apply.apply_mixture(load_flux(torch.float8_e4m3fn), mixture)
    assert held_columns(patched) == share * 8 * len(mixture.basis.layers)
    (told,) = said(caplog)
    assert ("rank 2, 25% of the whole" if low else "what leaves out 1.00% does not save a quarter") in told
    whole = host.apply.apply_mixture(load_flux(torch.float8_e4m3fn), mixture, method="runtime")
    assert parity.relative_error(velocity(patched), velocity(whole)) < 1e-2


def test_every_picture_of_a_batch_has_its_own_cut(host, load_flux, mixture):
    import comfy.model_management

    inputs, generator = parity.load_parity(), torch.Generator().manual_seed(1)
    batch = mixture.basis.route(torch.randn(2, 3, 16, generator=generator))
    latent = torch.randn(2, 16, 8, 8, generator=generator)

    def velocities(model, rows: slice) -> torch.Tensor:
        comfy.model_management.load_models_gpu([model])
        noise = latent[rows]
        text, pooled, reference = (
            inputs[name].float().repeat(len(noise), *[1] * (inputs[name].ndim - 1))
            for name in ("txt", "pooled", "reference")
        )
        sigma, guidance = torch.full((len(noise),), 0.6), torch.full((len(noise),), 2.5)
        options = {"wrappers": model.wrappers}
        return model.model.diffusion_model(
            noise, sigma, text, pooled, guidance, ref_latents=[reference], transformer_options=options
        )

    together = velocities(host.apply.apply_mixture(load_flux(), batch, run_time_rank=3), slice(0, 2))
    for i in range(2):
        coefficients = {name: c[i] for name, c in batch.coefficients.items()}
        alone = cut_into_weights(host, load_flux(), batch, coefficients, 3)
        assert parity.relative_error(together[i : i + 1], velocities(alone, slice(i, i + 1))) < 1e-5


def test_a_batch_for_which_it_is_no_less_shares_the_whole_basis(host, load_flux, mixture, caplog):
    batch = mixture.basis.route(torch.randn(3, 3, 16))
    with caplog.at_level("INFO"):
        patched = host.apply.apply_mixture(load_flux(), batch, run_time_rank=3)
    assert held_columns(patched) == 8 * len(mixture.basis.layers)
    (told,) = said(caplog)
    assert "rank 3 for each of 3 analogies is no less" in told


def test_a_base_that_routes_by_activation_says_that_it_is_whole(host, load_flux, tmp_path, velocity, caplog):
    basis = host.core.load_basis(parity.write_activation_checkpoint(tmp_path, "caa'b", "avg"))
    with caplog.at_level("INFO"):
        patched = host.apply.apply_mixture(load_flux(), basis.route(None), run_time_rank=3)
    expected = parity.load_parity()["velocity.activation.caa'b.avg"]
    assert parity.relative_error(velocity(patched, "txt512"), expected) < 1e-5
    (told,) = said(caplog)
    assert "in all its rank, as it routes by what changes at every step" in told


def test_a_second_run_decomposes_nothing(host, load_flux, mixture, velocity, monkeypatch):
    first = host.apply.apply_mixture(load_flux(), mixture, 1.0, "runtime", run_time_rank=3)
    expected = velocity(host.apply.apply_mixture(load_flux(), mixture, 0.5, "runtime", run_time_rank=3))
    monkeypatch.setattr(torch.linalg, "svd", lambda *_, **__: pytest.fail("decomposed again"))
    again = mixture.basis.route(parity.load_parity()["query"])
    second = host.apply.apply_mixture(load_flux(), again, 0.5, "runtime", run_time_rank=3)
    held = [[m.model for (m,) in model.additional_models.values()] for model in (first, second)]
    assert held[0][0] is held[1][0]
    assert torch.equal(velocity(second), expected)


def test_of_a_basis_no_more_than_the_last_mixture_is_kept(host, load_flux, mixture):
    def packed(seed: int):
        other = mixture.basis.route(torch.randn(48, generator=torch.Generator().manual_seed(seed)))
        patched = host.apply.apply_mixture(load_flux(), other, 1.0, "runtime", run_time_rank=3)
        ((held,),) = patched.additional_models.values()
        return weakref.ref(held.model)

    kept = [packed(seed) for seed in range(3)]
    gc.collect()
    assert [ref() is not None for ref in kept] == [False, False, True]


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ({"run_time_rank": -1}, "run_time_rank is -1"),
        ({"run_time_error": 1.0}, "run_time_error is 1.0"),
        ({"run_time_error": float("nan")}, "run_time_error is nan"),
    ],
)
def test_numbers_out_of_range_are_refused(host, load_flux, mixture, numbers, told):
    with pytest.raises(host.core.LoRWebError, match=told):
        host.apply.apply_mixture(load_flux(), mixture, **numbers)


def test_cancel_stops_the_decomposition(host, load_flux, mixture):
    import comfy.model_management

    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        host.apply.apply_mixture(load_flux(), mixture, 1.0, "runtime", run_time_rank=3)
    patched = host.apply.apply_mixture(load_flux(), mixture, 1.0, "runtime", run_time_rank=3)
    assert held_columns(patched) == 3 * len(mixture.basis.layers)
