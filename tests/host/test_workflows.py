"""The bundled workflows that walk the space of LoRAs, and those that train and fit, in a running ComfyUI."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
import standins
import torch
from environment import ROOT
from pairs import save_pairs
from safetensors.torch import load_file

API = ROOT / "workflows" / "api"


def one(graph: dict, class_type: str) -> tuple[str, dict]:
    (found,) = [(key, n["inputs"]) for key, n in graph.items() if n["class_type"] == class_type]
    return found


def read(path: Path) -> torch.Tensor:
    """(H, W, 3) in 0–255."""
    from PIL import Image

    image = Image.open(path).convert("RGB")
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3).float()


def embedding(folder: Path, image: torch.Tensor) -> torch.Tensor:
    """transformers' own model on transformers' own preprocessing."""
    import transformers

    levels = (image[0] * 255).round().byte().numpy()
    kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    model = transformers.CLIPVisionModelWithProjection.from_pretrained(folder).eval()
    return model(**kind()([levels], return_tensors="pt")).image_embeds[0]


def test_the_best_of_four_seeds_is_saved(server):
    # In two steps the seeds come out far apart.
    graph = standins.for_standins(API / "Best of four.json", megapixels=0.05, steps=2)
    score, _ = one(graph, "LoRWeBAnalogyScore")
    result, _ = one(graph, "LoRWeBAnalogyResult")
    graph["shown"] = {"class_type": "PreviewImage", "inputs": {"images": [score, 3]}}
    graph["each"] = {"class_type": "PreviewImage", "inputs": {"images": [result, 0]}}
    (pictures,) = server.run(graph)
    each = [read(path) for path in pictures["each"]]
    assert len(each) == 4
    for i in range(4):
        for j in range(i):
            assert (each[i] - each[j]).abs().mean() > 0.1
    (saved,) = pictures[one(graph, "SaveImage")[0]]
    assert saved.name.startswith("best")
    distances = [(read(saved) - picture).abs().max() for picture in each]
    assert sorted(distances)[0] <= 1 < sorted(distances)[1]

    # The one that a look with the same encoder, by transformers, puts first.
    folder = server.base / "models" / "clip_vision" / "clip-vit-large-patch14"
    given = {name: read(server.base / "input" / f"{name}.png") / 255 for name in ("a", "a_prime", "b")}
    a, a_prime, b = (embedding(folder, image[None]) for image in given.values())
    same = (given["a_prime"] - given["a"]).abs().mean(-1) < 0.05
    assert same.float().mean() < 0.01  # night falls everywhere: follows alone counts
    follows = [torch.cosine_similarity(a_prime - a, embedding(folder, x[None] / 255) - b, 0).item() for x in each]
    assert follows.index(max(follows)) == distances.index(min(distances))

    # On the node itself and in the preview behind it.
    (shown,) = pictures[score]
    assert torch.equal(read(shown), read(pictures["shown"][0]))
    assert read(shown).std() > 10


def test_the_strip_goes_from_one_edit_to_the_other(server):
    graph = standins.for_standins(API / "From one edit to another.json", megapixels=0.05, steps=2)
    encoder = graph[one(graph, "LoRWeBMixtureBlend")[1]["mixture_2"][0]]["inputs"]
    second = graph[encoder["analogy"][0]]["inputs"]
    for picture, name in {"a": "a_prime.png", "a_prime": "a.png"}.items():
        graph[name] = {"class_type": "LoadImage", "inputs": {"image": name}}
        second[picture] = [name, 0]
    one(graph, "LoRWeBMixedLoRAApply")[1]["strength"] = 8.0  # the stand-in's mixtures are much alike
    result, _ = one(graph, "LoRWeBAnalogyResult")
    graph["each"] = {"class_type": "PreviewImage", "inputs": {"images": [result, 0]}}
    (pictures,) = server.run(graph)
    each = [read(path) for path in pictures["each"]]
    assert len(each) == 5
    far = (each[4] - each[0]).abs().mean()
    assert far > 0.5
    steps = [(later - earlier).abs().mean() for earlier, later in pairwise(each)]
    assert all(0 < step < 0.6 * far for step in steps)  # a way there, no jump
    (strip,) = pictures[one(graph, "SaveImage")[0]]
    assert read(strip).shape[1] > 5 * each[0].shape[1]
    (inspected,) = pictures[one(graph, "LoRWeBMixtureInspector")[0]]
    assert read(inspected).std() > 5


def test_the_exported_lora_does_in_load_lora_what_the_mixture_does(server):
    """Also through the front door: the file lies where Load LoRA lists it."""
    exported = standins.for_standins(API / "An edit as a LoRA.json", megapixels=0.05, steps=2)
    key, inputs = one(exported, "LoRWeBExportLoRA")
    inputs |= {"dtype": "float32", "name": "tests/edit"}
    (pictures,) = server.run(exported)
    assert read(pictures[key][0]).std() > 5
    file = server.base / "models" / "loras" / "tests" / "edit.safetensors"
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in load_file(file))
    assert (server.base / "models" / "lorweb_mixtures" / "my_edit.safetensors").is_file()

    with_mixture = standins.for_standins(API / "Edit by example.json", megapixels=0.05, steps=2)
    with_lora = standins.for_standins(API / "Edit by example.json", megapixels=0.05, steps=2)
    apply, inputs = one(with_lora, "LoRWeBMixedLoRAApply")
    with_lora[apply] = {
        "class_type": "LoraLoaderModelOnly",
        "inputs": {
            "model": inputs["model"],
            "lora_name": str(file.relative_to(server.base / "models" / "loras")),
            "strength_model": 1.0,
        },
    }
    without = standins.for_standins(API / "Edit by example.json", megapixels=0.05, steps=2)
    one(without, "LoRWeBMixedLoRAApply")[1]["strength"] = 0.0
    save, _ = one(without, "SaveImage")
    mixture, lora, neither = (
        read(pictures[save][0]) for graph in (with_mixture, with_lora, without) for pictures in server.run(graph)
    )
    assert (mixture - lora).abs().max() <= 1
    assert (mixture - neither).abs().mean() > 0.5


def test_a_basis_is_trained_and_what_came_of_it_is_shown(server):
    edits = {"inverted": lambda x: 1 - x, "dark": lambda x: x * 0.3, "mirrored": lambda x: x.flip(1)}
    scenes = {shape: standins.picture(False, shape, (48, 48)) for shape in ("house", "tree")}
    graph = standins.for_standins(API / "Train your own basis.json", megapixels=0.05, steps=2)
    key, inputs = one(graph, "LoRWeBTrainBasis")
    inputs |= {"folder": str(save_pairs(server.base / "input" / "pairs", edits, scenes)), "held_out": "mirrored"}
    inputs |= {"loras": 2, "rank": 2, "keys_dim": 8, "steps": 3, "resolution": 32}
    (pictures,) = server.run(graph)

    run = server.base / "models" / "lorweb" / inputs["name"]
    assert {"my_basis.safetensors", "losses.csv", "summary.html"} <= {path.name for path in run.iterdir()}
    assert len((run / "losses.csv").read_text().splitlines()) == 1 + 3
    # The samples in the preview behind the node as on it, five pictures side by side; then the curves.
    previews = {n["inputs"]["images"][1]: k for k, n in graph.items() if n["class_type"] == "PreviewImage"}
    samples, curves = (read(pictures[previews[output]][0]) for output in (1, 3))
    assert torch.equal(samples, read(pictures[key][0]))
    assert samples.std() > 10
    assert curves.std() > 5
    assert samples.shape[1] > 5 * 32
    # The Basis Loader has it to choose.
    listed = server.get("/object_info/LoRWeBBasisLoader").decode()
    assert json.dumps(str(Path("my_basis", "my_basis.safetensors"))) in listed


def test_an_example_is_fitted_once_cancelled_or_not_and_edits_many_pictures(server):
    from comfy_server import PromptError

    graph = standins.for_standins(API / "Fit an example.json", megapixels=0.05, steps=2)
    key, inputs = one(graph, "LoRWeBFitMixture")
    inputs |= {"steps": 12, "noises": 1, "rate": 0.3}
    reached, cached = [], []

    def interrupt(kind: str, data: dict) -> None:
        # Before it fits, it encodes its views with a bar of its own.
        if kind == "progress" and data["node"] == key and data["max"] == 12 and data["value"] > 1 and not reached:
            reached.append(data["value"])
            server.interrupt()

    with pytest.raises(PromptError, match='"node_type": "LoRWeBFitMixture"'):
        server.run(graph, on_event=interrupt)
    (first,) = server.run(graph)
    assert re.search(r"Fit Mixture: goes on after step (\d+)\.", server.log.read_text("utf-8", "replace"))
    assert (server.base / "models" / "lorweb_mixtures" / "my_fitted_edit.safetensors").is_file()
    (strip,) = first[key]
    assert read(strip).shape[1] > 3 * read(strip).shape[0] * 0.8  # three pictures and their captions
    assert read(strip).std() > 10

    graph[one(graph, "LoRWeBAnalogy")[1]["b"][0]]["inputs"]["image"] = "a.png"
    (second,) = server.run(
        graph, on_event=lambda kind, data: cached.append(data["nodes"]) if kind == "execution_cached" else None
    )
    assert key in cached[0]
    result, _ = one(graph, "SaveImage")
    assert (read(first[result][0]) - read(second[result][0])).abs().mean() > 1
