"""The small world's shipped models in a running ComfyUI: analogies of edits that the basis has never seen."""

from __future__ import annotations

import sys

import standins
import torch
from environment import ROOT

WORKFLOWS = ROOT / "workflows" / "api"


def picture(path) -> torch.Tensor:
    """(H · W · 3,) in 0–1."""
    from PIL import Image

    image = Image.open(path).convert("RGB")
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).float() / 255


def made(server, graph: dict) -> torch.Tensor:
    (pictures,) = server.run(graph)
    return picture(*(pictures[key][0] for key, node in graph.items() if node["class_type"] == "SaveImage"))


def test_the_bundled_workflow_makes_new_pairs_of_edits(comfyui, tmp_path):
    from comfy_server import ComfyServer

    from small_world import install
    from small_world.worlds import SHIPPED

    install.comfy_models(tmp_path / "models", standins.text_encoder())
    names = install.save_triplets(tmp_path / "input", SHIPPED.splits["new_pairs"].edits[::13])

    errors, copying = [], []
    with ComfyServer(comfyui, sys.executable, tmp_path) as server:
        for name in names:
            files = {image: f"{name}-{image}.png" for image in ("a", "a_prime", "b")}
            workflow = WORKFLOWS / "Edit by example.json"
            graph = standins.for_standins(workflow, install.MEGAPIXELS, 8, install.NAMES, files)
            truth = picture(tmp_path / "input" / f"{name}-truth.png")
            errors.append((made(server, graph) - truth).square().mean())
            copying.append((picture(tmp_path / "input" / f"{name}-b.png") - truth).square().mean())
    assert sum(errors) < 0.5 * sum(copying)


def test_an_edit_that_no_basis_has_seen_is_fitted_to_its_example(comfyui, tmp_path):
    from comfy_server import ComfyServer

    from small_world import install
    from small_world.worlds import SHIPPED

    install.comfy_models(tmp_path / "models", standins.text_encoder())
    (name,) = install.save_triplets(tmp_path / "input", SHIPPED.splits["new_edits"].edits[:1])
    files = {image: f"{name}-{image}.png" for image in ("a", "a_prime", "b")}
    truth = picture(tmp_path / "input" / f"{name}-truth.png")
    copying = (picture(tmp_path / "input" / f"{name}-b.png") - truth).square().mean()
    with ComfyServer(comfyui, sys.executable, tmp_path) as server:
        routed, fitted = (
            made(server, standins.for_standins(WORKFLOWS / workflow, install.MEGAPIXELS, 8, install.NAMES, files))
            for workflow in ("Edit by example.json", "Fit an example.json")
        )
    assert (fitted - truth).square().mean() < 0.4 * copying
    assert (fitted - truth).square().mean() < 0.5 * (routed - truth).square().mean()
