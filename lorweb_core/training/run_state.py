"""What a training goes on from, and whether it is that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import LoRWebError, shown
from ..files.atomic import replacing

_MOST = 2**53
"""Steps; what is more is no whole number in every kind of number."""


class RunState(NamedTuple):
    """Hold what is in the file of a state."""

    config: str
    """See `config_fingerprint`."""
    state: dict[str, Any]
    """See `Training.state`."""


class OtherLayers(ValueError):
    """Tell that a state is one of other layers."""


class Damaged(ValueError):
    """Tell that a state has something in it that no training leaves."""


def write_state(path: Path, config: str, state: Mapping[str, Any]) -> None:
    """Write a state. Raises LoRWebError if it could not be written; the old one stays then."""
    with replacing(path) as file:
        try:
            torch.save(RunState(config, dict(state))._asdict(), file)
        except RuntimeError as error:
            # What torch says of a file that it cannot end hides why: a full disk, say.
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def read_state(path: Path, mmap: bool = False) -> RunState:
    """Read a state. mmap: without reading its tensors.

    Raises LoRWebError if it is damaged, or no state of a training. What its tensors hold is for `check_tensors` and
    `check_moments`.
    """
    try:
        if not path.is_file():
            raise Damaged("no file")
        kept = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        return _checked(kept)
    except Exception as error:  # torch raises what its unpickler and its archive reader happen to
        raise damaged(path) from error  # what torch says then is of its own options, one of them unsafe


def damaged(path: Path) -> LoRWebError:
    """Say that a file is no state to go on from."""
    return LoRWebError(
        f"{shown(path)} cannot be read: it is damaged, or no state of a training. Delete it to start over, or give "
        "another name."
    )


def _checked(kept: Any) -> RunState:
    config, state = kept["config"], kept["state"]
    done, averaged = state["done"], state["averaged"]
    whole = (
        isinstance(config, str)
        and type(done) is int
        and 0 <= done <= _MOST
        and isinstance(state["basis"], dict)
        and isinstance(state["optimizer"]["state"], dict)
        and (averaged is None or isinstance(averaged, dict))
    )
    if not whole:
        raise Damaged("not what a training leaves")
    return RunState(config, state)


def check_tensors(given: Mapping[str, Any], own: Mapping[str, Tensor]) -> None:
    """Check that tensors can take the place of a training's own, of the basis or of its average.

    Raises OtherLayers for other names or shapes, and Damaged for another kind of values, or values that are not finite.
    """
    if any(not isinstance(values, Tensor) for values in given.values()):
        raise Damaged("not a tensor")
    if {name: values.shape for name, values in given.items()} != {name: values.shape for name, values in own.items()}:
        raise OtherLayers("names or shapes")
    for name, values in given.items():
        _check_values(values)
        if values.dtype != own[name].dtype:
            raise Damaged(f"{name} is {values.dtype}")


def check_moments(given: Mapping[Any, Any], parameters: Sequence[Tensor], names: Sequence[str]) -> None:
    """Check that an optimizer's state is one of these parameters.

    given: index → `step` and, by these names, tensors of the parameter's shape; more is left to the optimizer. Raises
    Damaged if it is not.
    """
    for index, moments in given.items():
        if type(index) is not int or not 0 <= index < len(parameters) or not isinstance(moments, dict):
            raise Damaged("a parameter that is not there")
        if any(getattr(moments.get(name), "shape", None) != parameters[index].shape for name in names):
            raise Damaged(f"{' or '.join(names)} of parameter {index}")
        _check_step(moments.get("step"), index)
        for values in moments.values():
            if isinstance(values, Tensor):
                _check_values(values)


def _check_step(step: Any, index: int) -> None:
    """Raise Damaged for anything but a number of steps, be it in a tensor."""
    if isinstance(step, Tensor):
        step = step.item() if step.numel() == 1 and step.device.type != "meta" else None
    if type(step) not in (int, float) or not 0 <= step <= _MOST:
        raise Damaged(f"the step of parameter {index}")


def _check_values(values: Tensor) -> None:
    """Raise Damaged for anything but plain tensors of finite real numbers."""
    plain = values.layout is torch.strided and values.device.type != "meta" and not values.is_quantized
    if not plain or values.is_complex() or not values.isfinite().all():
        raise Damaged("values that are not finite numbers")
