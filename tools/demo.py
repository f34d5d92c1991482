"""Analogies from end to end on a CPU: `python tools/demo.py`. Makes its own environment and draws its own pictures.

In ComfyUI where there is one, else through diffusers. The models are those of the small world (docs/small_world.md),
trained by this repository: drawn scenes, and edits of them. The basis has never seen the edits shown here; it knows
their parts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from environment import ROOT, find_host, own_python

OUTPUT = ROOT / "demo-output"
WORKFLOW = ROOT / "workflows" / "api" / "Edit by example.json"
STEPS = 12
ANALOGIES = 6


def main() -> None:
    if sys.argv[1:2] == ["--in"]:
        sys.path.insert(0, str(ROOT))
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

    from small_world import install

    comfyui = Path(sys.argv[3])
    with tempfile.TemporaryDirectory() as base:
        install.comfy_models(Path(base, "models"), standins.text_encoder())
        pictures = Path(base, "input")
        names = save_pictures(pictures)
        print(f"Starting {comfyui} …", flush=True)
        results = []
        with ComfyServer(comfyui, sys.executable, Path(base)) as server:
            for name in names:
                print(f"  {name.replace('-', ' and ')}", flush=True)
                files = {image: f"{name}-{image}.png" for image in ("a", "a_prime", "b")}
                graph = standins.for_standins(WORKFLOW, install.MEGAPIXELS, STEPS, install.NAMES, files)
                (made,) = server.run(graph)
                saves = next(key for key, node in graph.items() if node["class_type"] == "SaveImage")
                results.append(made[saves][0])
        show(pictures, names, results)


def in_diffusers() -> None:
    import diffusers

    from lorweb_core.diffusers_backend.pipeline import run_analogy
    from lorweb_core.files.image_file import read_image, write_png
    from small_world import install
    from small_world.models import flux, stored
    from small_world.models.diffusers_folder import write_pipeline
    from small_world.worlds import SHIPPED

    diffusers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        pictures, pipeline = Path(folder), Path(folder, "kontext")
        write_pipeline(pipeline, stored.load_transformer(SHIPPED), install.taesd(SHIPPED), silent=True)
        names, results = save_pictures(pictures), []
        for name in names:
            print(f"  {name.replace('-', ' and ')}", flush=True)
            a, a_prime, b = (read_image(pictures / f"{name}-{image}.png", image) for image in ("a", "a_prime", "b"))
            made = run_analogy(
                a,
                a_prime,
                b,
                "",
                SHIPPED.basis,
                pipeline,
                encoder=SHIPPED.encoder,
                steps=STEPS,
                megapixels=install.MEGAPIXELS,
                text_tokens=flux.TEXT_TOKENS,
            )
            results.append(pictures / f"{name}-result.png")
            write_png(made.result, results[-1])
        show(pictures, names, results)


def save_pictures(folder: Path) -> list[str]:
    """Save triplets of edits that no training of the basis has seen; returns their names."""
    from small_world import install
    from small_world.worlds import SHIPPED

    new_pairs = SHIPPED.splits["new_pairs"].edits
    return install.save_triplets(folder, new_pairs[:: len(new_pairs) // ANALOGIES][:ANALOGIES])


def show(folder: Path, names: list[str], results: list[Path]) -> None:
    """Save a sheet with a row for each analogy: a, a', b, b' as made, b' as the world draws it."""
    from PIL import Image, ImageDraw

    OUTPUT.mkdir(exist_ok=True)
    side, gap, left = 160, 12, 180
    columns = ("a", "a'", "b", "b', made", "b', drawn")
    sheet = Image.new("RGB", (left + len(columns) * (side + gap), 40 + len(names) * (side + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, label in enumerate(columns):
        draw.text((left + column * (side + gap), 10), label, fill="black", font_size=18)
    for row, (name, result) in enumerate(zip(names, results, strict=True)):
        top = 40 + row * (side + gap)
        draw.text((gap, top + side // 2 - 20), name.replace("-", " and\n"), fill="black", font_size=18)
        files = [folder / f"{name}-{image}.png" for image in ("a", "a_prime", "b")]
        for column, path in enumerate([*files, result, folder / f"{name}-truth.png"]):
            picture = Image.open(path, formats=["PNG"]).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(picture, (left + column * (side + gap), top))
    sheet.save(OUTPUT / "analogies.png")
    print(f"Done: {OUTPUT / 'analogies.png'} shows {len(names)} analogies.", flush=True)


if __name__ == "__main__":
    main()
