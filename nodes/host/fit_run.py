"""Fit a mixture to pairs on the host's model, in the node that runs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from ...lorweb_core import Mixture
from ...lorweb_core.fitting.fit import fit_mixture
from ...lorweb_core.fitting.memory import estimate_fit
from ...lorweb_core.fitting.settings import FitSettings
from ...lorweb_core.grid import Size
from ...lorweb_core.layer_check import check_layers
from .fitting_session import FitCallbacks
from .kept_fits import KeptFit, identify, kept_fit
from .training_model import HostBase, HostEncoders

log = logging.getLogger(__name__)


class Fitted(NamedTuple):
    """Hold what a fit came to, and how."""

    mixture: Mixture
    kept: KeptFit
    callbacks: FitCallbacks


def fit_on_node(
    model, vae, positive: list, start: Mixture, pairs: Sequence[tuple[Tensor, Tensor]], settings: FitSettings
) -> Fitted:
    """Fit from a start of one analogy to pairs with images (H, W, 3); one that was cancelled goes on.

    Raises LoRWebError for settings and models that cannot be, and where a GPU has less memory than the fit takes.
    """
    settings.check()
    base = HostBase(model, vae)
    check_layers(start.basis, base.shapes, "Load the FLUX.1 Kontext that the basis was trained on.")
    text = sum(tokens.shape[1] for tokens, _ in positive)
    needed = estimate_fit(start.basis, base, settings, Size(*pairs[0][0].shape[:2]), text, base.stored, base.converted)
    log.info("A fit takes about %s.", needed)
    needed.check_room(base.device)
    encoders = HostEncoders(model, vae, positive)
    settings = replace(settings, preview_guidance=float(positive[0][1].get("guidance", 3.5)))
    kept = kept_fit(model, identify(start, pairs, settings, encoders.identity), settings.steps)
    callbacks = FitCallbacks(kept, settings.steps)
    found = fit_mixture(base, encoders, start.basis, start, pairs, settings, callbacks, kept.state)
    return Fitted(found, kept, callbacks)
