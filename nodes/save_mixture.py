from __future__ import annotations

from comfy_api.latest import io, ui

from ..lorweb_core import Mixture
from ..lorweb_core.pictures.thumbnails import contact_sheet
from ..lorweb_core.space.mixture_file import is_mixture, save_mixture
from .host import save_path, sockets
from .host.checked_node import CheckedNode

FOLDER = "lorweb_mixtures"


class SaveMixture(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBSaveMixture",
            display_name="Save Mixture",
            category="LoRWeB",
            description="Saves a mixture into models/lorweb_mixtures: coefficients and thumbnails, without the basis.",
            inputs=[
                sockets.Mixture.Input("mixture", tooltip="From the Analogy Encoder, or a node that changes mixtures."),
                *save_path.inputs("the file", default="my_edit"),
            ],
            outputs=[io.String.Output("mixture_name", tooltip="The file's name, as Load Mixture lists it.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, mixture: Mixture, name: str, if_exists: str = "number") -> io.NodeOutput:
        with save_path.saving(FOLDER, name, if_exists, is_mixture) as path:
            save_mixture(mixture, path)
        return shown(cls, mixture, str(path.relative_to(save_path.root(FOLDER))))


def shown(node: type[io.ComfyNode], mixture: Mixture, output) -> io.NodeOutput:
    """With the pictures that the mixture was made of on the node."""
    if not mixture.thumbnails:
        return io.NodeOutput(output)
    return io.NodeOutput(output, ui=ui.PreviewImage(contact_sheet(mixture.thumbnails)[None], cls=node))
