"""What does not go together in a graph is said in the node where it shows, by an error or while the run goes on."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import standins
import torch
from comfy_server import PromptError

RELEASED = standins.RELEASED

KONTEXT = "Kontext Extended-Attention Conditioning"

MODEL, ENCODER, PROMPT, GUIDANCE, CONDITIONING, SAMPLER, DECODED, RESULT = "2", "10", "12", "13", "14", "15", "17", "18"
"""Nodes of the released workflow visual_analogy."""


@pytest.fixture
def graph() -> dict:
    return standins.for_standins(RELEASED / "visual_analogy.json", megapixels=0.05, steps=2)


def with_analogies(graph: dict) -> dict:
    """Put the node Analogy in place of the pictures and settings of all nodes that are of the analogy shown."""
    graph = copy.deepcopy(graph)
    ((key, shown),) = [(k, n["inputs"]) for k, n in graph.items() if n["class_type"] == "LoRWeBExtendedAttention"]
    names = ("a", "a_prime", "b", "megapixels", "fit", "layout", "demonstrations", "speed")
    graph["whole"] = {"class_type": "LoRWeBAnalogy", "inputs": {name: shown[name] for name in names}}
    settings = {
        "LoRWeBAnalogyEncoder": ("a", "a_prime", "b"),
        "LoRWeBAnalogyScore": ("a", "a_prime", "b"),
        "LoRWeBExtendedAttention": names[:3] + names[4:],
        "LoRWeBAnalogyResult": ("b", "fit", "layout", "pairs", "sampled", "mixture"),
    }
    for node in graph.values():
        inputs, own = node["inputs"], settings.get(node["class_type"], ())
        pictures = [name for name in own if name in ("a", "a_prime", "b")]
        if own and all(inputs[name] == graph["whole"]["inputs"][name] for name in pictures):
            for name in own:
                inputs.pop(name)
            inputs["analogy"] = ["whole", 0]
    assert graph[key]["inputs"]["analogy"] == ["whole", 0]
    return graph


def read(path: Path) -> torch.Tensor:
    from PIL import Image

    image = Image.open(path).convert("RGB")
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)


def run(server, graph: dict) -> tuple[dict[str, list[Path]], dict[str, str]]:
    """Run a graph: node → pictures, and node → the text that it shows."""
    texts: dict[str, str] = {}

    def on_event(kind: str, data: dict) -> None:
        if kind == "progress_text" and data["text"].strip():
            texts[data["node"]] = data["text"]

    (pictures,) = server.run(graph, on_event=on_event)
    return pictures, texts


@pytest.mark.parametrize("name", ["visual_analogy", "best_of_seeds", "edit_strip"])
def test_released_workflows_run_as_with_an_analogy_bit_for_bit(server, name):
    old = standins.for_standins(RELEASED / f"{name}.json", megapixels=0.05, steps=2)
    saves = [key for key, node in old.items() if node["class_type"] == "SaveImage"]
    (before, texts), (after, new_texts) = run(server, old), run(server, with_analogies(old))
    assert saves
    for key in saves:
        assert len(before[key]) == len(after[key]) > 0
        for one, other in zip(before[key], after[key], strict=True):
            assert torch.equal(read(one), read(other))
    assert texts == new_texts == {}


@pytest.mark.parametrize("name", [path.stem for path in sorted(RELEASED.glob("*.json"))])
def test_the_inputs_of_released_workflows_are_there_still(host, name):
    """Each widget too, in the order in which the page keeps their values."""
    nodes = json.loads((RELEASED.parent / f"{name}.json").read_text(encoding="utf-8"))["nodes"]
    for node in nodes:
        if not node["type"].startswith("LoRWeB"):
            continue
        inputs = host.node(node["type"]).GET_SCHEMA().inputs
        ordered = sorted(inputs, key=lambda each: each.optional)  # as the host lists them
        widgets = [each.id for each in ordered if hasattr(each, "default")]
        stored = [each["name"] for each in node["inputs"] if each.get("widget")]
        assert widgets[: len(stored)] == stored
        assert {each["name"] for each in node["inputs"]} <= {each.id for each in inputs}


# Errors


CUTS = [
    ({RESULT: {"layout": "sequence"}}, f"it has layout sequence, but {KONTEXT} has layout grid"),
    ({RESULT: {"pairs": 2}}, f"it has pairs 2, but {KONTEXT} has pairs 1"),
    ({RESULT: {"sampled": "b' alone"}}, f"it has sampled b' alone, but {KONTEXT} has sampled whole grid"),
    ({CONDITIONING: {"speed": "b' alone"}}, f"it has sampled whole grid, but {KONTEXT} has sampled b' alone"),
    ({CONDITIONING: {"layout": "sequence"}}, f"it has layout grid, but {KONTEXT} has layout sequence"),
]


@pytest.mark.parametrize(("changes", "words"), CUTS)
def test_another_cut_than_was_conditioned_is_refused(server, graph, changes, words):
    for node, inputs in changes.items():
        graph[node]["inputs"] |= inputs
    with pytest.raises(PromptError) as error:
        server.run(graph)
    assert words in error.value.details["exception_message"]
    assert error.value.details["node_id"] == RESULT


def test_another_fit_is_refused_where_it_matters(server, graph):
    graph[RESULT]["inputs"]["fit"] = "pad"
    run(server, graph)  # b has a's shape
    save(server, "wide.png", standins.picture(False, "tree", size=(200, 300)))
    loader, _ = graph[RESULT]["inputs"]["b"]
    graph[loader]["inputs"]["image"] = "wide.png"
    with pytest.raises(PromptError, match=f"it has fit pad, but {KONTEXT} has fit stretch"):
        server.run(graph)


def test_the_cut_is_known_when_only_the_result_is_changed(server, graph):
    """What is before it comes from the host's cache then."""
    run(server, graph)
    graph[RESULT]["inputs"]["pairs"] = 3
    with pytest.raises(PromptError, match="it has pairs 3"):
        server.run(graph)


def test_a_picture_of_another_size_is_refused_with_an_analogy(server, graph):
    graph = with_analogies(graph)
    scale = {"image": [DECODED, 0], "upscale_method": "bilinear", "scale_by": 2.0}
    graph["scaled"] = {"class_type": "ImageScaleBy", "inputs": scale}
    graph[RESULT]["inputs"]["image"] = ["scaled", 0]
    with pytest.raises(PromptError, match=r"pixels, but this analogy is sampled at .* only after Analogy Result"):
        server.run(graph)


def save(server, name: str, picture: torch.Tensor) -> None:
    from PIL import Image

    Image.fromarray((picture * 255).round().byte().numpy()).save(server.base / "input" / name)


# Notes


def load(graph: dict, name: str) -> list:
    graph["other"] = {"class_type": "LoadImage", "inputs": {"image": name}}
    return ["other", 0]


def test_nothing_is_said_of_what_is_right(server, graph):
    assert run(server, graph)[1] == {}


def test_a_mixture_made_of_other_pictures_is_said(server, graph):
    graph[ENCODER]["inputs"]["b"] = load(graph, "a_prime.png")
    assert "The mixture was made of another b than the model is shown." in run(server, graph)[1][SAMPLER]
    graph[ENCODER]["inputs"] |= {"b": graph[CONDITIONING]["inputs"]["b"], "a": ["other", 0]}
    assert "The mixture was made of another a or a' than the model is shown." in run(server, graph)[1][SAMPLER]


def test_a_model_without_a_mixture_is_said_and_the_run_goes_on(server, graph):
    graph[SAMPLER]["inputs"]["model"] = [MODEL, 0]
    pictures, texts = run(server, graph)
    assert texts[SAMPLER].startswith("No mixture is on the model. Link the model of Mixed LoRA Apply here")
    assert texts[RESULT] == texts[SAMPLER]
    assert pictures["20"]


def test_a_note_goes_where_its_cause_is_gone(server, graph):
    right = graph[SAMPLER]["inputs"]["model"]
    graph[SAMPLER]["inputs"]["model"] = [MODEL, 0]
    run(server, graph)
    graph[SAMPLER]["inputs"]["model"] = right
    texts = {}
    server.run(
        graph, on_event=lambda kind, data: kind == "progress_text" and texts.update({data["node"]: data["text"]})
    )
    assert texts == {SAMPLER: " ", RESULT: " "}


NOTES = [
    ({SAMPLER: {"positive": [GUIDANCE, 0]}}, f"positive shows the model no analogy. Link positive of {KONTEXT}"),
    ({SAMPLER: {"latent_image": ["empty", 0]}}, "The latent is one of 128×64 pixels, but the analogy is sampled at"),
    ({CONDITIONING: {"positive": [PROMPT, 0]}}, "No guidance is set, and FLUX takes 3.5. Put FluxGuidance"),
    ({SAMPLER: {"cfg": 2.0}}, f"cfg is 2, but {KONTEXT} has no negative. Set cfg to 1"),
    (
        {SAMPLER: {"cfg": 2.0, "negative": [GUIDANCE, 0]}, CONDITIONING: {"negative": [GUIDANCE, 0]}},
        "negative shows the model no analogy.",
    ),
]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("changes", "words"), NOTES)
def test_what_the_sampler_should_have_otherwise_is_said_there_and_at_the_result(server, graph, changes, words, whole):
    size = {"width": 128, "height": 64, "batch_size": 1}
    graph["empty"] = {"class_type": "EmptySD3LatentImage", "inputs": size}
    graph = with_analogies(graph) if whole else graph
    for node, inputs in changes.items():
        graph[node]["inputs"] |= inputs
    texts = {}

    def on_event(kind: str, data: dict) -> None:
        if kind == "progress_text":
            texts[data["node"]] = data["text"]

    if whole and "empty" in str(changes):
        with pytest.raises(PromptError, match="pixels, but this analogy is sampled at"):
            server.run(graph, on_event=on_event)
    else:
        server.run(graph, on_event=on_event)
        assert words in texts[RESULT]
    assert words in texts[SAMPLER]


def test_a_pair_without_a_change_is_said_where_it_is_given(server, graph):
    graph[CONDITIONING]["inputs"]["a_prime"] = graph[ENCODER]["inputs"]["a_prime"] = graph[CONDITIONING]["inputs"]["a"]
    assert "a and a' are the same picture" in run(server, graph)[1][CONDITIONING]
    assert "a and a' are the same picture" in run(server, with_analogies(graph))[1]["whole"]


def test_growing_inputs_bring_further_pairs(server, graph):
    graph = with_analogies(graph)
    whole = graph["whole"]["inputs"]
    more = {"more_a.a_2": whole["a_prime"], "more_a_prime.a_prime_2": whole["a"]}
    whole |= more | {"demonstrations": "all pairs"}
    pictures, _ = run(server, graph)
    (grid,) = pictures["19"]
    height, width = read(grid).shape[:2]
    assert height > 1.3 * width  # three rows of two square cells
