"""A bundled workflow opens in the page, and a click on Run makes its picture."""


def test_a_click_on_run_makes_the_picture(frontend, renderer, workflow):
    graph = workflow("visual_analogy")
    frontend.open(graph)
    ran = frontend.run()
    frontend.screenshot(f"visual-analogy-{renderer}")
    assert ran.status == "success"
    (saved,) = [key for key, node in graph.items() if node["class_type"] == "SaveImage"]
    assert ran.outputs[saved]["images"][0]["type"] == "output"
    texts = frontend.texts()
    (encoder,) = [key for key, node in graph.items() if node["class_type"] == "LoRWeBAnalogyEncoder"]
    assert "Analogy Encoder" in texts[encoder]
