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
from ...lorweb_core.training.data.analogies import Analogy
from ...lorweb_core.training.data.examples import Examples
from ...lorweb_core.training.settings.config import DatasetSettings, TrainingConfig
from .data_folders import find_folder
from .progress import progress_bar
from .training_model import HostEncoders, digest

ACTIVATION = "activation "
"""Before the modes of a basis that routes by activation: some have names of modes of images."""

MODES = (*QUERY_MODES, *(ACTIVATION + mode for mode in TOKEN_MODES))

SHOWN = 2
"""Analogies that samples are made of."""


def dataset(folder: str, held_out: str, resolution: int) -> DatasetSettings:
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


def make_examples(
    config: TrainingConfig,
    encoders: HostEncoders,
    encoder: VisionEncoder | None,
    train: Sequence[Analogy],
    kept: Sequence[Analogy],
) -> tuple[Examples, list[Analogy]]:
    """Encode what is trained on and choose what samples are made of; all is kept in the host's user folder.

    encoder: None for a basis that routes by activation. kept: of held-out edits, of which samples are made if there are
    any. Raises LoRWebError if no picture can be read.
    """
    identity = encoders.identity
    if encoder:
        squares = torch.linspace(0, 1, 3 * encoder.image_size**2).view(1, 3, encoder.image_size, encoder.image_size)
        identity += digest(encoder.tower(squares))

    def prepared(analogies: Sequence[Analogy]) -> Examples:
        examples = Examples(
            [analogy._replace(caption="") for analogy in analogies],  # one prompt for all
            encoders,
            encoder,
            config.network.basis.query_mode if encoder else None,
            identity=identity,
            cell=config.datasets[0].resolution,
            cache=Path(folder_paths.get_user_directory(), "lorweb", "examples"),
            seed=config.train.seed,
            batch_size=config.train.batch_size,
            sampled=config.train.sampled,
        )
        examples.prepare(progress_bar(len(analogies)))
        return examples

    source = prepared(train)
    shown = prepared(_one_of_each(kept)) if kept else source
    return source, _one_of_each(shown.analogies)


def _one_of_each(analogies: Sequence[Analogy]) -> list[Analogy]:
    """Choose the first analogies of the first edits."""
    first = {analogy.edit: analogy for analogy in reversed(analogies)}
    return [first[edit] for edit in sorted(first)][:SHOWN]
