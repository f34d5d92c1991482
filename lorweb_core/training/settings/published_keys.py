"""Keys of the published training YAML that this trainer has no setting for.

By section, "" being the process itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from itertools import islice
from typing import Any

from ...errors import LoRWebError, named, shown

Sections = Iterable[tuple[str, type, Mapping[str, Any]]]
"""Where each is (`datasets.0`), the dataclass it becomes, what the YAML has there."""

WITHOUT_EFFECT: dict[str, frozenset[str]] = {
    "": frozenset({"type", "log_dir", "logging", "performance_log_every", "sqlite_db_path"}),
    "save": frozenset({"hf_private", "hf_repo_id", "save_format"}),
    "datasets": frozenset(
        {
            "bucket_tolerance",
            "buckets",
            "cache_clip_vision_to_disk",
            "cache_latents",
            "cache_latents_to_disk",
            "debug",
            "enable_relation_captions",
            "fast_image_size",
            "full_size_control_images",
            "num_workers",
            "prefetch_factor",
        }
    ),
    "train": frozenset(
        {
            "debug_save_target_images",
            "disable_sampling",
            "force_first_sample",
            "sdp",
            "skip_first_sample",
            "train_refiner",
            "unload_text_encoder",
            "xformers",
        }
    ),
    "model": frozenset({"dtype", "low_vram", "quantize_te", "qtype_te", "te_dtype", "vae_dtype"}),
    "sample": frozenset({"format", "fps", "height", "neg", "prompts", "walk_seed", "width"}),
}
"""What they say is accepted and does nothing here."""

ONLY: dict[str, dict[str, object]] = {
    "network": {"type": "attlora", "dropout": 0, "transformer_only": True},
    "save": {"push_to_hub": False},
    "datasets": {
        "alpha_mask": False,
        "augments": [],
        "flip_x": False,
        "flip_y": False,
        "is_analogy": False,
        "is_bidirectional_analogy": False,
        "is_box_analogy": True,
        "is_reg": False,
        "keep_tokens": 0,
        "loss_multiplier": 1,
        "network_weight": 1,
        "num_frames": 1,
        "num_repeats": 1,
        "random_crop": False,
        "random_scale": False,
        "scale": 1,
        "shuffle_tokens": False,
        "square_crop": False,
        "token_dropout_rate": 0,
        "type": "image",
    },
    "train": {
        "bypass_guidance_embedding": False,
        "content_or_style": "balanced",
        "diff_output_preservation": False,
        "do_cfg": False,
        "do_guidance_loss": False,
        "do_prior_divergence": False,
        "gradient_accumulation": 1,
        "linear_timesteps": False,
        "linear_timesteps2": False,
        "loss_type": "mse",
        "max_denoising_steps": 1000,
        "min_denoising_steps": 0,
        "noise_offset": 0,
        "noise_scheduler": "flowmatch",
        "num_train_timesteps": 1000,
        "prompt_dropout_prob": 0,
        "train_text_encoder": False,
        "train_turbo": False,
        "train_unet": True,
    },
    "train.ema_config": {"param_multiplier": 1, "use_feedback": False},
    "model": {"attn_masking": False, "is_flux": True, "qtype": "qfloat8", "split_model_over_gpus": False},
    "sample": {"is_analogy": False, "is_box_analogy": True, "network_multiplier": 1, "sampler": "flowmatch"},
}
"""Switches whose other values ask for a training that this one is not. They are refused, not passed over."""

_LISTED = 20
"""Keys that a message names."""


def check_keys(file: str, sections: Sections) -> list[str]:
    """The keys that have no effect here. Raises LoRWebError for unknown ones, all at once, and for refused values."""
    unknown, ignored, switches = {}, [], {}
    for where, of, held in sections:
        kind = re.sub(r"\.\d+", "", where)
        only, idle = ONLY.get(kind, {}), WITHOUT_EFFECT.get(kind, ())
        unknown |= unknown_keys(where, held, [*(item.name for item in fields(of)), *only, *idle])
        ignored += [key_path(where, key) for key in held if key in idle]
        switches |= {key_path(where, key): (held[key], taken) for key, taken in only.items() if key in held}
    refuse_unknown(file, unknown)
    for name, (value, taken) in switches.items():
        if value not in (None, taken):
            taken = str(taken).lower() if isinstance(taken, bool) else taken
            raise LoRWebError(
                f"{file}: {name} is {shown(value)}, and this version trains with {taken} only. Set it so, or take the "
                "key out."
            )
    return ignored


def unknown_keys(where: str, held: Mapping[str, Any], known: list[str]) -> dict[str, list[str]]:
    """Find the keys of a section that are not known: path of each → those known, of which it may be one misspelled."""
    return {key_path(where, key): known for key in held if key not in known}


def refuse_unknown(file: str, unknown: Mapping[str, list[str]]) -> None:
    """Raise LoRWebError if there are any, `unknown_keys` having found them."""
    if unknown:
        # Looking for the nearest takes its time: of thousands of keys it is of use for the first.
        first = dict(islice(unknown.items(), _LISTED))
        nearest = {
            key: get_close_matches(key.rpartition(".")[2], known, n=1, cutoff=0)[0] for key, known in first.items()
        }
        listed = [f"{key} (nearest: {near})" for key, near in nearest.items()]
        raise LoRWebError(
            f"{file} has keys that this version does not know, each here with the nearest that it does: "
            f"{some([*listed, *list(unknown)[_LISTED:]], '; ')}. Correct them, or take them out."
        )


def some(words: Sequence[str], between: str) -> str:
    """Join words for a message, of many the first, with the number of the others."""
    if len(words) <= _LISTED:
        return between.join(words)
    return f"{between.join(words[:_LISTED])}{between}and {len(words) - _LISTED:,} more"


def key_path(where: str, key: Any) -> str:
    """Name a key as `--set` takes it: `train.lr`, `datasets.0.folder_path`."""
    key = named(key) if isinstance(key, str) else shown(key)
    return f"{where}.{key}" if where else key
