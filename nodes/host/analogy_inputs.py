"""The inputs of nodes that take a whole analogy, or its pictures one by one."""

from __future__ import annotations

from typing import Any, NamedTuple

from comfy_api.latest import io
from torch import Tensor

from ...lorweb_core import LoRWebError
from ...lorweb_core.analogy import SHOWN_PAIRS, Analogy
from ...lorweb_core.kept_references import EACH_STEP, Refresh
from ...lorweb_core.triplet import image_pairs, triplets
from . import shared_inputs, sockets
from .shared_inputs import sentences


class Speed(NamedTuple):
    """Say what of an analogy is computed."""

    sampled: str | None
    """One of layout.SAMPLED; None for what the basis was trained with."""
    refresh: Refresh = EACH_STEP


SPEEDS = {
    "as trained": Speed(None),
    "as published": Speed("grid"),
    "b' alone": Speed("result"),
    "b' alone, references kept": Speed("result", Refresh(every=0)),
}


def analogy(in_place_of: str, more: str = "") -> io.Input:
    """Describe the socket of a whole analogy. in_place_of: the inputs that then do not count; more: else told."""
    tooltip = f"From the node Analogy, in place of {in_place_of}, which then do not count."
    return sockets.Analogy.Input("analogy", optional=True, tooltip=sentences(tooltip, more))


def pictures(a: str, b: str, more: str = "") -> list[io.Input]:
    """Describe the sockets of a, a' and b, for graphs without an analogy. more: what else the tooltip of a' says."""
    return [*pair(a, more), io.Image.Input("b", optional=True, tooltip=b)]


def pair(a: str, more: str = "") -> list[io.Input]:
    """Describe the sockets of a and a', for graphs without an analogy. more: what else the tooltip of a' says."""
    return [io.Image.Input("a", optional=True, tooltip=a), shared_inputs.a_prime(more, optional=True)]


def megapixels() -> io.Input:
    """Ask for the size of what is sampled."""
    return io.Float.Input(
        "megapixels",
        default=1.0,
        min=0.01,
        max=16.0,
        step=0.01,
        tooltip="The size of what is sampled, in units of 1024 × 1024 pixels; 1.0 as published. In the "
        "layout grid that is the whole grid, and b' is a quarter of it; in sequence it is b' itself.",
    )


def demonstrations() -> io.Input:
    """Offer which of several pairs the model is shown."""
    return shared_inputs.choice(
        "demonstrations",
        SHOWN_PAIRS,
        "With several pairs for one b: show the model the first, as trained, or all of them.",
        optional=True,
        advanced=True,
    )


def speed(more: str = "") -> io.Input:
    """Offer what of an analogy is computed; more: what else its tooltip says."""
    return shared_inputs.choice(
        "speed",
        SPEEDS,
        sentences(
            "as published: the whole grid is sampled, and the references are computed in each step. b' alone: only its "
            "cell is sampled, in 0.39 of the time on a CPU. references kept: what the model makes of them in the first "
            "step serves the others; 28 steps then took 0.11. In the small world, with a FLUX.1 of toy size, errors "
            "were 1.02 to 1.10 of the published form's; nobody has measured Kontext's own weights yet. as trained: "
            "what the mixture's basis says, the whole grid where none is linked.",
            more,
            "The model must come from Mixed LoRA Apply or Keep References.",
        ),
        optional=True,
    )


def given_analogy(node: str, analogy: Analogy | None, pictures: dict[str, Tensor | None], **settings) -> Analogy:
    """Take the analogy that is linked, or make one of a, a_prime and b with these settings of an Analogy.

    Raises LoRWebError, naming `node`, where both are linked, or neither, or not all pictures.
    """
    check_linked(node, analogy, pictures)
    return analogy or Analogy(tuple(triplets(**pictures)), **settings)


def given_pairs(node: str, analogy: Analogy | None, pictures: dict[str, Tensor | None]) -> list[tuple[Tensor, Tensor]]:
    """Take every pair of the analogy that is linked, each once, or those of a and a_prime.

    Raises LoRWebError as `given_analogy` does.
    """
    check_linked(node, analogy, pictures)
    return analogy.all_pairs if analogy else image_pairs(**pictures)


def check_linked(node: str, analogy: Analogy | None, pictures: dict[str, Any]) -> None:
    """Raise LoRWebError, naming `node`, unless either an analogy is linked or every picture."""
    if analogy is not None:
        check_no_pictures(node, pictures)
        return
    missing = [name for name, image in pictures.items() if image is None]
    if missing:
        raise LoRWebError(f"{node} has no {' and no '.join(missing)}. Link Analogy to analogy, or every picture.")


def check_no_pictures(node: str, pictures: dict[str, Any]) -> None:
    """Raise LoRWebError, naming `node`, if pictures are linked beside its analogy."""
    linked = [name for name, image in pictures.items() if image is not None]
    if linked:
        raise LoRWebError(
            f"{node} has an analogy and also {' and '.join(linked)}. Unlink one of both: the analogy brings its own."
        )
