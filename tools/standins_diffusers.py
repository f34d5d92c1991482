"""Small stand-ins for what the command line loads, in the layouts it loads them from; nothing is fetched.

For tests and demos on a CPU. Needs diffusers and transformers: `pip install .[cli]`.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import standins
import torch
from diffusers import AutoencoderTiny, FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

# Widths of the two text encoders' outputs, which the transformer must take.
POOLED_WIDTH = 48
TEXT_WIDTH = 96

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;'!?-"


def make_pipeline(folder: str | Path, seed: int = 0) -> Path:
    """Write a small FLUX.1-Kontext pipeline around the transformer and the autoencoder of `standins`."""
    torch.manual_seed(seed)
    transformer = FluxTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=standins.HEAD,
        num_attention_heads=standins.HIDDEN // standins.HEAD,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(16, 56, 56),
    )
    transformer.load_state_dict(standins.flux(2, 2, TEXT_WIDTH, POOLED_WIDTH, seed))
    vae = AutoencoderTiny(latent_channels=16)
    vae.load_state_dict(_diffusers_taesd(standins.autoencoder()))
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )
    with tempfile.TemporaryDirectory() as scratch:
        clip_tokenizer, t5_tokenizer = _clip_tokenizer(Path(scratch)), _t5_tokenizer(Path(scratch))
    clip = CLIPTextConfig(
        vocab_size=len(clip_tokenizer),
        hidden_size=POOLED_WIDTH,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=POOLED_WIDTH,
        bos_token_id=clip_tokenizer.bos_token_id,
        eos_token_id=clip_tokenizer.eos_token_id,
        pad_token_id=clip_tokenizer.pad_token_id,
    )
    t5 = T5Config(
        vocab_size=len(t5_tokenizer),
        d_model=TEXT_WIDTH,
        d_kv=24,
        d_ff=128,
        num_layers=1,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    pipeline = FluxKontextPipeline(
        transformer=transformer,
        vae=vae,
        scheduler=scheduler,
        text_encoder=CLIPTextModel(clip),
        tokenizer=clip_tokenizer,
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=t5_tokenizer,
    )
    pipeline.save_pretrained(folder)
    return Path(folder)


def _diffusers_taesd(weights: standins.Weights) -> standins.Weights:
    """diffusers names the same layers otherwise, and its decoder begins after the clamp."""
    renamed = {}
    for name, tensor in weights.items():
        coder, _, rest = name.partition(".")
        position, _, rest = rest.partition(".")
        if coder == "taesd_encoder":
            renamed[f"encoder.layers.{position}.{rest}"] = tensor
        elif coder == "taesd_decoder":
            renamed[f"decoder.layers.{int(position) - 1}.{rest}"] = tensor
    return renamed


def _clip_tokenizer(scratch: Path) -> CLIPTokenizer:
    """Bytes as CLIP spells them, alone and at a word's end; no merges."""
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*characters, *(f"{c}</w>" for c in characters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary, merges = scratch / "vocab.json", scratch / "merges.txt"
    vocabulary.write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
    merges.write_text("#version: 0.2\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(scratch, model_max_length=77)


def _t5_tokenizer(scratch: Path) -> T5TokenizerFast:
    """Letters, each as likely as any other."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(letter, -math.log(len(LETTERS))) for letter in ("▁", *LETTERS)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(scratch / "t5.json"))
    return T5TokenizerFast(tokenizer_file=str(scratch / "t5.json"), model_max_length=512, extra_ids=0)
