"""b' alone and kept references on diffusers' FLUX, against passes with all tokens that the tests put together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import standins
import torch
from safetensors.torch import save_file
from torch import Tensor

from lorweb_core import load_basis
from lorweb_core.grid import Size, reference_grid
from lorweb_core.kept_references import EACH_STEP, KeptReferences, Refresh
from lorweb_core.layout import ORIGIN, Place
from lorweb_core.query import encode_query
from lorweb_core.training.data.batch import Batch, Text

pytest.importorskip("diffusers", reason="needs diffusers: pip install .[cli]")
pytest.importorskip("transformers", reason="needs transformers: pip install .[cli]")

import diffusers
from diffusers.models.transformers.transformer_flux import FluxAttention

from lorweb_core.diffusers_backend.base import FluxBase
from lorweb_core.diffusers_backend.pipeline import Analogy, load_vision_encoder, merge, run_analogy
from lorweb_core.diffusers_backend.sampling import analogy_passes
from small_world.models.diffusers_folder import write_pipeline

pytestmark = pytest.mark.usefixtures("one_thread")

CHANNELS, TEXT, POOLED = 16, 24, 12
NOISE, REFERENCE, WORDS, STEPS = Size(2, 3), Size(4, 6), 5, 5
"""Sizes in tokens."""
PLACE = Place(2, 3)


def a_flux(head: int = 32):
    """A FLUX of two double and two single blocks, of random weights that make tokens look at each other."""
    torch.manual_seed(0)
    model = diffusers.FluxTransformer2DModel(
        in_channels=4 * CHANNELS,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=head,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        pooled_projection_dim=POOLED,
        guidance_embeds=True,
        axes_dims_rope=(head // 4, head * 3 // 8, head * 3 // 8),
    )
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(2)
    return model.eval().requires_grad_(False)


def positions(size: Size, frame: int, place: Place = ORIGIN) -> Tensor:
    """Of each token, row by row: frame, row and column."""
    rows, columns = range(size.height), range(size.width)
    return torch.tensor([(frame, place.row + row, place.column + column) for row in rows for column in columns]).float()


class Inputs:
    """What two pictures are sampled from, with two prompts: of a step each has a pass of its own."""

    def __init__(self, seed: int = 1):
        random = torch.Generator().manual_seed(seed)
        self.noise = torch.randn(2, NOISE.height * NOISE.width, 4 * CHANNELS, generator=random)
        self.reference = torch.randn(2, REFERENCE.height * REFERENCE.width, 4 * CHANNELS, generator=random)
        self.words = torch.randn(2, 2, WORDS, TEXT, generator=random)
        self.pooled = torch.randn(2, 2, POOLED, generator=random)


def sample(transformer, inputs: Inputs, place: Place, after_step: Callable[[], None] = lambda: None) -> Tensor:
    """Sample with guidance by two prompts, as a pipeline would, from tokens whose noise is at `place`."""
    x, ids = inputs.noise, torch.cat([positions(NOISE, 0, place), positions(REFERENCE, 1)])
    for step in range(STEPS):
        wanted, other = (
            transformer(
                hidden_states=torch.cat([x, inputs.reference], 1),
                timestep=torch.full((2,), 1 - step / STEPS),
                guidance=torch.full((2,), 2.5),
                pooled_projections=pooled,
                encoder_hidden_states=words,
                txt_ids=torch.zeros(WORDS, 3),
                img_ids=ids,
                return_dict=False,
            )[0][:, : x.shape[1]]
            for words, pooled in zip(inputs.words, inputs.pooled, strict=True)
        )
        x = x - (other + 2 * (wanted - other)) / STEPS
        after_step()
    return x


def sample_changed(transformer, inputs: Inputs, place: Place = PLACE, refresh: Refresh = EACH_STEP) -> Tensor:
    """Sample from noise whose positions begin at (0, 0), within `analogy_passes`."""
    with analogy_passes(transformer, inputs.noise.shape[1], place, refresh, STEPS) as passes:
        return sample(transformer, inputs, ORIGIN, passes.next_step)


@contextmanager
def frozen_references(transformer, computed: set[int], prompts: int = 2) -> Iterator[None]:
    """Give all attentions, within, the reference tokens as they were in the last of the steps that are `computed`."""
    references, seen, passes = REFERENCE.height * REFERENCE.width, {}, {}

    def before(module, args, inputs):
        number = passes.setdefault(module, 0)
        passes[module] += 1
        step, prompt = divmod(number, prompts)
        states = inputs["hidden_states"].clone()
        if step in computed:
            seen[module, prompt] = states[:, -references:].clone()
        states[:, -references:] = seen[module, prompt]
        return args, {**inputs, "hidden_states": states}

    attentions = [module for module in transformer.modules() if isinstance(module, FluxAttention)]
    handles = [module.register_forward_pre_hook(before, with_kwargs=True) for module in attentions]
    assert len(handles) == 4
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def close(made: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)


def test_b_alone_is_what_all_tokens_at_their_own_positions_give():
    transformer, inputs = a_flux(), Inputs()
    expected = sample(transformer, inputs, PLACE)
    assert torch.equal(sample_changed(transformer, inputs), expected)
    assert not torch.allclose(sample(transformer, inputs, ORIGIN), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("refresh", "computed"),
    [(Refresh(0), {0}), (Refresh(2), {0, 2, 4}), (Refresh(1, (0.5,)), {0, 2}), (Refresh(9), {0})],
    ids=["first step", "every second", "by share", "beyond the steps"],
)
@pytest.mark.parametrize("place", [PLACE, ORIGIN], ids=["b' alone", "whole grid"])
def test_kept_references_are_frozen_ones(refresh, computed, place):
    transformer, inputs = a_flux(), Inputs()
    with frozen_references(transformer, computed):
        expected = sample(transformer, inputs, place)
    close(sample_changed(transformer, inputs, place, refresh), expected)
    assert not torch.allclose(sample(transformer, inputs, place), expected, atol=1e-3)


def test_what_every_step_computes_is_exact():
    transformer, inputs = a_flux(), Inputs()
    expected = sample(transformer, inputs, ORIGIN)
    assert torch.equal(sample_changed(transformer, inputs, ORIGIN), expected)
    every_step = Refresh(1, tuple(step / STEPS for step in range(STEPS)))
    assert torch.equal(sample_changed(transformer, inputs, ORIGIN, every_step), expected)


def test_steps_that_use_kept_references_compute_noise_and_text_alone():
    transformer, seen = a_flux(), []
    transformer.x_embedder.register_forward_hook(lambda module, given, made: seen.append(made.shape[1]))
    sample_changed(transformer, Inputs(), PLACE, Refresh(2))
    assert seen == [30, 30, 6, 6, 30, 30, 6, 6, 30, 30]


def test_a_run_has_nothing_of_the_one_before():
    transformer = a_flux()
    expected = sample_changed(a_flux(), Inputs(2), PLACE, Refresh(0))
    sample_changed(transformer, Inputs(1), PLACE, Refresh(0))
    assert torch.equal(sample_changed(transformer, Inputs(2), PLACE, Refresh(0)), expected)


def test_without_memory_for_keeping_them_references_are_computed(monkeypatch, caplog):
    def keep(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError

    transformer, inputs = a_flux(), Inputs()
    expected = sample(transformer, inputs, PLACE)
    monkeypatch.setattr(KeptReferences, "keep", keep)
    assert torch.equal(sample_changed(transformer, inputs, PLACE, Refresh(0)), expected)
    assert [record.message for record in caplog.records] == [
        "There is no memory for keeping the references; they are computed in every step."
    ]


def untouched(transformer) -> tuple:
    """Everything of a model that a run could have left something on."""
    modules = dict(transformer.named_modules())
    hooks = [list(module._forward_hooks) + list(module._forward_pre_hooks) for module in modules.values()]
    return list(modules), dict(transformer.attn_processors), hooks, set(vars(transformer))


def test_nothing_is_left_on_the_model():
    transformer = a_flux()
    before = untouched(transformer)
    sample_changed(transformer, Inputs(), PLACE, Refresh(0))
    assert untouched(transformer) == before


@pytest.mark.parametrize("at", [1, 5], ids=["while they are kept", "while they are joined"])
def test_nothing_is_left_on_the_model_where_a_run_is_interrupted(at):
    transformer, inputs, passes = a_flux(), Inputs(), []

    def interrupt(*_: object) -> None:
        passes.append(None)
        if len(passes) == at:
            raise KeyboardInterrupt

    handle = transformer.single_transformer_blocks[0].attn.to_k.register_forward_hook(interrupt)
    before = untouched(transformer)
    with pytest.raises(KeyboardInterrupt):
        sample_changed(transformer, inputs, PLACE, Refresh(0))
    assert untouched(transformer) == before
    handle.remove()
    assert torch.equal(sample(transformer, inputs, PLACE), sample(a_flux(), inputs, PLACE))


@pytest.mark.parametrize("merged", [True, False], ids=["equal text tokens as one", "every text token"])
def test_the_base_keeps_the_references_of_a_run(merged):
    """Of a text of five tokens and so much padding that one token stands for, with a bias in the attention."""
    random = torch.Generator().manual_seed(4)
    words = torch.randn(2, 6, TEXT, generator=random)
    words = torch.cat([words[:, :5], words[:, 5:].expand(-1, 20, -1)], 1)
    text = Text(words, torch.randn(2, POOLED, generator=random))
    noise = torch.randn(2, CHANNELS, 2 * NOISE.height, 2 * NOISE.width, generator=random)
    reference = torch.randn(2, CHANNELS, 2 * REFERENCE.height, 2 * REFERENCE.width, generator=random)
    batch, base = Batch(noise, reference, None, text, ()), FluxBase(a_flux(), decode=lambda latents: latents)
    assert batch.place == PLACE

    def sampled(every_token: bool) -> Tensor:
        x = noise
        for step in range(STEPS):
            t = torch.full((2,), 1 - step / STEPS)
            x = x - base.velocity(x, t, batch, every_token) / STEPS
        return x

    with frozen_references(base.model, {0, 3}, prompts=1):
        expected = sampled(every_token=True)
    before = untouched(base.model)
    with base.keeping(Refresh(3), NOISE.height * NOISE.width, STEPS):
        made = sampled(every_token=not merged)
    close(made, expected)
    assert untouched(base.model) == before
    close(sampled(every_token=not merged), sampled(every_token=True))


# The whole analogy


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A pipeline around a FLUX of random weights, an image encoder, and a basis for both."""
    folder = tmp_path_factory.mktemp("models")
    write_pipeline(folder / "pipeline", a_flux(), standins.autoencoder())
    standins.image_encoder(folder / "encoder", width=24)
    save_file(
        standins.basis(standins.block_linears(64, 2, 2), n=4, rank=2, keys=8, query=72), folder / "basis.safetensors"
    )
    return folder


def images() -> list[Tensor]:
    random = torch.Generator().manual_seed(3)
    return [torch.rand(96, 144, 3, generator=random) for _ in range(3)]


def analogy(folder: Path, **changed: object) -> Analogy:
    """Of a grid of 192 × 288 pixels: its cells are of b's size."""
    given = {"encoder": folder / "encoder", "steps": 4, "megapixels": 0.06, "device": "cpu", "text_tokens": 8}
    return run_analogy(*images(), "a word", folder / "basis.safetensors", folder / "pipeline", **given | changed)


def a_pipeline(folder: Path):
    """Load the pipeline and merge what the basis makes of the images."""
    pipeline = diffusers.FluxKontextPipeline.from_pretrained(folder / "pipeline")
    basis = load_basis(folder / "basis.safetensors")
    encoder = load_vision_encoder(basis.config.external_query_model, folder / "encoder")
    merge(pipeline.transformer, basis.route(encode_query(encoder, *images(), basis.config.query_mode)))
    return pipeline


def by_hand(folder: Path) -> Tensor:
    """Sample b' alone in four steps with the pipeline's parts: cells of 6 × 9 tokens, b' the last."""
    cell = Size(6, 9)
    pipeline = a_pipeline(folder)
    a, a_prime, b = images()
    whole = Size(32 * cell.height, 32 * cell.width)
    grid = reference_grid([(a, a_prime)], b, whole, whole).movedim(-1, 0)[None]
    x = torch.randn(1, CHANNELS, 2 * cell.height, 2 * cell.width, generator=torch.Generator().manual_seed(50))

    def packed(latents: Tensor) -> Tensor:
        n, c, h, w = latents.shape
        return latents.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, h * w // 4, 4 * c)

    with torch.no_grad():
        vae = pipeline.vae
        latents = (vae.encode(2 * grid - 1).latents - vae.config.shift_factor) * vae.config.scaling_factor
        reference, x = packed(latents), packed(x)
        words, pooled, text_ids = pipeline.encode_prompt("a word", None, max_sequence_length=8)
        # FLUX's shift, for the 216 tokens of the whole grid.
        shift = math.exp(0.5 + (1.15 - 0.5) * (216 - 256) / (4096 - 256))
        times = [shift / (shift + 1 / (1 - step / 4) - 1) for step in range(4)] + [0.0]
        ids = torch.cat([positions(cell, 0, Place(6, 9)), positions(Size(12, 18), 1)])
        for now, then in pairwise(times):
            velocity = pipeline.transformer(
                hidden_states=torch.cat([x, reference], 1),
                timestep=torch.tensor([now]),
                guidance=torch.tensor([2.5]),
                pooled_projections=pooled,
                encoder_hidden_states=words,
                txt_ids=text_ids,
                img_ids=ids,
            ).sample[:, : x.shape[1]]
            x = x + (then - now) * velocity
        h, w = cell
        x = x.view(1, h, w, CHANNELS, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, CHANNELS, 2 * h, 2 * w)
        decoded = vae.decode(x / vae.config.scaling_factor + vae.config.shift_factor).sample
    return (decoded / 2 + 0.5).clamp(0, 1)[0].movedim(0, -1)


def test_the_analogy_of_b_alone_is_what_its_parts_make(folder):
    made = analogy(folder, sampled="result")
    assert made.grid is None
    torch.testing.assert_close(made.result, by_hand(folder), rtol=0, atol=1e-4)


def test_what_keeps_nothing_is_the_published_grid_bit_for_bit(folder):
    pipeline = a_pipeline(folder)
    made = analogy(folder)
    grid = pipeline(
        image=made.reference.movedim(-1, 0)[None],
        prompt="a word",
        height=made.grid.shape[0],
        width=made.grid.shape[1],
        max_area=made.grid.shape[0] * made.grid.shape[1],
        _auto_resize=False,
        num_inference_steps=4,
        guidance_scale=2.5,
        max_sequence_length=8,
        generator=torch.Generator().manual_seed(50),
        output_type="pt",
    ).images
    assert torch.equal(made.grid, grid[0].movedim(0, -1))
    assert torch.equal(analogy(folder, references_every=1, sampled="grid").grid, made.grid)


@pytest.mark.parametrize("sampled", ["grid", "result"])
def test_kept_references_change_the_analogy_a_little(folder, sampled):
    exact, kept, second = (analogy(folder, sampled=sampled, references_every=every).result for every in (1, 0, 2))
    assert (kept - exact).abs().max() > 0
    assert (second - exact).abs().mean() < (kept - exact).abs().mean() < 0.2 * exact.std()
