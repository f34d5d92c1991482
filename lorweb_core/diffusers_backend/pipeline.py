"""The whole analogy outside ComfyUI, on diffusers' FluxKontextPipeline (extra `cli`)."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..basis import LoRABasis, load_basis
from ..encoder import ENCODERS, VisionEncoder, check_encoder, load_encoder
from ..errors import LoRWebError, named, shown
from ..fitting.examples import read_pairs
from ..fitting.fit import checked_start
from ..fitting.settings import FitSettings
from ..grid import MULTIPLE, Size
from ..kept_references import Refresh, check_can_keep
from ..layer_check import check_layers
from ..layout import LAYOUTS, Shown, check_sampled
from ..mixture import Mixture
from ..query import encode_query
from ..routing import Tokens
from ..runtime import LayerSlice, PackedBasis, RuntimeMixture
from ..space.mixture_file import load_mixture
from ..training.settings.config import ModelSettings
from ..triplet import Triplet, rgb_image
from .sampling import analogy_passes, schedule_tokens, scheduler_for

if TYPE_CHECKING:
    from diffusers import FluxKontextPipeline, FluxTransformer2DModel

log = logging.getLogger(__name__)

_GIVE_MODEL = (
    "Give a folder in diffusers' layout, with a model_index.json in it, or a Hugging Face id such as "
    "black-forest-labs/FLUX.1-Kontext-dev; for that one, accept its licence there and run `hf auth login` first."
)


_NAMES = {"grid": "a grid", "result": "b' alone,"}


class Analogy(NamedTuple):
    """Hold images (H, W, 3), float32 in 0–1, on the CPU."""

    result: Tensor
    """b', of b's size; with fit 'crop' of the size of what the grid held of b."""
    grid: Tensor | None
    """The sampled grid, whose bottom-right quarter is b'; None where b' alone was sampled."""
    reference: Tensor
    """The grid [a a'; b b] that the model was shown."""


def run_analogy(
    a: Tensor,
    a_prime: Tensor,
    b: Tensor,
    prompt: str,
    basis: str | Path,
    model: str | Path,
    *,
    config: str | Path | None = None,
    encoder: str | Path | None = None,
    steps: int = 28,
    guidance: float = 2.5,
    seed: int = 50,
    megapixels: float = 1.0,
    fit: str = "stretch",
    strength: float = 1.0,
    text_tokens: int = 512,
    device: str | None = None,
    sampled: str | None = None,
    references_every: int = 1,
    mixture: str | Path | None = None,
    fit_steps: int = 0,
    bar: bool = True,
) -> Analogy:
    """Make b' so that a : a' :: b : b' (defaults as in NVlabs/LoRWeB's inference.py).

    a, a_prime, b: (H, W, 3 or 4), float in 0–1, each of any size. basis, config: as for `load_basis`.
    model: a FLUX.1-Kontext in diffusers' layout, as a folder or a Hugging Face id. encoder: the same for the image
    encoder; None takes the one that the basis was trained with. text_tokens: the prompt's, with those that fill it up.
    device: None takes the best there is. sampled: one of SAMPLED; None as the basis was trained. references_every:
    references are computed in every k-th step, 0 in the first only. mixture: a saved one, in the place of what the
    encoder would route to. fit_steps: in how many steps the mixture is fitted to the pair first, with the same prompt,
    seed and megapixels; the model is loaded for that by itself. bar: whether diffusers shows a bar of the steps.
    Raises LoRWebError for anything given wrongly, before the model's weights are loaded.
    """
    images = rgb_image(a, "a"), rgb_image(a_prime, "a_prime"), rgb_image(b, "b")
    check_number("steps", steps, 1, 1000)
    check_number("guidance", guidance, 0, 100)
    check_number("seed", seed, 0, 2**64 - 1)
    check_number("megapixels", megapixels, 0.001, 16)
    check_number("strength", strength, -100, 100)
    check_number("text_tokens", text_tokens, 1, 512)
    check_number("references_every", references_every, 0, 1000)
    check_number("fit_steps", fit_steps, 0, 10_000)
    if sampled is not None:
        check_sampled(sampled)
    refresh = Refresh(references_every)
    place = find_device(device)

    log.info("Reading the basis")
    learned = load_basis(basis, config)
    learned.check_values()
    check_model(model, learned)
    if refresh.keeps:
        check_can_keep(learned)
    sampled = learned.config.sampled if sampled is None else sampled
    layout = LAYOUTS["grid"]
    view = layout.show(Triplet([images[:2]], images[2]), megapixels, fit, sampled)

    if mixture is None:
        log.info("Looking at the analogy")
        mixed = learned.route(_query(learned, encoder, images))
    else:
        mixed = load_mixture(mixture, learned)
    if fit_steps:
        settings = FitSettings(steps=fit_steps, seed=seed, megapixels=megapixels, prompt=prompt)
        mixed = _fitted(mixed, images[:2], model, settings, text_tokens, place)

    log.info("Loading the model")
    pipeline = load_pipeline(model, torch.float32 if place.type == "cpu" else torch.bfloat16)
    if not bar:
        pipeline.set_progress_bar_config(disable=True)
    if learned.config.external_query:
        merge(pipeline.transformer, mixed, strength)
    else:
        attach(pipeline.transformer, mixed, strength, Size(*view.overview.shape[:2]), place)
    # A GPU seldom has room for the transformer and the text encoder at once; Apple's share the CPU's memory.
    if place.type in ("cpu", "mps"):
        pipeline.to(place)
    else:
        pipeline.enable_model_cpu_offload(device=place)

    log.info("Sampling %s of %d×%d pixels", _NAMES[sampled], view.sampled.width, view.sampled.height)
    decoded = sample(pipeline, view, sampled, refresh, prompt, steps, guidance, seed, text_tokens)
    result = layout.result(decoded, Size(*images[2].shape[:2]), fit, 1, sampled)[0]
    return Analogy(result, decoded[0] if sampled == "grid" else None, view.overview)


def _fitted(
    start: Mixture,
    pair: tuple[Tensor, Tensor],
    model: str | Path,
    settings: FitSettings,
    text_tokens: int,
    place: torch.device,
) -> Mixture:
    from .fit_command import fit_on
    from .fit_terminal import FitBars

    bars = FitBars(keeps=False)
    read_pairs([pair])
    with bars.shown():
        given = ModelSettings(name_or_path=str(model), quantize=False, text_tokens=text_tokens)
        return fit_on(given, start.basis, checked_start(start.basis, start), [pair], settings, place, bars)


def merge(transformer: FluxTransformer2DModel, mixture: Mixture, strength: float = 1.0) -> None:
    """Add strength · ΔW to the weights in place, each keeping its dtype and device.

    Raises LoRWebError, before the first weight is changed, if a layer of the basis is missing or of another size.
    Call it before offloading is enabled, which takes the weights away.
    """
    if not math.isfinite(strength):
        raise LoRWebError(f"strength is {strength}; expected a number, 1.0 as trained.")
    weights = _layer_weights(transformer, mixture.basis)
    with torch.no_grad():
        for name, weight in weights.items():
            # Float32 added in place to a half-precision weight is rounded once, at the end.
            weight.add_(mixture.delta(name).to(weight.device), alpha=strength)


def attach(
    transformer: FluxTransformer2DModel, mixture: Mixture, strength: float, reference: Size, device: torch.device
) -> None:
    """Let the transformer add the mixture in its forward passes, as an activation-routed basis needs it.

    reference: size of the grid that the pipeline gives the model as reference, in pixels. device: where the model will
    run. Call it before offloading is enabled, which wraps the forward pass too.
    """
    packed = pack(transformer, mixture.basis, device)
    runtime, forward = RuntimeMixture(mixture, strength), transformer.forward
    references = _tokens(reference)

    @wraps(forward)
    def mixed(*, hidden_states: Tensor, encoder_hidden_states: Tensor, **inputs: Any) -> Any:
        tokens = Tokens(encoder_hidden_states.shape[1], references)
        with runtime.attached(transformer, packed, len(hidden_states), tokens):
            return forward(hidden_states=hidden_states, encoder_hidden_states=encoder_hidden_states, **inputs)

    transformer.forward = mixed


def pack(transformer: FluxTransformer2DModel, basis: LoRABasis, device: torch.device) -> PackedBasis:
    """Lay a basis out on a device as the transformer's Linears take it. Raises LoRWebError if one is missing."""
    linears = {name.removeprefix("transformer."): [LayerSlice(name, 0)] for name in _layer_weights(transformer, basis)}
    return PackedBasis(basis, linears, transformer.dtype).to(device)


@contextmanager
def mixed_in(
    transformer: FluxTransformer2DModel, packed: PackedBasis, mixture: Mixture, reference: Size
) -> Iterator[None]:
    """Let the transformer add a mixture in its forward passes within, offloaded or not; its weights stay as they are.

    packed: the mixture's basis, as `pack` lays it out. reference: size of the reference grid in pixels.
    """
    runtime, references, passes = RuntimeMixture(mixture, 1.0), _tokens(reference), ExitStack()

    def before(module: nn.Module, args: tuple, inputs: dict[str, Any]) -> None:
        tokens = Tokens(inputs["encoder_hidden_states"].shape[1], references)
        passes.enter_context(runtime.attached(transformer, packed, len(inputs["hidden_states"]), tokens))

    # Hooks, not another `forward`: offloading wraps that one anew at the end of a run.
    with ExitStack() as undo:
        undo.enter_context(passes)
        undo.callback(transformer.register_forward_pre_hook(before, with_kwargs=True).remove)
        undo.callback(transformer.register_forward_hook(lambda *_: passes.close(), always_call=True).remove)
        yield


def _tokens(size: Size) -> int:
    return (size.height // MULTIPLE) * (size.width // MULTIPLE)


def _layer_weights(transformer: FluxTransformer2DModel, basis: LoRABasis) -> dict[str, Tensor]:
    """Find the transformer's weight of every layer of the basis, by the basis's name for the layer.

    Raises LoRWebError if one is missing or of another size.
    """
    known = dict(transformer.named_parameters())
    keys = {name: f"{name.removeprefix('transformer.')}.weight" for name in basis.layers}
    weights = {name: known[key] for name, key in keys.items() if key in known}
    sizes = {name: tuple(weight.shape[::-1]) for name, weight in weights.items()}
    check_layers(basis, sizes, "Give the FLUX.1-Kontext that the basis was trained on.")
    return weights


def check_model(model: str | Path, basis: LoRABasis) -> None:
    """Raise LoRWebError if a model has not the layers of a basis, before its weights are loaded."""
    _layer_weights(outline(model), basis)


def outline(model: str | Path) -> FluxTransformer2DModel:
    """Build the model's transformer without values: from two small files, to check a basis against."""
    from diffusers import FluxKontextPipeline, FluxTransformer2DModel

    with loading_model(model):
        kind = FluxKontextPipeline.load_config(model).get("_class_name")
    if kind != "FluxKontextPipeline":
        raise LoRWebError(f"{named(str(model))} is a {named(str(kind))}, not a FluxKontextPipeline. {_GIVE_MODEL}")
    with loading_model(model), torch.device("meta"):
        return FluxTransformer2DModel.from_config(FluxTransformer2DModel.load_config(model, subfolder="transformer"))


def load_pipeline(model: str | Path, dtype: torch.dtype) -> FluxKontextPipeline:
    """Load a FLUX.1 Kontext with its encoders, on the CPU. Raises LoRWebError if it cannot be loaded."""
    from diffusers import FluxKontextPipeline

    with loading_model(model):
        return FluxKontextPipeline.from_pretrained(model, torch_dtype=dtype, use_safetensors=True)


def _query(basis: LoRABasis, encoder: str | Path | None, images: tuple[Tensor, Tensor, Tensor]) -> Tensor | None:
    """Load the encoder, embed the triplet and let the encoder go; None for a basis that needs no encoder.

    Three images take the CPU a second or two.
    """
    needed = basis.config.encoder
    if needed is None:
        return None
    return encode_query(load_vision_encoder(needed, encoder), *images, basis.config.query_mode)


def load_vision_encoder(needed: str, source: str | Path | None = None) -> VisionEncoder:
    """Load the image encoder that a basis needs, one of ENCODERS: from Hugging Face, or from the folder or id given."""
    source = needed if source is None else source
    hint = f"Give as encoder a folder with config.json and model.safetensors from {ENCODERS[needed].source}."
    with loading(source, "an image encoder", hint):
        wrapped = VisionEncoder.from_transformers(load_encoder(source).float())
    check_encoder(wrapped, needed)
    return wrapped


def sample(
    pipeline: FluxKontextPipeline,
    view: Shown,
    sampled: str,
    refresh: Refresh,
    prompt: str,
    steps: int,
    guidance: float,
    seed: int,
    text_tokens: int,
) -> Tensor:
    """Denoise what is sampled of a layout of one reference → (1, H, W, 3), float32 in 0–1, on the CPU.

    sampled: one of SAMPLED, what the view is of. Raises LoRWebError where memory lacks, or for values not finite.
    """
    (reference,), size, noise = view.references, view.sampled, _tokens(view.sampled)
    scheduler = pipeline.scheduler
    pipeline.scheduler = scheduler_for(scheduler, schedule_tokens(sampled, noise), noise)
    try:
        with analogy_passes(pipeline.transformer, noise, view.place, refresh, steps) as passes:
            decoded = pipeline(
                image=reference.movedim(-1, 0)[None],
                prompt=prompt,
                # The pipeline works out height and width anew from their ratio and the area: these give them back.
                height=size.height,
                width=size.width,
                max_area=size.height * size.width,
                _auto_resize=False,
                num_inference_steps=steps,
                guidance_scale=guidance,
                max_sequence_length=text_tokens,
                # On the CPU, so that a seed means the same noise on every device.
                generator=torch.Generator().manual_seed(seed),
                output_type="pt",
                callback_on_step_end=passes.after_step,
            ).images
    except torch.cuda.OutOfMemoryError as error:
        raise LoRWebError("The GPU ran out of memory. Try fewer megapixels, or another device.") from error
    finally:
        pipeline.scheduler = scheduler
    decoded = decoded.movedim(1, -1).float().cpu()
    if not decoded.isfinite().all():
        raise LoRWebError("The sampled picture has values that are not finite. Try a strength nearer to 0.")
    return decoded


def find_device(name: str | None) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        values = torch.zeros(1, device=name)
        values.tolist()  # 'meta' is a device too, but has no values
        return values.device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise LoRWebError(
            f"The device {shown(name)} cannot be used here ({_reason(error)}). Try cuda, mps or cpu."
        ) from error


def check_number(name: str, value: float, least: float, most: float) -> None:
    """Raise LoRWebError if a number is not in a range."""
    if not least <= value <= most:
        raise LoRWebError(f"{name} is {shown(value)}; expected a number from {least} to {most}.")


def loading_model(model: str | Path) -> AbstractContextManager[None]:
    """Say what goes wrong within, while a FLUX.1-Kontext is loaded, in the user's words, as LoRWebError."""
    return loading(model, "FLUX.1-Kontext", _GIVE_MODEL)


@contextmanager
def loading(source: str | Path, what: str, hint: str) -> Iterator[None]:
    """Put what the libraries raise on missing or damaged files in the user's words; those errors share no base."""
    if not os.path.isdir(source) and not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", str(source)):
        raise LoRWebError(f"{named(str(source))}: there is no such folder. {hint}")
    try:
        yield
    except LoRWebError as error:
        raise LoRWebError(f"{error} {hint}") from error
    except Exception as error:
        raise LoRWebError(f"{named(str(source))} cannot be loaded as {what} ({_reason(error)}). {hint}") from error


def _reason(error: Exception) -> str:
    """Take the first line of what a library says."""
    lines = (line.strip().rstrip(".") for line in str(error).splitlines())
    return named(next(filter(None, lines), type(error).__name__))
