"""The class of all nodes of the pack, whose inputs are held against their schema."""

from __future__ import annotations

import math
from functools import wraps
from numbers import Integral, Real
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...lorweb_core import LoRABasis, LoRWebError, Mixture
from ...lorweb_core.analogy import Analogy
from ...lorweb_core.errors import shown

PLAIN = (str, bool, int, float, dict, list, tuple)
"""What JSON can write where a link belongs; the host passes it on."""

OWN_TYPES = {"LORWEB_ANALOGY": Analogy, "LORWEB_BASIS": LoRABasis, "LORWEB_MIXTURE": Mixture, "IMAGE": Tensor}


class CheckedNode(io.ComfyNode):
    """Check a node's inputs against its schema before it runs.

    The host checks what is typed, but neither numbers that come through links nor what stands where a link belongs
    (execution.py, validate_inputs).
    """

    def __init_subclass__(cls, **options) -> None:
        super().__init_subclass__(**options)
        own = vars(cls).get("execute")
        if own and not hasattr(own.__func__, "__wrapped__"):  # the host's clone of a node has its method already
            cls.execute = classmethod(_checked(cls, own.__func__))


def _checked(described: type[io.ComfyNode], execute):
    """Let a node's method raise LoRWebError for inputs that are not what the schema of `described` says."""
    names = execute.__code__.co_varnames[1 : execute.__code__.co_argcount]

    @wraps(execute)
    def checked(node: type[io.ComfyNode], *args, **kwargs):
        schema, given = described.GET_SCHEMA(), dict(zip(names, args, strict=False)) | kwargs
        for wanted in schema.inputs:
            if wanted.id in given:
                for each, value in _held(schema, wanted, given[wanted.id]):
                    _check(schema.display_name, each, value)
        return execute(node, *args, **kwargs)

    return checked


def _held(schema: io.Schema, wanted: io.Input, held: Any) -> list[tuple[io.Input, Any]]:
    """List what an input holds, each value with the input that it is held against: of lists, and of growing inputs."""
    if schema.is_input_list and isinstance(held, (list, tuple)):
        return [(wanted, value) for value in held]
    if isinstance(wanted, io.Autogrow.Input) and isinstance(held, dict):
        grown = wanted.template.cached_inputs
        return [(grown.get(name, wanted), value) for name, value in held.items()]
    return [(wanted, held)]


def _check(node: str, wanted: io.Input, value: Any) -> None:
    """Raise LoRWebError if an input does not hold what its schema says."""
    if value is None and wanted.optional:
        return
    expected = _expected(wanted, value)
    if expected:
        raise LoRWebError(f"{node}: {wanted.id} is {shown(value)}; expected {expected}.")


def _expected(wanted: io.Input, value: Any) -> str | None:
    """Say what was expected where a value is something else; None where it is as expected."""
    match wanted.get_io_type():
        case "INT":
            return _expected_whole_number(wanted, value)
        case "FLOAT":  # a slider's range is no limit for what comes through a link
            return None if _is_number(value, Real) else "a number"
        case "STRING" | "COMBO":
            return None if isinstance(value, str) else "a text"
        case "BOOLEAN":
            return None if isinstance(value, bool) else "true or false"
        case "CONDITIONING":
            return None if _is_conditioning(value) else "a CONDITIONING from another node"
        case kind if kind in OWN_TYPES:
            return None if isinstance(value, OWN_TYPES[kind]) else f"a {kind} from another node"
        case kind:
            return f"a {kind} from another node" if value is None or isinstance(value, PLAIN) else None


def _expected_whole_number(wanted: io.Input, value: Any) -> str | None:
    least = -math.inf if wanted.min is None else wanted.min
    most = math.inf if wanted.max is None else wanted.max
    if _is_number(value, Integral) and least <= value <= most:
        return None
    bounds = [f"from {least} on"] * math.isfinite(least) + [f"up to {most}"] * math.isfinite(most)
    return " ".join(["a whole number", *bounds])


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and (kind is Integral or math.isfinite(value))


def _is_conditioning(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, (list, tuple)) and len(each) == 2 and isinstance(each[0], Tensor) and isinstance(each[1], dict)
        for each in value
    )
