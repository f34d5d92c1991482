from __future__ import annotations

from comfy_api.latest import io, ui

from ..lorweb_core import LoRABasis
from ..lorweb_core.layer_names import KINDS, STREAMS
from ..lorweb_core.pictures.canvas import THEMES
from ..lorweb_core.pictures.similarity_picture import similarity_picture
from ..lorweb_core.space.similarity import compare_loras
from . import sockets
from .mixture_inspector import THEME_TOOLTIP
from .progress import progress_bar


class BasisSimilarity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBBasisSimilarity",
            display_name="Basis Similarity",
            category="LoRWeB",
            description="Shows how alike the LoRAs of a basis are: the cosines of the changes that they make.",
            inputs=[
                sockets.Basis.Input("basis", tooltip="From the LoRWeB Basis Loader."),
                io.String.Input(
                    "blocks",
                    default="all",
                    optional=True,
                    tooltip="The blocks to look at: all, double, single 20-37, or double 0-3, single 5.",
                ),
                io.Combo.Input(
                    "kind",
                    options=["all", *KINDS],
                    default="all",
                    optional=True,
                    tooltip="Which kind of layers to look at.",
                ),
                io.Combo.Input(
                    "stream",
                    options=["all", *STREAMS],
                    default="all",
                    optional=True,
                    tooltip="Layers of the image's or the text's stream of double blocks, or those of single blocks, "
                    "through which both go.",
                ),
                io.Combo.Input(
                    "theme", options=list(THEMES), optional=True, default=next(iter(THEMES)), tooltip=THEME_TOOLTIP
                ),
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
        return io.NodeOutput(image, similarity.to_json(), ui=ui.PreviewImage(image, cls=cls))
