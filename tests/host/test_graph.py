"""The bundled workflow in a running ComfyUI, as a person runs it: queue, look, change, interrupt, queue again."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import standins
import torch

WORKFLOW = standins.RELEASED / "visual_analogy.json"


@pytest.fixture
def graph() -> dict:
    return standins.for_standins(WORKFLOW, megapixels=0.05, steps=6)


def node(graph: dict, class_type: str) -> dict:
    (found,) = [n["inputs"] for n in graph.values() if n["class_type"] == class_type]
    return found


def with_b(graph: dict, name: str) -> dict:
    graph = copy.deepcopy(graph)
    loader, _ = node(graph, "LoRWeBAnalogyEncoder")["b"]
    graph[loader]["inputs"]["image"] = name
    return graph


def result(graph: dict, pictures: dict[str, list[Path]]) -> torch.Tensor:
    """b' as saved, (H, W, 3) in 0–255."""
    from PIL import Image

    (save,) = [key for key, n in graph.items() if n["class_type"] == "SaveImage"]
    (path,) = pictures[save]
    image = Image.open(path).convert("RGB")
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3).float()


def test_pictures_come_out_and_follow_b_seed_and_strength(server, graph):
    (first,) = server.run(graph)
    b_prime = result(graph, first)
    assert b_prime.shape == (256, 256, 3)
    assert b_prime.std() > 5
    assert sum(len(files) for files in first.values()) >= 2  # the grid is shown as well

    changed = [with_b(graph, "a_prime.png"), copy.deepcopy(graph), copy.deepcopy(graph)]
    node(changed[1], "KSampler")["seed"] += 1
    node(changed[2], "LoRWeBMixedLoRAApply")["strength"] = 0.0
    for other in changed:
        (pictures,) = server.run(other)
        assert (result(other, pictures) - b_prime).abs().mean() > 0.1


@pytest.mark.parametrize("fit", ["stretch", "pad"])
@pytest.mark.parametrize(
    ("speed", "sampled"),
    [("as trained", "as trained"), ("b' alone", "b' alone"), ("b' alone, references kept", "b' alone")],
)
def test_b_goes_through_grid_attention_and_result_to_its_own_place(server, graph, fit, speed, sampled):
    """The stand-in model paints what it is shown: without a mixture b' is b, to the autoencoder's 8 pixels.

    Sampled alone, it is so only at its place: at another one the model would paint a or a'.
    """
    from PIL import Image

    wide = standins.picture(False, "tree", size=(200, 300))
    Image.fromarray((wide * 255).byte().numpy()).save(server.base / "input" / "wide.png")
    graph = with_b(graph, "wide.png")
    node(graph, "LoRWeBMixedLoRAApply")["strength"] = 0.0
    node(graph, "LoRWeBExtendedAttention").update(fit=fit, megapixels=0.15, speed=speed)
    node(graph, "LoRWeBAnalogyResult").update(fit=fit, sampled=sampled)
    b_prime = result(graph, server.run(graph)[0])
    assert b_prime.shape == wide.shape
    inside = slice(30, -30), slice(30, -30)  # the black of a padding bleeds 8 of the grid's pixels in

    def difference(down: int, right: int) -> float:
        return (b_prime.roll((down, right), (0, 1)) - wide * 255)[inside].abs().mean().item()

    assert difference(0, 0) < 15
    assert difference(0, 0) < min(difference(8, 0), difference(-8, 0), difference(0, 8), difference(0, -8))


def test_in_a_sequence_b_comes_back_whole_in_its_own_shape(server, graph):
    """As above, b being sampled in its own shape, and with a node between that weighs the references."""
    from comfy_server import PromptError
    from PIL import Image

    wide = standins.picture(False, "tree", size=(200, 300))
    Image.fromarray((wide * 255).byte().numpy()).save(server.base / "input" / "wide.png")
    graph = with_b(graph, "wide.png")
    node(graph, "LoRWeBMixedLoRAApply")["strength"] = 0.0
    node(graph, "LoRWeBExtendedAttention").update(layout="sequence", megapixels=0.05)
    node(graph, "LoRWeBAnalogyResult")["layout"] = "sequence"
    weights = {"example_weight": 0.5, "b_weight": 2.0, "layout": "sequence"}
    model = node(graph, "KSampler")["model"]
    graph["weights"] = {"class_type": "LoRWeBAnalogyAttention", "inputs": {"model": model, **weights}}
    node(graph, "KSampler")["model"] = ["weights", 0]
    b_prime = result(graph, server.run(graph)[0])
    assert b_prime.shape == wide.shape
    difference = (b_prime - wide * 255).abs()
    assert difference.mean() < 15
    assert difference.mean() < (b_prime - wide.flip(1) * 255).abs().mean() / 2

    node(graph, "KSampler")["seed"] += 1
    graph["weights"]["inputs"]["b_weight"] = 0.0
    with pytest.raises(PromptError, match="b_weight"):  # before anything is sampled
        server.run(graph)


def test_a_batch_of_bs_is_edited_in_one_run_each_as_it_is_alone(server, graph):
    """The first of a batch gets the noise that it gets alone."""
    alone = result(graph, server.run(graph)[0])
    loader, _ = node(graph, "LoRWeBAnalogyEncoder")["b"]
    graph["other"] = {"class_type": "LoadImage", "inputs": {"image": "a_prime.png"}}
    graph["bs"] = {"class_type": "ImageBatch", "inputs": {"image1": [loader, 0], "image2": ["other", 0]}}
    for kind in ("LoRWeBAnalogyEncoder", "LoRWeBExtendedAttention", "LoRWeBAnalogyResult"):
        node(graph, kind)["b"] = ["bs", 0]
    (pictures,) = server.run(graph)
    (save,) = [key for key, n in graph.items() if n["class_type"] == "SaveImage"]
    first, second = (result(graph, {save: [path]}) for path in pictures[save])
    assert (first - alone).abs().max() <= 1
    assert (second - first).abs().mean() > 5


def test_two_prompts_queued_give_what_each_gives_alone(server, graph):
    other = with_b(graph, "a.png")
    node(graph, "KSampler")["seed"] = node(other, "KSampler")["seed"] = 7
    alone = [result(g, server.run(g)[0]) for g in (graph, other)]
    for g in (graph, other):
        node(g, "SaveImage")["filename_prefix"] = "lorweb/queued"
        node(g, "LoRWeBMixedLoRAApply")["strength"] = 1.0000001  # sampled anew
    queued = [result(g, pictures) for g, pictures in zip((graph, other), server.run(graph, other))]
    for one, both in zip(alone, queued):
        assert (one - both).abs().max() <= 1
    assert (queued[0] - queued[1]).abs().mean() > 0.1


def test_an_interrupt_in_the_middle_of_sampling_leaves_nothing_behind(server, graph):
    from comfy_server import PromptError

    before = result(graph, server.run(graph)[0])
    longer = with_b(graph, "a_prime.png")
    node(longer, "KSampler")["steps"] = 200
    (sampler,) = [key for key, n in longer.items() if n["class_type"] == "KSampler"]
    reached = []

    def interrupt(kind: str, data: dict) -> None:
        # The host does not send every step.
        if kind == "progress" and data["node"] == sampler and not reached and data["value"] > 1:
            reached.append(data["value"])
            server.interrupt()

    with pytest.raises(PromptError, match='"node_type": "KSampler"'):
        server.run(longer, on_event=interrupt)
    assert 1 < reached[0] < 100
    node(graph, "SaveImage")["filename_prefix"] = "lorweb/again"
    node(graph, "LoRWeBMixedLoRAApply")["strength"] = 1.0000001  # sampled anew
    after = result(graph, server.run(graph)[0])
    assert (after - before).abs().max() <= 1


def test_a_bad_file_is_refused_when_queued(server, graph):
    from comfy_server import PromptError

    good = (server.base / "models" / "lorweb" / "standin-basis.safetensors").read_bytes()
    (server.base / "models" / "lorweb" / "cut.safetensors").write_bytes(good[: len(good) // 2])
    node(graph, "LoRWeBBasisLoader")["basis_name"] = "cut.safetensors"
    with pytest.raises(PromptError, match=r"cut\.safetensors is damaged"):
        server.run(graph)
