"""From the inputs of Train Basis to a training's config and its examples."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import folder_paths
import torch

from ...lorweb_core import LoRWebError
from ...lorweb_core.config import BasisConfig
from ...lorweb_core.encoder import VisionEncoder
from ...lorweb_core.errors import shown
from ...lorweb_core.files.tensor_files import lasting_identity
from ...lorweb_core.query import QUERY_MODES
from ...lorweb_core.routing import TOKEN_MODES
from ...lorweb_core.training.data.analogies import Analogy, split_by_edit
from ...lorweb_core.training.data.datasets import Dataset, EncodedDatasets
from ...lorweb_core.training.data.pictures_on_disk import read_analogies
from ...lorweb_core.training.settings.config import DatasetSettings, TrainingConfig
from .data_folders import find_folder, roots
from .progress import progress_in_words
from .training_model import HostEncoders, digest

ACTIVATION = "activation "
"""Before the modes of a basis that routes by activation: some have names of modes of images."""

MODES = (*QUERY_MODES, *(ACTIVATION + mode for mode in TOKEN_MODES))

SHOWN = 2
"""Analogies that samples are made of."""


def dataset_settings(folder: str, held_out: str, resolution: int) -> DatasetSettings:
    """Make a dataset's settings of what was typed.

    held_out: names and patterns of edits, with commas or in lines. Raises LoRWebError if the folder is none to read.
    """
    names = tuple(part.strip() for part in re.split(r"[,\n]", held_out) if part.strip())
    return DatasetSettings(
        folder_path=find_folder(folder), caption_dropout_rate=0.0, resolution=resolution, held_out=names
    )


def basis_config(loras: int, keys_dim: int, query_mode: str) -> BasisConfig:
    """Make a basis's config of what was chosen. query_mode: one of MODES."""
    if query_mode not in MODES:
        raise LoRWebError(f"query_mode is {shown(query_mode)}; expected one of: {', '.join(MODES)}.")
    external = not query_mode.startswith(ACTIVATION)
    return BasisConfig(
        loras_num=loras,
        lora_keys_dim=keys_dim,
        external_query=external,
        external_query_model=BasisConfig.external_query_model if external else None,
        query_mode=query_mode.removeprefix(ACTIVATION),
    )


def find_dataset(settings: DatasetSettings, seed: int) -> Dataset:
    """Find a dataset's analogies in folders that may be read. One prompt stands for all captions."""
    found = read_analogies(settings.folder_path, seed=seed, roots=roots())
    uncaptioned = [analogy._replace(caption="") for analogy in found]
    return Dataset(settings, *split_by_edit(uncaptioned, settings.held_out))


def optimizer_name(device: torch.device) -> str:
    """Choose the optimizer: in 8 bits as published where that is installed, which the host does not bring."""
    return "adamw8bit" if device.type == "cuda" and importlib.util.find_spec("bitsandbytes") else "adamw"


def run_identity(encoders: HostEncoders, analogies: Sequence[Analogy]) -> str:
    """Tell runs apart whose configs are equal: with another prompt or other pictures it is another run."""
    pictures = dict.fromkeys(picture.path for analogy in analogies for picture in analogy.pictures)
    return f"ComfyUI, {encoders.identity[:12]}, {contents(pictures)[:12]}"


def contents(files: Iterable[Path]) -> str:
    """Digest which files there are, and of when they were written."""
    return hashlib.sha256(repr([lasting_identity(path) for path in files if path.is_file()]).encode()).hexdigest()


def encode_dataset(
    config: TrainingConfig, data: Dataset, encoders: HostEncoders, encoder: VisionEncoder | None
) -> EncodedDatasets:
    """Encode what is trained on and what samples are made of; all is kept in the host's user folder.

    encoder: None for a basis that routes by activation. Raises LoRWebError if no picture can be read.
    """
    identity = encoders.identity
    if encoder:
        squares = torch.linspace(0, 1, 3 * encoder.image_size**2).view(1, 3, encoder.image_size, encoder.image_size)
        identity += digest(encoder.tower(squares))
    cache = Path(folder_paths.get_user_directory(), "lorweb", "examples")
    return EncodedDatasets(config, [data], encoders, encoder, identity, cache, progress_in_words)
