"""Small stand-in weights with the layouts of the real ones: they show the pipeline at work, not an edit.

Everything is seeded. `comfy_models` fills a models folder that ComfyUI's stock loaders read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from environment import ROOT
from safetensors.torch import save_file
from torch import Tensor

Weights = dict[str, Tensor]

HEAD = 128  # FLUX's head size, which hosts take for granted
HIDDEN = 3 * HEAD
TOKEN = 64  # a patch of 2 × 2 latents of 16 channels


def flux(doubles: int, singles: int, text: int, pooled: int, seed: int = 0) -> Weights:
    """Build a FLUX.1 with guidance in diffusers' layout, float32, set by hand: it paints what its reference shows.

    The hidden state holds a token's own content, its reference's, both also negated so that their mean is 0, and large
    constants, beside which LayerNorm is linear. The first double block's attention finds, through the rotary position
    embedding alone, the reference token at the same place; all other blocks are switched off by their gates. The
    velocity pulls the noise towards the reference. What a mixture of LoRAs adds to any layer shows in the picture.
    """
    generator = torch.Generator().manual_seed(seed)
    weights: Weights = {}
    own, own_negated, reference, reference_negated = (slice(i * TOKEN, (i + 1) * TOKEN) for i in range(4))
    constants, size = slice(4 * TOKEN, HIDDEN), 30.0
    normed = size * (HEAD / HIDDEN) ** 0.5  # LayerNorm divides by this
    same = torch.eye(TOKEN)

    def linear(name: str, fan_in: int, fan_out: int, std: float = 0.0) -> tuple[Tensor, Tensor]:
        weights[f"{name}.weight"] = torch.randn(fan_out, fan_in, generator=generator) * std
        weights[f"{name}.bias"] = torch.zeros(fan_out)
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    weight, bias = linear("x_embedder", TOKEN, HIDDEN)
    weight[own], weight[own_negated] = same, -same
    bias[constants] = torch.tensor([size, -size]).repeat(HEAD // 2)
    linear("context_embedder", text, HIDDEN, std=text**-0.5)
    for name, width in {"timestep_embedder": 256, "guidance_embedder": 256, "text_embedder": pooled}.items():
        linear(f"time_text_embed.{name}.linear_1", width, HIDDEN, std=width**-0.5)
        linear(f"time_text_embed.{name}.linear_2", HIDDEN, HIDDEN, std=HIDDEN**-0.5)
    for block, layers in block_linears(HIDDEN, doubles, singles).items():
        for name, (fan_in, fan_out) in layers.items():
            linear(f"{block}.{name}", fan_in, fan_out)
        for name in ("norm_q", "norm_k", *(() if block.startswith("single") else ("norm_added_q", "norm_added_k"))):
            weights[f"{block}.attn.{name}.weight"] = torch.ones(HEAD)
    linear("norm_out.linear", HIDDEN, 2 * HIDDEN)

    first = "transformer_blocks.0"
    gate_of_attention = slice(2 * HIDDEN, 3 * HIDDEN)
    weights[f"{first}.norm1.linear.bias"][gate_of_attention] = 1.0
    query, key, sharpness = _same_place_in_the_reference()
    for name, vector in {"q": query, "k": key}.items():
        weights[f"{first}.attn.to_{name}.bias"][:] = vector.repeat(HIDDEN // HEAD)
        weights[f"{first}.attn.norm_{name}.weight"][:] = sharpness
    weights[f"{first}.attn.to_v.weight"][:TOKEN, own] = normed * same
    weights[f"{first}.attn.to_out.0.weight"][reference, :TOKEN] = same
    weights[f"{first}.attn.to_out.0.weight"][reference_negated, :TOKEN] = -same

    weight, _ = linear("proj_out", HIDDEN, TOKEN)
    weight[:, own], weight[:, reference] = 4 * normed * same, -4 * normed * same
    return weights


def _same_place_in_the_reference() -> tuple[Tensor, Tensor, Tensor]:
    """Find a query, a key and the scale of both, (128,), whose product is largest at (index + 1, same row and column).

    FLUX turns pair i of an axis by its position times 10000^(-2i / width); axes are index 16, row 56, column 56 wide.
    """
    pairs, scales = [], []
    for width, ahead, sharpness in ((16, 1, 90.0), (56, 0, 45.0), (56, 0, 45.0)):
        angles = ahead * 10000.0 ** (-torch.arange(0, width, 2) / width)
        pairs.append(torch.stack([angles.cos(), angles.sin()], -1))
        scales.append(torch.full((width,), sharpness**0.5))
    query = torch.cat(pairs).flatten()
    key = torch.tensor([1.0, 0.0]).repeat(HEAD // 2)
    return query, key, torch.cat(scales)


def block_linears(hidden: int, doubles: int, singles: int) -> dict[str, dict[str, tuple[int, int]]]:
    """List what a LoRWeB basis targets: block → Linear → (in, out). (3072, 19, 38) is FLUX.1, with 494 layers."""
    square, up, down = (hidden, hidden), (hidden, 4 * hidden), (4 * hidden, hidden)
    qkv = ("attn.to_q", "attn.to_k", "attn.to_v")
    double = {
        **dict.fromkeys(("norm1.linear", "norm1_context.linear"), (hidden, 6 * hidden)),
        **dict.fromkeys((*qkv, "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"), square),
        **dict.fromkeys(("attn.to_out.0", "attn.to_add_out"), square),
        **{f"{ff}.net.0.proj": up for ff in ("ff", "ff_context")},
        **{f"{ff}.net.2": down for ff in ("ff", "ff_context")},
    }
    single = {
        "norm.linear": (hidden, 3 * hidden),
        "proj_mlp": up,
        "proj_out": (5 * hidden, hidden),
        **dict.fromkeys(qkv, square),
    }
    return {f"transformer_blocks.{i}": double for i in range(doubles)} | {
        f"single_transformer_blocks.{i}": single for i in range(singles)
    }


def basis(
    blocks: dict[str, dict[str, tuple[int, int]]],
    n: int,
    rank: int,
    keys: int,
    query: int | None,
    strength: float = 0.3,
    seed: int = 0,
) -> Weights:
    """Draw a LoRWeB checkpoint in the published layout, float16; `strength` is the standard deviation of B.

    query: Q; None for an activation-routed basis, whose queries are as wide as each layer's input.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, std: float) -> Tensor:
        return torch.empty(shape, dtype=torch.float16).normal_(0, std, generator=generator)

    weights: Weights = {}
    for block, layers in blocks.items():
        for name, (fan_in, fan_out) in layers.items():
            layer = f"transformer.{block}.{name}"
            weights[f"{layer}.lora_A"] = normal(n, fan_in, rank, std=fan_in**-0.5)
            weights[f"{layer}.lora_B"] = normal(n, rank, fan_out, std=strength)
            weights[f"{layer}.lora_keys"] = normal(n, keys, std=1.0)
            weights[f"{layer}.att_lora_to_q.weight"] = normal(keys, query or fan_in, std=(query or fan_in) ** -0.5)
    return weights


def autoencoder() -> Weights:
    """Build a TAESD with FLUX's 16 latent channels, set by hand: it keeps the mean colour of each 8 × 8 pixels.

    Blocks are left at zero, which makes them the identity on what is above zero; the strided convolutions average
    2 × 2 pixels; three colours are spread over the latent channels and gathered again.
    """
    weights: Weights = {"vae_scale": torch.tensor(1.0), "vae_shift": torch.tensor(0.0)}
    colours = torch.arange(3)
    spread = torch.linalg.qr(torch.randn(16, 3, generator=torch.Generator().manual_seed(0))).Q

    def conv(name: str, fan_in: int, fan_out: int, bias: bool = True) -> Tensor:
        weights[f"{name}.weight"] = torch.zeros(fan_out, fan_in, 3, 3)
        if bias:
            weights[f"{name}.bias"] = torch.zeros(fan_out)
        return weights[f"{name}.weight"]

    def blocks(coder: str, *positions: int) -> None:
        for position in positions:
            for layer in (0, 2, 4):
                conv(f"{coder}.{position}.conv.{layer}", 64, 64)

    # Sequential positions as in comfy/taesd/taesd.py.
    conv("taesd_encoder.0", 3, 64)[colours, colours, 1, 1] = 1
    blocks("taesd_encoder", 1, 3, 4, 5, 7, 8, 9, 11, 12, 13)
    for position in (2, 6, 10):
        conv(f"taesd_encoder.{position}", 64, 64, bias=False)[colours, colours, 1:, 1:] = 0.25
    conv("taesd_encoder.14", 64, 16)[:, :3, 1, 1] = 2 * spread
    weights["taesd_encoder.14.bias"][:] = -spread.sum(1)

    conv("taesd_decoder.1", 16, 64)[:3, :, 1, 1] = spread.T / 2
    weights["taesd_decoder.1.bias"][:3] = 0.5
    blocks("taesd_decoder", 3, 4, 5, 8, 9, 10, 13, 14, 15, 18)
    smooth = torch.outer(torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.25, 0.5, 0.25]))
    for position in (7, 12, 17):
        conv(f"taesd_decoder.{position}", 64, 64, bias=False)[colours, colours] = smooth
    conv("taesd_decoder.19", 64, 3)[colours, colours, 1, 1] = 1
    return weights


def text_encoder(seed: int = 0) -> Weights:
    """Draw a CLIP-L text model, float16, of the real size: the host builds it from a fixed config."""
    generator = torch.Generator().manual_seed(seed)
    width, weights = 768, {}

    def normal(name: str, *shape: int) -> None:
        weights[f"text_model.{name}"] = torch.empty(shape, dtype=torch.float16).normal_(0, 0.02, generator=generator)

    def norm(name: str) -> None:
        weights[f"text_model.{name}.weight"] = torch.ones(width, dtype=torch.float16)
        weights[f"text_model.{name}.bias"] = torch.zeros(width, dtype=torch.float16)

    normal("embeddings.token_embedding.weight", 49408, width)
    normal("embeddings.position_embedding.weight", 77, width)
    for i in range(12):
        layer = f"encoder.layers.{i}"
        linears = {f"self_attn.{name}_proj": (width, width) for name in ("q", "k", "v", "out")}
        for name, (fan_in, fan_out) in {**linears, "mlp.fc1": (width, 3072), "mlp.fc2": (3072, width)}.items():
            normal(f"{layer}.{name}.weight", fan_out, fan_in)
            normal(f"{layer}.{name}.bias", fan_out)
        norm(f"{layer}.layer_norm1")
        norm(f"{layer}.layer_norm2")
    norm("final_layer_norm")
    weights["text_projection.weight"] = torch.eye(width, dtype=torch.float16)
    return weights


def image_encoder(folder: Path, width: int, seed: int = 0) -> Path:
    """Write a CLIP vision tower in transformers' folder layout, embedding 224 × 224 pixels into `width` values."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=224,
        patch_size=14,
        # CLIP's own, 0.02 and 1, make embeddings of random weights that hardly depend on the picture.
        initializer_factor=10.0,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def picture(night: bool, shape: str, size: tuple[int, int] = (256, 256)) -> Tensor:
    """Draw a scene, (H, W, 3) in 0–1: a house or a tree on a meadow, by day or by night."""
    height, width = size
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    sky, ground, light = (
        ((0.05, 0.05, 0.25), (0.05, 0.2, 0.1), (0.95, 0.95, 0.8))
        if night
        else ((0.5, 0.75, 1.0), (0.4, 0.75, 0.3), (1.0, 0.85, 0.2))
    )
    image = torch.tensor(sky).expand(height, width, 3).clone()
    image[y > 0.7] = torch.tensor(ground)
    image[(x - 0.8) ** 2 + (y - 0.2) ** 2 < 0.01] = torch.tensor(light)
    dim = 0.4 if night else 1.0
    if shape == "house":
        image[(x > 0.25) & (x < 0.6) & (y > 0.5) & (y < 0.8)] = dim * torch.tensor([0.85, 0.3, 0.25])
        image[(y < 0.5) & (y > 0.3 + (x - 0.425).abs())] = dim * torch.tensor([0.45, 0.2, 0.15])
        image[(x > 0.38) & (x < 0.47) & (y > 0.58) & (y < 0.68)] = torch.tensor(light)
    else:
        image[(x > 0.4) & (x < 0.46) & (y > 0.5) & (y < 0.82)] = dim * torch.tensor([0.45, 0.3, 0.15])
        image[(x - 0.43) ** 2 + (y - 0.42) ** 2 < 0.03] = dim * torch.tensor([0.15, 0.55, 0.2])
    return image


def save_pictures(folder: Path) -> None:
    """Save the drawn triplet: a house by day, the house by night, a tree by day. a.png, a_prime.png, b.png."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for name, scene in {"a": (False, "house"), "a_prime": (True, "house"), "b": (False, "tree")}.items():
        Image.fromarray((picture(*scene) * 255).round().byte().numpy()).save(folder / f"{name}.png")


QUERY_WIDTH = 24


def demo_basis() -> Weights:
    """Draw a basis for `flux(2, 2, …)` and `image_encoder(…, QUERY_WIDTH)`: it gives a tint, not an edit."""
    return basis(block_linears(HIDDEN, 2, 2), n=4, rank=2, keys=16, query=3 * QUERY_WIDTH, strength=0.01)


def save_demo_basis(path: Path) -> None:
    """Write the demo's basis and its training config: at this size the tensors do not tell the query mode."""
    save_file(demo_basis(), path)
    network = {"network_kwargs": {"query_mode": "cat-aa'b"}}
    path.with_suffix(".yaml").write_text(json.dumps({"config": {"process": [{"network": network}]}}))


STANDINS = {
    "diffusion_models": "standin-flux.safetensors",
    "vae": "standin-taesd.safetensors",
    "text_encoders": "standin-clip-l.safetensors",
    "lorweb": "standin-basis.safetensors",
}
"""The names that `comfy_models` gives its files, by folder."""


def comfy_models(folder: Path) -> None:
    """Write stand-ins for every file of "Edit by example", under the names that `for_standins` puts in."""
    files = {
        "diffusion_models": flux(2, 2, text=768, pooled=768),
        "vae": autoencoder(),
        "text_encoders": text_encoder(),
    }
    for kind, weights in files.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        save_file(weights, folder / kind / STANDINS[kind])
    (folder / "lorweb").mkdir(exist_ok=True)
    save_demo_basis(folder / "lorweb" / STANDINS["lorweb"])
    image_encoder(folder / "clip_vision" / "clip-vit-large-patch14", QUERY_WIDTH)


RELEASED = ROOT / "tests" / "data" / "released_workflows" / "api"
"""Workflows of the last release, whose nodes are given the pictures one by one."""

SHOWN = ("LoRWeBAnalogy", "LoRWeBAnalogyEncoder", "LoRWeBExtendedAttention")
"""Nodes that are given a, a_prime and b."""


def for_standins(
    workflow: Path,
    megapixels: float,
    steps: int,
    names: Mapping[str, str] = STANDINS,
    pictures: Mapping[str, str] | None = None,
) -> dict:
    """Put the stand-ins' names into the API form of a bundled workflow.

    names: of the files, by folder. pictures: of a, a_prime and b in the input folder; a.png, a_prime.png and b.png
    where left out. Two nodes give way: FLUX's two text encoders to one CLIP-L, because the host fixes T5's size at 4.7
    billion values, and Load CLIP Vision, likewise fixed, to the encoder that the Analogy Encoder loads from its folder.
    """
    graph = json.loads(workflow.read_text(encoding="utf-8"))
    pictures = pictures or {image: f"{image}.png" for image in ("a", "a_prime", "b")}
    inputs = {
        "UNETLoader": {"unet_name": names["diffusion_models"]},
        "VAELoader": {"vae_name": names["vae"]},
        "LoRWeBBasisLoader": {"basis_name": names["lorweb"]},
        "LoRWeBAnalogy": {"megapixels": megapixels},
        "LoRWeBExtendedAttention": {"megapixels": megapixels},
        "LoRWeBFitMixture": {"megapixels": megapixels},
        "KSampler": {"steps": steps},
    }
    for node in graph.values():
        node["inputs"].update(inputs.get(node["class_type"], {}))
        if node["class_type"] == "DualCLIPLoader":
            node["class_type"] = "CLIPLoader"
            node["inputs"] = {"clip_name": names["text_encoders"], "type": "stable_diffusion"}
        node["inputs"].pop("clip_vision", None)
        shown = node["inputs"].keys() & pictures if node["class_type"] in SHOWN else ()
        for image in shown:
            loader, _ = node["inputs"][image]
            graph[loader]["inputs"]["image"] = pictures[image]
    return {key: node for key, node in graph.items() if node["class_type"] != "CLIPVisionLoader"}
