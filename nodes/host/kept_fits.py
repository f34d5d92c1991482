"""Remember where fits stand, so that a cancelled one goes on, as long as ComfyUI runs and its model is there."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from weakref import WeakKeyDictionary

from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...lorweb_core import Mixture
from ...lorweb_core.fitting.fit import FitStep
from ...lorweb_core.fitting.settings import FitSettings
from ...lorweb_core.fitting.state import FitState
from ...lorweb_core.space.fingerprint import fingerprint
from .training_model import digest

MOST = 8
"""Fits that are kept of each model; of each, kilobytes."""

WITHOUT_PART = ("steps", "preview_every", "preview_steps", "preview_guidance")
"""Settings that a step does not depend on."""


@dataclass
class KeptFit:
    """Hold where a fit stands; None before it has begun."""

    state: FitState | None = None
    begin: float | None = None
    """Loss of its start on what is kept apart."""
    steps: list[FitStep] = field(default_factory=list)
    """Steps that led there."""


_kept: WeakKeyDictionary[nn.Module, OrderedDict[str, KeptFit]] = WeakKeyDictionary()


def kept_fit(model: ModelPatcher, identity: str, steps: int) -> KeptFit:
    """Find where the fit stands that was begun with this model and identity.

    One that went further than so many steps, or was never begun, begins anew.
    """
    fits = _kept.setdefault(model.model, OrderedDict())
    name = f"{model.patches_uuid} {identity}"
    found = fits.pop(name, None)
    if found is None or (found.state and found.state.done > steps):
        found = KeptFit()
    fits[name] = found
    while len(fits) > MOST:
        fits.popitem(last=False)
    return found


def identify(start: Mixture, pairs: Sequence[tuple[Tensor, Tensor]], settings: FitSettings, encoders: str) -> str:
    """Digest all that the steps of a fit depend on, but its model. encoders: identity of these, and of the prompt."""
    values = {name: value for name, value in asdict(settings).items() if name not in WITHOUT_PART}
    seen = digest(start.table, *(image for pair in pairs for image in pair))
    return hashlib.sha256(repr((values, seen, fingerprint(start.basis), encoders)).encode()).hexdigest()
