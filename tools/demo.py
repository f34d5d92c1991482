"""An analogy from end to end on a CPU: `python tools/demo.py`. Makes its own environment, weights and pictures.

In ComfyUI where there is one, else through diffusers. The weights are small stand-ins: a model set by hand that paints
what its reference shows, and a random basis that tints it. The picture shows the pipeline at work, not an edit.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from environment import ROOT, find_host, own_python

OUTPUT = ROOT / "demo-output"
WORKFLOW = ROOT / "workflows" / "api" / "visual_analogy.json"
MEGAPIXELS = 0.14
STEPS = 8


def main() -> None:
    if sys.argv[1:2] == ["--in"]:
        {"comfyui": in_comfyui, "diffusers": in_diffusers}[sys.argv[2]]()
        return
    host = find_host()
    if host:
        comfyui, python = host
        arguments = ["comfyui", str(comfyui)]
    else:
        python, arguments = own_python("cli"), ["diffusers"]
    finished = subprocess.run([python, __file__, "--in", *arguments], env=os.environ | {"PYTHONWARNINGS": "ignore"})
    sys.exit(finished.returncode)


def in_comfyui() -> None:
    import standins
    from comfy_server import ComfyServer

    comfyui = Path(sys.argv[3])
    graph = standins.for_standins(WORKFLOW, MEGAPIXELS, STEPS)
    kinds = {key: node["class_type"] for key, node in graph.items()}
    with tempfile.TemporaryDirectory() as base:
        print("Making small stand-in weights (set by hand, with a random basis: no edit) …", flush=True)
        standins.comfy_models(Path(base, "models"))
        standins.save_pictures(Path(base, "input"))
        print(f"Starting {comfyui} …", flush=True)

        def progress(kind: str, data: dict) -> None:
            if kind == "executing" and data["node"]:
                print(f"  {kinds[data['node']]}", flush=True)
            elif kind == "progress" and kinds.get(data["node"]) == "KSampler":
                print(f"    step {data['value']} of {data['max']}", flush=True)

        with ComfyServer(comfyui, sys.executable, Path(base)) as server:
            (pictures,) = server.run(graph, on_event=progress)
        made = {kinds[key]: files[0] for key, files in pictures.items() if files}
        show(Path(base, "input"), made["SaveImage"])


def in_diffusers() -> None:
    import standins
    import standins_diffusers

    with tempfile.TemporaryDirectory() as base:
        print("Making small stand-in weights (set by hand, with a random basis: no edit) …", flush=True)
        folder = Path(base)
        standins_diffusers.make_pipeline(folder / "kontext")
        standins.image_encoder(folder / "encoder", standins.QUERY_WIDTH)
        standins.save_demo_basis(folder / "basis.safetensors")
        standins.save_pictures(folder)
        # fmt: off
        command = [
            sys.executable, "-m", "lorweb_core", "analogy", "--prompt", "Make it night", "--steps", str(STEPS),
            "--a", folder / "a.png", "--a-prime", folder / "a_prime.png", "--b", folder / "b.png",
            "--basis", folder / "basis.safetensors", "--model", folder / "kontext", "--encoder", folder / "encoder",
            "--megapixels", str(MEGAPIXELS), "--out", folder / "result.png",
        ]
        # fmt: on
        subprocess.run([str(word) for word in command], check=True, cwd=ROOT)
        show(folder, folder / "result.png")


def show(triplet: Path, result: Path) -> None:
    """Save b' and a sheet of all four pictures with their names."""
    from PIL import Image, ImageDraw

    OUTPUT.mkdir(exist_ok=True)
    shutil.copy(result, OUTPUT / "b_prime.png")
    names = {"a": triplet / "a.png", "a'": triplet / "a_prime.png", "b": triplet / "b.png", "b'": result}
    sheet = Image.new("RGB", (4 * 276 + 20, 330), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (name, path) in enumerate(names.items()):
        draw.text((20 + 276 * column, 8), name, fill="black", font_size=18)
        sheet.paste(Image.open(path).convert("RGB").resize((256, 256)), (20 + 276 * column, 36))
    note = "Stand-in weights, which copy b and tint it: the pipeline at work, not an edit as the real files make it."
    draw.text((20, 302), note, fill="black", font_size=16)
    sheet.save(OUTPUT / "analogy.png")
    print(f"Done: {OUTPUT / 'analogy.png'} shows the four pictures, b_prime.png beside it is the result.", flush=True)


if __name__ == "__main__":
    main()
