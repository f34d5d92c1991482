"""A basis while it is learned: how it begins, and what it adds to a model, against weights W + ΔW written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from training_world import (
    BLOCK,
    CHANNELS,
    EMBEDDING,
    MODULATION,
    OUT,
    PARTS,
    WIDTH,
    Q,
    TinyBase,
    TinySource,
    parameters_of,
    plain_coefficients,
    plain_delta,
    plain_velocity,
    tiny_basis,
)

from lorweb_core import LoRWebError
from lorweb_core.config import BasisConfig
from lorweb_core.routing import token_query
from lorweb_core.runtime import LayerSlice
from lorweb_core.training.trainable_basis import TrainableBasis, TrainableLayer

ROUTINGS = [
    {"lora_softmax": softmax, "mixing_coeffs_type": reduction, "lora_heads": heads}
    for softmax in (True, False)
    for reduction in ("mean", "sum")
    for heads in (1, 2)
] + [{"query_projection_type": "none"}, {"query_projection_type": "none", "lora_softmax": False}]


def evaluate(base: TinyBase, basis: TrainableBasis, batch, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    basis.route(batch.query, base.tokens(batch))
    return base.velocity(x, t, _double(batch))


@pytest.fixture
def batch():
    return TinySource(batch_size=3).draw(0)


@pytest.fixture
def point(batch):
    """Somewhere to ask for the velocity at."""
    torch.manual_seed(5)
    return torch.randn(batch.target.shape, dtype=torch.float64), torch.tensor([0.2, 0.5, 0.9])


def uniform(values: torch.Tensor, bound: float) -> None:
    """Some ten thousand values, all within the bound, spread as evenly as chance has it."""
    assert values.abs().max() <= bound
    assert values.abs().max() > 0.99 * bound
    assert abs(values.mean()) < 0.03 * bound
    assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.03)


def test_parameters_begin_as_published():
    torch.manual_seed(0)
    config = BasisConfig(loras_num=16, linear=4, lora_keys_dim=128)
    layer = TrainableLayer(192, 320, 96, config).published()
    assert layer.A.shape == (16, 192, 4)
    # Kaiming uniform with a = √5 takes in · r of a tensor (N, in, r) for what comes in.
    uniform(layer.A, 1 / math.sqrt(192 * 4))
    assert layer.B.shape == (16, 4, 320)
    assert not layer.B.any()
    assert layer.keys.shape == (16, 128)
    assert (layer.keys.mean().abs(), layer.keys.std()) < (0.1, 1.05)
    assert layer.keys.std() > 0.95
    assert layer.projection.shape == (128, 96)
    uniform(layer.projection, 1 / math.sqrt(96))
    assert layer.scale == 1
    assert {values.dtype for values in layer[:4]} == {torch.float32}


def test_without_a_projection_keys_are_as_wide_as_the_query():
    layer = TrainableLayer(
        8, 8, 12, BasisConfig(loras_num=3, linear=2, lora_keys_dim=128, query_projection_type="none")
    )
    assert layer.project is None
    assert layer.published().keys.shape == (3, 12)


@pytest.mark.parametrize("sizes", [{"loras_num": 10**9}, {"linear": 10**9}, {"loras_num": 10**9, "linear": 10**9}])
def test_sizes_that_no_machine_has_memory_for_are_refused_in_words(sizes):
    config = BasisConfig(**{"loras_num": 2, "linear": 2, "lora_keys_dim": 8, **sizes})
    with pytest.raises(LoRWebError, match="no memory for .*1,000,000,000"):
        TrainableBasis({"transformer.x": (4096, 4096)}, config, query=8)


def test_the_seed_decides_all_parameters():
    base = TinyBase()
    first, again, other = (tiny_basis(base, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_a_basis_that_has_learned_nothing_changes_no_bit(batch, point):
    base = TinyBase(torch.float64)
    before = base.velocity(*point, _double(batch))
    basis = tiny_basis(base, ups=0)
    basis.attach(base.model, base.linears)
    assert torch.equal(evaluate(base, basis, batch, *point), before)


def _double(batch):
    text = type(batch.text)(*(values.double() for values in batch.text))
    return batch._replace(reference=batch.reference.double(), text=text)


@pytest.mark.parametrize("routing", ROUTINGS, ids=lambda routing: "-".join(map(str, routing.values())))
def test_every_analogy_of_a_batch_has_the_weights_of_its_own_mixture(batch, point, routing):
    """Output and gradients of the hooked model, against weights W + Σ c_n (A_n B_n)ᵀ; k, which is between q and v in
    one Linear, has no basis.
    """
    base = TinyBase(torch.float64)
    basis = tiny_basis(base, **routing)
    plain = parameters_of(basis)
    expected = plain_velocity(base, plain, basis.config, *point, batch)
    basis.attach(base.model.requires_grad_(False), base.linears)
    made = evaluate(base, basis, batch, *point)
    torch.testing.assert_close(made, expected, rtol=1e-10, atol=1e-12)
    made.square().sum().backward()
    expected.square().sum().backward()
    for name, layer in basis.named_layers():
        for key, parameter in layer.named_parameters():
            torch.testing.assert_close(
                parameter.grad, plain[name][key].grad, rtol=1e-8, atol=1e-12, msg=f"{name} {key}"
            )


def test_gradients_reach_a_b_keys_and_projections_and_nothing_else(batch, point):
    base = TinyBase(torch.float64)
    basis = tiny_basis(base)
    basis.attach(base.model.requires_grad_(False), base.linears)
    evaluate(base, basis, batch, *point).square().sum().backward()
    reached = {name for name, parameter in basis.named_parameters() if parameter.grad.any()}
    kinds = ("down", "up", "keys", "project.weight")
    assert reached == {f"layers.{i}.{kind}" for i in range(len(base.shapes)) for kind in kinds}
    assert all(parameter.grad is None for parameter in base.model.parameters())


def test_each_token_of_a_patch_mode_is_a_query_of_its_own():
    """(n, k, E) is one query where Q = k · E, and k queries where Q = E, as `LoRABasis.route` has it."""
    torch.manual_seed(0)
    config = BasisConfig(loras_num=3, linear=2, lora_keys_dim=4, query_mode="cat-paa'b")
    basis = TrainableBasis({OUT: (WIDTH, CHANNELS)}, config, query=EMBEDDING)
    query = torch.randn(2, PARTS, EMBEDDING)
    coefficients, layer = basis.route(query), basis.published()[OUT]
    for row, c in zip(query, coefficients[OUT], strict=True):
        torch.testing.assert_close(c, plain_coefficients(row, layer.keys, layer.projection, config))


def test_coefficients_are_handed_out_for_every_layer(batch):
    base = TinyBase()
    basis = tiny_basis(base)
    coefficients = basis.route(batch.query)
    for name, layer in basis.published().items():
        for row, c in zip(batch.query, coefficients[name], strict=True):
            expected = plain_coefficients(row.reshape(1, -1), layer.keys, layer.projection, basis.config)
            torch.testing.assert_close(c, expected)


def test_one_lora_with_softmax_is_a_plain_lora(batch, point):
    base = TinyBase(torch.float64)
    basis = tiny_basis(base, loras_num=1)
    layers = basis.published()
    weights = {name: value.clone() for name, value in base.model.named_parameters()}
    for linear, parts in base.linears.items():
        for part in parts:
            delta = (layers[part.layer].A[0] @ layers[part.layer].B[0]).T
            weights[f"{linear}.weight"][part.start : part.start + len(delta)] += delta
    double = _double(batch)
    arguments = (point[0], point[1].double(), double.reference, double.text)
    expected = torch.func.functional_call(base.model, weights, arguments)
    basis.attach(base.model.requires_grad_(False), base.linears)
    torch.testing.assert_close(evaluate(base, basis, batch, *point), expected)


@pytest.mark.parametrize("mode", ["aa'bb'", "caa'bb'", "caa'b", "caa'"])
@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_an_activation_routed_basis_asks_with_each_layers_own_input(batch, point, mode, pooling):
    """Each Linear's output, against its own input times W + ΔW with the coefficients of that input."""
    base = TinyBase(torch.float64)
    seen = {}

    def remember(name: str):
        def hook(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
            seen[name] = inputs[0], output

        return hook

    basis = tiny_basis(base, external_query=False, external_query_model=None, query_mode=mode, pooling_type=pooling)
    basis.attach(base.model.requires_grad_(False), base.linears)
    for name in base.linears:
        base.model.get_submodule(name).register_forward_hook(remember(name))
    evaluate(base, basis, batch._replace(query=None), *point)
    assert seen.keys() == base.linears.keys()
    for name, parts in base.linears.items():
        inputs, output = seen[name]
        linear = base.model.get_submodule(name)
        for i, x in enumerate(inputs):
            weight = linear.weight.detach().clone()
            for part in parts:
                layer = basis.published()[part.layer]
                query = token_query(part.layer, inputs, base.tokens(batch), mode, pooling)[i : i + 1]
                delta = plain_delta(
                    layer.A, layer.B, plain_coefficients(query, layer.keys, layer.projection, basis.config)
                )
                weight[part.start : part.start + len(delta)] += delta
            torch.testing.assert_close(output[i], x @ weight.T + linear.bias, rtol=1e-10, atol=1e-12)


def test_an_activation_routed_basis_gives_no_coefficients_before_the_layers_run(batch):
    basis = tiny_basis(TinyBase(), external_query=False, query_mode="caa'")
    assert not basis.route(None)


def test_hooks_that_are_taken_off_leave_the_model_as_it_was(batch, point):
    base = TinyBase(torch.float64)
    weights = {name: value.clone() for name, value in base.model.state_dict().items()}
    arguments = (*point, _double(batch))
    before = base.velocity(*arguments)
    basis = tiny_basis(base)
    handles = basis.attach(base.model, base.linears)
    assert not torch.allclose(evaluate(base, basis, batch, *point), before)
    for handle in handles:
        handle.remove()
    assert torch.equal(base.velocity(*arguments), before)
    assert not any(module._forward_hooks for module in base.model.modules())
    assert all(torch.equal(weights[name], value) for name, value in base.model.state_dict().items())


def test_blocks_that_are_computed_again_in_the_backward_pass_have_the_same_gradients(batch):
    """Checkpointing computes a block once more after the forward pass, and with it the hooks."""

    def gradients(again: bool) -> list[torch.Tensor]:
        base = TinyBase()
        basis = tiny_basis(base)
        basis.attach(base.model.requires_grad_(False), base.linears)
        arguments = (batch.target, torch.full((3,), 0.5), batch)
        basis.route(batch.query)
        made = checkpoint(base.velocity, *arguments, use_reentrant=False) if again else base.velocity(*arguments)
        made.square().sum().backward()
        return [parameter.grad for parameter in basis.parameters()]

    for once, twice in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(twice, once)


def test_models_in_half_precision_are_added_to_in_their_own_dtype():
    """The parameters stay float32, and so do their gradients."""
    torch.manual_seed(0)
    linear = nn.Linear(16, 16).bfloat16().requires_grad_(False)
    basis = TrainableBasis({Q: (16, 16)}, BasisConfig(loras_num=3, linear=2, lora_keys_dim=4), query=12)
    basis.layers[0].up.data.normal_()
    basis.attach(nn.Sequential(linear), {"0": [LayerSlice(Q, 0)]})
    x, query = torch.randn(2, 40, 16).bfloat16(), torch.randn(2, 3, 4)
    coefficients = basis.route(query)
    made = linear(x)
    layer = basis.published()[Q]
    for row, out, c in zip(x, made, coefficients[Q]):
        weight = linear.weight.double() + plain_delta(layer.A.double(), layer.B.double(), c.double())
        expected = row.double() @ weight.T + linear.bias.double()
        assert (out.double() - expected).norm() / expected.norm() < 2**-7
    assert made.dtype == torch.bfloat16
    made.float().square().sum().backward()
    assert {parameter.grad.dtype for parameter in basis.parameters()} == {torch.float32}


def test_layers_have_their_published_names():
    basis = tiny_basis(TinyBase())
    assert list(basis.published()) == [f"{BLOCK}.attn.to_q", f"{BLOCK}.attn.to_v", MODULATION, OUT]
