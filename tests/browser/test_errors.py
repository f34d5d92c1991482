"""What the pack's errors say is on the node and in a toast, and the pack's sockets have colours of their own."""

import pytest

TYPED = "<b>0</b>"
SAYS = f"mute has '{TYPED}'; expected indices of LoRAs from 0 to 15, such as '3, 8-11'."
SENTENCES = """() => {
  const all = (graph) => graph.nodes.flatMap((node) => [node, ...(node.subgraph ? all(node.subgraph) : [])])
  const said = (node) => node.widgets?.find((widget) => widget.name === 'lorweb_error')?.element.innerText
  return Object.fromEntries(all(window.app.graph).map((node) => [node.title, said(node)]).filter(([, text]) => text))
}"""
COLOURS = """(type) => [
  window.app.canvas.default_connection_color_byType[type],
  window.app.canvas.constructor.link_type_colors[type],
  getComputedStyle(document.body).getPropertyValue(`--color-datatype-${type}`).trim(),
]"""
SET = "([id, name, value]) => { window.app.graph.getNodeById(id).widgets.find((w) => w.name === name).value = value }"
HEIGHT = "() => window.app.graph.getNodeById(77).size[1]"
INTO_SUBGRAPH = """() => {
  const { graph } = window.app
  graph.convertToSubgraph(new Set([graph.getNodeById(77)])).node.title = 'Around'
}"""


def key(graph: dict, class_type: str) -> str:
    (found,) = [key for key, node in graph.items() if node["class_type"] == class_type]
    return found


def sentences(frontend) -> dict[str, str]:
    """Read the sentences on nodes, by their titles, within subgraphs too."""
    return frontend.page.evaluate(SENTENCES)


def toast(frontend, says: str):
    return frontend.page.locator(".p-toast-message", has_text=says)


@pytest.fixture
def wrong(workflow) -> dict:
    """Edit the mixture with a text that names no LoRA."""
    graph = workflow("visual_analogy")
    encoder, apply = key(graph, "LoRWeBAnalogyEncoder"), key(graph, "LoRWeBMixedLoRAApply")
    graph["77"] = {"class_type": "LoRWeBMixtureEdit", "inputs": {"mixture": [encoder, 0], "mute": TYPED}}
    graph[apply]["inputs"]["mixture"] = ["77", 0]
    return graph


def test_an_error_is_on_the_node_and_in_a_toast_until_the_next_run(frontend, renderer, wrong):
    frontend.open(wrong)
    height = frontend.page.evaluate(HEIGHT)
    assert frontend.run().status == "error"
    assert sentences(frontend) == {"Mixture Edit": SAYS}
    assert toast(frontend, SAYS).is_visible()
    frontend.screenshot(f"error-{renderer}")

    frontend.fit()
    frontend.page.evaluate(SET, ["77", "mute", "0"])
    assert frontend.run().status == "success"
    assert sentences(frontend) == {}
    assert not toast(frontend, SAYS).is_visible()
    assert frontend.page.evaluate(HEIGHT) == pytest.approx(height, abs=2)


def test_an_error_shows_its_type_without_where_the_pack_lies(frontend, wrong):
    frontend.open(wrong)
    (error,) = [data for kind, data in frontend.run().answer["status"]["messages"] if kind == "execution_error"]
    assert error["exception_type"] == "lorweb_core.LoRWebError"
    assert error["exception_message"].strip() == SAYS


def test_an_error_within_a_subgraph_is_on_the_subgraph_too(frontend, wrong):
    frontend.open(wrong)
    frontend.page.evaluate(INTO_SUBGRAPH)
    assert frontend.run().status == "error"
    assert sentences(frontend) == {"Around": SAYS, "Mixture Edit": SAYS}


def test_what_the_host_refuses_to_run_is_told_on_the_node(frontend, renderer, wrong):
    encoder = wrong[key(wrong, "LoRWeBAnalogyEncoder")]
    wrong["78"] = {"class_type": "LoRWeBLoadMixture", "inputs": {"mixture_name": "gone.safetensors"}}
    wrong["78"]["inputs"]["basis"] = encoder["inputs"].pop("basis")
    wrong["77"]["inputs"]["mixture"] = ["78", 0]
    frontend.open(wrong)
    ran = frontend.run()
    frontend.screenshot(f"refused-{renderer}")
    assert ran.status == "refused"
    said = sentences(frontend)
    assert said.keys() == {"Analogy Encoder", "Load Mixture"}
    assert said["Analogy Encoder"] == "Required input is missing: basis"
    assert "gone.safetensors" in said["Load Mixture"] and not said["Load Mixture"].startswith("mixture_name - ")
    assert toast(frontend, said["Load Mixture"]).is_visible()


def test_sockets_have_colours_under_every_palette(frontend, wrong):
    frontend.open(wrong)
    seen = set()
    for palette in ("dark", "light", "nord"):
        frontend.page.evaluate("(id) => window.app.extensionManager.setting.set('Comfy.ColorPalette', id)", palette)
        frontend.page.wait_for_timeout(500)
        for kind in ("LORWEB_BASIS", "LORWEB_MIXTURE", "LORWEB_ANALOGY"):
            (colour,) = set(frontend.page.evaluate(COLOURS, kind))
            assert colour.startswith("#")
            seen.add((kind, colour))
    assert len(seen) == len({colour for _, colour in seen}) == 3
    frontend.screenshot("colours")
