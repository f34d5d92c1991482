"""Keys of the published training YAML that this trainer has no setting for, and what is said of keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from itertools import islice
from typing import Any

from ...errors import LoRWebError
from ...fields import key_path, wrong_value


def _keys(names: str) -> tuple[str, ...]:
    return tuple(names.split())


WITHOUT_EFFECT: dict[str, tuple[str, ...]] = {
    "": _keys("type log_dir logging performance_log_every sqlite_db_path"),
    "save": _keys("hf_private hf_repo_id save_format"),
    "datasets": _keys(
        "bucket_tolerance buckets cache_clip_vision_to_disk cache_latents cache_latents_to_disk debug "
        "enable_relation_captions fast_image_size full_size_control_images num_workers prefetch_factor"
    ),
    "train": _keys(
        "debug_save_target_images disable_sampling force_first_sample sdp skip_first_sample train_refiner "
        "unload_text_encoder xformers"
    ),
    "model": _keys("dtype low_vram quantize_te qtype_te te_dtype vae_dtype"),
    "sample": _keys("format fps height neg prompts walk_seed width"),
}
"""Keys by section, "" being the process itself, whose values are accepted and do nothing here."""

SINGLE_VALUED: dict[str, dict[str, object]] = {
    "network": {"type": "attlora", "dropout": 0, "transformer_only": True},
    "save": {"push_to_hub": False},
    "datasets": {
        **dict.fromkeys(_keys("alpha_mask flip_x flip_y is_analogy is_bidirectional_analogy is_reg"), False),
        **dict.fromkeys(_keys("random_crop random_scale shuffle_tokens square_crop"), False),
        **dict.fromkeys(_keys("loss_multiplier network_weight num_frames num_repeats scale"), 1),
        **dict.fromkeys(_keys("keep_tokens token_dropout_rate"), 0),
        **{"augments": [], "is_box_analogy": True, "type": "image"},
    },
    "train": {
        **dict.fromkeys(_keys("bypass_guidance_embedding diff_output_preservation do_cfg do_guidance_loss"), False),
        **dict.fromkeys(_keys("do_prior_divergence linear_timesteps linear_timesteps2"), False),
        **dict.fromkeys(_keys("train_text_encoder train_turbo"), False),
        **dict.fromkeys(_keys("min_denoising_steps noise_offset prompt_dropout_prob"), 0),
        **dict.fromkeys(_keys("max_denoising_steps num_train_timesteps"), 1000),
        **{"content_or_style": "balanced", "loss_type": "mse", "noise_scheduler": "flowmatch"},
        **{"gradient_accumulation": 1, "train_unet": True},
    },
    "train.ema_config": {"param_multiplier": 1, "use_feedback": False},
    "model": {"attn_masking": False, "is_flux": True, "qtype": "qfloat8", "split_model_over_gpus": False},
    "sample": {"is_analogy": False, "is_box_analogy": True, "network_multiplier": 1, "sampler": "flowmatch"},
}
"""Switches by section whose other values ask for a training that this one is not. They are refused, not passed over."""

_LISTED = 20
"""Largest number of keys that a message names."""


def check_keys(file: str, sections: Iterable[tuple[str, type, Mapping[str, Any]]]) -> list[str]:
    """Check the keys of a document's sections, as `sections_of` lists them; returns those that have no effect here.

    Raises LoRWebError for unknown ones, all at once, and for refused values.
    """
    unknown: dict[str, list[str]] = {}
    ignored, refused = [], []
    for where, of, held in sections:
        kind = re.sub(r"\.\d+", "", where)
        single, idle = SINGLE_VALUED.get(kind, {}), WITHOUT_EFFECT.get(kind, ())
        unknown |= unknown_keys(where, held, [*(item.name for item in fields(of)), *single, *idle])
        ignored += [key_path(where, key) for key in held if key in idle]
        refused += [
            wrong_value(
                file, key_path(where, key), held[key], f"{str(only).lower()} only. Set it so, or take the key out"
            )
            for key, only in single.items()
            if held.get(key) not in (None, only)
        ]
    refuse_unknown(file, unknown)
    if refused:
        raise refused[0]
    return ignored


def unknown_keys(where: str, held: Mapping[str, Any], known: list[str]) -> dict[str, list[str]]:
    """Find the keys of a section that are not known: path of each → those known, of which it may be one misspelled."""
    return {key_path(where, key): known for key in held if key not in known}


def refuse_unknown(file: str, unknown: Mapping[str, list[str]]) -> None:
    """Raise LoRWebError if `unknown_keys` has found any, naming for each the nearest known one."""
    if unknown:
        # Looking for the nearest takes its time: of thousands of keys it is of use for the first.
        listed = [
            f"{key} (nearest: {get_close_matches(key.rpartition('.')[2], known, n=1, cutoff=0)[0]})"
            for key, known in islice(unknown.items(), _LISTED)
        ]
        raise LoRWebError(
            f"{file} has keys that this version does not know, each here with the nearest that it does: "
            f"{joined([*listed, *list(unknown)[_LISTED:]], '; ')}. Correct them, or take them out."
        )


def joined(words: Sequence[str], between: str) -> str:
    """Join words for a message, of many the first, with the number of the others."""
    if len(words) <= _LISTED:
        return between.join(words)
    return f"{between.join(words[:_LISTED])}{between}and {len(words) - _LISTED:,} more"
