"""Flow matching: its timesteps, its loss and its sampling, against the formulas written out."""

from __future__ import annotations

import math
from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from lorweb_core.training.flow_matching import draw_timesteps, flow_loss, noised, sample, shifted, timestep_weights
from lorweb_core.training.seeds import generator

KINDS = ("weighted", "linear", "sigmoid", "shift")


@pytest.mark.parametrize("kind", KINDS)
def test_timesteps_are_above_0_and_at_most_1_and_the_seed_decides_them(kind):
    t = draw_timesteps(kind, 5000, 1024, generator(3))
    assert t.shape == (5000,)
    assert t.min() > 0
    assert t.max() <= 1
    assert torch.equal(t, draw_timesteps(kind, 5000, 1024, generator(3)))
    assert not torch.equal(t, draw_timesteps(kind, 5000, 1024, generator(4)))


@pytest.mark.parametrize(
    ("kind", "median"),
    [("weighted", 0.5), ("linear", 0.5), ("sigmoid", 0.5), ("shift", shifted(torch.tensor(0.5), 1024))],
)
def test_timesteps_are_spread_as_their_kind_says(kind, median):
    t = draw_timesteps(kind, 20000, 1024, generator(0))
    assert t.median().item() == pytest.approx(float(median), abs=0.02)
    within = ((t > 0.269) & (t < 0.731)).float().mean().item()
    # The logistic function of a normal number is between 0.269 and 0.731 where that number is between -1 and 1.
    if kind != "shift":
        assert within == pytest.approx(0.6827 if kind == "sigmoid" else 0.462, abs=0.02)


def test_weighted_timesteps_count_as_a_bell_that_is_1_on_average():
    t = torch.arange(1, 1001) / 1000
    weights = timestep_weights("weighted", t)
    assert weights.mean().item() == pytest.approx(1, abs=1e-5)
    assert weights.min() == weights[-1] == 0  # all noise
    assert weights.argmax() == 499
    assert (weights[:499].diff() > 0).all()
    assert (weights[500:].diff() < 0).all()
    for place in (1, 250, 731):
        bell = math.exp(-2 * ((1000 - place) / 1000 - 0.5) ** 2) - math.exp(-0.5)
        mean = sum(math.exp(-2 * (i / 1000 - 0.5) ** 2) - math.exp(-0.5) for i in range(1000)) / 1000
        assert weights[place - 1].item() == pytest.approx(bell / mean, rel=1e-4)


@pytest.mark.parametrize("kind", ["linear", "sigmoid", "shift"])
def test_other_timesteps_count_alike(kind):
    assert torch.equal(timestep_weights(kind, torch.tensor([0.1, 0.5, 1.0])), torch.ones(3))


@pytest.mark.parametrize(("tokens", "mu"), [(256, 0.5), (4096, 1.15), (2176, 0.825)])
def test_the_shift_is_that_of_flux(tokens, mu):
    t = torch.tensor([0.01, 0.3, 1.0])
    expected = [math.exp(mu) / (math.exp(mu) + (1 / value - 1)) for value in (0.01, 0.3, 1.0)]
    torch.testing.assert_close(shifted(t, tokens), torch.tensor(expected))


@settings(max_examples=40)
@given(
    n=st.integers(1, 3),
    height=st.integers(1, 3),
    width=st.integers(1, 3),
    result=st.sampled_from([1.0, 0.25, 4.0]),
    seed=st.integers(0, 99),
)
def test_the_loss_is_the_weighted_mean_of_squared_errors(n, height, width, result, seed):
    torch.manual_seed(seed)
    velocity, target, noise = torch.randn(3, n, 2, 2 * height, 2 * width)
    weights = torch.rand(n)
    losses = flow_loss(velocity, target, noise, weights, result)
    assert losses.shape == (n,)
    for i in range(n):
        total = count = 0.0
        for c in range(2):
            for y in range(2 * height):
                for x in range(2 * width):
                    counts = result if y >= height and x >= width else 1.0
                    error = velocity[i, c, y, x] - (noise[i, c, y, x] - target[i, c, y, x])
                    total += counts * error.item() ** 2
                    count += counts
        assert losses[i].item() == pytest.approx(weights[i].item() * total / count, rel=1e-4)


def test_the_loss_of_half_precision_velocities_is_float32():
    velocity, target, noise = torch.randn(3, 1, 2, 4, 4)
    assert flow_loss(velocity.bfloat16(), target, noise, torch.ones(1)).dtype == torch.float32


def test_noise_is_mixed_in_by_each_ones_time():
    target, noise = torch.randn(2, 3, 2, 4, 4)
    x = noised(target, noise, torch.tensor([0.0, 1.0, 0.25]))
    assert torch.equal(x[0], target[0])
    assert torch.equal(x[1], noise[1])
    torch.testing.assert_close(x[2], 0.75 * target[2] + 0.25 * noise[2])


@settings(max_examples=20)
@given(steps=st.integers(1, 12), tokens=st.sampled_from([4, 256, 4096]))
def test_straight_flows_are_sampled_exactly(steps, tokens):
    """The velocity towards one target is the same all along the way, so that Euler's steps are exact."""
    target, noise = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    asked = []

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        asked.append(t)
        return (x - target) / t.view(-1, 1, 1, 1)

    torch.testing.assert_close(sample(velocity, noise, steps, tokens), target, rtol=0, atol=1e-6)
    times = torch.stack(asked)
    assert times.shape == (steps, 2)
    even = torch.tensor([1 - i / steps for i in range(steps)])
    torch.testing.assert_close(times[:, 0], shifted(even, tokens))


def test_euler_steps_are_as_long_as_the_times_are_apart():
    """dx/dt = x, from x = 1 at t = 1: one factor 1 − (t_i − t_i+1) a step."""
    noise = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    made = sample(lambda x, t: x, noise, 4, 256)
    times = [math.exp(0.5) / (math.exp(0.5) + 1 / t - 1) for t in (1, 0.75, 0.5, 0.25)] + [0.0]
    expected = math.prod(1 + (then - now) for now, then in pairwise(times))
    assert made.flatten().tolist() == pytest.approx([expected] * 4, rel=1e-6)


def test_generators_of_other_numbers_give_other_values():
    made = {
        tuple(torch.rand(3, generator=generator(*numbers)).tolist()) for numbers in [(1,), (2,), (1, 0), (1, 2), (2, 1)]
    }
    # (1,) and (1, 0) may be one: a run has as many numbers everywhere.
    assert len(made) >= 4
