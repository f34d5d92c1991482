"""Analogy Attention: the weights of an analogy's parts in the model's attention."""

from __future__ import annotations

import math

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io
from torch import Tensor

from ..lorweb_core import LoRWebError
from ..lorweb_core.analogy import Analogy
from ..lorweb_core.grid import Size
from ..lorweb_core.layout import attention_bias, check_weights, find_layout
from .host import analogy_inputs, shared_inputs
from .host.checked_node import CheckedNode
from .host.flux_layers import check_flux


class AnalogyAttention(CheckedNode):
    """Weigh how much FLUX.1 Kontext looks at the example pair and at b."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBAnalogyAttention",
            display_name="Analogy Attention",
            category="LoRWeB",
            search_aliases=["visual analogy", "reference strength", "reference weight", "kontext"],
            description="Weighs how much FLUX.1 Kontext looks at the example pair and at b while it paints b'.",
            inputs=[
                io.Model.Input("model", tooltip="FLUX.1 Kontext, before or after Mixed LoRA Apply. It is not changed."),
                _weight("example_weight", "a and a' count"),
                _weight("b_weight", "b counts"),
                shared_inputs.layout(),
                shared_inputs.pairs(),
                analogy_inputs.analogy("layout and pairs"),
            ],
            outputs=[io.Model.Output("model", tooltip="The model with these weights; with both at 1, as before.")],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        example_weight: float = 1.0,
        b_weight: float = 1.0,
        layout: str = "grid",
        pairs: int = 1,
        analogy: Analogy | None = None,
    ) -> io.NodeOutput:
        if analogy is not None:
            layout, pairs = analogy.layout, analogy.pairs
        return io.NodeOutput(weigh_references(model, example_weight, b_weight, layout, pairs))


def _weight(name: str, counts: str) -> io.Input:
    tooltip = f"How much {counts}: 1 as trained, 2 as if shown twice."
    return io.Float.Input(name, default=1.0, min=0.01, max=100.0, step=0.01, tooltip=tooltip)


def weigh_references(
    model: ModelPatcher, example_weight: float, b_weight: float, layout: str = "grid", pairs: int = 1
) -> ModelPatcher:
    """Clone `model` so that each token of the example pairs and of b counts `weight` times in every attention.

    That is the weight's logarithm added to the logits of these keys. It goes in as FLUX.1's attention mask, by the
    host's wrapper around the forward pass: there the sizes of the references are known, and hosts before 0.17 call no
    patches within FLUX.1's attention. Raises LoRWebError for another model, and for weights that are not above 0.
    """
    check_weights(example_weight, b_weight)
    find_layout(layout)
    check_flux(model, "Analogy Attention is for FLUX.1")
    weighted = model.clone()
    if example_weight == b_weight == 1:
        return weighted

    def forward(
        executor, x, timestep, context, y, guidance, ref_latents, control, transformer_options, **kwargs
    ) -> Tensor:
        def tokens(latent: Tensor) -> Size:
            return Size(*(math.ceil(side / executor.class_obj.patch_size) for side in latent.shape[-2:]))

        references = [tokens(latent) for latent in ref_latents or []]
        bias = attention_bias(layout, references, pairs, example_weight, b_weight)
        unchanged = bias.new_zeros(context.shape[1] + math.prod(tokens(x)))
        mask = add_bias(kwargs.pop("attention_mask", None), torch.cat([unchanged, bias]).to(x))
        return executor(
            x,
            timestep,
            context,
            y,
            guidance,
            ref_latents,
            control,
            transformer_options,
            attention_mask=mask,
            **kwargs,
        )

    weighted.add_wrapper(WrappersMP.DIFFUSION_MODEL, forward)
    return weighted


def add_bias(mask: Tensor | None, bias: Tensor) -> Tensor:
    """Add a bias per key, (keys,), to the host's attention mask, or to none: a mask (batch, heads, queries, keys).

    Dimensions of one value broadcast in every attention of the host. What is masked stays masked.
    """
    bias = bias[None, None, None]
    if mask is None:
        return bias
    if mask.shape[-1] != bias.shape[-1]:
        raise LoRWebError(
            f"The conditioning has an attention mask for {mask.shape[-1]} tokens, but with its reference images there "
            f"are {bias.shape[-1]}. Remove the node that sets the mask, e.g. Apply Style Model with attn_bias."
        )
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim == 3:
        mask = mask[:, None]
    if mask.dtype == torch.bool:
        return torch.where(mask, bias, -math.inf)
    return mask.to(bias) + bias
