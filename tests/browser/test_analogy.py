"""Workflows of the last release open as they were, and what is wrong in a graph is read in its nodes."""

import json
from pathlib import Path

import pytest
import standins

RELEASED = standins.RELEASED.parent
PROMPT = "async () => (await window.app.graphToPrompt()).output"
INPUTS = "(type) => window.app.graph.nodes.find((node) => node.type === type).inputs.map((input) => input.name)"
CONNECT = """([from, to, name]) => {
  const [source, target] = [from, to].map((id) => window.app.graph.getNodeById(id))
  source.connect(0, target, target.inputs.findIndex((input) => input.name === name))
}"""


@pytest.mark.parametrize("path", sorted(RELEASED.glob("*.json")), ids=lambda path: path.stem)
def test_a_released_workflow_opens_with_every_value_and_link(frontend, path: Path):
    frontend.open(path)
    expected = json.loads((RELEASED / "api" / path.name).read_text("utf-8"))
    prompt = frontend.page.evaluate(PROMPT)
    for key, node in expected.items():
        assert prompt[key]["class_type"] == node["class_type"]
        files = {"unet_name", "clip_name", "clip_name1", "clip_name2", "vae_name", "basis_name", "image", "config_name"}
        for name, value in node["inputs"].items():
            if name not in files:
                assert prompt[key]["inputs"][name] == value, (key, name)


def test_a_warning_is_read_in_the_sampler_and_in_the_result(frontend, renderer, workflow):
    graph = workflow("visual_analogy")
    graph["15"]["inputs"] |= {"model": ["2", 0], "seed": sum(map(ord, renderer))}  # else it is in the host's cache
    frontend.open(graph)
    assert frontend.run().status == "success"
    texts = frontend.texts()
    frontend.screenshot(f"warning-{renderer}")
    for node in ("15", "18"):
        assert "No mixture is on the model. Link the model of Mixed LoRA Apply here" in texts[node]


def test_further_pairs_have_sockets_that_grow(frontend, renderer, workflow):
    graph = workflow("visual_analogy")
    pictures = {name: graph["14"]["inputs"][name] for name in ("a", "a_prime", "b")}
    graph["30"] = {"class_type": "LoRWeBAnalogy", "inputs": pictures}
    frontend.open(graph)
    before = frontend.page.evaluate(INPUTS, "LoRWeBAnalogy")
    assert "more_a.a_2" in before
    frontend.page.evaluate(CONNECT, ["7", "30", "more_a.a_2"])
    frontend.page.wait_for_timeout(500)
    frontend.screenshot(f"analogy-{renderer}")
    assert "more_a.a_3" in frontend.page.evaluate(INPUTS, "LoRWeBAnalogy")
