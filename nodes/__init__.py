from .analogy_attention import AnalogyAttention
from .analogy_encoder import AnalogyEncoder
from .analogy_result import AnalogyResult
from .basis_loader import BasisLoader
from .extended_attention import ExtendedAttention
from .mixed_lora_apply import MixedLoRAApply

NODES = [BasisLoader, AnalogyEncoder, MixedLoRAApply, ExtendedAttention, AnalogyResult, AnalogyAttention]
