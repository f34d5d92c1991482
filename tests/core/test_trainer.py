"""The loop: its steps against plain computations, what it does when numbers end, and what it leaves alone."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training_world import TinyBase, TinySource, parameters_of, plain_velocity, tiny_basis, tiny_config

from lorweb_core import LoRWebError
from lorweb_core.training.flow_matching import draw_timesteps, noised, timestep_weights
from lorweb_core.training.objective import move_batch
from lorweb_core.training.optimizer import learning_rate, make_optimizer
from lorweb_core.training.seeds import generator
from lorweb_core.training.settings.config import OptimizerSettings, TrainSettings
from lorweb_core.training.trainer import Diverged, OneProcess, Training


def training(source=None, dtype=torch.float64, routing=None, **settings) -> Training:
    base = TinyBase(dtype)
    train = tiny_config("runs", **settings).train
    return Training(tiny_basis(base, **(routing or {})), base, source or TinySource(), train)


def copies(basis: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in basis.named_parameters()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def plain_loss(run: Training, parameters: dict, draw: int) -> Tensor:
    """Of each analogy of a draw, computed with weights W + ΔW."""
    settings, batch = run.settings, run.source.draw(draw)
    random = generator(settings.seed, 1, draw)
    t = draw_timesteps(settings.timestep_type, len(batch.target), 4, random)
    noise = torch.randn(batch.target.shape, generator=random)
    batch = move_batch(batch, run.base)
    x = noised(batch.target, noise, t).to(run.base.dtype)
    error = (plain_velocity(run.base, parameters, run.basis.config, x, t, batch) - (noise - batch.target)).square()
    error[..., 2:, 2:] *= settings.result_weight
    per_picture = error.sum((1, 2, 3)) / (error[0].numel() * (3 + settings.result_weight) / 4)
    return per_picture * timestep_weights(settings.timestep_type, t)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_accumulation_steps": 2, "max_grad_norm": 0.01},
        {"timestep_type": "weighted", "result_weight": 4.0, "lr": 2e-2},
    ],
    ids=["plain", "accumulated and clipped", "weighted"],
)
def test_steps_are_those_of_a_plain_computation(settings):
    """Three steps of AdamW, written out, on the mean loss of all draws of a step."""
    run = training(**settings)
    parts, lr = run.settings.gradient_accumulation_steps, run.settings.lr
    params = run.settings.optimizer_params
    (first, second), decay, eps = params.betas, params.weight_decay, params.eps
    plain = parameters_of(run.basis)
    flat = [value for held in plain.values() for value in held.values()]
    means, squares = [torch.zeros_like(value) for value in flat], [torch.zeros_like(value) for value in flat]
    for step in range(1, 4):
        losses = torch.cat([plain_loss(run, plain, (step - 1) * parts + part) for part in range(parts)])
        gradients = torch.autograd.grad(losses.mean(), flat)
        norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
        clip = min(1.0, run.settings.max_grad_norm / norm)
        for value, gradient, mean, square in zip(flat, gradients, means, squares):
            gradient = gradient * clip
            mean.mul_(first).add_((1 - first) * gradient)
            square.mul_(second).add_((1 - second) * gradient**2)
            with torch.no_grad():
                value.mul_(1 - lr * decay)
                value -= lr * (mean / (1 - first**step)) / ((square / (1 - second**step)).sqrt() + eps)
        done = run.step()
        assert (done.number, done.learning_rate) == (step, lr)
        assert done.loss == pytest.approx(losses.mean().item(), rel=1e-5)
        assert done.gradient == pytest.approx(norm, rel=1e-5)
        for name, layer in run.basis.named_layers():
            for key, parameter in layer.named_parameters():
                torch.testing.assert_close(parameter.data, plain[name][key].data, rtol=1e-5, atol=1e-7)


def test_accumulated_gradients_are_those_of_one_large_batch():
    """Two draws of two analogies against the four at once, with the noise that each has."""
    run = training(gradient_accumulation_steps=2)
    run._gradients()
    plain = parameters_of(run.basis)
    torch.cat([plain_loss(run, plain, draw) for draw in (0, 1)]).mean().backward()
    for name, layer in run.basis.named_layers():
        for key, parameter in layer.named_parameters():
            torch.testing.assert_close(parameter.grad, plain[name][key].grad, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("routing", [{}, {"external_query": False, "external_query_model": None, "query_mode": "caa'"}])
def test_only_the_basis_is_learned_and_all_of_it(routing):
    run = training(routing=routing)
    weights = {name: value.clone() for name, value in run.base.model.state_dict().items()}
    before = copies(run.basis)
    run.step()
    assert same(weights, run.base.model.state_dict())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in run.base.model.parameters())
    assert not [name for name, value in copies(run.basis).items() if torch.equal(value, before[name])]


def test_the_loss_falls():
    """On draws that were not trained on; the analogies are the same."""
    run = training(dtype=torch.float32, steps=150, lr=2e-2)

    def loss() -> float:
        with torch.no_grad():
            return sum(run._objective(run.source.draw(i), generator(9, i)).mean().item() for i in range(1000, 1030))

    before, seen = loss(), []
    run.run(lambda step: seen.append(step.number))
    assert seen == list(range(1, 151))
    assert loss() < 0.7 * before


def test_a_run_that_is_interrupted_between_steps_goes_on_where_it_was():
    class Stop(Exception):
        pass

    def stop(step):
        if step.number == 2:
            raise Stop

    run, whole = training(steps=4), training(steps=4)
    with pytest.raises(Stop):
        run.run(stop)
    assert run.done == 2
    seen = []
    run.run(lambda step: seen.append(step.number))
    whole.run(lambda step: None)
    assert seen == [3, 4]
    assert same(copies(run.basis), copies(whole.basis))


def test_the_average_is_an_exponential_one_of_all_steps():
    run = training(ema_decay=0.75)
    expected = None
    for _ in range(4):
        run.step()
        now = copies(run.basis)
        expected = now if expected is None else {name: 0.75 * expected[name] + 0.25 * now[name] for name in now}
    with run.averaged() as basis:
        for name, value in copies(basis).items():
            torch.testing.assert_close(value, expected[name])
    assert same(copies(run.basis), now)


def test_without_an_average_what_is_saved_is_what_was_learned():
    run = training()
    run.step()
    learned = copies(run.basis)
    with run.averaged() as basis:
        assert same(copies(basis), learned)


def test_a_look_at_the_average_changes_nothing_of_the_training():
    run, other = training(ema_decay=0.5), training(ema_decay=0.5)
    for _ in range(3):
        run.step()
        other.step()
        with run.averaged(), torch.no_grad():
            pass
    assert same(copies(run.basis), copies(other.basis))
    with run.averaged() as one, other.averaged() as another:
        assert same(copies(one), copies(another))


class Broken(TinySource):
    """The second analogy of one draw has a broken target."""

    def __init__(self, at: int, value: float):
        super().__init__()
        self.at, self.value = at, value

    def draw(self, step: int):
        batch = super().draw(step)
        names = tuple(f"{name} of draw {step}, place {place}" for place, name in enumerate(batch.names))
        if step == self.at:
            batch.target[1, 0, 0, 0] = self.value
        return batch._replace(names=names)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_loss_that_is_no_number_stops_before_it_changes_anything(value, parts):
    at = 2 * parts + parts - 1  # the last draw of the third step
    run = training(Broken(at, value), gradient_accumulation_steps=parts, ema_decay=0.5)
    run.step()
    run.step()
    before, state = copies(run.basis), [value.clone() for value in _tensors(run.state())]
    with pytest.raises(Diverged) as error:
        run.step()
    assert "loss of step 3" in str(error.value)
    assert f"draw {at}, place 1" in str(error.value)
    assert "place 0" not in str(error.value)
    assert isinstance(error.value, LoRWebError)
    assert run.done == 2
    assert same(copies(run.basis), before)
    assert all(map(torch.equal, _tensors(run.state()), state))
    assert not any(p.grad is not None and p.grad.any() for p in run.basis.parameters())


def _tensors(state) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    held = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [tensor for value in held for tensor in _tensors(value)]


class FirstOfTwo(OneProcess):
    """The other process's second analogy has a broken loss."""

    num_processes = 2

    def gather(self, values: Tensor) -> Tensor:
        return torch.cat([values, values * torch.tensor([1, math.nan])])


def test_what_is_wrong_in_another_process_is_named_too():
    run = training(Broken(-1, 0.0))
    run.processes = FirstOfTwo()
    with pytest.raises(Diverged, match=r"loss of step 1 is not a finite number, on: analogy \d of draw 1, place 1\."):
        run.step()


def test_a_gradient_that_is_no_number_stops_before_it_changes_anything():
    run = training(Broken(-1, 0.0))
    run.step()
    before = copies(run.basis)
    run.basis.layers[1].up.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(Diverged) as error:
        run.step()
    for words in ("gradient of step 2", "draw 1, place 0", "draw 1, place 1", "lower lr"):
        assert words in str(error.value)
    assert run.done == 1
    assert same(copies(run.basis), before)
    assert all(parameter.grad is None for parameter in run.basis.parameters())


ONE_OF_TWO = """
import sys, torch
from accelerate import Accelerator
from training_world import TinyBase, TinySource, tiny_basis, tiny_config
from lorweb_core.training.trainer import Training

processes, base = Accelerator(cpu=True), TinyBase()
assert processes.num_processes == 2
# Processes begin alike, whatever each has drawn.
basis = tiny_basis(base, seed=1 + processes.process_index)
run = Training(basis, base, TinySource(), tiny_config("runs", ema_decay=0.5).train, processes)
losses = [run.step().loss for _ in range(2)]
if processes.is_main_process:
    torch.save((losses, run.state()["basis"], run.state()["averaged"]), sys.argv[1])
processes.wait_for_everyone()
processes.end_training()  # a process that ends before it leaves the group may be aborted
"""


def test_two_processes_of_accelerate_do_what_one_does_with_two_parts(tmp_path):
    pytest.importorskip("accelerate")
    tests = Path(__file__).parents[1]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (tests, tests.parent))),
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    children = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_OF_TWO, str(tmp_path / "made.pt")],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    try:
        printed = [child.communicate(timeout=120)[1].decode() for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], printed
    losses, basis, averaged = torch.load(tmp_path / "made.pt", weights_only=True)
    run = training(dtype=torch.float32, ema_decay=0.5, gradient_accumulation_steps=2)
    assert losses == pytest.approx([run.step().loss for _ in range(2)], rel=1e-5)
    torch.testing.assert_close(basis, run.state()["basis"])
    torch.testing.assert_close(averaged, run.state()["averaged"])


def test_detached_bases_leave_no_hook():
    run = training()
    run.step()
    run.detach()
    assert not any(module._forward_hooks for module in run.base.model.modules())


def rates(scheduler: str, steps: int = 100, warmup: int = 0) -> list[float]:
    settings = TrainSettings(lr=2.0, lr_scheduler=scheduler, steps=steps, lr_warmup_steps=warmup)
    return [learning_rate(settings, step) for step in range(steps)]


def test_a_constant_rate_stays_and_warms_up():
    assert rates("constant") == [2.0] * 100
    assert rates("constant", warmup=3)[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]


def test_a_cosine_rate_falls_to_nothing():
    made = rates("cosine")
    assert made[0] == 2
    assert made[50] == pytest.approx(1)
    assert made[25] == pytest.approx(1 + math.cos(math.pi / 4))
    assert all(now > then for now, then in pairwise(made))


def test_one_cycle_is_torchs_with_its_usual_start():
    made = rates("onecycle", steps=2000)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2.0, 2000, pct_start=0.05)
    for rate in made:
        # Its up and its down are one step shorter each than ours.
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], abs=0.06)
        optimizer.step()
        theirs.step()
    assert max(made) == pytest.approx(2)


def test_the_optimizer_has_the_settings_of_the_config():
    params = OptimizerSettings(betas=(0.5, 0.7), weight_decay=0.3, eps=1e-5)
    settings = TrainSettings(optimizer="adamw", lr=0.25, optimizer_params=params)
    made = make_optimizer([torch.zeros(1, requires_grad=True)], settings)
    assert type(made) is torch.optim.AdamW
    (group,) = made.param_groups
    assert (group["betas"], group["weight_decay"], group["eps"], group["lr"]) == ((0.5, 0.7), 0.3, 1e-5, 0.25)


def test_an_8_bit_optimizer_that_is_not_installed_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.optim", None)
    with pytest.raises(LoRWebError, match="pip install bitsandbytes.*train.optimizer=adamw"):
        make_optimizer([torch.zeros(1, requires_grad=True)], TrainSettings())


def test_a_training_that_cannot_be_made_leaves_no_hook(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.optim", None)
    run = training()
    run.detach()
    with pytest.raises(LoRWebError, match="bitsandbytes"):
        Training(run.basis, run.base, run.source, TrainSettings())
    assert not any(module._forward_hooks for module in run.base.model.modules())
