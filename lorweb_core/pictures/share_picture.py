"""How much each LoRA of a basis is used, as a picture."""

from __future__ import annotations

from torch import Tensor

from .canvas import Canvas
from .chart import draw_upright


def draw_shares(shares: Tensor, share: float, theme: str = "dark") -> Tensor:
    """Draw a bar for each LoRA, as high as its largest share, and the line that those kept reach: (H, W, 3)."""
    left, top, height, step = 64, 64, 220, min(80, max(22, 640 // len(shares)))
    width, base = step * len(shares), top + height
    canvas = Canvas(left + max(width, 280) + 24, top + height + 56, theme)
    used, dropped = canvas.theme.series[0], canvas.theme.faint
    kept = int((shares >= share).sum())
    canvas.text((left, 14), f"{kept} of {len(shares)} LoRAs kept", 18, used)
    canvas.text((left, 38), "largest share in the change of any mixture", 13, canvas.theme.faint)
    highest = max(float(shares.max()), share)
    for tick in (0.0, 0.5, 1.0):
        y = top + height * (1 - tick)
        canvas.line([(left, y), (left + width, y)])
        canvas.text((left - 8, y), f"{tick * highest:.1%}", 13, canvas.theme.faint, "rm")
    for index, value in enumerate(shares.tolist()):
        colour = used if value >= share else dropped
        bar, x = round(height * value / highest), left + index * step
        # Even what is next to nothing shows as a line.
        draw_upright(canvas, x + 3, step - 6, (base, base - bar), colour, 2)
        canvas.text((x + step / 2, top + height + 6), str(index), 12, colour, "ma")
    y = top + height * (1 - share / highest)
    canvas.line([(left, y), (left + width, y)], canvas.theme.series[1], 2)
    canvas.text((left, top + height + 28), f"line: share {share:.2%}", 13, canvas.theme.series[1])
    return canvas.tensor()
