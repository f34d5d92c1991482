"""Pictures and captions as people give them, made ready to be drawn."""

from __future__ import annotations

import unicodedata

from torch import Tensor

from ..grid import Size, resize
from .canvas import Canvas

# What people type that no decomposition brings to ASCII.
_ASCII = str.maketrans(
    {
        **dict.fromkeys("′‘’‚´", "'"),
        **dict.fromkeys("″“”„«»", '"'),
        **dict.fromkeys("‐‑‒–—−", "-"),
        **{"×": "x", "→": "->", "·": ".", "•": "*", "ß": "ss", "ø": "o", "Ø": "O", "æ": "ae", "Æ": "AE", "ł": "l"},
    }
)


def fit_inside(image: Tensor, box: Size) -> Tensor:
    """(H, W, 3) → scaled up or down, in its own shape, to the largest size that the box holds; on the CPU."""
    height, width = image.shape[:2]
    scale = min(box.height / height, box.width / width)
    size = Size(max(1, round(height * scale)), max(1, round(width * scale)))
    return resize(image[None].float().cpu().nan_to_num(0.0), size)[0]


_LONGEST = 2000


def ascii_text(text: str) -> str:
    """Keep what the font can write of a text: accents go, other characters become a question mark, white space a blank.

    Of a text longer than any picture is wide, the beginning.
    """
    plain = unicodedata.normalize("NFKD", text[:_LONGEST].translate(_ASCII))
    kept = (character for character in plain if not unicodedata.combining(character))
    readable = (
        character if character.isascii() and character.isprintable() else "?"
        for character in " ".join("".join(kept).split())
    )
    return "".join(readable)


def elided(canvas: Canvas, text: str, size: int, width: float) -> str:
    """What the font can write of the text, or as much of its beginning and end as fits into `width` pixels."""
    text = ascii_text(text)
    kept = len(text)
    short = text
    while kept > 2 and canvas.text_width(short, size) > width:
        kept -= 1
        short = f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"
    return short
