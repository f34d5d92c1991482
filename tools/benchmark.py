"""Measures the figures of docs/benchmarks.md: `python tools/benchmark.py`. Ratios compare two things timed in
turn, in one run.

Needs a ComfyUI, 6 GB of memory and 2 GB of disk. The basis has the published geometry, with random values; the sampling
step runs one double and two single blocks of FLUX.1's width in bfloat16 on the CPU.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from environment import run_in_host
from measuring import ROWS, compare, megabytes, own_memory, print_table, ratio_row, row, save_full_basis, seconds, timed

# The part of the published training YAML that is read.
CONFIG = """
config:
  process:
    - network:
        type: attlora
        linear: 4
        linear_alpha: 4
        network_kwargs: {loras_num: 32, lora_keys_dim: 128, lora_heads: 1, lora_softmax: true, mixing_coeffs_type: mean,
          external_query: true, external_query_model: openai/clip-vit-large-patch14, query_projection_type: linear,
          query_mode: "cat-aa'b", pooling_type: avg}
"""


def run(comfyui: Path) -> None:
    import torch
    from host_process import load_pack

    with tempfile.TemporaryDirectory() as base, torch.inference_mode():
        host = load_pack(comfyui, Path(base))
        path = Path(base, "full.safetensors")
        values = save_full_basis(path)
        measure_loading(host, path)
        mixture = measure_further_analogy(host, path)
        measure_encoding(host)
        measure_patching(host, mixture)
        measure_lower_rank(host, path)
        measure_step(host, path.with_name("blocks.safetensors"))
    print_table(values)


def measure_loading(host, path: Path) -> None:
    from safetensors.torch import load_file

    before = own_memory()
    basis = host.core.load_basis(path)
    ROWS.append(("Load: memory beside the mapped file", megabytes(own_memory() - before), "", ""))
    tensors = load_file(path)

    def check() -> None:
        host.basis._finite.clear()
        basis.check_values()

    ours, theirs = partial(host.core.load_basis, path), partial(load_file, path)
    compare("Load, all checks but values", ours, theirs, "safetensors.torch.load_file", runs=41)
    path.with_suffix(".yaml").write_text(CONFIG)
    compare("Load with its YAML beside it, likewise", ours, theirs, "the same", runs=41)
    compare("Check all values", check, lambda: [t.sum() for t in tensors.values()], "a plain sum over them", runs=9)


def measure_encoding(host) -> None:
    """Time a triplet through an encoder of CLIP ViT-L/14's size, float32: as one batch, and each image alone."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, projection_dim=768, num_hidden_layers=24, num_attention_heads=16,
        patch_size=14,
    )  # fmt: skip
    encoder = host.core.VisionEncoder.from_transformers(CLIPVisionModelWithProjection(config).eval())
    images = [torch.rand(512, 512, 3) for _ in range(3)]
    compare(
        "Encode a triplet in one pass",
        lambda: host.core.encode_query(encoder, *images),
        lambda: [encoder.embed([image]) for image in images],
        "three passes",
        runs=9,
    )


def measure_further_analogy(host, path: Path):
    """Compare routing and handing over with folding the mixture into ordinary LoRA tensors first."""
    import comfy.lora
    import torch
    from comfy.weight_adapter import LoRAAdapter
    from host_process import FLUX_1, build_model

    basis = host.core.load_basis(path)
    model = build_model("Flux", FLUX_1)

    def ours():
        return host.apply.apply_mixture(model, basis.route(torch.randn(1, 3, 768)))

    def folded():
        mixture = basis.route(torch.randn(1, 3, 768))
        keys = comfy.lora.model_lora_keys_unet(model.model, {})
        patches = {}
        for name, layer in basis.layers.items():
            up = layer.B.flatten(0, 1).T.contiguous()
            down = (layer.A * mixture.coefficients[name].half()[:, None, None]).mT.flatten(0, 1)
            patches[keys[name]] = LoRAAdapter(set(), (up, down, None, None, None, None))
        patched = model.clone()
        patched.add_patches(patches)
        return patched

    # Before any timing: what that frees would be taken again, unseen.
    memory = []
    for work, count in ((ours, 10), (folded, 1)):
        before, kept = own_memory(), [work() for _ in range(count)]
        memory.append((own_memory() - before) / count)
        del kept
    ROWS.append(
        (
            "A further analogy: memory",
            megabytes(memory[0]),
            f"{megabytes(memory[1])} folded first",
            f"{memory[0] / memory[1]:.4f} ×",
        )
    )
    print("  ".join(ROWS[-1]), flush=True)
    compare("A further analogy: route and hand over", ours, folded, "folded into LoRA tensors first", runs=9)
    return basis.route(torch.randn(1, 3, 768))


def measure_patching(host, mixture) -> None:
    """Compare the host's patching of one double and one single block with an ordinary LoRA of rank N·r."""
    import comfy.lora
    import torch
    from comfy.weight_adapter import LoRAAdapter

    layers = {
        name: layer
        for name, layer in mixture.basis.layers.items()
        if name.startswith(("transformer.transformer_blocks.0.", "transformer.single_transformer_blocks.0."))
    }
    patches, weights = {"ours": {}, "lora": {}}, {}
    for name, layer in layers.items():
        n, fan_in, rank = layer.A.shape
        fan_out = layer.B.shape[2]
        weights[name] = torch.zeros(fan_out, fan_in)
        ours = host.apply.MixedLoRAAdapter(set(), (layer.A, layer.B, mixture.coefficients[name], layer.scale))
        up, down = torch.randn(fan_out, n * rank).half(), torch.randn(n * rank, fan_in).half()
        lora = LoRAAdapter(set(), (up, down, None, None, None, None))
        for kind, adapter in (("ours", ours), ("lora", lora)):
            patches[kind][name] = [(1.0, adapter, 1.0, None, None)]

    def patch(kind: str) -> Callable[[], None]:
        def work() -> None:
            for name, weight in weights.items():
                comfy.lora.calculate_weight(patches[kind][name], weight, name)

        return work

    compare("Patch a double and a single block", patch("ours"), patch("lora"), "ordinary LoRA of rank 128", runs=9)


def measure_lower_rank(host, path: Path) -> None:
    """Time handing over mixtures of the whole basis at run time, in rank 32, and compare what is held in bfloat16."""
    import torch
    from host_process import FLUX_1, build_model

    basis, model = host.core.load_basis(path), build_model("Flux", FLUX_1, dtype=torch.bfloat16)
    mixtures = [basis.route(torch.randn(1, 3, 768)) for _ in range(4)]

    def hand_over(rank: int, mixture) -> tuple[float, int]:
        start = time.perf_counter()
        patched = host.apply.apply_mixture(model, mixture, method="runtime", run_time_rank=rank)
        took = time.perf_counter() - start
        ((held,),) = patched.additional_models.values()
        return took, sum(values.numel() * values.itemsize for values in held.model.parameters())

    first, *further = (hand_over(32, mixture) for mixture in mixtures)
    whole, size = hand_over(0, mixtures[0])
    row("Bring a mixture to rank 32 and pack it, the first of a basis", seconds(first[0]))
    taken = statistics.median(took for took, _ in further)
    row("The same, a further one", seconds(taken), f"{seconds(whole)} packing all of rank 128, once", "")
    held = f"{megabytes(size)} all of rank 128", f"{first[1] / size:.2f} ×"
    row("What is held of it", megabytes(first[1]), *held)


def measure_step(host, path: Path) -> None:
    """Compare a call of the model with the mixture merged, at run time and in the published form with the base's."""
    import comfy.model_management
    import standins
    import torch
    from host_process import FLUX_1, build_model
    from safetensors.torch import save_file

    save_file(standins.basis(standins.block_linears(3072, 1, 2), n=32, rank=4, keys=128, query=2304), path)
    basis, query = host.core.load_basis(path), torch.randn(4, 3, 768)
    config = {**FLUX_1, "depth": 1, "depth_single_blocks": 2}
    base, merged = (build_model("Flux", config, "cpu", torch.bfloat16) for _ in range(2))
    for model in (base, merged):
        for parameter in model.model.parameters():
            parameter.data.normal_(0, 0.02)
    one, four = basis.route(query[:1]), basis.route(query)
    merged = host.apply.apply_mixture(merged, one, method="merge")
    comfy.model_management.load_models_gpu([base, merged])

    def step(model, batch: int = 1, side: int = 32, text: int = 128) -> Callable[[], object]:
        """Make a call of a model; side: the latent's, in its own pixels. Grid and reference have side²/2 tokens."""
        latent = torch.randn(batch, 16, side, side, dtype=torch.bfloat16)
        text = torch.randn(batch, text, 4096, dtype=torch.bfloat16)
        pooled = torch.randn(batch, 768, dtype=torch.bfloat16)
        guidance, time_ = torch.full((batch,), 2.5), torch.full((batch,), 0.6)
        return lambda: model.model.diffusion_model(
            latent, time_, text, pooled, guidance, [latent], None, {"wrappers": model.wrappers}
        )

    compare("A sampling step, merged", step(merged), step(base), "base model's step", runs=9)

    runtime, published = partial(injected, host, base, one), partial(published_form, host, base, basis, query[0])
    quarter = step(base, side=64, text=512)
    light = partial(injected, host, base, one, rank=32)
    plain, ours, lightened, theirs = in_turn(quarter, runtime, light, published, runs=11)
    ratio_row("A step of 2,560 tokens at run time", ours, plain, "base model's step")
    ratio_row("The same in rank 32", lightened, plain, "base model's step")
    overhead_row("What run time adds to it", added(ours, plain), added(theirs, plain), "what the published form adds")
    overhead_row("What rank 32 adds to it", added(lightened, plain), added(ours, plain), "what all of rank 128 adds")

    single, batch = step(base), step(base, 4)
    plain, alone = in_turn(single, runtime, runs=15)
    plain_of_four, together = in_turn(batch, partial(injected, host, base, four), runs=15)
    each = [extra / 4 for extra in added(together, plain_of_four)]
    overhead_row("The same per picture, four analogies in a batch", each, added(alone, plain), "one analogy alone")


def in_turn(work: Callable[[], object], *contexts: Callable, runs: int) -> list[list[float]]:
    """Time the work plain and then in each context, in turn."""
    rounds = [[timed(work), *(timed_within(context, work) for context in contexts)] for _ in range(runs + 1)]
    return [list(times) for times in zip(*rounds[1:], strict=True)]  # the first one warms up


def added(ours: Sequence[float], plain: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(ours, plain, strict=True)]


def overhead_row(name: str, ours: Sequence[float], theirs: Sequence[float], label: str) -> None:
    """Add a row of differences of times; its ratio is that of the medians, because pair by pair they are noise."""
    mine, other = statistics.median(ours), statistics.median(theirs)
    row(name, seconds(mine), f"{seconds(other)} {label}", f"{mine / other:.2f} ×")


@contextmanager
def injected(host, model, mixture, rank: int = 0):
    """Give `model` the wrappers that a clone with the mixture at run time has, in a rank or in all of the basis's."""
    patched = host.apply.apply_mixture(model, mixture, method="runtime", run_time_rank=rank)
    plain, model.wrappers = model.wrappers, patched.wrappers
    yield
    model.wrappers = plain


@contextmanager
def published_form(host, model, basis, query):
    """Hook into the forward passes to route and add the mixture in every layer and step, as NVlabs/LoRWeB does.

    Parts of layers that the host fuses are added to in place, which takes less than its sum in a new tensor.
    """
    import comfy.utils
    import torch
    import torch.nn.functional as F

    hooks = []
    query = query.flatten()[None, None].bfloat16()
    for name, key in host.apply._host_keys(model, basis).items():
        weight, (_, start, size) = key if isinstance(key, tuple) else (key, (0, 0, None))
        linear = comfy.utils.get_attr(model.model, weight.removesuffix(".weight"))
        layer = basis.layers[name]
        A, B, keys, projection = (t.bfloat16() for t in (layer.A, layer.B, layer.keys, layer.projection))

        def add(
            module,
            inputs,
            output,
            A=A,
            B=B,
            keys=keys,
            projection=projection,
            start=start,
            size=size,
            scaling=layer.scale,
        ):
            x = inputs[0]
            asked = F.linear(query, projection)[:, None]
            values = torch.eye(len(keys), dtype=x.dtype).expand(1, 1, -1, -1)
            mixing = F.scaled_dot_product_attention(asked, keys[None, None], values).mean((1, 2)).expand(len(x), -1)
            added = torch.einsum("b s i, n i r, b n, n r o -> b s o", x, A, mixing, B)
            if size is None:
                return output + added * scaling
            output[..., start : start + size] += added * scaling
            return output

        hooks.append(linear.register_forward_hook(add))
    yield
    for hook in hooks:
        hook.remove()


def timed_within(context, work: Callable[[], object]) -> float:
    """Time the work within a context; entering and leaving are not counted."""
    with context():
        return timed(work)


if __name__ == "__main__":
    run_in_host(__file__, run, "The benchmark compares with ComfyUI's own LoRA, and needs one.")
