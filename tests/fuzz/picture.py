"""Broken pictures, and pictures that are not what their names say."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from .case import Case
from .mutations import BYTES, OBSTACLES, in_place_of, odd_name, words

SUFFIXES = (".png", ".jpg", ".webp", ".bmp", ".tif")
TAKEN = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
"""The formats that are opened, whatever a file is called."""
OTHERS = (
    "GIF",
    "ICO",
    "PPM",
    "TGA",
    "PCX",
    "SGI",
    "EPS",
    "PDF",
    "JPEG2000",
    "DDS",
    "IM",
    "SPIDER",
    "XBM",
    "MSP",
    "ICNS",
)


def pixels(random: Random, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(random.getrandbits(32)).integers(0, 256, (height, width, 3), dtype="u1")


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def one_format_named_as_another(random: Random) -> bytes:
    return saved(Image.fromarray(pixels(random)), random.choice(TAKEN))


def a_format_that_is_not_taken(random: Random) -> bytes:
    kind = random.choice(OTHERS)
    mode = {"XBM": "1", "MSP": "1", "SPIDER": "F"}.get(kind, "RGB")
    try:
        return saved(Image.fromarray(pixels(random, 32, 32)).convert(mode), kind)
    except (OSError, ValueError, KeyError):  # this Pillow cannot write it
        return b"P6 32 32 255\n" + pixels(random, 32, 32).tobytes()


def postscript(random: Random) -> bytes:
    """What Ghostscript would run."""
    program = b"(pwned) (w) file closefile\n" * random.choice((1, 50)) + b"showpage\n"
    begin = random.choice(
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n",
            b"\xc5\xd0\xd3\xc6" + struct.pack("<2L", 32, 2000) + bytes(20) + b"%!PS-Adobe-3.0\n",
        )
    )
    return begin + b"%%BoundingBox: 0 0 32 24\n%%EndComments\n" + program


def another_mode(random: Random) -> bytes:
    mode = random.choice(("1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"))
    source = Image.fromarray(pixels(random))
    if mode == "I;16":
        image = Image.fromarray((pixels(random)[..., 0].astype("u2") * 257).astype("u2"))
    else:
        image = (source.convert("LA") if mode == "PA" else source).convert(mode)
    kinds = [kind for kind in TAKEN if _takes(image, kind)]
    return saved(image, random.choice(kinds))


def _takes(image: Image.Image, kind: str) -> bool:
    try:
        saved(image, kind)
    except (OSError, ValueError, KeyError):
        return False
    return True


def a_float_tiff_that_is_not_finite(random: Random) -> bytes:
    values = pixels(random)[..., 0].astype("f4")
    values[random.randrange(24), random.randrange(32)] = random.choice((np.nan, np.inf, -np.inf, 1e38))
    return saved(Image.fromarray(values), "TIFF")


def a_png(width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = b"", extra: bytes = b"") -> bytes:
    """Put a PNG together by hand, so that its header may say anything."""
    header = struct.pack(">2L5B", width & 0xFFFFFFFF, height & 0xFFFFFFFF, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    whole = [
        struct.pack(">L", len(body)) + name + body + struct.pack(">L", zlib.crc32(name + body)) for name, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + whole[0] + extra + b"".join(whole[1:])


def sizes_that_lie(random: Random) -> bytes:
    width, height = random.choice(
        ((0, 0), (0, 5), (2**31 - 1, 1), (2**31, 2**31), (1, 2**32 - 1), (60_000, 60_000), (33, 24))
    )
    return a_png(width, height, data=zlib.compress(bytes(97 * 24)))


def a_bomb(random: Random) -> bytes:
    """A picture of 400 million pixels, in 50 kB."""
    side = 20_000
    return a_png(side, side, 1, 0, zlib.compress(bytes((side // 8 + 1) * side), 1))


def a_bomb_of_text(random: Random) -> bytes:
    """A PNG whose comment unfolds to 300 MB."""
    body = b"Comment\0\0" + zlib.compress(bytes(300_000_000), 1)
    chunk = struct.pack(">L", len(body)) + b"zTXt" + body + struct.pack(">L", zlib.crc32(b"zTXt" + body))
    rows = b"".join(b"\0" + row.tobytes() for row in pixels(random))
    return a_png(32, 24, data=zlib.compress(rows), extra=chunk)


def a_tiff_of_many_tags(random: Random) -> bytes:
    """Directories that are too many, point at themselves, or count more values than there are bytes."""
    count = random.choice((0, 1, 65535))
    tag = struct.pack("<2H2L", random.choice((256, 273, 320, 34675)), random.choice((3, 4, 5, 99)), 2**31, 8)
    return b"II*\0" + struct.pack("<L", 8) + struct.pack("<H", count) + tag * min(count, 9) + struct.pack("<L", 8)


def an_exif_orientation(random: Random) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = random.choice((*range(1, 9), 0, 99, 65535))
    content = saved(Image.fromarray(pixels(random)), random.choice(("JPEG", "PNG", "WEBP")), exif=exif)
    return content if random.random() < 0.7 else content.replace(b"MM\0*", b"XX\0*", 1).replace(b"Exif", b"Exit", 1)


def several_frames(random: Random) -> bytes:
    frames = [Image.fromarray(pixels(random)) for _ in range(3)]
    return saved(frames[0], random.choice(("PNG", "TIFF", "WEBP")), save_all=True, append_images=frames[1:])


def a_single_pixel(random: Random) -> bytes:
    return saved(Image.fromarray(pixels(random, *random.choice(((1, 1), (1, 5000), (5000, 1))))), random.choice(TAKEN))


OPERATORS: list[Callable[[Random], bytes]] = [
    one_format_named_as_another,
    a_format_that_is_not_taken,
    a_format_that_is_not_taken,
    a_format_that_is_not_taken,
    postscript,
    another_mode,
    another_mode,
    another_mode,
    a_float_tiff_that_is_not_finite,
    sizes_that_lie,
    a_bomb,
    a_bomb_of_text,
    a_tiff_of_many_tags,
    an_exif_orientation,
    several_frames,
    a_single_pixel,
]


def make(seed: int, folder: Path) -> Case:
    """See Case."""
    random = Random(seed)
    path = folder / odd_name(random, f"fuzzed{random.choice(SUFFIXES)}")
    ways = [*OPERATORS, *BYTES, *BYTES, *OBSTACLES]
    operator = ways[seed % len(ways)]
    kind = random.choice(TAKEN)
    if operator in OPERATORS:
        path.write_bytes(operator(random))
    elif operator in BYTES:
        path.write_bytes(operator(random, saved(Image.fromarray(pixels(random)), kind)))
    else:
        in_place_of(path, operator)
    what = f"{words(operator)}, {kind if operator in BYTES else path.suffix}"
    return Case(what, ("fuzzed",), lambda: _load(path), lambda image: _check(path, image))


def _load(path: Path):
    from lorweb_core.files.image_file import read_image

    return read_image(path)


def _check(path: Path, image) -> None:
    """It is of a format that is taken, in Pillow's own size for it, and of Pillow's own pixels in 8-bit modes."""
    held = image.numpy()
    assert held.dtype == np.float32 and held.ndim == 3 and held.shape[-1] == 3 and 0 not in held.shape
    assert np.isfinite(held).all() and held.min() >= 0 and held.max() <= 1
    with Image.open(path, formats=TAKEN) as opened:
        turned = opened.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        assert held.shape[:2] == (opened.size if turned else opened.size[::-1])
        assert opened.width * opened.height <= 200_000_000
        if opened.mode == "F":
            assert np.isfinite(np.asarray(opened)).all(), "a value that is not finite"
        if opened.mode in ("RGB", "L", "1") and opened.getexif().get(0x0112, 1) not in range(2, 9):
            assert np.array_equal((held * 255).round(), np.asarray(opened.convert("RGB")))
