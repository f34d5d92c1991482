"""Fit Mixture: from example pairs to the mixture that makes them."""

from __future__ import annotations

import json
import logging

from comfy_api.latest import io
from torch import Tensor

from ..lorweb_core import LoRABasis, LoRWebError, Mixture
from ..lorweb_core.analogy import Analogy
from ..lorweb_core.fitting.fit import checked_start
from ..lorweb_core.fitting.settings import FitSettings
from ..lorweb_core.pictures.strip import strip
from .host import analogy_inputs, fitting_inputs, shared_inputs, sockets
from .host.analogy_inputs import given_pairs
from .host.checked_node import CheckedNode
from .host.fit_run import fit_on_node
from .host.kept_fits import KeptFit
from .host.previews import with_picture

log = logging.getLogger(__name__)


class FitMixture(CheckedNode):
    """Fit a mixture to example pairs by gradients, through the model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBFitMixture",
            display_name="Fit Mixture",
            category="LoRWeB",
            search_aliases=["edit by example", "visual analogy", "before after", "transfer edit", "one shot training"],
            description="Finds the mixture that makes the example's edit, by gradients through the model, where the "
            "Analogy Encoder only guesses it. Cancel keeps what is found; the same settings go on from there.",
            inputs=[
                io.Model.Input("model", tooltip="FLUX.1 Kontext. It is not changed."),
                shared_inputs.vae(),
                io.Conditioning.Input("positive", tooltip="The prompt that the mixture will be used with."),
                analogy_inputs.analogy("a and a_prime", "Every pair is fitted to; b is for the nodes that show it."),
                *analogy_inputs.pair(
                    "The example before the edit; in a batch, several examples of one edit.",
                    "As many as there are a's.",
                ),
                sockets.Mixture.Input(
                    "mixture",
                    optional=True,
                    tooltip="Where to begin, e.g. the Analogy Encoder's mixture for the example. Left open, the fit "
                    "begins at the basis's mixture of a query of zeros, and needs no image encoder.",
                ),
                sockets.Basis.Input(
                    "basis",
                    optional=True,
                    tooltip="From the LoRWeB Basis Loader. With a mixture it may be left open.",
                ),
                *fitting_inputs.steps(),
                *fitting_inputs.details(),
            ],
            outputs=[
                sockets.Mixture.Output("mixture", tooltip="For Mixed LoRA Apply, Save Mixture, Export as LoRA."),
                io.Image.Output("example", tooltip="A strip: a, a' as it is, and as the mixture makes it."),
                io.String.Output("json", tooltip="Losses of the steps, and on what was kept apart."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model,
        vae,
        positive: list,
        a: Tensor | None = None,
        a_prime: Tensor | None = None,
        steps: int = FitSettings.steps,
        rate: float = FitSettings.rate,
        seed: int = FitSettings.seed,
        mixture: Mixture | None = None,
        basis: LoRABasis | None = None,
        fitted: str = FitSettings.fitted,
        noises: int = FitSettings.noises,
        megapixels: float = FitSettings.megapixels,
        pull: float = FitSettings.pull,
        crops: bool = FitSettings.crops,
        shifts: bool = FitSettings.shifts,
        flips: bool = FitSettings.flips,
        gradient_checkpointing: bool = True,
        preview_every: int = 5,
        analogy: Analogy | None = None,
    ) -> io.NodeOutput:
        pairs = given_pairs("Fit Mixture", analogy, {"a": a, "a_prime": a_prime})
        if steps == 0:
            shown = strip(list(pairs[0]), ["a", "a'"])[None]
            return with_picture(cls, shown, mixture or _start(None, basis), shown, json.dumps({"steps": 0}))
        start = _start(mixture, basis)
        settings = FitSettings(
            fitted=fitted,
            steps=steps,
            noises=noises,
            rate=rate,
            seed=seed,
            pull=pull,
            crops=crops,
            shifts=shifts,
            flips=flips,
            megapixels=megapixels,
            checkpointing=gradient_checkpointing,
            preview_every=preview_every or steps,
        )
        found, kept, callbacks = fit_on_node(model, vae, positive, start, pairs, settings)
        image = callbacks.strip[None]
        return with_picture(cls, image, found, image, _report(kept, callbacks.lowest))


def _start(mixture: Mixture | None, basis: LoRABasis | None) -> Mixture:
    if mixture is None and basis is None:
        raise LoRWebError(
            "Fit Mixture has neither a mixture nor a basis. Give the mixture to begin at, or a basis from the LoRWeB "
            "Basis Loader to begin at its mixture of a query of zeros."
        )
    return checked_start(basis or mixture.basis, mixture)


def _report(kept: KeptFit, lowest: float) -> str:
    steps = kept.steps
    report = {
        "steps": kept.state.done,
        "loss": [float(f"{step.loss:.6g}") for step in steps],
        "kept_apart": {
            "at_the_start": kept.begin,
            "after_step": {step.number: step.apart for step in steps if step.apart is not None},
            "at_best": lowest,
        },
        "seconds_per_step": sum(step.seconds for step in steps) / len(steps) if steps else None,
    }
    return json.dumps(report, indent=1)
