"""A FLUX.1-Kontext pipeline in diffusers' layout around a small transformer and autoencoder; nothing is fetched."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

from diffusers import AutoencoderTiny, FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;'!?-"

Weights = dict[str, Tensor]


def write_pipeline(
    folder: str | Path, transformer: FluxTransformer2DModel, taesd: Weights, silent: bool = False
) -> Path:
    """Write a pipeline around these, with text encoders of random weights as wide as the transformer takes.

    taesd: its tensors under ComfyUI's names. silent: the text encoders give zeros for every prompt.
    """
    vae = AutoencoderTiny(latent_channels=16)
    vae.load_state_dict(_diffusers_taesd(taesd))
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
        hidden_size=transformer.config.pooled_projection_dim,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=transformer.config.pooled_projection_dim,
        bos_token_id=clip_tokenizer.bos_token_id,
        eos_token_id=clip_tokenizer.eos_token_id,
        pad_token_id=clip_tokenizer.pad_token_id,
    )
    t5 = T5Config(
        vocab_size=len(t5_tokenizer),
        d_model=transformer.config.joint_attention_dim,
        d_kv=24,
        d_ff=128,
        num_layers=1,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    speaker, t5_speaker = CLIPTextModel(clip), T5EncoderModel(t5)
    if silent:
        for encoder in (speaker, t5_speaker):
            for name, parameter in encoder.named_parameters():
                if "final_layer_norm" in name:
                    parameter.data.zero_()
    pipeline = FluxKontextPipeline(
        transformer=transformer,
        vae=vae,
        scheduler=scheduler,
        text_encoder=speaker,
        tokenizer=clip_tokenizer,
        text_encoder_2=t5_speaker,
        tokenizer_2=t5_tokenizer,
    )
    pipeline.save_pretrained(folder)
    return Path(folder)


def _diffusers_taesd(weights: Weights) -> Weights:
    """Rename the layers as diffusers has them, whose decoder begins after the clamp."""
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
    """Make a tokenizer of bytes as CLIP spells them, alone and at a word's end, without merges."""
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*characters, *(f"{c}</w>" for c in characters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary, merges = scratch / "vocab.json", scratch / "merges.txt"
    vocabulary.write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
    merges.write_text("#version: 0.2\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(scratch, model_max_length=77)


def _t5_tokenizer(scratch: Path) -> T5TokenizerFast:
    """Make a tokenizer of letters, each as likely as any other."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(letter, -math.log(len(LETTERS))) for letter in ("▁", *LETTERS)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(scratch / "t5.json"))
    return T5TokenizerFast(tokenizer_file=str(scratch / "t5.json"), model_max_length=512, extra_ids=0)
