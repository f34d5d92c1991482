"""The inputs of Fit Mixture that have widgets."""

from __future__ import annotations

from comfy_api.latest import io

from ...lorweb_core.fitting.coefficients import FITTED
from ...lorweb_core.fitting.settings import FitSettings
from . import shared_inputs


def steps() -> list:
    """List the inputs that say how far the fit goes."""
    return [
        io.Int.Input(
            "steps",
            default=FitSettings.steps,
            min=0,
            max=10_000,
            tooltip="At most: it ends early where nothing is gained any more. With more of them the same fit goes on. "
            "0: nothing is fitted, and the mixture is the one to begin at.",
        ),
        io.Float.Input(
            "rate",
            default=FitSettings.rate,
            min=1e-6,
            max=10.0,
            step=0.001,
            round=False,
            tooltip="How fast it goes, the learning rate of Adam.",
        ),
        io.Int.Input(
            "seed",
            default=FitSettings.seed,
            min=0,
            max=2**64 - 1,
            control_after_generate=False,  # another seed is another fit
            tooltip="Of the noise and the views.",
        ),
        shared_inputs.choice(
            "fitted",
            FITTED,
            "What is changed. coefficients: those of each layer. logits: what is behind them, so that with softmax "
            "none becomes negative. query: one query for all layers, which moves less.",
            optional=True,
            advanced=True,
        ),
    ]


def details() -> list:
    """List the inputs that may stay as they are."""
    return [
        io.Int.Input(
            "noises",
            optional=True,
            advanced=True,
            default=FitSettings.noises,
            min=1,
            max=1000,
            tooltip="Noise levels in each step, one after the other: more take longer, and no more memory.",
        ),
        io.Float.Input(
            "megapixels",
            optional=True,
            default=FitSettings.megapixels,
            min=0.01,
            max=16.0,
            step=0.01,
            tooltip="The size of the whole grid, as on Kontext Extended-Attention Conditioning. The pair has a quarter "
            "of it. Less takes less time and memory.",
        ),
        io.Float.Input(
            "pull",
            optional=True,
            advanced=True,
            default=FitSettings.pull,
            min=0.0,
            max=1e6,
            step=0.01,
            round=False,
            tooltip="How strongly the coefficients are held where they begin; 0 not at all.",
        ),
        *(
            io.Boolean.Input(
                name,
                optional=True,
                advanced=True,
                default=getattr(FitSettings, name),
                tooltip=f"Whether the pair is also shown {how}",
            )
            for name, how in {
                "crops": "cut out: not for edits that depend on where something is.",
                "shifts": "shifted a little: likewise.",
                "flips": "mirrored: likewise, nor for edits of left and right, or of writing.",
            }.items()
        ),
        io.Boolean.Input(
            "gradient_checkpointing",
            optional=True,
            advanced=True,
            default=True,
            tooltip="Much less memory, for a third more time.",
        ),
        io.Int.Input(
            "preview_every",
            optional=True,
            advanced=True,
            default=5,
            min=0,
            max=10_000,
            tooltip="Steps between previews, each of half a step's time; 0 for none before the end.",
        ),
    ]
