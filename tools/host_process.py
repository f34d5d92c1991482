"""A real ComfyUI inside this process, on the CPU, with the pack loaded as the host loads it: from its path."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from environment import ROOT

FLUX_1 = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "mlp_ratio": 4.0,
    "num_heads": 24,
    "depth": 19,
    "depth_single_blocks": 38,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}
"""What the host reads from FLUX.1-Kontext-dev's weights."""


def load_pack(comfyui: Path, base: Path) -> SimpleNamespace:
    """Load the pack into the host.

    Returns `.node(id)`, a node's class; `.core`, `.basis`, `.apply`, `.encoder`, `.sampling`, the modules; `.models`, a
    folder.
    """
    sys.path.insert(0, str(comfyui))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    comfy.cli_args.args.base_directory = str(base)
    import nodes

    if not asyncio.run(nodes.load_custom_node(str(ROOT))):
        raise RuntimeError(f"{comfyui} could not load the pack.")
    pack = nodes.NODE_CLASS_MAPPINGS["LoRWeBBasisLoader"].__module__.removesuffix(".nodes.basis_loader")

    def module(name: str) -> ModuleType:
        return sys.modules[f"{pack}.{name}"]

    (base / "models" / "lorweb").mkdir(parents=True, exist_ok=True)
    return SimpleNamespace(
        node=nodes.NODE_CLASS_MAPPINGS.__getitem__,
        core=module("lorweb_core"),
        basis=module("lorweb_core.basis"),
        apply=module("nodes.mixed_lora_apply"),
        encoder=module("nodes.host.vision_encoder"),
        sampling=module("nodes.host.analogy_sampling"),
        models=base / "models",
    )


def build_model(family: str, unet_config: dict, device: str = "meta", dtype: torch.dtype = torch.float32):
    """Build a MODEL as the host does from such a config; on "meta" without memory for its weights."""
    import comfy.model_patcher
    import comfy.supported_models

    config = getattr(comfy.supported_models, family)(dict(unet_config))
    config.unet_config["dtype"] = dtype
    model = config.get_model({}, device=device)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu)
