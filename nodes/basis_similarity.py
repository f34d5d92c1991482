"""Basis Similarity: a basis's LoRAs beside one another."""

from __future__ import annotations

from comfy_api.latest import io

from ..lorweb_core import LoRABasis
from ..lorweb_core.pictures.similarity_picture import similarity_picture
from ..lorweb_core.space.similarity import compare_loras
from .host import shared_inputs
from .host.checked_node import CheckedNode
from .host.previews import with_picture
from .host.progress import progress_bar


class BasisSimilarity(CheckedNode):
    """Show how alike the LoRAs of a basis are."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBBasisSimilarity",
            display_name="Basis Similarity",
            category="LoRWeB/basis",
            search_aliases=["compare", "lora similarity"],
            description="Shows how alike the LoRAs of a basis are: the cosines of the changes that they make.",
            inputs=[
                shared_inputs.basis(),
                *shared_inputs.layers("look at"),
                shared_inputs.theme(),
            ],
            outputs=[
                io.Image.Output("image", tooltip="N × N, with similar LoRAs beside one another."),
                io.String.Output("json", tooltip="The cosines, the LoRAs' sizes, and their order in the picture."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, basis: LoRABasis, blocks: str = "all", kind: str = "all", stream: str = "all", theme: str = "dark"
    ) -> io.NodeOutput:
        similarity = compare_loras(basis, progress_bar(len(basis.layers)), blocks, kind, stream)
        image = similarity_picture(similarity, theme)[None]
        return with_picture(cls, image, image, similarity.to_json())
