"""The mixture under the mouse: bars in Mixture Edit and the map in Mixture Blend write the nodes' ordinary inputs."""

import math

import pytest
import torch

VALUES = "(id) => Object.fromEntries(window.app.graph.getNodeById(id).widgets.map((w) => [w.name, w.value]))"
PROMPT = "async () => (await window.app.graphToPrompt()).output"
CIRCLES = """() => [...document.querySelectorAll('.lorweb-map circle')].map((circle) => {
  const box = circle.getBoundingClientRect()
  return [box.x + box.width / 2, box.y + box.height / 2]
})"""


def key(graph: dict, class_type: str) -> str:
    (found,) = [key for key, node in graph.items() if node["class_type"] == class_type]
    return found


def values(frontend, node: str) -> dict:
    return frontend.page.evaluate(VALUES, node)


@pytest.fixture
def edited(workflow) -> dict:
    graph = workflow("visual_analogy")
    encoder, apply = key(graph, "LoRWeBAnalogyEncoder"), key(graph, "LoRWeBMixedLoRAApply")
    graph["77"] = {"class_type": "LoRWeBMixtureEdit", "inputs": {"mixture": [encoder, 0], "mute": "1-2"}}
    graph[apply]["inputs"]["mixture"] = ["77", 0]
    return graph


@pytest.fixture(scope="session")
def changes(server) -> torch.Tensor:
    """Save three mixtures of the small world's basis; gives their changes, all layers as one vector."""
    from lorweb_core import load_basis
    from lorweb_core.config import find_config
    from lorweb_core.space.mixture_file import save_mixture
    from small_world import install

    path = server.base / "models" / "lorweb" / install.NAMES["lorweb"]
    basis = load_basis(path, find_config(path))
    folder = server.base / "models" / "lorweb_mixtures"
    folder.mkdir(exist_ok=True)
    made = []
    for seed, name in enumerate(("one", "two", "three")):
        mixture = basis.route(torch.randn(1, 1, basis.query_width, generator=torch.Generator().manual_seed(seed)))
        save_mixture(mixture, folder / f"{name}.safetensors")
        made.append(torch.cat([mixture.delta(layer).flatten() for layer in basis.layers]))
    return torch.stack(made)


@pytest.fixture
def blended(workflow, changes) -> dict:
    graph = workflow("visual_analogy")
    basis, apply = key(graph, "LoRWeBBasisLoader"), key(graph, "LoRWeBMixedLoRAApply")
    inputs = {"space": "coefficients", "steps": 2}
    for slot, name in enumerate(("one", "two", "three"), 1):
        loaded = {"basis": [basis, 0], "mixture_name": f"{name}.safetensors"}
        graph[f"8{slot}"] = {"class_type": "LoRWeBLoadMixture", "inputs": loaded}
        inputs |= {f"mixture_{slot}": [f"8{slot}", 0], f"weight_{slot}": float(slot == 1)}
    graph["77"] = {"class_type": "LoRWeBMixtureBlend", "inputs": inputs | {"weight_4": 0.0}}
    graph[apply]["inputs"]["mixture"] = ["77", 0]
    return graph


def test_bars_mute_solo_and_scale_with_the_mouse(frontend, renderer, edited):
    page = frontend.page
    edited["77"]["inputs"]["temperature"] = {"canvas": 1.0, "vue": 1.1}[renderer]  # what the host has cached is not run
    frontend.open(edited)
    frontend.look_at("77")
    page.get_by_text("▸ LoRAs").click()
    assert page.get_by_text("Run once to see the LoRAs of this mixture.").is_visible()
    ran = frontend.run()
    assert ran.status == "success"
    frontend.look_at("77")
    (view,) = ran.outputs["77"]["lorweb"]
    (shares,) = view["shares"]
    first, second, *_ = sorted(range(16), key=lambda n: -shares[n])
    assert page.locator(".lorweb-bar").count() == 16

    def row(lora: int):
        return page.locator(f'.lorweb-bar[data-lora="{lora}"]')

    row(first).get_by_text("M").click()
    expected = {1, 2} ^ {first}
    written = values(frontend, "77")["mute"].replace("1-2", "1, 2")
    assert {int(n) for n in written.split(", ")} == expected
    row(first).get_by_text("M").click()
    assert values(frontend, "77")["mute"] == "1-2"
    row(second).get_by_text("S").click()
    assert values(frontend, "77")["solo"] == str(second)

    # The whole track is twice the largest share.
    box = row(second).locator(".lorweb-track").bounding_box()
    begin = box["x"] + box["width"] * shares[second] / shares[first] / 2
    page.mouse.move(begin, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 5, steps=5)
    page.mouse.up()
    lora, factor = values(frontend, "77")["factors"].split(": ")
    assert int(lora) == second
    assert float(factor) == pytest.approx(0.9 * 2 * shares[first] / shares[second], abs=0.05)
    frontend.screenshot(f"bars-{renderer}")

    inputs = page.evaluate(PROMPT)["77"]["inputs"]
    assert inputs["solo"] == str(second) and inputs["factors"] == f"{lora}: {factor}"
    assert "lorweb_panel" not in inputs
    assert frontend.run().status == "success"

    frontend.load(Comfy_VueNodes_Enabled=renderer == "vue", Comfy_ColorPalette="light")
    frontend.open(edited)
    frontend.look_at("77")
    page.get_by_text("▸ LoRAs").click()
    frontend.run()
    frontend.look_at("77")
    frontend.screenshot(f"bars-light-{renderer}")
    assert page.locator(".lorweb-bar").count() == 16


def test_the_map_of_saved_mixtures_writes_weights_before_anything_ran(frontend, renderer, blended, changes):
    page = frontend.page
    blended["77"]["inputs"]["steps"] = {"canvas": 2, "vue": 3}[renderer]  # what the host has cached is not run
    frontend.open(blended)
    frontend.look_at("77")
    page.get_by_text("▸ Map of the mixtures").click()
    page.locator(".lorweb-map").wait_for()
    one, two, three, _, here = page.evaluate(CIRCLES)
    assert math.dist(one, here) < 1
    # Three changes and none are four points: the plane shows most of how far apart they are.
    assert math.dist(one, two) / math.dist(one, three) == pytest.approx(
        float((changes[0] - changes[1]).norm() / (changes[0] - changes[2]).norm()), rel=0.25
    )

    page.mouse.move(*one)
    page.mouse.down()
    page.mouse.move(*two, steps=5)
    page.mouse.up()
    weights = [values(frontend, "77")[f"weight_{slot}"] for slot in (1, 2, 3)]
    assert weights == pytest.approx([0, 1, 0], abs=0.04)

    middle = [(x + y) / 2 for x, y in zip(two, three)]
    page.mouse.move(*two)
    page.mouse.down()
    page.mouse.move(*middle, steps=5)
    page.mouse.up()
    assert math.dist(page.evaluate(CIRCLES)[-1], middle) < 4
    frontend.screenshot(f"map-{renderer}")
    inputs = page.evaluate(PROMPT)["77"]["inputs"]
    assert inputs["weight_4"] == 0 and "lorweb_panel" not in inputs
    ran = frontend.run()
    assert ran.status == "success"
    (view,) = ran.outputs["77"]["lorweb"]
    assert len(view["points"]) == 4
