"""Draw the pack's icon and banner for the registry, and a template's picture: `python tools/artwork.py`.

The registry asks for an icon of 400 × 400 pixels at most and a banner of 21 : 9. The picture is that of Try it now, and
shows what the models make of the pictures with which it opens; it needs diffusers, as the command line does.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from environment import ROOT
from PIL import Image, ImageDraw, ImageFont

from lorweb_core.files.image_file import as_image, read_image
from small_world.example_pictures import FOLDER
from small_world.world.plain.edits import edit_scenes
from small_world.world.plain.scenes import COLOURS, SEASONS, SHAPES, Scenes, render

EDIT = ("orange", "face")
ICON, BANNER, THUMBNAIL = 400, (1680, 720), (600, 400)
FINER = 2
"""How many times larger everything is drawn, before it is scaled down: edges become smooth."""
DARK, LIGHT, MARK = (24, 26, 32), (238, 240, 245), (250, 148, 31)


def scene(shape: str, colour: str, season: str) -> Scenes:
    """Describe one scene: an object in the middle, upright and without a face."""
    none = torch.zeros(1, dtype=torch.long)
    return Scenes(
        x=torch.zeros(1),
        y=torch.zeros(1),
        size=torch.full((1,), 0.62),
        specks=torch.full((1,), 0.3),
        shape=none + SHAPES.index(shape),
        colour=none + list(COLOURS).index(colour),
        texture=none,
        season=none + list(SEASONS).index(season),
        face=none,
        sun=none,
        tilted=none,
        flipped=none,
        filter=none,
    )


def analogy(side: int) -> list[Image.Image]:
    """Draw a, a', b and b', each with this side."""
    a, b = scene("circle", "blue", "spring"), scene("square", "purple", "winter")
    scenes = (a, edit_scenes(a, EDIT), b, edit_scenes(b, EDIT))
    return [as_image(render(each, side)[0].movedim(0, -1)) for each in scenes]


def rounded(picture: Image.Image, radius: int) -> Image.Image:
    """Cut off a picture's corners."""
    mask = Image.new("L", picture.size)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, picture.width - 1, picture.height - 1), radius, 255)
    picture = picture.convert("RGBA")
    picture.putalpha(mask)
    return picture


def icon() -> Image.Image:
    """Draw the grid [a a'; b b'], with a frame around b'."""
    whole, gap = FINER * ICON, FINER * 14
    side = (whole - 3 * gap) // 2
    image = Image.new("RGB", (whole, whole), DARK)
    at = [(gap + column * (side + gap), gap + row * (side + gap)) for row in (0, 1) for column in (0, 1)]
    left, top = at[-1]
    edge = FINER * 7
    frame = (left - edge, top - edge, left + side + edge - 1, top + side + edge - 1)
    ImageDraw.Draw(image).rounded_rectangle(frame, FINER * 27, MARK)
    for place, picture in zip(at, analogy(side), strict=True):
        cut = rounded(picture, FINER * 20)
        image.paste(cut, place, cut)
    return rounded(image, FINER * 48).resize((ICON, ICON), Image.Resampling.LANCZOS)


def banner() -> Image.Image:
    """Draw the pack's name and what it is for above a : a' :: b : b'."""
    width, height = (FINER * length for length in BANNER)
    image = Image.new("RGB", (width, height), DARK)
    draw = ImageDraw.Draw(image)
    left, side, gap = FINER * 90, FINER * 300, FINER * 100
    draw.text((left, FINER * 62), "LoRWeB", LIGHT, ImageFont.load_default(FINER * 120))
    draw.text((left, FINER * 205), "Edit pictures by example, in ComfyUI", LIGHT, ImageFont.load_default(FINER * 48))
    top, signs = FINER * 320, (":", "::", ":")
    for number, picture in enumerate(analogy(side)):
        x = left + number * (side + gap)
        if number == 3:
            edge = FINER * 9
            frame = (x - edge, top - edge, x + side + edge - 1, top + side + edge - 1)
            draw.rounded_rectangle(frame, FINER * 33, MARK)
        cut = rounded(picture, FINER * 24)
        image.paste(cut, (x, top), cut)
        if number < 3:
            middle = (x + side + gap // 2, top + side // 2)
            draw.text(middle, signs[number], LIGHT, ImageFont.load_default(FINER * 72), anchor="mm")
    return image.resize(BANNER, Image.Resampling.LANCZOS)


def made() -> Image.Image:
    """Make b' of the pictures with which Try it now opens, as it does."""
    from lorweb_core.diffusers_backend.pipeline import run_analogy
    from small_world import install
    from small_world.models import flux, stored
    from small_world.models.diffusers_folder import write_pipeline
    from small_world.worlds import SHIPPED

    images = (read_image(FOLDER / f"lorweb_{name}.png", name) for name in ("before", "after", "picture"))
    with tempfile.TemporaryDirectory() as folder:
        pipeline = write_pipeline(Path(folder), stored.load_transformer(SHIPPED), install.taesd(SHIPPED), silent=True)
        given = {"encoder": SHIPPED.encoder, "text_tokens": flux.TEXT_TOKENS, "megapixels": install.MEGAPIXELS}
        return as_image(run_analogy(*images, "", SHIPPED.basis, pipeline, steps=12, **given).result)


def thumbnail(b_prime: Image.Image) -> Image.Image:
    """Draw a → a' above b → b', with a frame around b'."""
    image = Image.new("RGB", THUMBNAIL, DARK)
    draw = ImageDraw.Draw(image)
    side, gap = 170, 20
    left, right = 90, THUMBNAIL[0] - 90 - side
    shown = [Image.open(FOLDER / f"lorweb_{name}.png") for name in ("before", "after", "picture")] + [b_prime]
    for row, pair in enumerate((shown[:2], shown[2:])):
        top = gap + row * (side + gap)
        middle = top + side // 2
        draw.line((left + side + 12, middle, right - 20, middle), MARK, 4)
        draw.polygon(((right - 8, middle), (right - 22, middle - 9), (right - 22, middle + 9)), MARK)
        for x, picture in zip((left, right), pair, strict=True):
            image.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (x, top))
    draw.rectangle((right - 3, top - 3, right + side + 2, top + side + 2), outline=MARK, width=3)
    return image


if __name__ == "__main__":
    icon().save(ROOT / "docs" / "icon.png", optimize=True)
    banner().save(ROOT / "docs" / "banner.png", optimize=True)
    thumbnail(made()).save(ROOT / "workflows" / "Try it now.app.jpg", quality=88)
