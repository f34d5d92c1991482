"""Captions as people give them, made ready to be drawn."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right

from .canvas import Canvas

LINES = 3
"""Most lines that a caption is wrapped into."""

_LONGEST = 2000
"""Most characters of a text that are looked at."""

# What people type that no decomposition brings to ASCII.
_ASCII = str.maketrans(
    {
        **dict.fromkeys("′‘’‚´", "'"),
        **dict.fromkeys("″“”„«»", '"'),
        **dict.fromkeys("‐‑‒–—−", "-"),
        **{"×": "x", "→": "->", "·": ".", "•": "*", "ß": "ss", "ø": "o", "Ø": "O", "æ": "ae", "Æ": "AE", "ł": "l"},
    }
)


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
    """Keep what the font can write of a text, or as much of its beginning and end as fits into `width` pixels."""
    text = ascii_text(text)
    kept = len(text)
    short = text
    while kept > 2 and canvas.text_width(short, size) > width:
        kept -= 1
        short = f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"
    return short


def wrapped(canvas: Canvas, text: str, width: int, size: int) -> list[str]:
    """Wrap a text into lines of words no wider than `width` pixels, at most LINES; what is too long ends in dots."""
    lines: list[str] = []
    for word in text.split():
        if lines and canvas.text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) > LINES:
        lines[LINES - 1 :] = [lines[LINES - 1] + " ..."]
    return [_cut(canvas, line, width, size) for line in lines]


def _cut(canvas: Canvas, line: str, width: int, size: int) -> str:
    if canvas.text_width(line, size) <= width:
        return line
    line = line.removesuffix(" ...")
    lengths = range(1, len(line) + 1)
    fitting = bisect_right(lengths, width, key=lambda length: canvas.text_width(f"{line[:length]}...", size))
    return f"{line[:fitting]}..."
