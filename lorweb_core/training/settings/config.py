"""The training YAML as dataclasses: published key names, and where the published example has a key, its value."""

# ruff: noqa: RUF009 (the calls make dataclass fields)

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ...config import BasisConfig
from .kinds import (
    DECAY,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    cell_side,
    choice,
    ending,
    folder,
    layer_choice,
    one_or_several,
    required,
    section,
    sections,
    setting,
    several,
    switch,
    text,
    whole,
)

_FLOATS = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
_SEED = whole(most=2**64 - 1)


@dataclass(frozen=True)
class NetworkSettings:
    """The basis: its sizes, what it is put on, and its routing."""

    linear: int = setting(1, whole(1))
    """r, the rank of each LoRA."""
    linear_alpha: float = setting(1.0, POSITIVE)
    """Kept for other tools and without effect: the scale is 1, as published, whatever it says."""
    layers: str | tuple[str, ...] | None = setting(None, layer_choice())
    """Ours. Which Linears get LoRAs: those whose name has a match of this expression, or those named; None for all that
    are inside the blocks.
    """
    network_kwargs: BasisConfig = section(BasisConfig(loras_num=32, lora_keys_dim=128))
    """N, D and how the basis is routed; the rank is `linear`. N and D are the released ones."""

    @property
    def basis(self) -> BasisConfig:
        """How the trained basis is routed, its rank included."""
        return replace(self.network_kwargs, linear=self.linear)


@dataclass(frozen=True)
class SaveSettings:
    """Checkpoints."""

    dtype: str = setting("float16", choice("float16", "bfloat16", "float32", **_FLOATS))
    save_every: int = setting(250, whole(1))
    """Steps."""
    max_step_saves_to_keep: int = setting(4, whole(1))


@dataclass(frozen=True)
class DatasetSettings:
    """A folder of pictures, and how analogies are made of it."""

    folder_path: Path = required(folder())
    control_path: Path | None = setting(None, folder())
    """Of the layout `triplets`: where the strips a | a′ | b are."""
    caption_ext: str = setting("txt", ending())
    caption_dropout_rate: float = setting(0.05, SHARE)
    """How often an analogy is trained without its caption."""
    default_caption: str = setting("", text(r"(?s).*"))
    resolution: int = setting(512, cell_side())
    """Of a cell of the grid, a side in pixels."""
    layout: str = setting("auto", choice("auto", "triplets", "pairs", "relation252k"))
    """Ours, as are those that follow."""
    held_out: tuple[str, ...] = setting((), one_or_several(text(), "a list of names or patterns of edits"))
    """Edits kept for validation, by name or pattern (`recolour*`)."""
    validation_share: float = setting(0.0, SHARE)
    """Of the edits, how many are kept for validation, chosen by the seed."""
    analogies_per_edit: int = setting(64, whole(1))
    """The most that are made of an edit's pairs."""


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW's."""

    betas: tuple[float, float] = setting(
        (0.9, 0.99), several(DECAY, "two numbers from 0 to below 1, such as [0.9, 0.99]", length=2)
    )
    weight_decay: float = setting(0.05, NOT_NEGATIVE)
    eps: float = setting(1e-8, POSITIVE)


@dataclass(frozen=True)
class TrainSettings:
    """The training itself."""

    batch_size: int = setting(6, whole(1))
    steps: int = setting(10000, whole(1))
    gradient_accumulation_steps: int = setting(1, whole(1))
    gradient_checkpointing: bool = setting(True, switch())
    optimizer: str = setting("adamw8bit", choice("adamw8bit", "adamw"))
    optimizer_params: OptimizerSettings = section(OptimizerSettings())
    lr: float = setting(1e-3, POSITIVE)
    lr_scheduler: str = setting("constant", choice("constant", "cosine", "onecycle"))
    lr_warmup_steps: int = setting(0, whole())
    max_grad_norm: float = setting(1.0, POSITIVE)
    timestep_type: str = setting("weighted", choice("weighted", "linear", "sigmoid", "shift"))
    dtype: str = setting("bf16", choice("bf16", "fp32", bfloat16="bf16", float32="fp32"))
    """What the base computes in."""
    ema_decay: float = setting(0.0, DECAY)
    """Of the moving average that is saved; 0 saves the parameters themselves. Also as published,
    `ema_config: {use_ema, ema_decay}`.
    """
    seed: int = setting(42, _SEED)
    result_weight: float = setting(1.0, POSITIVE)
    """Ours: how often the quarter b′ counts in the loss, the other three counting once."""
    show_pair: bool = setting(True, switch())
    """Ours. False is an ablation: in the grid b takes the place of a and a′, so that only the query has the pair."""
    log_every: int = setting(1, whole(1))
    """Steps."""


@dataclass(frozen=True)
class ModelSettings:
    """The frozen base and the frozen image encoder."""

    name_or_path: str = setting("black-forest-labs/FLUX.1-Kontext-dev", text(expected="a folder or a model's id"))
    arch: str = setting("flux_kontext", choice("flux_kontext"))
    quantize: bool = setting(True, switch())
    """The base in 8 bits; on CUDA only."""
    offload: bool = setting(False, switch())
    """Ours: the base waits in main memory, and its blocks come to the GPU one after the other."""
    text_tokens: int = setting(512, whole(1))
    """Ours: T, how many tokens a caption is padded to."""
    encoder: str | None = setting(None, text(expected="a folder or a model's id"))
    """Ours: where the image encoder is; None to have the one that `external_query_model` names."""
    guidance: float = setting(1.0, NOT_NEGATIVE)
    """Ours: what the base's guidance embedding is told while training."""


@dataclass(frozen=True)
class SampleSettings:
    """Pictures made while training, of analogies of held-out edits where there are some."""

    sample_every: int = setting(500, whole())
    """Steps; 0 for never."""
    sample_steps: int = setting(20, whole(1))
    guidance_scale: float = setting(4.0, NOT_NEGATIVE)
    seed: int = setting(42, _SEED)
    count: int = setting(4, whole(1))
    """Ours: how many analogies."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """All of a training. `settings_file` reads it from a YAML."""

    name: str = required(
        text(r'[^<>:"/\\|?*\x00-\x1f\ud800-\udfff]{1,200}(?<![ .])', "a text that can be a file's name")
    )
    """Of the basis and of its run's folder, inside `training_folder`."""
    training_folder: Path = setting(Path("output"), folder())
    device: str | None = setting(None, text(r"cpu|mps|cuda(:\d+)?", "cpu, mps, cuda or cuda:0"))
    """None for the GPU where there is one."""
    network: NetworkSettings = section(NetworkSettings())
    save: SaveSettings = section(SaveSettings())
    datasets: tuple[DatasetSettings, ...] = sections(DatasetSettings)
    train: TrainSettings = section(TrainSettings())
    model: ModelSettings = section(ModelSettings())
    sample: SampleSettings = section(SampleSettings())
