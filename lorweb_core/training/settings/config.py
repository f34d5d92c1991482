"""The training YAML as dataclasses: published key names, and where the published example has a key, its value."""

# ruff: noqa: RUF009 (the calls make dataclass fields)

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...config import BasisConfig, read_basis_values
from ...fields import (
    DECAY,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    SWITCH,
    choice,
    key_path,
    number,
    required,
    section,
    sections,
    setting,
    several,
    text,
    whole,
    wrong_value,
)
from ...layout import SAMPLED

_FOLDER = text(r"[^\0]+", "a folder's path").then(lambda path: Path(os.fsdecode(os.fsencode(path))))
"""Path, a relative one from the working directory, as published; half a character cannot be encoded."""
_ENDING = text(r"\.?[^./\\]+", "a file's ending, such as txt").then(lambda ending: ending.removeprefix("."))
_EDITS = several(text(), "a list of names or patterns of edits", alone=text().then(lambda edit: (edit,)))
_LAYERS = several(
    text(),
    "a regular expression, or a list of names of Linear layers",
    least=1,
    alone=text().then(lambda expression: re.compile(expression).pattern),
)
_SIDE = several(
    whole(16, step=8),
    "one number of pixels (this version trains at one resolution), a multiple of 8 from 16 on",
    least=1,
    most=1,
    alone=whole(16, step=8).then(lambda side: (side,)),
).then(lambda sides: sides[0])
_SEED = whole(most=2**64 - 1)
_FLOATS = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
_ROUTING = BasisConfig(loras_num=32, lora_keys_dim=128)
"""Routing of the released basis, with its N and D; the rank is `network.linear`."""
_NOT_OF_A_TRAINING = {
    "linear": "nothing here, as the rank is network.linear",
    "sampled": "nothing here, as it is train.sampled",
    "lora_parts": "nothing here, as only a merged basis has parts",
}


def _read_routing(file: str, of: type, given: Mapping[str, Any], where: str) -> BasisConfig:
    """Read `network_kwargs` as a trained basis's config is read, and refuse what no training can make."""
    values = read_basis_values(file, given, where)
    for key, expected in _NOT_OF_A_TRAINING.items():
        if key in values:
            raise wrong_value(file, key_path(where, key), given[key], expected)
    if values.get("external_query") is False:
        # The published trainer's defaults without an external query.
        values = {"external_query_model": None, "query_mode": "aa'bb'", **values}
    config = replace(_ROUTING, **values)
    heads, width = config.lora_heads, config.lora_keys_dim
    if config.query_projection_type == "linear" and width is not None and width % heads:
        raise wrong_value(file, key_path(where, "lora_heads"), heads, f"a divisor of lora_keys_dim, {width}")
    return config


@dataclass(frozen=True)
class NetworkSettings:
    """Hold what a basis is to be: its sizes, what it is put on, and its routing."""

    linear: int = setting(1, whole(1))
    """Rank of each LoRA, r."""
    linear_alpha: float = setting(1.0, POSITIVE)
    """Kept for other tools and without effect: the scale is 1, as published, whatever it says."""
    layers: str | tuple[str, ...] | None = setting(None, _LAYERS)
    """Linears that get LoRAs: those whose name has a match of this expression, or those named; None for all that are
    inside the blocks. Ours.
    """
    network_kwargs: BasisConfig = section(_ROUTING, _read_routing)
    """Number of LoRAs N, width of the keys D, and how the basis is routed."""

    @property
    def basis(self) -> BasisConfig:
        """Say how the trained basis is routed, its rank included."""
        return replace(self.network_kwargs, linear=self.linear)


@dataclass(frozen=True)
class SaveSettings:
    """Hold when checkpoints are saved, and as what."""

    dtype: str = setting("float16", choice("float16", "bfloat16", "float32", **_FLOATS))
    save_every: int = setting(250, whole(1))
    """Steps between two checkpoints."""
    max_step_saves_to_keep: int = setting(4, whole(1))


@dataclass(frozen=True)
class DatasetSettings:
    """Hold a folder of pictures, and how analogies are made of it."""

    folder_path: Path = required(_FOLDER)
    control_path: Path | None = setting(None, _FOLDER)
    """Folder of the strips a | a′ | b, in the layout `triplets`."""
    caption_ext: str = setting("txt", _ENDING)
    caption_dropout_rate: float = setting(0.05, SHARE)
    """Share of the times that an analogy is trained without its caption."""
    default_caption: str = setting("", text(r"(?s).*"))
    resolution: int = setting(512, _SIDE)
    """Side of a cell of the grid, in pixels."""
    layout: str = setting("auto", choice("auto", "triplets", "pairs", "relation252k"))
    """Form of the folder. Ours, like all below."""
    held_out: tuple[str, ...] = setting((), _EDITS)
    """Edits kept for validation, by name or pattern (`recolour*`)."""
    validation_share: float = setting(0.0, SHARE)
    """Share of the edits kept for validation, chosen by the seed."""
    analogies_per_edit: int = setting(64, whole(1))
    """Largest number of analogies made of an edit's pairs."""


@dataclass(frozen=True)
class OptimizerSettings:
    """Hold what AdamW is given beside the learning rate."""

    betas: tuple[float, float] = setting(
        (0.9, 0.99), several(DECAY, "two numbers from 0 to below 1, such as [0.9, 0.99]", least=2, most=2)
    )
    weight_decay: float = setting(0.05, NOT_NEGATIVE)
    eps: float = setting(1e-8, POSITIVE)


@dataclass(frozen=True)
class TrainSettings:
    """Hold how the basis is trained."""

    batch_size: int = setting(6, whole(1))
    steps: int = setting(10000, whole(1))
    gradient_accumulation_steps: int = setting(1, whole(1))
    gradient_checkpointing: bool = setting(True, SWITCH)
    optimizer: str = setting("adamw8bit", choice("adamw8bit", "adamw"))
    optimizer_params: OptimizerSettings = section(OptimizerSettings())
    lr: float = setting(1e-3, POSITIVE)
    lr_scheduler: str = setting("constant", choice("constant", "cosine", "onecycle"))
    lr_warmup_steps: int = setting(0, whole())
    max_grad_norm: float = setting(1.0, POSITIVE)
    timestep_type: str = setting("weighted", choice("weighted", "linear", "sigmoid", "shift"))
    dtype: str = setting("bf16", choice("bf16", "fp32", bfloat16="bf16", float32="fp32"))
    """Format that the base computes in."""
    ema_decay: float = setting(0.0, DECAY)
    """Decay of the moving average that is saved; 0 saves the parameters themselves. The published form,
    `ema_config: {use_ema, ema_decay}`, is read too.
    """
    seed: int = setting(42, _SEED)
    result_weight: float = setting(1.0, POSITIVE)
    """Weight of the quarter b′ in the loss, the other three having 1. Ours."""
    query_dropout: float = setting(0.0, DECAY)
    """Share of an external query's values that are dropped in each step, the others being scaled up. Ours."""
    coefficient_entropy: float = setting(0.0, number("a finite number", lambda value: True))
    """Weight in the loss of the entropy of an external query's coefficients, from 0 for one LoRA to 1 for all alike,
    the mean over the layers: above 0 few LoRAs are preferred, below 0 many. Ours.
    """
    show_pair: bool = setting(True, SWITCH)
    """False for an ablation: in the grid b takes the place of a and a′, so that only the query has the pair. Ours."""
    sampled: str = setting("grid", choice(*SAMPLED))
    """Part that is denoised, one of SAMPLED: the whole grid, as published, or b′ alone, at its place in it. Ours."""
    log_every: int = setting(1, whole(1))
    """Steps between two entries of the log."""


@dataclass(frozen=True)
class ModelSettings:
    """Hold which base and which image encoder, both frozen, a basis is trained on."""

    name_or_path: str = setting("black-forest-labs/FLUX.1-Kontext-dev", text(expected="a folder or a model's id"))
    arch: str = setting("flux_kontext", choice("flux_kontext"))
    quantize: bool = setting(True, SWITCH)
    """True to hold the base in 8 bits; on CUDA only."""
    offload: bool = setting(False, SWITCH)
    """True to keep the base in main memory, from where its blocks come to the GPU one after the other. Ours."""
    text_tokens: int = setting(512, whole(1))
    """Number of tokens that a caption is padded to, T. Ours."""
    encoder: str | None = setting(None, text(expected="a folder or a model's id"))
    """Place of the image encoder; None to have the one that `external_query_model` names. Ours."""
    guidance: float = setting(1.0, NOT_NEGATIVE)
    """Guidance that the base's embedding of it is given while training. Ours."""


@dataclass(frozen=True)
class SampleSettings:
    """Hold which pictures are made while training, of analogies of held-out edits where there are some."""

    sample_every: int = setting(500, whole())
    """Steps between two rounds of samples; 0 for never."""
    sample_steps: int = setting(20, whole(1))
    guidance_scale: float = setting(4.0, NOT_NEGATIVE)
    seed: int = setting(42, _SEED)
    count: int = setting(4, whole(1))
    """Number of analogies. Ours."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Hold all settings of a training. `read_training_config` reads them from a YAML."""

    name: str = required(
        text(r'[^<>:"/\\|?*\x00-\x1f\ud800-\udfff]{1,200}(?<![ .])', "a text that can be a file's name")
    )
    """Name of the basis and of its run's folder, inside `training_folder`."""
    training_folder: Path = setting(Path("output"), _FOLDER)
    device: str | None = setting(None, text(r"cpu|mps|cuda(:\d+)?", "cpu, mps, cuda or cuda:0"))
    """Where to train; None for the GPU where there is one."""
    network: NetworkSettings = section(NetworkSettings())
    save: SaveSettings = section(SaveSettings())
    datasets: tuple[DatasetSettings, ...] = sections(DatasetSettings)
    train: TrainSettings = section(TrainSettings())
    model: ModelSettings = section(ModelSettings())
    sample: SampleSettings = section(SampleSettings())
