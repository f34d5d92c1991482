"""LoRWeB in plain torch: checkpoint → basis → query → routing → mixture (arXiv 2602.15727). Knows no host."""

from .basis import LoRABasis, load_basis
from .encoder import VisionEncoder
from .errors import LoRWebError
from .mixture import Mixture
from .query import encode_queries, encode_query
from .triplet import triplets

__all__ = [
    "LoRABasis",
    "LoRWebError",
    "Mixture",
    "VisionEncoder",
    "encode_queries",
    "encode_query",
    "load_basis",
    "triplets",
]
