"""`python -m lorweb_core train`: from a config to a basis, on diffusers' FLUX.1 Kontext."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml

from ..errors import named
from ..files.atomic import replacing
from ..training.data.datasets import Bar, Encoded, counted, find_analogies
from ..training.memory import Memory, estimate, short_of
from ..training.run_folder import RunFolder
from ..training.session import OnStep, Watch
from ..training.settings.config import TrainingConfig
from ..training.settings.document import training_document
from ..training.trainable_basis import TrainableBasis, query_width
from ..training.trainer import Training
from .base import chosen_layers
from .encoders import DTYPES, KontextEncoders, load_base
from .pipeline import find_device, load_vision_encoder, outline

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)


def run_training(config: TrainingConfig, bar: Bar, on_step: OnStep) -> Path:
    """Train, or go on with a training that was interrupted; returns the basis's file.

    Everything that can be wrong with the config, the data or the folder is found before the base is loaded. bar,
    on_step: of several processes called in the first one only, which is also the only one that logs. Ctrl-C and
    errors: see `Watch.run`. Raises LoRWebError for bad input.
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
        return _train(config, accelerator, device, run, bar, on_step)


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
        log.info("%s: %s; kept from training: %s.", folder, counted(data.seen), counted(data.unseen))
    if main:
        with replacing(run.path / "config.yaml") as file:
            file.write(yaml.safe_dump(training_document(config), sort_keys=False).encode())

    encoders = KontextEncoders(config.model, device, DTYPES[config.train.dtype])
    basis_config = config.network.basis
    vision = None
    if basis_config.external_query:
        vision = load_vision_encoder(basis_config.external_query_model, config.model.encoder)
    encoded = Encoded(config, datasets, encoders, vision, run, bar if main else _unseen)
    with accelerator.main_process_first():
        source, shown = encoded.source(), encoded.shown()
    encoders.forget_text()

    log.info("Loading the base")
    base = load_base(config.model, config.train, config.network.layers, encoders, device)
    torch.manual_seed(config.train.seed)
    basis = TrainableBasis(base.shapes, basis_config, query_width(basis_config, shown.query))
    training = Training(basis, base, source, config.train, accelerator)
    with accelerator.main_process_first():
        if run.resume(training):
            log.info("Going on after step %d", training.done)
    Watch(config, run, training, base, shown, accelerator).run(on_step)
    accelerator.wait_for_everyone()
    saved = run.path / f"{config.name}.safetensors"
    log.info("Wrote %s, and summary.html beside it", named(str(saved)))
    return saved


def _memory(config: TrainingConfig, device: torch.device) -> Memory:
    """What training will need. Raises LoRWebError if the model or the layers chosen are not there."""
    transformer = outline(config.model.name_or_path)
    layers = chosen_layers(transformer, config.network.layers).values()
    return estimate(config, transformer, layers, device.type == "cuda")


def _unseen(what: str, total: int):
    return lambda done, total: None
