"""Inputs that several nodes have, in the same words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from comfy_api.latest import io

from ...lorweb_core import LoRWebError, Mixture
from ...lorweb_core.errors import shown
from ...lorweb_core.grid import FITS
from ...lorweb_core.layer_names import KINDS, STREAMS
from ...lorweb_core.layout import LAYOUTS
from ...lorweb_core.layout import SAMPLED as LAYOUT_SAMPLED
from ...lorweb_core.pictures.canvas import THEMES
from ...lorweb_core.space.blend import ORIGINS
from . import sockets

Chosen = TypeVar("Chosen")


def basis(name: str = "basis", more: str = "") -> io.Input:
    """Describe the socket of a loaded basis; more: what else its tooltip says."""
    return sockets.Basis.Input(name, tooltip=sentences("From the LoRWeB Basis Loader.", more))


def mixture(name: str = "mixture", more: str = "", optional: bool = False) -> io.Input:
    """Describe the socket of a mixture, whichever node made it; more: what else its tooltip says."""
    tooltip = sentences("From the Analogy Encoder, or another node that gives a mixture.", more)
    return sockets.Mixture.Input(name, optional=optional, tooltip=tooltip)


def a_prime(more: str = "", optional: bool = False) -> io.Input:
    """Describe the socket of a′; more: what else its tooltip says."""
    tooltip = sentences("The same example after the edit.", more)
    return io.Image.Input("a_prime", optional=optional, tooltip=tooltip)


def vae() -> io.Input:
    """Describe the socket of FLUX.1's autoencoder."""
    return io.Vae.Input("vae", tooltip="FLUX.1's autoencoder (ae.safetensors).")


def clip_vision(tooltip: str) -> io.Input:
    """Describe the socket of the image encoder, which may be left open."""
    return io.ClipVision.Input("clip_vision", optional=True, tooltip=tooltip)


def fit() -> io.Input:
    """Offer the ways in which pictures of another shape than a's are fitted."""
    return choice(
        "fit",
        FITS,
        "Where shapes differ from a's. stretch: resized to a's shape, as published. pad: black borders. crop: the "
        "middle. Set the same on Kontext Extended-Attention Conditioning and Analogy Result.",
        optional=True,
    )


def layout() -> io.Input:
    """Offer the layouts in which the model is shown an analogy."""
    return choice(
        "layout",
        LAYOUTS,
        "grid: [a a'; b b] in one reference, as published; b' is the last cell of what is sampled. sequence: a, a' and "
        "b as references of their own; what is sampled is b', in b's shape. Set the same on all nodes that ask for it.",
        optional=True,
    )


def pairs() -> io.Input:
    """Ask for the number of pairs that the model is shown."""
    return io.Int.Input(
        "pairs",
        optional=True,
        default=1,
        min=1,
        advanced=True,
        tooltip="How many pairs the model is shown: 1, or with demonstrations at 'all pairs' as many as were given.",
    )


SAMPLED = {"as trained": None, "whole grid": "grid", "b' alone": "result"}


def sampled() -> io.Input:
    """Ask what was sampled."""
    return choice(
        "sampled",
        SAMPLED,
        "What the picture shows, as chosen with speed on Kontext Extended-Attention Conditioning. as trained: what "
        "the basis of the mixture says; the whole grid where no mixture is linked.",
        optional=True,
    )


def as_trained(more: str = "") -> io.Input:
    """Describe the socket of a mixture whose basis is asked what was sampled in training; more: else told."""
    return mixture(more=sentences("'as trained' then follows its basis.", more), optional=True)


def what_is_sampled(chosen: str | None, mixture: Mixture | None) -> str:
    """Find which of layout.SAMPLED it is. chosen: one of them; None for what the mixture's basis was trained with."""
    return chosen or (mixture.basis.config.sampled if mixture else LAYOUT_SAMPLED[0])


def strength(tooltip: str) -> io.Input:
    """Ask for the strength that a mixture is taken at."""
    return io.Float.Input("strength", default=1.0, min=-100.0, max=100.0, step=0.01, tooltip=tooltip)


def layers(verb: str) -> list[io.Input]:
    """Ask for the layers that are meant, as `layer_names.select` takes them: blocks, kind and stream.

    verb: what is done with them, 'change'.
    """
    return [
        io.String.Input(
            "blocks",
            default="all",
            optional=True,
            tooltip=f"The blocks to {verb}: all, double, single 20-37, or double 0-3, single 5.",
        ),
        choice("kind", ["all", *KINDS], f"The layers to {verb}, by what they do.", optional=True),
        choice(
            "stream",
            ["all", *STREAMS],
            f"The layers to {verb}, by what goes through them: double blocks have a stream for the image and one for "
            "the text, single blocks one for both.",
            optional=True,
        ),
    ]


def origin(counts: str) -> io.Input:
    """Offer the points of the space that weights count from; counts: what does, 'weights count'."""
    return choice(
        "origin",
        ORIGINS,
        f"Where {counts} from. zero: coefficients, or logits, of 0. no edit: the mixture for a, a and b, which leaves "
        "b as it is, so that edits add up and have a strength. Mixtures in files of older versions do not have it.",
        optional=True,
    )


def theme() -> io.Input:
    """Offer the colours of the picture that a node shows."""
    tooltip = "Colours of the picture: dark as ComfyUI, or light as paper."
    return choice("theme", THEMES, tooltip, optional=True, advanced=True)


def choice(
    name: str, options, tooltip: str, default: str | None = None, optional: bool = False, advanced: bool | None = None
) -> io.Input:
    """Offer a list of names to choose one from; default: the first where none is given."""
    listed = list(options)
    return io.Combo.Input(
        name, options=listed, default=default or listed[0], optional=optional, tooltip=tooltip, advanced=advanced
    )


def chosen(name: str, options: Mapping[str, Chosen], given: str) -> Chosen:
    """Look up what a name in a list stands for. Raises LoRWebError for a name that is not in it."""
    if given not in options:
        raise LoRWebError(f"{name} is {shown(given)}; expected one of: {', '.join(options)}.")
    return options[given]


def sentences(*texts: str) -> str:
    """Join the sentences of a tooltip, without those that are empty."""
    return " ".join(filter(None, texts))
