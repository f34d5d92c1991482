"""Analogies from end to end on a CPU: `python tools/demo.py`. Makes its own environment and draws its own pictures.

In ComfyUI where there is one, else through diffusers. The models are those of the small world (docs/small_world.md),
trained by this repository: drawn scenes, and edits of them. The basis has never seen the edits shown here
(small_world/demo_rows.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from environment import ROOT, find_host, own_python
from progress_line import QUIET, ProgressLine

if TYPE_CHECKING:
    from small_world.demo_rows import Row

Make = Callable[["Row"], Path]
"""Makes b' of an analogy whose pictures are saved, and returns its file."""

OUTPUT = ROOT / "demo-output"
WORKFLOW = ROOT / "workflows" / "api" / "Edit by example.json"
STEPS = 12


def main() -> None:
    if sys.argv[1:2] == ["--in"]:
        sys.path.insert(0, str(ROOT))
        run({"comfyui": in_comfyui, "diffusers": in_diffusers}[sys.argv[2]])
        return
    host = find_host()
    if host:
        comfyui, python = host
        arguments = ["comfyui", str(comfyui)]
    else:
        python, arguments = own_python("cli"), ["diffusers"]
    sys.exit(subprocess.run([python, __file__, "--in", *arguments], env=os.environ | QUIET).returncode)


def run(way: Callable[[Path], Iterator[Make]]) -> None:
    """Make every row in one of the two ways, and say on one line how far it is."""
    began = time.monotonic()

    def taken() -> str:
        return f"{time.monotonic() - began:.0f} s"

    with ProgressLine() as line, tempfile.TemporaryDirectory() as folder:
        line.say(f"Starting {' in '.join(sys.argv[2:])} …")
        from small_world.demo_rows import ROWS, save_pictures

        save_pictures(Path(folder, "input"))
        results = []
        with contextmanager(way)(Path(folder)) as make:
            for number, row in enumerate(ROWS, 1):
                line.say(f"{number} of {len(ROWS)}: {row.label}, {taken()} …")
                results.append(make(row))
        save_sheet(Path(folder, "input"), results)
        line.end(f"Done in {taken()}: {OUTPUT / 'analogies.png'} shows {len(ROWS)} analogies.")


def in_comfyui(base: Path) -> Iterator[Make]:
    """Start a ComfyUI with this base folder, which makes analogies by the bundled workflow."""
    import standins
    from comfy_server import ComfyServer

    from small_world import install

    install.comfy_models(base / "models", standins.text_encoder())
    with ComfyServer(Path(sys.argv[3]), sys.executable, base) as server:

        def make(row: Row) -> Path:
            files = {image: row.file(image) for image in ("a", "a_prime", "b")}
            graph = standins.for_standins(WORKFLOW, install.MEGAPIXELS, STEPS, install.NAMES, files)
            nodes = {node["class_type"]: (key, node) for key, node in graph.items()}
            nodes["LoRWeBFitMixture"][1]["inputs"]["steps"] = row.fit_steps
            (made,) = server.run(graph)
            return made[nodes["SaveImage"][0]][0]

        yield make


def in_diffusers(folder: Path) -> Iterator[Make]:
    """Write the models as a pipeline into the folder, and make analogies through it."""
    from lorweb_core.diffusers_backend.pipeline import run_analogy
    from lorweb_core.files.image_file import read_image, write_png
    from small_world import install
    from small_world.models import flux, stored
    from small_world.models.diffusers_folder import write_pipeline
    from small_world.worlds import SHIPPED

    pictures = folder / "input"
    write_pipeline(folder / "kontext", stored.load_transformer(SHIPPED), install.taesd(SHIPPED), silent=True)

    def make(row: Row) -> Path:
        made = run_analogy(
            *(read_image(pictures / row.file(image), image) for image in ("a", "a_prime", "b")),
            "",
            SHIPPED.basis,
            folder / "kontext",
            encoder=SHIPPED.encoder,
            steps=STEPS,
            megapixels=install.MEGAPIXELS,
            text_tokens=flux.TEXT_TOKENS,
            fit_steps=row.fit_steps,
            bar=False,
        )
        result = folder / row.file("result")
        write_png(made.result, result)
        return result

    yield make


def save_sheet(pictures: Path, results: list[Path]) -> None:
    """Save a sheet with every row of the demo: a, a', b, b' as made, b' as the world draws it."""
    from PIL import Image, ImageDraw

    from small_world.demo_rows import KINDS, ROWS

    OUTPUT.mkdir(exist_ok=True)
    side, gap, left, top = 160, 12, 240, 40
    columns = ("a", "a'", "b", "b', made", "b', drawn")
    sheet = Image.new("RGB", (left + len(columns) * (side + gap), top + len(ROWS) * (side + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, label in enumerate(columns):
        draw.text((left + column * (side + gap), 10), label, fill="black", font_size=18)
    for number, (row, result) in enumerate(zip(ROWS, results, strict=True)):
        upper = top + number * (side + gap)
        draw.text((gap, upper + side / 2 - 6), row.label.replace(" + ", "\n+ "), "black", anchor="ld", font_size=18)
        draw.text((gap, upper + side / 2 + 6), KINDS[row.kind], "dimgray", anchor="la", font_size=15)
        before, after, b, truth = (pictures / row.file(name) for name in ("a", "a_prime", "b", "truth"))
        for column, path in enumerate((before, after, b, result, truth)):
            picture = Image.open(path, formats=["PNG"]).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(picture, (left + column * (side + gap), upper))
    sheet.save(OUTPUT / "analogies.png")


if __name__ == "__main__":
    main()
