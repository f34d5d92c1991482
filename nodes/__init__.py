from .analogy import Analogy
from .analogy_attention import AnalogyAttention
from .analogy_encoder import AnalogyEncoder
from .analogy_result import AnalogyResult
from .analogy_score import AnalogyScore
from .basis_loader import BasisLoader
from .basis_similarity import BasisSimilarity
from .choose_edit import ChooseEdit
from .export_lora import ExportLoRA
from .extended_attention import ExtendedAttention
from .fit_mixture import FitMixture
from .keep_references import KeepReferences
from .load_mixture import LoadMixture
from .merge_bases import MergeBases
from .mixed_lora_apply import MixedLoRAApply
from .mixture_blend import MixtureBlend
from .mixture_edit import MixtureEdit
from .mixture_inspector import MixtureInspector
from .picture_strip import PictureStrip
from .prune_basis import PruneBasis
from .save_mixture import SaveMixture
from .small_world_models import SmallWorldModels
from .train_basis import TrainBasis

NODES = [
    BasisLoader,
    Analogy,
    AnalogyEncoder,
    MixedLoRAApply,
    ExtendedAttention,
    AnalogyResult,
    AnalogyAttention,
    KeepReferences,
    MixtureBlend,
    MixtureEdit,
    SaveMixture,
    LoadMixture,
    AnalogyScore,
    PictureStrip,
    MixtureInspector,
    BasisSimilarity,
    MergeBases,
    PruneBasis,
    ExportLoRA,
    TrainBasis,
    FitMixture,
    ChooseEdit,
    SmallWorldModels,
]
