"""Load Mixture: a mixture from its file."""

from __future__ import annotations

from comfy_api.latest import io

from ..lorweb_core import LoRABasis, LoRWebError
from ..lorweb_core.files.tensor_files import FileIdentity, file_identity
from ..lorweb_core.space.mixture_file import load_mixture, read_metadata
from .host import sockets
from .host.checked_node import CheckedNode
from .host.model_files import MIXTURE_SUFFIX, MIXTURES, listed_file, listed_files
from .host.previews import with_thumbnails


class LoadMixture(CheckedNode):
    """Load a saved mixture onto the basis that it was made with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBLoadMixture",
            display_name="Load Mixture",
            category="LoRWeB/mixtures",
            search_aliases=["lora mix", "load edit"],
            description="Loads a mixture that Save Mixture saved, onto the basis that it was made with.",
            inputs=[
                sockets.Basis.Input(
                    "basis", tooltip="The basis that the mixture was made with. With another basis the node refuses it."
                ),
                io.Combo.Input(
                    "mixture_name",
                    options=listed_files(MIXTURES, MIXTURE_SUFFIX),
                    tooltip="A file in models/lorweb_mixtures. Press R after adding one.",
                ),
            ],
            outputs=[sockets.Mixture.Output("mixture", tooltip="For Mixed LoRA Apply.")],
        )

    @classmethod
    def validate_inputs(cls, mixture_name: str) -> bool | str:
        try:
            read_metadata(listed_file(MIXTURES, mixture_name, MIXTURE_SUFFIX))
        except LoRWebError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, mixture_name: str, **others) -> FileIdentity:
        return file_identity(listed_file(MIXTURES, mixture_name, MIXTURE_SUFFIX))

    @classmethod
    def execute(cls, basis: LoRABasis, mixture_name: str) -> io.NodeOutput:
        mixture = load_mixture(listed_file(MIXTURES, mixture_name, MIXTURE_SUFFIX), basis)
        return with_thumbnails(cls, mixture, mixture)
