"""The pack's nodes are found, helped and named in the page: by other words, in each language that it has."""

import pytest
from help_pages import page_path, translations

PUT = """(type) => {
  const node = LiteGraph.createNode(type), { graph, canvas } = window.app
  for (const before of [...graph.nodes]) graph.remove(before)
  graph.add(node)
  node.pos = [500, 200]
  Object.assign(canvas.ds, { offset: [0, 0], scale: 1 })
  canvas.selectItems([node])
}"""
LABELS = """() => {
  const [node] = window.app.graph.nodes
  return [node.title, ...node.inputs.map((each) => each.label ?? each.localized_name ?? each.name)]
}"""
LOADED = "(images) => images.map((image) => image.complete && image.naturalWidth)"


@pytest.fixture
def in_language(frontend):
    yield lambda language: frontend.load(Comfy_Locale=language, Comfy_VueNodes_Enabled=False)
    frontend.load(Comfy_Locale="en")


@pytest.mark.parametrize("language", ["en", "zh", "ja"])
def test_a_nodes_help_opens_in_the_pages_language_with_its_picture(frontend, in_language, language):
    in_language(language)
    frontend.page.evaluate(PUT, "LoRWeBAnalogy")
    frontend.page.locator('[data-testid="info-button"]').first.click()
    line = page_path("LoRWeBAnalogy", language).read_text("utf-8").split("\n\n")[2].split("\n")[0]
    frontend.page.get_by_text(line[:40]).first.wait_for(timeout=20_000)
    frontend.page.wait_for_timeout(1000)
    pictures = frontend.page.locator('img[src*="docs/pictures/LoRWeBAnalogy.png"]')
    assert pictures.evaluate_all(LOADED)[0] > 100
    frontend.screenshot(f"help-{language}")


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_a_node_has_names_in_the_pages_language(frontend, in_language, language):
    in_language(language)
    frontend.page.evaluate(PUT, "LoRWeBMixedLoRAApply")
    title, *labels = frontend.page.evaluate(LABELS)
    expected = translations(language)["LoRWeBMixedLoRAApply"]
    assert title == expected["display_name"]
    assert {expected["inputs"][name]["name"] for name in ("model", "mixture", "strength")} <= {*labels}


@pytest.mark.parametrize("words", ["analogy", "lorweb", "before after"])
def test_what_people_type_finds_analogy_first(frontend, words):
    frontend.page.evaluate(PUT, "LoRWeBAnalogy")
    frontend.page.mouse.dblclick(1000, 650)
    frontend.page.wait_for_timeout(1000)
    frontend.page.keyboard.type(words)
    frontend.page.wait_for_timeout(1500)
    frontend.screenshot(f"search-{words.replace(' ', '-')}")
    frontend.page.keyboard.press("Enter")
    frontend.page.wait_for_timeout(500)
    frontend.page.mouse.click(1000, 650)
    frontend.page.wait_for_timeout(500)
    assert [*frontend.page.evaluate("() => window.app.graph.nodes.map((n) => n.type)")] == ["LoRWeBAnalogy"] * 2
