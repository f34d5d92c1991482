"""A base to learn a basis for, small enough to be computed again by hand: plain torch, no FLUX, no pictures."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lorweb_core.config import BasisConfig
from lorweb_core.routing import Tokens
from lorweb_core.runtime import LayerSlice
from lorweb_core.training.data.batch import Batch, Text
from lorweb_core.training.run_folder import RunFolder
from lorweb_core.training.seeds import generator
from lorweb_core.training.settings.config import (
    DatasetSettings,
    NetworkSettings,
    OptimizerSettings,
    SaveSettings,
    TrainingConfig,
    TrainSettings,
)
from lorweb_core.training.trainable_basis import TrainableBasis
from lorweb_core.training.trainer import Training

CHANNELS, WIDTH, SIDE, POOLED = 3, 6, 4, 5
"""Of the latents, of the hidden state, of a grid's side in latents, of the pooled text."""
PARTS, EMBEDDING = 3, 4
"""A query is as many embeddings of this width."""

BLOCK = "transformer.single_transformer_blocks.0"
Q, V, MODULATION, OUT = (f"{BLOCK}.{name}" for name in ("attn.to_q", "attn.to_v", "norm.linear", "proj_out"))


class TinyModel(nn.Module):
    """Attend over the tokens of a picture and its reference, with q, k and v in one Linear as hosts have it."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(CHANNELS, 3 * WIDTH)
        self.modulation = nn.Linear(POOLED, WIDTH)
        self.out = nn.Linear(WIDTH, CHANNELS)

    def forward(self, x: Tensor, t: Tensor, reference: Tensor, text: Text) -> Tensor:
        tokens = torch.cat([x.flatten(2), reference.flatten(2)], 2).mT
        q, k, v = self.qkv(tokens).chunk(3, -1)
        mixed = (q @ k.mT).softmax(-1) @ v + self.modulation(text.pooled + t[:, None])[:, None]
        return self.out((mixed + text.tokens.mean(1, keepdim=True)).tanh())[:, : x[0, 0].numel()].mT.view_as(x)


class TinyBase:
    """Stand for a base: its qkv is one Linear with a basis for q and v, not k; its modulation sees no tokens."""

    def __init__(self, dtype: torch.dtype = torch.float32, seed: int = 0):
        torch.manual_seed(seed)
        self.model = TinyModel().to(dtype)
        self.linears = {
            "qkv": [LayerSlice(Q, 0), LayerSlice(V, 2 * WIDTH)],
            "modulation": [LayerSlice(MODULATION, 0)],
            "out": [LayerSlice(OUT, 0)],
        }
        self.shapes = {Q: (CHANNELS, WIDTH), V: (CHANNELS, WIDTH), MODULATION: (POOLED, WIDTH), OUT: (WIDTH, CHANNELS)}
        self.device = torch.device("cpu")
        self.dtype = dtype

    def velocity(self, x: Tensor, t: Tensor, batch: Batch, every_token: bool = True) -> Tensor:
        return self.model(x, t.to(x.dtype), batch.reference, batch.text)

    def training(self, checkpointing: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def guided(self, guidance: float) -> AbstractContextManager[None]:
        return nullcontext()

    def tokens(self, batch: Batch) -> Tokens:
        return Tokens(0, batch.reference[0, 0].numel())

    def decode(self, latents: Tensor) -> Tensor:
        """Each value is 8 × 8 pixels."""
        pixels = latents.movedim(1, -1)[..., :3].float().clamp(0, 1)
        return pixels.repeat_interleave(8, 1).repeat_interleave(8, 2)


class TinySource:
    """Draw from a few analogies, `batch_size` at a time; the query has what the target's colour is."""

    def __init__(self, seed: int = 0, batch_size: int = 2, analogies: int = 6):
        random = generator(seed)
        self.seed, self.batch_size = seed, batch_size
        self.reference, self.target = torch.randn(2, analogies, CHANNELS, SIDE, SIDE, generator=random)
        self.query = torch.randn(analogies, PARTS, EMBEDDING, generator=random)
        self.target = 0.3 * self.target + 2 * self.query.flatten(1)[:, :CHANNELS, None, None]
        self.text = Text(
            torch.randn(analogies, 2, WIDTH, generator=random), torch.randn(analogies, POOLED, generator=random)
        )

    def draw(self, step: int) -> Batch:
        chosen = torch.randint(len(self.target), (self.batch_size,), generator=generator(self.seed, step))
        text = Text(self.text.tokens[chosen], self.text.pooled[chosen])
        names = tuple(f"analogy {index}" for index in chosen.tolist())
        return Batch(self.target[chosen], self.reference[chosen], self.query[chosen], text, names)


def tiny_config(folder: Path, routing: dict | None = None, **train: object) -> TrainingConfig:
    """Configure a training of a basis with N = 3, r = 2, D = 4. routing: of BasisConfig; train: of TrainSettings."""
    steady = {"optimizer": "adamw", "batch_size": 2, "timestep_type": "linear", "dtype": "fp32", "steps": 6}
    return TrainingConfig(
        name="tiny",
        training_folder=folder,
        network=NetworkSettings(linear=2, network_kwargs=BasisConfig(**{**SIZES, **(routing or {})})),
        save=SaveSettings(dtype="float32", max_step_saves_to_keep=2),
        datasets=(DatasetSettings(folder_path=Path("pairs")),),
        train=TrainSettings(**{**steady, "optimizer_params": OptimizerSettings(eps=1e-3), **train}),
    )


SIZES = {"loras_num": 3, "lora_keys_dim": 4}


def tiny_basis(base: TinyBase, ups: float = 0.5, seed: int = 1, **routing: object) -> TrainableBasis:
    """Make a basis in the base's dtype; B has the standard deviation `ups` instead of 0, so that it does something."""
    config = BasisConfig(linear=2, **{**SIZES, **routing})
    torch.manual_seed(seed)
    basis = TrainableBasis(base.shapes, config, PARTS * EMBEDDING if config.external_query else None)
    for layer in basis.layers:
        layer.up.data.normal_(0, ups)
    return basis.to(base.dtype)


# The paper's formulas once more, one number at a time, for one analogy.


def plain_coefficients(queries: Tensor, keys: Tensor, projection: Tensor | None, config: BasisConfig) -> Tensor:
    """Route queries (t, Q) to coefficients (N,)."""
    heads, terms = config.lora_heads, []
    for query in queries.to(keys):
        projected = query if projection is None else projection @ query
        width = len(projected) // heads
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            logits = torch.stack([projected[part].dot(key[part]) / width**0.5 for key in keys])
            terms.append(logits.exp() / logits.exp().sum() if config.lora_softmax else torch.tanh(logits))
    total = sum(terms)
    if config.mixing_coeffs_type == "mean":
        return total / len(terms)
    return total.clamp(0 if config.lora_softmax else -1, 1)


def plain_delta(A: Tensor, B: Tensor, coefficients: Tensor) -> Tensor:
    """Sum up Σ c_n (A_n B_n)ᵀ, (out, in)."""
    return sum(c * (a @ b).T for c, a, b in zip(coefficients, A, B))


def plain_velocity(
    base: TinyBase, parameters: dict[str, dict[str, Tensor]], config: BasisConfig, x: Tensor, t: Tensor, batch: Batch
) -> Tensor:
    """Predict with the base and the basis: weights W + ΔW, of each analogy its own.

    parameters: layer → its `down` (N, r, in), `up`, `keys`, and `project.weight` where the query is projected.
    """
    rows = []
    for i in range(len(x)):
        weights = {name: value.detach() for name, value in base.model.named_parameters()}
        for linear, parts in base.linears.items():
            weight = weights[f"{linear}.weight"].clone()
            for part in parts:
                held = parameters[part.layer]
                queries = batch.query[i].reshape(1, -1)
                c = plain_coefficients(queries, held["keys"], held.get("project.weight"), config)
                delta = plain_delta(held["down"].mT, held["up"], c)
                weight[part.start : part.start + len(delta)] += delta
            weights[f"{linear}.weight"] = weight
        one = slice(i, i + 1)
        text = Text(batch.text.tokens[one].to(x.dtype), batch.text.pooled[one].to(x.dtype))
        arguments = (x[one], t[one].to(x.dtype), batch.reference[one].to(x.dtype), text)
        rows.append(functional_call(TinyModel(), weights, arguments))
    return torch.cat(rows)


def parameters_of(basis: TrainableBasis) -> dict[str, dict[str, Tensor]]:
    """Copy a basis's parameters, by layer and name, that gradients can be taken of."""
    return {
        name: {key: value.detach().clone().requires_grad_() for key, value in layer.named_parameters()}
        for name, layer in basis.named_layers()
    }


def begin(config: TrainingConfig, seed: int = 1) -> Training:
    """Begin a training as `tiny_basis` does, with the config's own routing."""
    base = TinyBase()
    basis = config.network.basis
    query = PARTS * EMBEDDING if basis.external_query else None
    torch.manual_seed(seed)
    made = TrainableBasis(base.shapes, basis, query)
    for layer in made.layers:
        layer.up.data.normal_(0, 0.5)
    return Training(made, base, TinySource(), config.train)


def run(folder: RunFolder, training: Training, steps: int) -> None:
    """Train so many steps, and log them."""
    for _ in range(steps):
        folder.log(training.step())
