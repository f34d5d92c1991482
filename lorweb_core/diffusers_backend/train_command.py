"""`python -m lorweb_core train`: from a config to a basis, on diffusers' FLUX.1 Kontext."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import LoRWebError, named
from ..training.data.datasets import Bar, EncodedDatasets, counted, find_analogies
from ..training.memory import Memory, estimate, short_of
from ..training.run_folder import RunFolder
from ..training.session import TrainingSession
from ..training.settings.config import TrainingConfig
from .base import chosen_layers
from .encoders import DTYPES, KontextEncoders, load_base
from .pipeline import find_device, load_vision_encoder, outline
from .train_callbacks import CommandCallbacks, OnStep

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)


def run_training(config: TrainingConfig, bar: Bar, on_step: OnStep) -> Path:
    """Train, or go on with a training that was interrupted; returns the basis's file.

    Everything that can be wrong with the config, the data or the folder is found before the base is loaded. bar,
    on_step: of several processes called in the first one only, which is also the only one that logs.

    Ctrl-C, or SIGTERM, ends the run after the step it is at, and saves; a second Ctrl-C at once, and what was saved
    last stays. Raises KeyboardInterrupt then, Diverged, after saving, for NaN, and LoRWebError for bad input.
    """
    from accelerate import Accelerator, InitProcessGroupKwargs

    # Placement and precision are the trainer's own, whatever `accelerate launch` is set to; accelerate shares the
    # gradients among processes. The others wait for the first one while it encodes, which may take hours.
    accelerator = Accelerator(
        cpu=config.device == "cpu",
        device_placement=False,
        mixed_precision="no",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=7))],
    )
    main = accelerator.is_main_process
    if not main:
        logging.getLogger(__package__).setLevel(logging.ERROR)
    device = accelerator.device if accelerator.num_processes > 1 else find_device(config.device)
    run = RunFolder(config)
    with run.locked() if main else nullcontext():
        file = _train(config, accelerator, device, run, bar, on_step)
    accelerator.end_training()  # a process that ends before it leaves the group may be aborted
    return file


def _train(
    config: TrainingConfig, accelerator: Accelerator, device: torch.device, run: RunFolder, bar: Bar, on_step: OnStep
) -> Path:
    main = accelerator.is_main_process
    run.check()
    needed = _memory(config, device)
    log.info("Training takes about %s.", needed)
    short = short_of(needed, device)
    if short:
        log.warning(short)
    datasets = find_analogies(config)
    for data in datasets:
        folder = named(str(data.settings.folder_path))
        log.info("%s: %s; kept from training: %s.", folder, counted(data.training), counted(data.held_out))
    if main:
        run.keep_config()

    encoders = KontextEncoders(config.model, device, DTYPES[config.train.dtype])
    needed_encoder = config.network.basis.encoder
    vision = load_vision_encoder(needed_encoder, config.model.encoder) if needed_encoder else None
    of_queries = f"{config.model.encoder or config.network.basis.external_query_model} {config.model.text_tokens}"
    identity = f"{encoders.identity} {of_queries}"
    with accelerator.main_process_first():
        encoded = EncodedDatasets(
            config, datasets, encoders, vision, identity, run.cache_folder, bar if main else _unseen
        )
        samples = encoded.samples()
    encoders.forget_text()

    log.info("Loading the base")
    base = load_base(config.model, config.train, config.network.layers, encoders, device)
    callbacks = CommandCallbacks(on_step, accelerator)
    session = TrainingSession(run, base, encoded.source, samples, callbacks, accelerator)
    try:
        with callbacks.noting_interrupts():
            session.run()
    except torch.OutOfMemoryError as error:
        step = min(session.done + 1, config.train.steps)  # the samples in the end are the last one's
        raise LoRWebError(
            f"The GPU ran out of memory in step {step}. Try a smaller train.batch_size (and as many more "
            "train.gradient_accumulation_steps), train.gradient_checkpointing=true, model.quantize=true, or "
            "model.offload=true."
        ) from error
    log.info("Wrote %s, and %s beside it", named(str(run.basis_file)), run.page_file.name)
    return run.basis_file


def _memory(config: TrainingConfig, device: torch.device) -> Memory:
    """Estimate what training will need. Raises LoRWebError if the model or the layers chosen are not there."""
    transformer = outline(config.model.name_or_path)
    layers = chosen_layers(transformer, config.network.layers).values()
    return estimate(config, transformer, layers, device.type == "cuda")


def _unseen(what: str, total: int):
    return lambda done, total: None
