"""Run-time application in the host: the published numbers, every way models are loaded, and no trace afterwards."""

from __future__ import annotations

import gc

import parity
import pytest
import torch

LAYER = "transformer.transformer_blocks.0.attn.to_k"  # which the host fuses with q and v


def hooks_of(model) -> list[str]:
    """Every module of a MODEL that carries a hook or a forward of its own."""
    return [
        name
        for name, module in model.model.named_modules()
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    ]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.uint8)


@pytest.fixture
def route(host, tmp_path):
    """The fixture's basis in a routing of parity.CASES, asked with its query or another."""

    def route(case: str = "softmax_mean_1", query: torch.Tensor | None = None):
        basis = host.core.load_basis(parity.write_checkpoint(tmp_path, case))
        return basis.route(parity.load_parity()["query"] if query is None else query)

    return route


@pytest.mark.parametrize("case", parity.CASES)
def test_the_published_output_for_every_routing(host, velocity, load_flux, route, case):
    patched = host.apply.apply_mixture(load_flux(), route(case), method="runtime")
    assert parity.relative_error(velocity(patched), parity.load_parity()[f"velocity.{case}"]) < 1e-5


def conditioning(scale: float = 1.0, batch: int = 1) -> list:
    """The fixture's text, reference and guidance as a CONDITIONING."""
    inputs = parity.load_parity()
    values = {
        "pooled_output": inputs["pooled"],
        "guidance": 2.5,
        "reference_latents": [inputs["reference"].repeat(batch, 1, 1, 1)],
    }
    return [[scale * inputs["txt"], values]]


@pytest.fixture
def sample(host):
    """Two steps of the host's sampler, with a negative: (n, 16, 8, 8) noise → latents."""
    import comfy.sample

    def sample(model, noise: torch.Tensor | None = None, positive=None, negative=None) -> torch.Tensor:
        noise = parity.load_parity()["latent"] if noise is None else noise
        positive, negative = positive or conditioning(), negative or conditioning(0.5)
        return comfy.sample.sample(
            model, noise, 2, 2.0, "euler", "simple", positive, negative, torch.zeros_like(noise), seed=0
        )

    return sample


TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float8_e4m3fn: 0.1}
"""Of a picture, for weights merged into the format; what is added at run time is held to the arithmetic's own."""


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("method", ["merge", "runtime"])
def test_the_same_picture_however_the_model_is_loaded(host, load_flux, route, sample, low_vram, method, dtype):
    import comfy.model_management

    model = load_flux(dtype)
    # The oracle: the weights as stored, in float32, and the mixture's delta added to them.
    exact = load_flux()
    exact.model.load_state_dict({name: t.float() for name, t in model.model.state_dict().items()})
    expected = sample(host.apply.apply_mixture(exact, route("tanh_sum_4"), method="merge"))
    without = sample(exact)
    assert parity.relative_error(without, expected) > 0.2

    patched = host.apply.apply_mixture(model, route("tanh_sum_4"), method=method)
    pictures = [sample(patched)]
    comfy.model_management.unload_all_models()
    pictures.append(sample(patched))
    low_vram()
    pictures.append(sample(patched))
    assert model.model.model_lowvram
    tolerance = TOLERANCES[dtype if method == "merge" else model.model.get_dtype_inference()]
    for picture in pictures:
        assert parity.relative_error(picture.float(), expected) < tolerance


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("method", ["merge", "runtime"])
def test_nothing_is_left_behind(host, load_flux, route, sample, method, dtype):
    import comfy.model_management

    model = load_flux(dtype)
    before = {name: t.clone() for name, t in model.model.state_dict().items()}
    plain = sample(model)
    patched = host.apply.apply_mixture(model, route(), method=method)
    assert not torch.equal(sample(patched), plain)
    assert not hooks_of(model)
    assert torch.equal(sample(model), plain)
    assert not hooks_of(model)
    sample(patched)
    comfy.model_management.unload_all_models()
    assert not hooks_of(model)
    after = model.model.state_dict()
    assert not [name for name, t in before.items() if not torch.equal(bits(t), bits(after[name]))]


def test_a_runtime_mixture_leaves_the_weights_alone_while_it_runs(host, load_flux, route, sample):
    model = load_flux()
    before = {name: t.clone() for name, t in model.model.state_dict().items()}
    sample(host.apply.apply_mixture(model, route(), method="runtime"))
    assert not [name for name, t in model.model.state_dict().items() if not torch.equal(t, before[name])]


def test_mixtures_loras_and_both_methods_chain_in_any_order(host, load_flux, route, velocity):
    import comfy.sd

    model, generator = load_flux(), torch.Generator().manual_seed(0)
    first, second = (route(query=torch.randn(48, generator=generator)) for _ in range(2))
    down, up = (torch.randn(*shape, generator=generator) for shape in ((3, 128), (128, 3)))
    lora = {f"{LAYER}.lora_A.weight": down, f"{LAYER}.lora_B.weight": up}
    steps = {
        "first": lambda m, method: host.apply.apply_mixture(m, first, 0.7, method),
        "second": lambda m, method: host.apply.apply_mixture(m, second, -0.5, method),
        "lora": lambda m, method: comfy.sd.load_lora_for_models(m, None, lora, 0.5, 0.0)[0],
    }

    def chained(*named: str) -> torch.Tensor:
        patched = model
        for name in named:
            step, _, method = name.partition(":")
            patched = steps[step](patched, method)
            # A model that is loaded, and then goes on being patched, is what a graph run twice gives.
            velocity(patched)
        return velocity(patched.clone())

    expected = chained("first:merge", "second:merge", "lora")
    for order in (
        ("first:runtime", "second:runtime", "lora"),
        ("lora", "second:merge", "first:runtime"),
        ("second:runtime", "lora", "first:merge"),
    ):
        assert parity.relative_error(chained(*order), expected) < 1e-5
    velocity(model)
    assert not hooks_of(model)


def test_clones_take_turns(host, load_flux, route, velocity):
    """Two analogies on one model, run one after the other as two branches of a graph are."""
    model = load_flux()
    generator = torch.Generator().manual_seed(1)
    mixtures = [route(query=torch.randn(48, generator=generator)) for _ in range(2)]
    merged = [velocity(host.apply.apply_mixture(model, mixture, method="merge")) for mixture in mixtures]
    branches = [host.apply.apply_mixture(model, mixture, method="runtime") for mixture in mixtures]
    for index in (0, 1, 0, 0, 1):
        assert parity.relative_error(velocity(branches[index]), merged[index]) < 1e-5
    gc.collect()


def test_a_batch_of_four_analogies_equals_four_runs(host, load_flux, route, sample):
    model, generator = load_flux(), torch.Generator().manual_seed(2)
    queries = torch.randn(4, 3, 16, generator=generator)
    noise = torch.randn(4, 16, 8, 8, generator=generator)
    together = sample(host.apply.apply_mixture(model, route(query=queries)), noise)
    for i in range(4):
        alone = sample(host.apply.apply_mixture(model, route(query=queries[i])), noise[i : i + 1])
        assert parity.relative_error(together[i : i + 1], alone) < 1e-5
    assert parity.relative_error(together[:1], together[1:2]) > 0.1


@pytest.mark.parametrize("together", [True, False])
def test_positive_and_negative_get_the_mixture_of_their_picture(host, load_flux, route, sample, monkeypatch, together):
    """Whether the host puts both into one batch, which it decides by memory, or runs one after the other."""
    import comfy.model_base

    model, batches = load_flux(), []
    required = 0 if together else 1e18
    monkeypatch.setattr(comfy.model_base.BaseModel, "memory_required", lambda *_, **__: required)
    queries = torch.randn(2, 48, generator=torch.Generator().manual_seed(3))
    noise = torch.randn(2, 16, 8, 8)
    patched = host.apply.apply_mixture(model, route(query=queries[:, None]), 1.0)
    model.model.diffusion_model.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    both = sample(patched, noise)
    assert set(batches) == {4 if together else 2}
    for i in range(2):
        alone = sample(host.apply.apply_mixture(model, route(query=queries[i])), noise[i : i + 1])
        assert parity.relative_error(both[i : i + 1], alone) < 1e-5


def test_a_latent_of_another_batch_is_refused_and_the_model_stays_usable(host, load_flux, route, sample):
    model = load_flux()
    patched = host.apply.apply_mixture(model, route(query=torch.randn(2, 3, 16)))
    with pytest.raises(host.core.LoRWebError, match="mixture is of 2 analogies, but"):
        sample(patched, torch.randn(3, 16, 8, 8))
    sample(patched, torch.randn(2, 16, 8, 8))
    sample(model)
    assert not hooks_of(model)


def test_the_incoming_model_is_untouched(host, load_flux, route):
    model = load_flux()
    patched = host.apply.apply_mixture(model, route(), method="runtime")
    assert patched.wrappers
    assert not (model.wrappers or model.additional_models or model.patches or hooks_of(model))


def test_strength_0_costs_nothing(host, load_flux, route):
    patched = host.apply.apply_mixture(load_flux(), route(), 0.0, "runtime")
    assert not (patched.patches or patched.additional_models)


def test_mixtures_of_one_basis_share_its_packed_tensors(host, load_flux, route):
    mixture = route()
    model = load_flux()
    other = mixture.basis.route(torch.randn(48))
    patched = [host.apply.apply_mixture(model, m, method="runtime") for m in (mixture, other)]
    first, second = ([m.model for (m,) in p.additional_models.values()] for p in patched)
    assert first[0] is second[0]
    chained = host.apply.apply_mixture(patched[0], other, method="runtime")
    assert len(chained.additional_models) == 1
    assert len(chained.wrappers["diffusion_model"]) == len(["sampling", "mixture", "other"])


@pytest.mark.parametrize(
    ("dtype", "queries", "taken", "why"),
    [
        (torch.float32, 1, "merge", "one mixture fits the weights"),
        (torch.bfloat16, 1, "merge", "one mixture fits the weights"),
        (torch.float8_e4m3fn, 1, "runtime", "float8_e4m3fn"),
        (torch.float32, 2, "runtime", "2 analogies"),
    ],
)
def test_auto_says_what_it_takes_and_why(host, load_flux, route, caplog, dtype, queries, taken, why):
    with caplog.at_level("INFO"):
        patched = host.apply.apply_mixture(load_flux(dtype), route(query=torch.randn(queries, 3, 16)))
    assert bool(patched.additional_models) == (taken == "runtime")
    assert bool(patched.patches) == (taken == "merge")
    (said,) = [r.getMessage() for r in caplog.records if "method auto takes" in r.getMessage()]
    assert f"takes {taken}," in said
    assert why in said


def test_a_batch_of_analogies_cannot_be_merged(host, load_flux, route):
    with pytest.raises(host.core.LoRWebError, match=r"cannot be merged: the mixture is of 2.*runtime"):
        host.apply.apply_mixture(load_flux(), route(query=torch.randn(2, 3, 16)), method="merge")


def test_coefficients_that_are_not_finite_are_named(host, load_flux, route):
    mixture = route()
    mixture.coefficients[LAYER][1] = torch.nan
    for method in ("merge", "runtime"):
        with pytest.raises(host.core.LoRWebError, match=f"coefficients of layer {LAYER}"):
            host.apply.apply_mixture(load_flux(), mixture, method=method)


@pytest.mark.parametrize(("mode", "pooling"), parity.ACTIVATION_CASES)
def test_the_published_output_of_activation_routed_bases(host, velocity, load_flux, tmp_path, mode, pooling):
    basis = host.core.load_basis(parity.write_activation_checkpoint(tmp_path, mode, pooling))
    patched = host.apply.apply_mixture(load_flux(), basis.route(None))
    expected = parity.load_parity()[f"velocity.activation.{mode}.{pooling}"]
    assert parity.relative_error(velocity(patched, "txt512"), expected) < 1e-5


@pytest.fixture
def activation_routed(host, tmp_path):
    return host.core.load_basis(parity.write_activation_checkpoint(tmp_path, "caa'b", "max")).route(None)


def test_activation_routing_of_a_batch_is_that_of_each_picture(host, load_flux, activation_routed, sample):
    """With text of 5 tokens, not the 512 of training."""
    patched = host.apply.apply_mixture(load_flux(), activation_routed)
    noise = torch.randn(2, 16, 8, 8)
    references = torch.randn(2, 16, 8, 8)

    def pictures(rows: slice) -> torch.Tensor:
        positive, negative = conditioning(), conditioning(0.5)
        for _, values in (*positive, *negative):
            values["reference_latents"] = [references[rows]]
        return sample(patched, noise[rows], positive, negative)

    together = pictures(slice(0, 2))
    for i in range(2):
        assert parity.relative_error(together[i : i + 1], pictures(slice(i, i + 1))) < 1e-5


def test_activation_routing_goes_through_unloading_and_low_vram(host, load_flux, activation_routed, sample, low_vram):
    import comfy.model_management

    model = load_flux()
    patched = host.apply.apply_mixture(model, activation_routed, 0.5)
    first = sample(patched)
    comfy.model_management.unload_all_models()
    assert not hooks_of(model)
    assert parity.relative_error(sample(patched), first) < 1e-6
    low_vram()
    assert parity.relative_error(sample(patched), first) < 1e-6


def test_activation_routing_cannot_be_merged(host, load_flux, activation_routed):
    with pytest.raises(host.core.LoRWebError, match=r"cannot be merged: .*routes by each layer's own input"):
        host.apply.apply_mixture(load_flux(), activation_routed, method="merge")


def test_activation_routing_without_the_reference_grid_is_refused(host, load_flux, activation_routed, sample):
    positive = conditioning()
    del positive[0][1]["reference_latents"]
    with pytest.raises(host.core.LoRWebError, match=r"query mode caa'b.*Connect Kontext Extended-Attention"):
        sample(host.apply.apply_mixture(load_flux(), activation_routed), None, positive, positive)


@pytest.mark.parametrize(
    ("part", "rounds"), [("diffusion_model", 0), ("diffusion_model.double_blocks.0", 1)], ids=["all", "a block"]
)
def test_a_compiled_model_runs_with_the_mixture(host, load_flux, route, sample, part, rounds):
    """torch.compile does not look for hooks: code that it made for the base must not run in a patched pass."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    def compiled(model):
        set_torch_compile_wrapper(model := model.clone(), backend="eager", keys=[part])
        return model

    base = load_flux()
    patched = host.apply.apply_mixture(base, route(), method="runtime")
    for model in [base] * rounds + [patched] + [base] * rounds:
        expected = sample(model)
        assert parity.relative_error(sample(compiled(model)), expected) < 1e-5
