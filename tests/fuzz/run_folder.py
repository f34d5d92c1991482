"""Broken run folders: the losses, the state to go on from, and what stands in the folder's place."""

from __future__ import annotations

import csv
import io
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from .case import Case
from .mutations import BYTES, OBSTACLES, in_place_of, listed, words

FIELDS = ("number", "loss", "learning_rate", "gradient", "seconds")
STEPS = 3


def losses(steps: int = STEPS) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([FIELDS, *([step, 0.5 / step, 1e-3, 0.1, 0.01] for step in range(1, steps + 1))])
    return text.getvalue().encode()


def a_row_of_another_kind(random: Random, content: bytes) -> bytes:
    rows = listed("""
        x,y,z 1 1,2,3,4,5,6,7 ,,,, 1,a,b,c,d 1.5,1,1,1,1 nan,nan,nan,nan,nan -1,1,1,1,1 4,nan,inf,-inf,1e999 "4
        4_0,1,1,1,1 4;1;1;1;1 ４,１,１,１,１ 0x4,1,1,1,1 2,1,1,1,1
    """)
    odd = [b"", b'"' * 99, b"9" * 5000 + b",1,1,1,1", b"4," + b"9" * 200_000, b"\0,\0", b"4,1,1,1,1\0", b"\xff\xfe"]
    row = random.choice([*(row.encode() for row in rows), *odd])
    lines = content.splitlines(keepends=True)
    place = random.randrange(len(lines) + 1)
    return b"".join([*lines[:place], row + random.choice((b"\r\n", b"\n", b"")), *lines[place:]])


def nul_in_the_losses(random: Random, content: bytes) -> bytes:
    place = random.randrange(len(content))
    return content[:place] + b"\0" * random.choice((1, 4096)) + content[place:]


def another_encoding(random: Random, content: bytes) -> bytes:
    return content.decode().encode(random.choice(("utf-16", "utf-8-sig", "cp500", "utf-32")))


def only_a_header(random: Random, content: bytes) -> bytes:
    return random.choice((losses(0), b"", b"\n", losses(0)[:9], losses().split(b"\n", 1)[1]))


LOSSES = [*[a_row_of_another_kind] * 4, nul_in_the_losses, another_encoding, only_a_header, *BYTES]


def a_state_of_another_kind(random: Random, kept: dict[str, Any]) -> Any:
    """Whole, and readable, but not what a training keeps."""
    return random.choice(
        [
            1,
            "x",
            [],
            {},
            None,
            torch.zeros(3),
            {"config": kept["config"]},
            {"state": kept["state"]},
            [kept],
            {"a": torch.ones(2)},
        ]
    )


def a_config_of_another_kind(random: Random, kept: dict[str, Any]) -> Any:
    return {**kept, "config": random.choice([None, 1, "0" * 64, ["x"], torch.zeros(2), {}, "\ud800"])}


def a_part_of_another_kind(random: Random, kept: dict[str, Any]) -> Any:
    key = random.choice(("done", "done", "done", "basis", "optimizer", "averaged"))
    done = [-1, 1.5, "3", None, 10**30, float("nan"), torch.tensor(2), torch.zeros(3), True, [1], float("inf")]
    others = [None, 1, [], {}, "x", torch.zeros(2), {"x": torch.zeros(2)}, {1: 2}, {"state": {}, "param_groups": []}]
    return {**kept, "state": {**kept["state"], key: random.choice(done if key == "done" else others)}}


def a_part_missing(random: Random, kept: dict[str, Any]) -> Any:
    key = random.choice(sorted(kept["state"]))
    return {**kept, "state": {other: value for other, value in kept["state"].items() if other != key}}


def parameters_of_another_kind(random: Random, kept: dict[str, Any]) -> Any:
    basis = dict(kept["state"]["basis"])
    name = random.choice(sorted(basis))
    values = basis[name]
    wrong = [
        values[..., :1],
        values.flatten(),
        values.double() * float("nan"),
        values * float("inf"),
        values.long(),
        values.bool(),
    ]
    basis[name] = random.choice([*wrong, values[:0], None, 1, "x", values.to(torch.complex64), values.to_sparse()])
    return {**kept, "state": {**kept["state"], "basis": basis}}


def an_optimizer_of_another_kind(random: Random, kept: dict[str, Any]) -> Any:
    optimizer = {
        "state": dict(kept["state"]["optimizer"]["state"]),
        "param_groups": [dict(g) for g in kept["state"]["optimizer"]["param_groups"]],
    }
    what = random.randrange(5)
    if what == 0:
        optimizer["param_groups"][0]["lr"] = random.choice([float("nan"), "x", None, -1, torch.zeros(3)])
    elif what == 1:
        optimizer["param_groups"][0]["params"] = random.choice([[], [0], ["a"], None, 5])
    elif what == 2:
        optimizer["state"][0] = random.choice([None, {}, 1, {"step": "x", "exp_avg": 1, "exp_avg_sq": None}])
    elif what == 3:
        optimizer["state"][0] = {
            **optimizer["state"].get(0, {}),
            "exp_avg": random.choice([torch.zeros(1), torch.full((2, 2), float("nan")), None]),
        }
    else:
        optimizer["param_groups"] = random.choice([[], None, 1, [{}], [1]])
    return {**kept, "state": {**kept["state"], "optimizer": optimizer}}


class Evil:
    """Its pickle opens a file."""

    def __reduce__(self):
        return open, ("pwned", "w")


def code_to_run(random: Random, kept: dict[str, Any]) -> Any:
    return random.choice([{**kept, "state": Evil()}, {**kept, "more": Evil()}, Evil()])


STATES: list[Callable[[Random, dict], Any]] = [
    a_state_of_another_kind,
    a_config_of_another_kind,
    a_part_of_another_kind,
    a_part_of_another_kind,
    a_part_missing,
    parameters_of_another_kind,
    an_optimizer_of_another_kind,
    an_optimizer_of_another_kind,
    code_to_run,
]


def make(seed: int, folder: Path) -> Case:
    """See Case. A training of a few steps was here; its losses, its state or its folder are broken."""
    import training_world

    from lorweb_core.training.settings.document import config_fingerprint

    random = Random(seed)
    config = replace(training_world.tiny_config(folder, ema_decay=random.choice((0.0, 0.5))), name="fuzzed")
    run = folder / "fuzzed"
    run.mkdir()
    trained = _training(config)
    for _ in range(STEPS):
        trained.step()
    kept = {"config": config_fingerprint(config), "state": trained.state()}
    (run / "losses.csv").write_bytes(losses(STEPS + 2))
    torch.save(kept, run / "resume.pt")

    ways: list[tuple[str, Callable]] = [
        *(("losses.csv", operator) for operator in (*LOSSES, *OBSTACLES)),
        *(("resume.pt", operator) for operator in (*STATES, *BYTES, *OBSTACLES)),
        *(("", obstacle) for obstacle in OBSTACLES),
    ]
    name, operator = ways[seed % len(ways)]
    path = run / name
    if operator in STATES:
        broken = operator(random, kept)
        if random.random() < 0.8:
            torch.save(broken, path)
        else:
            path.write_bytes(pickle.dumps(broken))
    elif operator in OBSTACLES:
        if not name:
            run.rename(folder / "moved")
        in_place_of(path, operator)
    else:
        path.write_bytes(operator(random, path.read_bytes()))
    what = f"{words(operator)}, {name or 'folder'}"
    return Case(what, ("fuzzed",), lambda: _load(config), lambda held: _check(held, kept, path.name), writes=True)


def _training(config):
    import training_world

    from lorweb_core.training.trainer import Training

    base = training_world.TinyBase()
    return Training(training_world.tiny_basis(base), base, training_world.TinySource(), config.train)


def _load(config):
    """As a training begins: look, go on, read the losses. What is refused must leave the training as it was."""
    from lorweb_core import LoRWebError
    from lorweb_core.training.run_folder import RunFolder

    run = RunFolder(config)
    training = _training(config)
    before = _plain(training.state())
    try:
        run.check()
        went_on = run.resume(training)
    except LoRWebError:
        assert _plain(training.state()) == before, "It was refused, and half of it was taken over."
        raise
    return training, went_on, run.losses()


def _plain(value: Any) -> Any:
    """A state as what can be compared."""
    if isinstance(value, dict):
        return {key: _plain(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(held) for held in value]
    return (value.dtype, value.tolist()) if isinstance(value, torch.Tensor) else value


def _check(held, kept: dict[str, Any], broken: str) -> None:
    """A state gone on with is the one that was kept, or what a damaged file still says; losses are numbers."""
    training, went_on, steps = held
    assert not Path("pwned").exists()
    if went_on and broken != "resume.pt":
        assert _plain(training.state()) == _plain(kept["state"])
    assert type(training.done) is int and 0 <= training.done <= 10**9
    for name, values in training.basis.named_parameters():
        assert values.isfinite().all(), f"{name} is not finite"
    for step in steps:
        assert type(step.number) is int and step.number <= training.done
        assert all(type(value) is float for value in step[1:])
    if went_on and broken == "resume.pt":
        assert [step.number for step in steps] == list(range(1, min(training.done, STEPS + 2) + 1))
    training.step()
