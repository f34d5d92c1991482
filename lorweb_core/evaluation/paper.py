"""The paper's own table, to stand beside ours."""

from __future__ import annotations

from typing import NamedTuple

CITATION = "Manor et al., Spanning the Visual Analogy Space with a Weight Basis of LoRAs, arXiv 2602.15727 v2"
LINK = "https://arxiv.org/abs/2602.15727v2"


class Published(NamedTuple):
    """Hold one row as published."""

    name: str
    preservation: float
    accuracy: float
    lpips: float
    clip_image: float


PUBLISHED = (
    Published("LoRWeB, r 4, N 32", 7.87, 5.94, 0.31, 0.21),
    Published("one LoRA of rank 128", 7.99, 5.70, 0.27, 0.20),
    Published("VisualCloze", 5.24, 4.93, 0.53, 0.21),
    Published("RelationAdapter", 7.01, 5.93, 0.43, 0.22),
    Published("Edit Transfer", 7.38, 4.79, 0.31, 0.04),
)
