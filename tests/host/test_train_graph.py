"""Train Basis in a running ComfyUI, as a person runs it: cancelled, queued again, and used in the same graph."""

from __future__ import annotations

import re
import sys

import pytest
import standins
from pairs import save_pairs


@pytest.fixture
def graph(tmp_path) -> dict:
    """The bundled workflow, in which the basis is not loaded but trained on pictures in the host's input folder."""
    edits = {"inverted": lambda x: 1 - x, "dark": lambda x: x * 0.3}
    scenes = {shape: standins.picture(False, shape, (48, 48)) for shape in ("house", "tree")}
    save_pairs(tmp_path / "base" / "input" / "pairs", edits, scenes)
    graph = standins.for_standins(standins.RELEASED / "visual_analogy.json", megapixels=0.02, steps=2)
    place = {n["class_type"]: key for key, n in graph.items()}
    trained = {
        "model": [place["UNETLoader"], 0],
        "vae": [place["VAELoader"], 0],
        "positive": [place["CLIPTextEncode"], 0],
        "folder": "pairs",
        "loras": 2,
        "rank": 2,
        "keys_dim": 8,
        "query_mode": "cat-aa'b",
        "steps": 300,
        "batch_size": 1,
        "gradient_accumulation": 1,
        "learning_rate": 1e-3,
        "resolution": 32,
        "gradient_checkpointing": True,
        "save_every": 1000,
        "sample_every": 0,
        "seed": 1,
        "name": "graph/learned",
        "if_exists": "number",
    }
    graph[place["LoRWeBBasisLoader"]] = {"class_type": "LoRWeBTrainBasis", "inputs": trained}
    return graph


def test_a_cancelled_training_goes_on_and_its_basis_is_used(comfyui, graph, tmp_path):
    from comfy_server import ComfyServer, PromptError

    base = tmp_path / "base"
    standins.comfy_models(base / "models")
    standins.save_pictures(base / "input")
    (node,) = [key for key, n in graph.items() if n["class_type"] == "LoRWeBTrainBasis"]
    run = base / "models" / "lorweb" / "graph" / "learned"
    reached, cached, said = [], [], []

    def listen(kind: str, data: dict) -> None:
        if kind == "progress_text" and data["node"] == node:
            said.append(data["text"])

    def interrupt(kind: str, data: dict) -> None:
        # Before it trains, it prepares its pictures with a bar of its own.
        listen(kind, data)
        if kind == "progress" and data["node"] == node and data["max"] == 300 and data["value"] > 1 and not reached:
            reached.append(data["value"])
            server.interrupt()

    def watch(kind: str, data: dict) -> None:
        if kind == "execution_cached":
            cached.append(data["nodes"])

    with ComfyServer(comfyui, sys.executable, base) as server:
        with pytest.raises(PromptError, match='"node_type": "LoRWeBTrainBasis"'):
            server.run(graph, on_event=interrupt)
        done = len((run / "losses.csv").read_text().splitlines()) - 1
        assert reached[0] <= done < 300
        assert not (run / "learned.safetensors").exists()
        assert said[0].startswith("Encoding: ")
        assert "Training: the first step" in said
        assert said[-1] == f"Stopped after step {done}. The same settings go on from there."

        graph[node]["inputs"]["steps"] = done + 2
        (pictures,) = server.run(graph, on_event=listen)
        assert len((run / "losses.csv").read_text().splitlines()) - 1 == done + 2
        assert (run / "learned.safetensors").exists()
        assert len(pictures) >= 3  # the samples, the grid and the result
        stopped = said.index(f"Training: goes on after step {done}")
        told = said[stopped + 1 :]
        assert re.fullmatch(rf"Training: step {done + 1} of {done + 2}\nloss \d+\.\d{{4}}, about \d+ s left", told[0])
        assert told[-2] == "Making samples"
        assert told[-1].startswith(f"Trained: {done + 2} steps, loss ")
        log = server.log.read_text("utf-8", "replace")
        assert f"learned: goes on after step {done}." in log

        (sampler,) = [n for n in graph.values() if n["class_type"] == "KSampler"]
        sampler["inputs"]["seed"] += 1
        server.run(graph, on_event=watch)
        assert node in cached[0]
