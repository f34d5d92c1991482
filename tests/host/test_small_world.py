"""The small world's shipped models in a running ComfyUI: analogies of edits that the basis has never seen."""

from __future__ import annotations

import sys

import standins
import torch
from environment import ROOT

WORKFLOW = ROOT / "workflows" / "api" / "visual_analogy.json"


def test_the_bundled_workflow_makes_new_pairs_of_edits(comfyui, tmp_path):
    from comfy_server import ComfyServer
    from PIL import Image

    from small_world import install
    from small_world.world import edits

    install.comfy_models(tmp_path / "models", standins.text_encoder())
    _, new_pairs, _ = edits.split()
    names = install.save_triplets(tmp_path / "input", new_pairs[::13])

    def picture(path) -> torch.Tensor:
        image = Image.open(path).convert("RGB")
        return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).float() / 255

    errors, copying = [], []
    with ComfyServer(comfyui, sys.executable, tmp_path) as server:
        for name in names:
            files = {image: f"{name}-{image}.png" for image in ("a", "a_prime", "b")}
            graph = standins.for_standins(WORKFLOW, install.MEGAPIXELS, 8, install.NAMES, files)
            (made,) = server.run(graph)
            (saved,) = (made[key][0] for key, node in graph.items() if node["class_type"] == "SaveImage")
            truth = picture(tmp_path / "input" / f"{name}-truth.png")
            errors.append((picture(saved) - truth).square().mean())
            copying.append((picture(tmp_path / "input" / f"{name}-b.png") - truth).square().mean())
    assert sum(errors) < 0.5 * sum(copying)
