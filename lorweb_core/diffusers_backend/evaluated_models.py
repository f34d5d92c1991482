"""Load what the ways of an evaluation make b' with, once for all analogies: diffusers' FLUX.1 Kontext."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..basis import LoRABasis
from ..encoder import VisionEncoder
from ..errors import LoRWebError, shown
from ..evaluation.arguments import EvaluationRequest
from ..evaluation.run_folder import EvaluationFolder
from ..evaluation.tasks import Item, Pictures
from ..fitting.fit import fit_mixture
from ..fitting.settings import FitSettings
from ..grid import Size
from ..kept_references import Refresh
from ..layout import LAYOUTS
from ..mixture import Mixture
from ..query import encode_query
from ..runtime import PackedBasis
from ..space.mixture_file import load_mixture, save_mixture
from ..training.settings.config import ModelSettings, TrainSettings
from . import pipeline as kontext
from .encoders import DTYPES, KontextEncoders, load_base
from .fit_command import KnownTexts
from .terminal import Bars

if TYPE_CHECKING:
    from diffusers import FluxKontextPipeline

log = logging.getLogger(__name__)


class KontextModels:
    """Hold each part from when it is first needed on: the image encoder, the pipeline, and while fitting the base."""

    def __init__(
        self, request: EvaluationRequest, basis: LoRABasis, folder: EvaluationFolder, place: torch.device, bars: Bars
    ):
        self._request, self._settings = request, request.settings
        self._basis, self._folder, self._place, self._bars = basis, folder, place, bars
        self._sampled = basis.config.sampled if self._settings.sampled is None else self._settings.sampled
        self._encoder: VisionEncoder | None = None
        self._pipeline: FluxKontextPipeline | None = None
        self._packed: PackedBasis | None = None

    def let_go(self) -> None:
        """Give the memory of all parts back."""
        self._encoder = self._pipeline = self._packed = None
        self._empty_cache()

    def route(self, pictures: Pictures) -> Mixture:
        needed = self._basis.config.encoder
        if needed is None:
            return self._basis.route(None)
        if self._encoder is None:
            log.info("Loading the image encoder")
            self._encoder = kontext.load_vision_encoder(needed, self._settings.encoder)
        query = encode_query(self._encoder, pictures.a, pictures.a_prime, pictures.b, self._basis.config.query_mode)
        return self._basis.route(query)

    def fit(self, items: Sequence[Item]) -> None:
        left = [item for item in items if not self._folder.mixture_file(item).exists()]
        if left:
            self._fit(left, len(items))
            self._empty_cache()

    def _fit(self, left: Sequence[Item], total: int) -> None:
        """Fit what is left of so many, on a base that is loaded for it and let go again."""
        settings = self._settings
        model = ModelSettings(
            name_or_path=settings.model,
            quantize=self._request.quantize,
            offload=self._request.offload,
            text_tokens=settings.text_tokens,
        )
        train = TrainSettings(dtype="fp32" if self._place.type == "cpu" else "bf16")
        log.info("Loading the model, to fit")
        encoders = KontextEncoders(model, self._place, DTYPES[train.dtype])
        told = KnownTexts(encoders, [item.prompt for item in left])
        encoders.forget_text()
        base = load_base(model, train, None, encoders, self._place)
        for done, item in enumerate(left, total - len(left)):
            self._bars.advance("Fitting", done, total)
            pictures = self._folder.read_given(item)
            chosen = FitSettings(
                steps=settings.fit_steps, seed=item.seed, megapixels=settings.megapixels, prompt=item.prompt
            )
            pair = (pictures.a, pictures.a_prime)
            fitted = fit_mixture(base, told, self._basis, self.route(pictures), [pair], chosen)
            save_mixture(fitted, self._folder.mixture_file(item))
        self._bars.advance("Fitting", total, total)

    def _empty_cache(self) -> None:
        if self._place.type == "cuda":
            torch.cuda.empty_cache()

    def fitted(self, item: Item) -> Mixture:
        return load_mixture(self._folder.mixture_file(item), self._basis)

    def sample(self, item: Item, pictures: Pictures, mixture: Mixture | None) -> Tensor:
        settings, layout, pipeline = self._settings, LAYOUTS["grid"], self._loaded()
        view = layout.show(pictures.triplet, settings.megapixels, settings.fit, self._sampled)
        reference = Size(*view.overview.shape[:2])
        with self._mixed_in(mixture, reference):
            decoded = kontext.sample(
                pipeline,
                view,
                self._sampled,
                Refresh(1),
                item.prompt,
                settings.steps,
                settings.guidance,
                item.seed,
                settings.text_tokens,
            )
        return layout.result(decoded, Size(*pictures.b.shape[:2]), settings.fit, 1, self._sampled)[0]

    def _mixed_in(self, mixture: Mixture | None, reference: Size) -> AbstractContextManager[None]:
        if mixture is None:
            return nullcontext()
        transformer = self._loaded().transformer
        if self._packed is None:
            self._packed = kontext.pack(transformer, self._basis, self._place)
        return kontext.mixed_in(transformer, self._packed, mixture, reference)

    @contextmanager
    def with_lora(self) -> Iterator[None]:
        pipeline, lora = self._loaded(), self._settings.lora
        try:
            pipeline.load_lora_weights(lora)
        except Exception as error:  # of files that are no LoRA for it the library raises whatever comes of them
            raise LoRWebError(
                f"--lora {shown(lora)} cannot be loaded as a LoRA for this model ({shown(str(error))})."
            ) from error
        try:
            yield
        finally:
            pipeline.unload_lora_weights()

    def _loaded(self) -> FluxKontextPipeline:
        if self._pipeline is None:
            log.info("Loading the model")
            on_cpu = self._place.type == "cpu"
            self._pipeline = kontext.load_pipeline(self._settings.model, torch.float32 if on_cpu else torch.bfloat16)
            self._pipeline.set_progress_bar_config(disable=True)
            # A GPU seldom has room for the transformer and the text encoder at once; Apple's share the CPU's memory.
            if self._place.type in ("cpu", "mps"):
                self._pipeline.to(self._place)
            else:
                self._pipeline.enable_model_cpu_offload(device=self._place)
        return self._pipeline
