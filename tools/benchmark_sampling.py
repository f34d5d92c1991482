"""Measures what an analogy costs by what of it is computed: `python tools/benchmark_sampling.py`. Needs a ComfyUI.

Samplings through the pack's nodes and the host's sampler: one double and two single blocks of FLUX.1's width in
bfloat16, with random values, on the CPU; 512 text tokens, and by default a grid of 1 megapixel beside a reference as
large. The ways are timed in turn, in one process; 28 steps are put together of a first one and 27 further ones.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

from environment import run_in_host
from measuring import cpu_name, ratio_row

ROUNDS, STEPS, WANTED = 3, 4, 28
MEGAPIXELS = float(os.environ.get("MEGAPIXELS", "1"))
WAYS = ("as published", "b' alone", "b' alone, references kept")


def run(comfyui: Path) -> None:
    import torch
    from host_process import load_pack

    with tempfile.TemporaryDirectory() as base:
        host = load_pack(comfyui, Path(base))
        model, shown = make_analogy(host)
        rounds = [{way: sample(model, shown[way]) for way in WAYS} for _ in range(ROUNDS)]
    times = {way: [whole(each[way]) for each in rounds] for way in WAYS}
    for way in WAYS[1:]:
        ratio_row(f"{WANTED} steps, {way}", times[way], times[WAYS[0]], WAYS[0])
    print(f"{MEGAPIXELS} megapixels, {torch.get_num_threads()} threads of {cpu_name()}, torch {torch.__version__}")


def make_analogy(host):
    """Make a model that follows conditionings, and what the conditioning node gives for each way."""
    import comfy.sd
    import standins
    import torch
    from host_process import FLUX_1, build_model

    model = build_model("Flux", {**FLUX_1, "depth": 1, "depth_single_blocks": 2}, "cpu", torch.bfloat16)
    for parameter in model.model.parameters():
        parameter.data.normal_(0, 0.02)
    vae = comfy.sd.VAE(sd=standins.autoencoder())
    pictures = {name: torch.rand(1, 512, 512, 3) for name in ("a", "a_prime", "b")}
    positive = [[torch.randn(1, 512, 4096), {"pooled_output": torch.randn(1, 768), "guidance": 2.5}]]
    node = host.node("LoRWeBExtendedAttention")
    shown = {way: node.execute(positive, vae, megapixels=MEGAPIXELS, speed=way, **pictures).result for way in WAYS}
    # Mixed LoRA Apply does this to the model that it returns.
    host.sampling.follow_marks(model)
    return model, shown


def sample(model, shown: tuple) -> list[float]:
    """Sample a few steps; returns the seconds of each."""
    import comfy.sample
    import torch

    positive, negative, latent = shown[:3]
    noise, ends = torch.randn(latent["samples"].shape), []
    schedule = (STEPS, 1.0, "euler", "simple", positive, negative, latent["samples"])

    def on_step(*_) -> None:
        ends.append(time.perf_counter())

    begin = time.perf_counter()
    comfy.sample.sample(model, noise, *schedule, callback=on_step, disable_pbar=True, seed=1)
    return [end - start for start, end in zip([begin, *ends], ends, strict=False)]


def whole(steps: list[float]) -> float:
    """Put the time of a whole sampling together: its first step, and as often as wanted the median of the others."""
    return steps[0] + (WANTED - 1) * statistics.median(steps[1:])


if __name__ == "__main__":
    run_in_host(__file__, run, "The benchmark samples with ComfyUI's own sampler, and needs one.")
