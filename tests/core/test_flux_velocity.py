"""diffusers' FLUX Kontext as the base of a training: what it predicts, against the way the pipeline asks it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from training_world import tiny_config

from lorweb_core import LoRWebError
from lorweb_core.config import BasisConfig
from lorweb_core.diffusers_backend.base import FluxBase, chosen_layers
from lorweb_core.diffusers_backend.velocity import flux_velocity
from lorweb_core.mixture import Mixture
from lorweb_core.routing import Tokens
from lorweb_core.runtime import PackedBasis, RuntimeMixture
from lorweb_core.training.data.batch import Batch, Text
from lorweb_core.training.run_folder import RunFolder
from lorweb_core.training.trainable_basis import TrainableBasis
from lorweb_core.training.trainer import Training

diffusers = pytest.importorskip("diffusers")

CHANNELS, TEXT, POOLED, QUERY = 4, 24, 12, 9


def a_flux(guidance: bool = True, **sizes: int):
    torch.manual_seed(0)
    return diffusers.FluxTransformer2DModel(
        in_channels=4 * CHANNELS,
        num_layers=sizes.get("doubles", 1),
        num_single_layers=sizes.get("singles", 1),
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        pooled_projection_dim=POOLED,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 6, 6),
    ).requires_grad_(False)


def a_batch(n: int = 2, words: int = 3, padding: int = 5) -> Batch:
    """Text of so many words, and then so many equal tokens, as padding gives them."""
    random = torch.Generator().manual_seed(1)
    target, reference = torch.randn(2, n, CHANNELS, 4, 8, generator=random)
    tokens = torch.randn(n, words + 1, TEXT, generator=random)
    tokens = torch.cat([tokens[:, :words], tokens[:, words:].expand(-1, padding, -1)], 1)
    text = Text(tokens, torch.randn(n, POOLED, generator=random))
    return Batch(target, reference, torch.randn(n, 1, QUERY, generator=random), text, ("one", "two")[:n])


def as_the_pipeline(transformer, batch: Batch, t: Tensor, guidance: float, place=(0, 0)) -> Tensor:
    """With every text token, and with diffusers' own packing."""
    pipeline = diffusers.FluxKontextPipeline
    n, c, h, w = batch.target.shape
    both = batch.target, batch.reference
    packed = [pipeline._pack_latents(latents, n, c, *latents.shape[2:]) for latents in both]
    halves = [[side // 2 for side in latents.shape[2:]] for latents in both]
    ids = [pipeline._prepare_latent_image_ids(n, *half, "cpu", torch.float32) for half in halves]
    ids[0][..., 1:] += torch.tensor(place)
    ids[1][..., 0] = 1
    made = transformer(
        hidden_states=torch.cat(packed, 1),
        timestep=t,
        guidance=torch.full((n,), guidance) if transformer.config.guidance_embeds else None,
        pooled_projections=batch.text.pooled,
        encoder_hidden_states=batch.text.tokens,
        txt_ids=torch.zeros(batch.text.tokens.shape[1], 3),
        img_ids=torch.cat(ids),
        return_dict=False,
    )[0]
    return pipeline._unpack_latents(made[:, : h * w // 4], h * 8, w * 8, 8)


TIMES = torch.tensor([0.3, 0.85])


@pytest.mark.parametrize(("words", "padding"), [(3, 5), (0, 8), (7, 1)], ids=["padded", "no words", "no padding"])
@pytest.mark.parametrize("guidance", [True, False])
def test_the_velocity_is_what_the_pipeline_would_have(words, padding, guidance):
    """Equal text tokens are computed once, which must not show."""
    transformer, batch = a_flux(guidance), a_batch(words=words, padding=padding)
    expected = as_the_pipeline(transformer, batch, TIMES, 2.5)
    made = flux_velocity(transformer, batch.target, TIMES, batch.reference, batch.text, 2.5)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)
    apart = flux_velocity(transformer, batch.target, TIMES, batch.reference, batch.text, 2.5, merge_text=False)
    torch.testing.assert_close(apart, expected, rtol=1e-5, atol=1e-6)
    assert made.shape == batch.target.shape


def test_b_prime_alone_is_at_its_place_in_the_grid():
    transformer, batch = a_flux(), a_batch()
    alone = batch._replace(target=batch.target[..., 2:, 4:])
    assert (batch.place, alone.place) == ((0, 0), (1, 2))
    made = flux_velocity(transformer, alone.target, TIMES, alone.reference, alone.text, 2.5, alone.place)
    torch.testing.assert_close(made, as_the_pipeline(transformer, alone, TIMES, 2.5, (1, 2)), rtol=1e-4, atol=1e-5)
    elsewhere = flux_velocity(transformer, alone.target, TIMES, alone.reference, alone.text, 2.5)
    assert (made - elsewhere).abs().max() > 1e-3


def test_tokens_that_repeat_reach_the_model_once():
    transformer, seen = a_flux(), []
    transformer.context_embedder.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[1]))
    batch = a_batch(words=3, padding=50)
    flux_velocity(transformer, batch.target, TIMES, batch.reference, batch.text, 1.0)
    assert seen == [4]


def test_tokens_that_repeat_in_one_example_only_stay():
    transformer, seen = a_flux(), []
    transformer.context_embedder.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[1]))
    batch = a_batch(words=0, padding=6)
    tokens = batch.text.tokens.clone()
    tokens[1, 2] += 1
    batch = batch._replace(text=batch.text._replace(tokens=tokens))
    made = flux_velocity(transformer, batch.target, TIMES, batch.reference, batch.text, 2.5)
    assert seen == [3]  # two equal ones, the other, and the three after it
    torch.testing.assert_close(made, as_the_pipeline(transformer, batch, TIMES, 2.5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("other", ["x", "reference", "words", "pooled", "t", "guidance"])
def test_everything_given_matters(other):
    transformer, batch = a_flux(), a_batch()
    given = {
        "x": batch.target, "t": TIMES, "reference": batch.reference, "words": batch.text.tokens,
        "pooled": batch.text.pooled, "guidance": 1.0,
    }  # fmt: skip
    changed = {**given, other: given[other] * 0.5}

    def ask(x, t, reference, words, pooled, guidance):
        return flux_velocity(transformer, x, t, reference, Text(words, pooled), guidance)

    assert not torch.allclose(ask(**given), ask(**changed), atol=1e-6)


class Source:
    def draw(self, step: int) -> Batch:
        return a_batch()


def train(transformer, routing: dict | None = None, **settings: object) -> Training:
    base = FluxBase(transformer, decode=lambda latents: latents)
    config = BasisConfig(linear=2, loras_num=3, lora_keys_dim=4, **(routing or {}))
    torch.manual_seed(1)
    basis = TrainableBasis(base.shapes, config, QUERY if config.external_query else None)
    for layer in basis.layers:
        layer.up.data.normal_(0, 0.1)
    return Training(basis, base, Source(), tiny_config("runs", **settings).train)


ACTIVATION = {"external_query": False, "external_query_model": None}


@pytest.mark.parametrize("routing", [{}, {**ACTIVATION, "query_mode": "caa'"}], ids=["external", "activation"])
def test_gradient_checkpointing_changes_no_gradient(routing):
    made = []
    for again in (False, True):
        transformer = a_flux()
        if again:
            transformer.enable_gradient_checkpointing()
        run = train(transformer, routing)
        run._gradients()
        made.append({name: parameter.grad for name, parameter in run.basis.named_parameters()})
    for name, gradient in made[0].items():
        torch.testing.assert_close(made[1][name], gradient, msg=name)
    assert all(gradient.any() for name, gradient in made[0].items() if "up" in name)


def test_gradients_reach_every_layer_of_the_blocks_and_no_weight_of_the_model():
    run = train(a_flux())
    weights = {name: value.clone() for name, value in run.base.model.state_dict().items()}
    run.step()
    assert len(run.basis.layers) == 14 + 6
    assert all(torch.equal(weights[name], value) for name, value in run.base.model.state_dict().items())
    assert all(parameter.grad is None for parameter in run.base.model.parameters())


@pytest.mark.parametrize("mode", ["external", "aa'bb'", "caa'bb'", "caa'b", "caa'"])
@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_what_is_trained_is_what_inference_computes(tmp_path, mode, pooling):
    """The velocity while training, against the saved basis as it is hooked on at inference, with all its text."""
    routing = {} if mode == "external" else {**ACTIVATION, "query_mode": mode, "pooling_type": pooling}
    run, batch = train(a_flux(), routing), a_batch()
    run.basis.route(batch.query, run.base.tokens(batch))
    with torch.no_grad():
        trained = run.base.velocity(batch.target, TIMES, batch, every_token=bool(routing))
        config = tiny_config(tmp_path, routing)
        saved = RunFolder(config).save(run)
        run.detach()
        mixture: Mixture = saved.route(None if routing else batch.query)
        model = run.base.model
        tokens = Tokens(batch.text.tokens.shape[1], batch.reference[0, 0].numel() // 4)
        packed = PackedBasis(saved, run.base.linears, torch.float32)
        with RuntimeMixture(mixture, 1.0).attached(model, packed, 2, tokens):
            used = as_the_pipeline(model, batch, TIMES, run.base.guidance)
    torch.testing.assert_close(trained, used, rtol=1e-4, atol=1e-5)


def test_every_linear_of_the_blocks_gets_a_basis():
    transformer = a_flux(doubles=1, singles=1)
    names = {
        f"transformer.{name}" for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)
    }
    inside = {name for name in names if "transformer_blocks." in name}
    assert chosen_layers(transformer).keys() == inside
    assert len(inside) == 20
    assert FluxBase(transformer, decode=None).shapes["transformer.transformer_blocks.0.attn.to_q"] == (32, 32)


def test_layers_are_chosen_by_an_expression_or_by_name():
    transformer = a_flux()
    queries = ["transformer.transformer_blocks.0.attn.to_q", "transformer.single_transformer_blocks.0.attn.to_q"]
    assert sorted(chosen_layers(transformer, r"to_q$")) == sorted(queries)
    assert list(chosen_layers(transformer, queries[:1])) == queries[:1]
    assert FluxBase(transformer, decode=None, layers=queries[1:]).linears.keys() == {
        queries[1].removeprefix("transformer.")
    }


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ("nothing", "'nothing', which no Linear"),
        (["transformer.proj_out"], "names transformer.proj_out, which the model"),
    ],
)
def test_layers_that_are_none_are_said(layers, words):
    with pytest.raises(LoRWebError, match=words):
        chosen_layers(a_flux(), layers)


def test_a_trained_flux_basis_is_stored_under_the_published_names(tmp_path):
    run = train(a_flux())
    RunFolder(tiny_config(tmp_path)).save(run)
    found = load_file(tmp_path / "tiny" / "tiny_000000000.safetensors")
    assert len(found) == 20 * 4
    assert found["transformer.single_transformer_blocks.0.proj_mlp.lora_B"].shape == (3, 2, 128)
