from __future__ import annotations

import pytest
import torch

from lorweb_core import load_basis
from lorweb_core.space.fingerprint import fingerprint
from lorweb_core.space.gram import basis_gram, inner, lora_sizes


@pytest.fixture
def basis(weights, save):
    layers = {name.rpartition(".lora_A")[0] for name in weights if name.endswith(".lora_A")}
    alphas = {f"{layer}.alpha": torch.tensor(3.0) for layer in layers}
    return load_basis(save(weights | alphas, query_mode="cat-aa'b"))


def dense(basis, layer: str) -> torch.Tensor:
    """Each LoRA's change as a full matrix, (N, in, out), float64."""
    part = basis.layers[layer]
    return part.scale * (part.A.double() @ part.B.double())


def test_inner_products_are_those_of_the_full_matrices(basis):
    for gram, layer in zip(basis_gram(basis), basis.layers):
        changes = dense(basis, layer).flatten(1)
        torch.testing.assert_close(gram, changes @ changes.T, rtol=1e-5, atol=1e-9)


def test_lengths_and_angles_of_mixtures_come_of_it(basis):
    one, other = (basis.route(torch.randn(12)) for _ in range(2))
    gram = basis_gram(basis)
    products = inner(gram, one.table, other.table)
    for product, layer in zip(products, basis.layers):
        expected = (one.delta(layer).double() * other.delta(layer).double()).sum()
        torch.testing.assert_close(product, expected, rtol=1e-4, atol=1e-9)
    per_lora = [
        sum((c[n] * dense(basis, layer)[n]).square().sum() for layer, c in one.coefficients.items()).sqrt()
        for n in range(4)
    ]
    torch.testing.assert_close(lora_sizes(gram, one.table), torch.stack(per_lora), rtol=1e-5, atol=1e-9)


def test_it_is_worked_out_once_and_may_be_stopped(basis):
    def stop(done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        basis_gram(basis, stop)
    first = basis_gram(basis)
    assert basis_gram(basis, stop) is first


def test_fingerprints_tell_values_and_names_apart(basis, weights, save):
    def of(tensors: dict) -> str:
        of.count += 1
        return fingerprint(load_basis(save(tensors, name=f"basis-{of.count}", query_mode="cat-aa'b")))

    of.count = 0
    plain = of(weights)
    assert plain == of(dict(reversed(weights.items())))
    assert plain != fingerprint(basis)  # has alphas
    one = min(weights)
    assert plain != of({name.replace("blocks.0", "blocks.1"): t for name, t in weights.items()})
    assert plain != of({name: t.bfloat16() for name, t in weights.items()})
    assert plain != of(weights | {one: weights[one] + 1})
    assert len(plain) == 64
