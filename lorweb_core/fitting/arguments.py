"""Read the options of the command `fit`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..arguments import a_path, a_text, check_mixture_out
from ..errors import LoRWebError, shown
from ..files.image_file import read_image
from .coefficients import FITTED
from .settings import FitSettings

STARTS = ("routed", "zeros")
"""Points that a fit may begin at, beside a mixture's file: the one that the pairs are routed to, or that of zeros."""

_DEFAULTS = FitSettings()


class FitRequest(NamedTuple):
    """Hold what is fitted to what, and where it goes."""

    pairs: list[tuple[Tensor, Tensor]]
    basis: str
    model: str
    out: Path
    config: str | None
    encoder: str | None
    start: str
    """One of STARTS, or the file of a mixture."""
    settings: FitSettings
    text_tokens: int
    quantize: bool
    offload: bool
    device: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `fit` to a parser."""
    add = parser.add_argument
    pair: dict[str, Any] = {"type": a_path, "required": True, "action": "append", "metavar": "IMAGE"}
    add("--a", **pair, help="the example before the edit; repeatable, pair by pair")
    add("--a-prime", **pair, help="the same example after the edit")
    add("--basis", type=a_path, required=True, metavar="FILE", help="the LoRWeB checkpoint")
    add("--model", type=a_path, required=True, metavar="DIR_OR_ID", help="FLUX.1-Kontext in diffusers' layout")
    add("--out", type=a_path, required=True, metavar="FILE", help="where to write the mixture, as .safetensors")
    add("--config", type=a_path, metavar="YAML", help="the basis's training config (default: the one beside it)")
    add(
        "--encoder",
        type=a_path,
        metavar="DIR_OR_ID",
        help="the image encoder (default: the one the basis was trained with)",
    )
    add(
        "--start",
        type=a_path,
        default="routed",
        metavar="routed|zeros|FILE",
        help="begin where the encoder routes the example to, at a query of zeros (without an image encoder), or at a "
        "saved mixture (default: %(default)s)",
    )
    add("--fitted", choices=tuple(FITTED), default=_DEFAULTS.fitted, help="what is fitted (default: %(default)s)")
    _number(add, "steps", "steps, at most")
    _number(add, "rate", "learning rate")
    _number(add, "noises", "noise levels in each step")
    _number(add, "seed", "of noises and views")
    _number(add, "pull", "how much the start pulls the mixture back")
    _number(add, "views", "views of each pair, the changed ones among them")
    for kind, done in {"crops": "cut out", "shifts": "shifted", "flips": "mirrored"}.items():
        default = getattr(_DEFAULTS, kind)
        said = f"views may be {done}; not for edits that depend on it (default: {'on' if default else 'off'})"
        add(f"--{kind}", action=argparse.BooleanOptionalAction, default=default, help=said)
    _number(add, "megapixels", "size of the grid in 1024×1024 pixels")
    add("--prompt", type=a_text, default=_DEFAULTS.prompt, help="what the base is told beside (default: nothing)")
    add("--text-tokens", type=int, default=512, help="length of the prompt's encoding (default: %(default)s)")
    add("--quantize", action="store_true", help="hold the base in 8 bits, on CUDA (needs bitsandbytes)")
    add("--offload", action="store_true", help="keep the base's weights in the CPU's memory: slower")
    add("--device", help="cuda, mps or cpu (default: the best there is)")


def _number(add: Callable[..., Any], name: str, what: str) -> None:
    default = getattr(_DEFAULTS, name)
    add(f"--{name}", type=type(default), default=default, help=f"{what} (default: %(default)s)")


def read_arguments(given: argparse.Namespace) -> FitRequest:
    """Check what can be checked at once, and read the pictures. Raises LoRWebError."""
    out = Path(given.out)
    check_mixture_out(out)
    if len(given.a) != len(given.a_prime):
        raise LoRWebError(
            f"--a is given {len(given.a)} times and --a-prime {len(given.a_prime)} times; give them pair by pair."
        )
    for option, path in {"--basis": given.basis, "--start": given.start}.items():
        if Path(path).resolve() == out.resolve():
            raise LoRWebError(f"--out {shown(out)} would overwrite {option}. Choose another name.")
    chosen: dict[str, Any] = {field.name: getattr(given, field.name, field.default) for field in fields(FitSettings)}
    settings = FitSettings(**chosen)
    settings.check()
    pairs = [
        (read_image(a, "--a"), read_image(a_prime, "--a-prime"))
        for a, a_prime in zip(given.a, given.a_prime, strict=True)
    ]
    return FitRequest(
        pairs,
        given.basis,
        given.model,
        out,
        given.config,
        given.encoder,
        given.start,
        settings,
        given.text_tokens,
        given.quantize,
        given.offload,
        given.device,
    )
