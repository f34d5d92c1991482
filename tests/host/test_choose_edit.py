"""Choose Edit in a real host, against the Analogy Encoder and Fit Mixture put together by hand."""

from __future__ import annotations

import parity
import pytest
import standins
import torch

pytestmark = pytest.mark.usefixtures("one_thread")


def pictures() -> list[torch.Tensor]:
    """a, a', b, and a pair that shows something else; (1, H, W, 3)."""
    scenes = (False, "house"), (True, "house"), (False, "tree"), (False, "tree"), (True, "tree")
    made = [standins.picture(*scene, size=(48, 48))[None] for scene in scenes]
    made[4] = made[4].flip(-1)
    return made


@pytest.fixture
def basis(host, tmp_path):
    return host.core.load_basis(parity.write_checkpoint(tmp_path, "tanh_sum_4"))


@pytest.fixture
def choose(host, basis, clip_vision):
    def choose(**given):
        return host.node("LoRWeBChooseEdit").execute(basis, clip_vision=clip_vision(16), **given).result

    return choose


@pytest.fixture
def route(host, basis, clip_vision):
    """Ask the Analogy Encoder."""

    def route(a, a_prime, b) -> torch.Tensor:
        (mixture,) = host.node("LoRWeBAnalogyEncoder").execute(basis, a, a_prime, b, clip_vision(16)).result
        return mixture.table

    return route


def without(table: torch.Tensor, origin: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    edit = table - origin
    part = ((edit * change).sum(-1) / (change * change).sum(-1)).clamp(0, 1)
    return origin + 1.2 * (edit - part[:, None] * change)


def test_under_a_mask_the_example_is_a_but_for_the_chosen_part(host, choose, route):
    a, a_prime, b, *_ = pictures()
    mask = torch.zeros(1, 48, 48)
    mask[:, 10:30, 5:25] = 1
    expected = a.clone()
    expected[:, 10:30, 5:25] = a_prime[:, 10:30, 5:25]
    (analogy,) = host.node("LoRWeBAnalogy").execute(a, a_prime, b, megapixels=0.02, layout="sequence").result
    for given in ({"a": a, "a_prime": a_prime, "b": b}, {"analogy": analogy}):
        mixture, chosen, after, shown = choose(mask=mask, softness=0.0, **given)
        assert torch.equal(after, expected)
        torch.testing.assert_close(mixture.table, route(a, expected, b))
        assert torch.equal(chosen.triplets[0].pairs[0][1], expected[0])
        assert shown.std() > 0.05
    assert (chosen.layout, chosen.megapixels) == ("sequence", 0.02)


def test_an_unwanted_change_is_taken_out(choose, route):
    a, a_prime, b, c, c_prime = pictures()
    mixture, _, after, _ = choose(a=a, a_prime=a_prime, b=b, unwanted_a=c, unwanted_a_prime=c_prime)
    expected = without(route(a, a_prime, b), route(a, a, b), route(c, c_prime, b) - route(c, c, b))
    torch.testing.assert_close(mixture.table, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mixture.origin.table, route(a, a, b))
    assert torch.equal(after, a_prime)


def test_each_b_has_its_own_mixture(choose, route):
    a, a_prime, b, c, c_prime = pictures()
    bs = torch.cat([b, a])
    mixture, *_ = choose(a=a, a_prime=a_prime, b=bs, unwanted_a=c, unwanted_a_prime=c_prime)
    for i, one in enumerate(bs[:, None]):
        expected = without(route(a, a_prime, one), route(a, a, one), route(c, c_prime, one) - route(c, c, one))
        torch.testing.assert_close(mixture.table[:, i], expected, atol=1e-5, rtol=1e-4)


def test_what_is_fitted_first_is_what_fit_mixture_finds(host, choose, load_flux, vae):
    a, a_prime, b, c, c_prime = pictures()
    model, tensors = load_flux(), parity.load_parity()
    positive = [[tensors["txt"].float(), {"pooled_output": tensors["pooled"].float(), "guidance": 2.5}]]
    (analogy,) = host.node("LoRWeBAnalogy").execute(a, a_prime, b, megapixels=0.01).result
    fitting = {"model": model, "vae": vae, "positive": positive}
    mixture, *_ = choose(analogy=analogy, unwanted_a=c, unwanted_a_prime=c_prime, fit_steps=2, **fitting)

    def fit(a, a_prime) -> torch.Tensor:
        start, *_ = choose(a=a, a_prime=a_prime, b=b)
        widgets = {i.id: i.default for i in host.node("LoRWeBFitMixture").GET_SCHEMA().inputs if hasattr(i, "default")}
        small = {"steps": 2, "megapixels": 0.01, "preview_every": 0}
        given = {k: v for k, v in {**widgets, **fitting, **small}.items() if v is not None}
        return host.node("LoRWeBFitMixture").execute(**given, a=a, a_prime=a_prime, mixture=start).result[0]

    both, unwanted = fit(a, a_prime), fit(c, c_prime)
    expected = without(both.table, both.origin.table, unwanted.table - unwanted.origin.table)
    torch.testing.assert_close(mixture.table, expected, atol=1e-5, rtol=1e-4)


def test_bad_input_is_refused_in_words(host, choose):
    a, a_prime, b, c, _ = pictures()
    example = {"a": a, "a_prime": a_prime, "b": b}
    for given, words in (
        ({"unwanted_a": c}, "Choose Edit has no unwanted_a_prime"),
        ({"unwanted_a": c, "unwanted_a_prime": c}, "Unwanted pair 1 shows no change"),
        ({"unwanted_a": a, "unwanted_a_prime": a_prime}, "they show the same change"),
        ({"mask": torch.zeros(1, 48, 48)}, "mask is empty"),
        ({"mask": torch.ones(1, 48, 48)}, "mask is full"),
        ({"mask": torch.ones(2, 48, 48)}, "2 masks and 1 pairs"),
        ({"fit_steps": 2}, "Choose Edit has no model and no vae and no positive to fit with"),
    ):
        with pytest.raises(host.core.LoRWebError, match=words):
            choose(**example, **given)


def test_a_basis_without_coefficients_is_chosen_from_by_a_mask_only(host, tmp_path):
    a, a_prime, b, c, c_prime = pictures()
    basis = host.core.load_basis(parity.write_activation_checkpoint(tmp_path, "caa'b", "avg"))
    execute = host.node("LoRWeBChooseEdit").execute
    mask = torch.zeros(1, 48, 48)
    mask[:, :20] = 1
    assert not execute(basis, a=a, a_prime=a_prime, b=b, mask=mask).result[0].coefficients
    with pytest.raises(host.core.LoRWebError, match="Choose by a mask"):
        execute(basis, a=a, a_prime=a_prime, b=b, unwanted_a=c, unwanted_a_prime=c_prime)
