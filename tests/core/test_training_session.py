"""A training from beginning to end, on a base that is small enough: what is told, what is kept, what is left behind."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from training_world import TinyBase, TinySource, tiny_config

from lorweb_core import LoRWebError, load_basis
from lorweb_core.training.run_folder import RunFolder
from lorweb_core.training.session import Callbacks, TrainingSession
from lorweb_core.training.settings.config import SampleSettings, SaveSettings
from lorweb_core.training.trainer import OneProcess, Step

STEPS = 6


class Cancelled(Exception):
    pass


class Noted(Callbacks):
    """What was told, and a cancel after some step."""

    cancels = (Cancelled,)

    def __init__(self, cancel_after: int | None = None):
        self.events: list[tuple] = []
        self.cancel_after = cancel_after

    def on_begin(self, values: int, done: int) -> None:
        self.events.append(("begin", done))
        self.values = values

    def on_preview(self, strips: list[torch.Tensor]) -> None:
        self.events.append(("preview", len(strips)))

    def on_step(self, step: Step, steps: int) -> None:
        self.events.append(("step", step.number, steps))

    def on_stop(self, done: int) -> None:
        self.events.append(("stop", done))

    def check_cancelled(self) -> None:
        if self.events[-1] == ("step", self.cancel_after, STEPS):
            raise Cancelled


class Watched(TinyBase):
    """A base that notes within which contexts it is asked."""

    def __init__(self):
        super().__init__()
        self.within: list[object] = []
        self.asked: set[tuple] = set()

    @contextmanager
    def noted(self, what: object):
        self.within.append(what)
        try:
            yield
        finally:
            self.within.remove(what)

    def training(self, checkpointing: bool):
        return self.noted(("checkpointing", checkpointing))

    def guided(self, guidance: float):
        return self.noted(("guidance", guidance))

    def velocity(self, *args):
        self.asked.add((*self.within, torch.is_grad_enabled()))
        return super().velocity(*args)


def session(tmp_path, callbacks: Callbacks | None = None, base=None, processes=None, **options) -> TrainingSession:
    config = replace(
        tiny_config(tmp_path, steps=STEPS),
        save=SaveSettings(dtype="float32", save_every=4),
        sample=SampleSettings(sample_every=2, sample_steps=1, guidance_scale=3.0),
    )
    source = TinySource()
    return TrainingSession(
        RunFolder(config), base or TinyBase(), source, source.draw(0), callbacks or Callbacks(), processes, **options
    )


def files(made: TrainingSession) -> set[str]:
    return {path.relative_to(made.folder.path).as_posix() for path in made.folder.path.rglob("*.*") if path.is_file()}


def test_what_is_done_is_told_in_order_and_kept(tmp_path):
    made = session(tmp_path, noted := Noted())
    basis = made.run()
    steps = [("step", number, STEPS) for number in range(1, STEPS + 1)]
    preview = ("preview", 2)
    assert noted.events == [("begin", 0), steps[0], preview, *steps[1:3], preview, *steps[3:]]
    assert noted.values == sum(values.numel() for layer in basis.layers.values() for values in layer[:4])
    assert made.done == STEPS
    samples = {f"samples/{step:09d}_{place}.png" for step in (2, 4, 6) for place in (0, 1)}
    bases = {f"tiny{step}.{kind}" for step in ("", "_000000004") for kind in ("safetensors", "yaml")}
    pages = {"summary.html", "training.png", "training-dark.png"}
    assert files(made) == {"resume.pt", "losses.csv", *samples, *bases, *pages}


def test_the_basis_returned_is_the_one_that_was_saved(tmp_path):
    made = session(tmp_path)
    basis, saved = made.run(), load_basis(made.folder.basis_file)
    assert basis.identity == saved.identity
    assert any(layer.B.any() for layer in basis.layers.values())


def test_a_cancelled_session_is_saved_and_goes_on_bit_for_bit(tmp_path):
    whole = session(tmp_path / "whole").run()
    with pytest.raises(Cancelled):
        (first := session(tmp_path / "parts", noted := Noted(cancel_after=3))).run()
    assert noted.events[-1] == ("stop", 3)
    assert first.done == 3
    assert not first.folder.basis_file.exists()
    assert first.folder.page_file.exists()
    basis = session(tmp_path / "parts", noted := Noted()).run()
    assert noted.events[0] == ("begin", 3)
    for name, layer in whole.layers.items():
        assert all(map(torch.equal, layer[:4], basis.layers[name][:4]))


def test_an_error_that_is_no_cancel_leaves_what_was_saved_before(tmp_path):
    class Failing(Noted):
        def on_step(self, step: Step, steps: int) -> None:
            super().on_step(step, steps)
            if step.number == 5:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        (made := session(tmp_path, noted := Failing())).run()
    assert ("stop", 5) not in noted.events
    assert torch.load(made.folder.state_file, weights_only=True)["state"]["done"] == 4


def test_a_loss_that_is_no_number_keeps_the_steps_before(tmp_path):
    made = session(tmp_path, noted := Noted())
    draw = made.source.draw
    made.source.draw = lambda step: draw(step)._replace(target=draw(step).target * (torch.nan if step == 2 else 1))
    with pytest.raises(LoRWebError, match="The loss of step 3 is not a finite number"):
        made.run()
    assert noted.events[-1] == ("stop", 2)
    assert torch.load(made.folder.state_file, weights_only=True)["state"]["done"] == 2


def test_the_base_learns_and_samples_in_its_own_contexts_and_is_left_as_it_was(tmp_path):
    base = Watched()
    weights = {name: value.clone() for name, value in base.model.state_dict().items()}
    before = torch.get_rng_state()
    session(tmp_path, base=base).run()
    training = ("checkpointing", True)
    assert base.asked == {(training, True), (training, ("guidance", 3.0), False)}
    assert not base.within
    assert all(torch.equal(weights[name], value) for name, value in base.model.state_dict().items())
    assert not any(module._forward_hooks for module in base.model.modules())
    assert torch.equal(torch.get_rng_state(), before)


def test_samples_may_be_one_picture(tmp_path):
    made = session(tmp_path, samples_together=True)
    made.run()
    assert [path.name for path in made.folder.samples()] == ["000000002.png", "000000004.png", "000000006.png"]
    assert len(made.strips) == 2


def test_processes_other_than_the_first_write_nothing_and_hear_nothing(tmp_path):
    class Second(OneProcess):
        is_main_process = False

    expected = session(tmp_path).run()
    made = session(tmp_path, noted := Noted(), processes=Second())
    before = {name: (made.folder.path / name).stat().st_mtime_ns for name in files(made) - {"losses.csv"}}
    assert made.run().identity == expected.identity
    assert not noted.events
    assert before == {name: (made.folder.path / name).stat().st_mtime_ns for name in before}
