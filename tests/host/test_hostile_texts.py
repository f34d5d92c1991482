"""Hostile texts and numbers, given to nodes in a running ComfyUI: refused in words, and the queue goes on."""

from __future__ import annotations

import copy

import pytest
import standins
from pairs import save_pairs

TEXTS = {"half a character": "pairs\ud800", "NUL": "a\0b", "a megabyte": "x" * 1_000_000, "of no user": "~nouser/x"}


@pytest.fixture(scope="module")
def pairs(server) -> str:
    """A folder of pairs to train on, in the server's input folder."""
    folder = server.base / "input" / "pairs"
    scenes = {shape: standins.picture(False, shape, (48, 48)) for shape in ("house", "tree")}
    save_pairs(folder, {"dark": lambda x: x * 0.3}, scenes)
    return str(folder)


@pytest.fixture(scope="module")
def graph(pairs) -> dict:
    """An analogy, and what can be done with its mixture, basis, model and pictures."""
    graph = standins.for_standins(standins.RELEASED / "visual_analogy.json", megapixels=0.05, steps=1)

    def key(class_type: str) -> str:
        (found,) = [key for key, node in graph.items() if node["class_type"] == class_type]
        return found

    mixture, basis, model = [key("LoRWeBAnalogyEncoder"), 0], [key("LoRWeBBasisLoader"), 0], [key("UNETLoader"), 0]
    image = [key("LoRWeBAnalogyResult"), 0]
    base = {"name": "hostile", "if_exists": "replace"}
    train = {"loras": 2, "rank": 1, "keys_dim": 8, "query_mode": "cat-aa'b", "steps": 1, "batch_size": 1}
    train |= {"gradient_accumulation": 1, "learning_rate": 1e-4, "resolution": 32, "gradient_checkpointing": False}
    train |= {
        "save_every": 10,
        "sample_every": 0,
        "seed": 0,
        "folder": pairs,
        "held_out": "",
    }
    train |= {"model": model, "vae": [key("VAELoader"), 0]}
    train |= {"positive": copy.deepcopy(graph[key("LoRWeBExtendedAttention")]["inputs"]["positive"])}
    edit = {"temperature": 1.0, "mute": "", "solo": "", "keep": "all", "top_k": 1, "top_p": 0.9, "renormalize": False}
    for class_type, inputs in {
        "LoRWeBSaveMixture": {"mixture": mixture, **base},
        "LoRWeBExportLoRA": {"mixture": mixture, "mode": "exact", "rank": 1, "error": 0.1, "strength": 1.0,
                             "dtype": "float32", **base},
        "LoRWeBMixtureEdit": {"mixture": mixture, **edit, "scale": 1.0, "blocks": "all", "kind": "all",
                              "stream": "all"},
        "LoRWeBMixtureBlend": {"mixture_1": mixture, **{f"weight_{i}": 1.0 for i in (1, 2, 3, 4)},
                               "space": "coefficients", "steps": 2},
        "LoRWeBLoadMixture": {"basis": basis, "mixture_name": "hostile.safetensors"},
        "LoRWeBPruneBasis": {"basis": basis, "mixtures": mixture, "saved_mixtures": "", "share": 0.1, **base},
        "LoRWeBBasisSimilarity": {"basis": basis, "blocks": "all", "kind": "all", "stream": "all"},
        "LoRWeBMergeBases": {"basis_1": basis, "basis_2": basis, **base},
        "LoRWeBAnalogyAttention": {"model": model, "example_weight": 2.0, "b_weight": 1.0},
        "LoRWeBKeepReferences": {"model": model, "every": 0, "shares": ""},
        "LoRWeBPictureStrip": {"images": image, "captions": "", "height": 64},
        "LoRWeBTrainBasis": {**train, **base},
    }.items():  # fmt: skip
        graph[class_type] = {"class_type": class_type, "inputs": inputs}
    for class_type in ("LoRWeBMixtureEdit", "LoRWeBMixtureBlend"):
        inputs = {"mixture": [class_type, 0], **base}
        graph[f"saved {class_type}"] = {"class_type": "LoRWeBSaveMixture", "inputs": inputs}
    return graph


def only(graph: dict, key: str) -> dict:
    """A node with what it needs."""
    inputs = graph[key]["inputs"]
    needed = {key: copy.deepcopy(graph[key])}
    for value in inputs.values():
        if isinstance(value, list):
            needed |= only(graph, value[0])
    return needed


def ending_in(graph: dict, class_type: str) -> tuple[dict, dict]:
    """A graph of one node and what it needs, with an end that the host runs; and the node's inputs."""
    (key,) = [key for key, node in graph.items() if node["class_type"] == class_type and not key.startswith("saved ")]
    end = next((other for other in graph if other == f"saved {class_type}"), key)
    cut = only(graph, end)
    if class_type in (
        "LoRWeBMixedLoRAApply",
        "LoRWeBAnalogyAttention",
        "LoRWeBKeepReferences",
        "LoRWeBExtendedAttention",
        "LoRWeBAnalogyResult",
    ):
        (sampler,) = [each for each, node in graph.items() if node["class_type"] == "SaveImage"]
        cut = only(graph, sampler)
        if class_type in ("LoRWeBAnalogyAttention", "LoRWeBKeepReferences"):
            cut |= only(graph, class_type)
            (sampler,) = [node for node in cut.values() if node["class_type"] == "KSampler"]
            sampler["inputs"]["model"] = [class_type, 0]
    return cut, cut[key]["inputs"]


def refused(server, graph: dict) -> str | None:
    """What the host or the node says of a graph, None if it ran."""
    from comfy_server import PromptError

    try:
        server.run(graph)
    except PromptError as error:
        details = error.details
        assert "node_errors" in details or details["exception_type"].endswith("LoRWebError"), str(error)
        return details.get("exception_message") or str(details)
    return None


@pytest.mark.parametrize("what", TEXTS)
def test_no_text_ends_the_queue(server, graph, what):
    for class_type, name in [
        *(("LoRWeBBasisLoader", name) for name in ("basis_name", "config_name")),
        ("LoRWeBLoadMixture", "mixture_name"),
        *(("LoRWeBSaveMixture", name) for name in ("name", "if_exists")),
        *(("LoRWeBMixtureEdit", name) for name in ("mute", "solo", "blocks", "kind", "stream", "keep")),
        ("LoRWeBMixtureBlend", "space"),
        ("LoRWeBMixtureBlend", "origin"),
        ("LoRWeBMixtureEdit", "origin"),
        *(("LoRWeBExtendedAttention", name) for name in ("speed", "layout")),
        ("LoRWeBAnalogyResult", "sampled"),
        *(("LoRWeBKeepReferences", name) for name in ("shares", "stored", "place")),
        *(("LoRWeBPruneBasis", name) for name in ("saved_mixtures", "name")),
        *(("LoRWeBBasisSimilarity", name) for name in ("blocks", "kind", "stream")),
        ("LoRWeBMergeBases", "name"),
        *(("LoRWeBExportLoRA", name) for name in ("name", "mode", "dtype")),
        *(("LoRWeBTrainBasis", name) for name in ("folder", "held_out", "name", "query_mode")),
    ]:
        bad, inputs = ending_in(graph, class_type)
        inputs[name] = TEXTS[what]
        said = refused(server, bad)
        assert said or (what == "of no user" and name == "name"), (class_type, name)
        if said:
            said.encode()
    assert refused(server, ending_in(graph, "LoRWeBSaveMixture")[0]) is None


@pytest.mark.parametrize("what", TEXTS)
def test_a_caption_may_be_any_text(server, graph, what):
    strip, inputs = ending_in(graph, "LoRWeBPictureStrip")
    inputs["captions"] = TEXTS[what]
    assert refused(server, strip) is None


FLOATS = {
    "LoRWeBMixtureEdit": ("temperature", "scale", "top_p"),
    "LoRWeBMixtureBlend": ("weight_1",),
    "LoRWeBPruneBasis": ("share",),
    "LoRWeBExportLoRA": ("strength", "error"),
    "LoRWeBTrainBasis": ("learning_rate",),
    "LoRWeBAnalogyAttention": ("example_weight", "b_weight"),
    "LoRWeBExtendedAttention": ("megapixels",),
    "LoRWeBMixedLoRAApply": ("strength",),
}
INTS = {
    "LoRWeBMixtureEdit": ("top_k",),
    "LoRWeBMixtureBlend": ("steps",),
    "LoRWeBExportLoRA": ("rank",),
    "LoRWeBTrainBasis": ("loras", "resolution"),
    "LoRWeBPictureStrip": ("height",),
    "LoRWeBAnalogyAttention": ("pairs",),
    "LoRWeBKeepReferences": ("every",),
    "LoRWeBAnalogyResult": ("pairs",),
}


@pytest.mark.parametrize("number", [float("nan"), 1e18])
def test_no_number_ends_the_queue(server, graph, number):
    """The host holds what is typed against a widget's limits, but not what comes from another node."""
    for class_type, names in FLOATS.items():
        for name in names:
            bad, inputs = ending_in(graph, class_type)
            bad["number"] = {"class_type": "PrimitiveFloat", "inputs": {"value": number}}
            inputs |= {"keep": "top p", "mode": "error", name: ["number", 0]}
            assert refused(server, bad) or number == 1e18, (class_type, name)
    assert refused(server, ending_in(graph, "LoRWeBSaveMixture")[0]) is None


@pytest.mark.parametrize("number", [-1, 10**12])
def test_no_whole_number_ends_the_queue(server, graph, number):
    for class_type, names in INTS.items():
        for name in names:
            bad, inputs = ending_in(graph, class_type)
            bad["number"] = {"class_type": "PrimitiveInt", "inputs": {"value": number}}
            inputs |= {"keep": "top k", "mode": "rank", name: ["number", 0]}
            allowed = number > 0 and name in ("height", "rank", "seed")
            assert refused(server, bad) or allowed, (class_type, name)
    assert refused(server, ending_in(graph, "LoRWeBSaveMixture")[0]) is None
