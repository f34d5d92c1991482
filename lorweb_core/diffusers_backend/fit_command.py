"""`python -m lorweb_core fit`: a mixture fitted to examples on diffusers' FLUX.1 Kontext, and saved."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..basis import LoRABasis, load_basis
from ..demonstrations import mix
from ..errors import LoRWebError
from ..fitting.arguments import FitRequest
from ..fitting.examples import read_pairs
from ..fitting.fit import Callbacks, checked_start, fit_mixture
from ..fitting.memory import estimate_fit
from ..fitting.settings import FitSettings
from ..grid import Size
from ..mixture import Mixture
from ..space.mixture_file import load_mixture, save_mixture
from ..training.data.batch import Text
from ..training.settings.config import ModelSettings, TrainSettings
from ..triplet import Triplet
from .base import FluxBase
from .encoders import DTYPES, KontextEncoders, load_base
from .fit_terminal import FitBars
from .pipeline import check_model, check_number, find_device, load_vision_encoder, outline

log = logging.getLogger(__name__)


def run_fit(request: FitRequest) -> None:
    """Fit a mixture and save it; after Ctrl-C the best one so far, and KeyboardInterrupt is raised again.

    Raises LoRWebError for bad input, before the base is loaded.
    """
    check_number("text_tokens", request.text_tokens, 1, 512)
    place = find_device(request.device)
    model = ModelSettings(
        name_or_path=request.model,
        quantize=request.quantize,
        offload=request.offload,
        text_tokens=request.text_tokens,
    )
    log.info("Reading the basis")
    basis = load_basis(request.basis, request.config)
    basis.check_values()
    check_model(request.model, basis)
    pairs = read_pairs(request.pairs)
    _tell_memory(basis, model, request.settings, pairs[0].a, place)
    start = _start(basis, request.start, request.encoder, pairs)
    bars = FitBars(keeps=True)
    with bars.shown():
        mixture = fit_on(model, basis, start, pairs, request.settings, place, bars)
    save_mixture(mixture, request.out)
    if bars.stopped:
        log.info("Interrupted after step %d: what was best until then is in the file.", bars.stopped)
        raise KeyboardInterrupt


def _tell_memory(basis: LoRABasis, model: ModelSettings, settings: FitSettings, a: Tensor, place: torch.device) -> None:
    """Say what a fit needs; raises LoRWebError if a GPU has less."""
    dtype = torch.float32 if place.type == "cpu" else torch.bfloat16
    transformer = nn.Module.to(outline(model.name_or_path), dtype)
    values = sum(p.numel() for p in transformer.parameters())
    stored = values if model.quantize and place.type == "cuda" else values * dtype.itemsize
    if model.offload and place.type == "cuda":
        stored //= 20  # about so much of it is on the GPU at a time
    base = FluxBase(transformer, lambda latents: latents)
    needed = estimate_fit(basis, base, settings, Size(*a.shape[:2]), model.text_tokens, stored, converted=False)
    log.info("Fitting takes about %s.", needed)
    needed.check_room(place)


def _start(basis: LoRABasis, start: str, encoder: str | Path | None, pairs: Sequence[tuple[Tensor, Tensor]]) -> Mixture:
    """Find the mixture to begin at: see STARTS."""
    if start not in ("routed", "zeros"):
        return checked_start(basis, load_mixture(start, basis))
    needed = basis.config.encoder
    if start == "zeros" or needed is None:
        return checked_start(basis, None)
    log.info("Looking at the example")
    return mix(basis, load_vision_encoder(needed, encoder), [Triplet(list(pairs), pairs[0][0])])


def fit_on(
    model: ModelSettings,
    basis: LoRABasis,
    start: Mixture,
    pairs: Sequence[tuple[Tensor, Tensor]],
    settings: FitSettings,
    place: torch.device,
    callbacks: Callbacks,
) -> Mixture:
    """Fit a mixture on a FLUX.1 Kontext, which is loaded for it, and let go again."""
    train = TrainSettings(dtype="fp32" if place.type == "cpu" else "bf16")
    log.info("Loading the model")
    encoders = KontextEncoders(model, place, DTYPES[train.dtype])
    told = KnownTexts(encoders, [settings.prompt])
    encoders.forget_text()
    base = load_base(model, train, None, encoders, place)
    try:
        return fit_mixture(base, told, basis, start, pairs, settings, callbacks)
    except torch.OutOfMemoryError as error:
        raise LoRWebError(
            "The GPU ran out of memory while fitting. Try fewer megapixels, or --quantize or --offload with the "
            "command `fit`."
        ) from error


class KnownTexts:
    """Encode pictures as a model's autoencoder does, and know some texts, so that the text encoders may go."""

    def __init__(self, encoders: KontextEncoders, prompts: Sequence[str]):
        self._encoders = encoders
        self._texts = {prompt: encoders.encode_text([prompt]) for prompt in dict.fromkeys(prompts)}

    @property
    def identity(self) -> str:
        return self._encoders.identity

    def encode_image(self, images: Tensor) -> Tensor:
        return self._encoders.encode_image(images)

    def encode_text(self, captions: Sequence[str]) -> Text:
        known = [self._texts[caption] for caption in captions]
        return Text(*(torch.cat([getattr(text, part) for text in known]) for part in Text._fields))
