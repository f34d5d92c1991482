"""Save Mixture: a mixture as a file."""

from __future__ import annotations

from comfy_api.latest import io

from ..lorweb_core import Mixture
from ..lorweb_core.space.mixture_file import is_mixture, save_mixture
from .host import save_path, shared_inputs
from .host.checked_node import CheckedNode
from .host.model_files import MIXTURES
from .host.previews import with_thumbnails


class SaveMixture(CheckedNode):
    """Save a mixture, without its basis."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBSaveMixture",
            display_name="Save Mixture",
            category="LoRWeB/mixtures",
            search_aliases=["lora mix", "save edit"],
            description="Saves a mixture into models/lorweb_mixtures: coefficients and thumbnails, without the basis.",
            inputs=[
                shared_inputs.mixture(),
                *save_path.inputs("the file", default="my_edit"),
            ],
            outputs=[io.String.Output("mixture_name", tooltip="The file's name, as Load Mixture lists it.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, mixture: Mixture, name: str, if_exists: str = "number") -> io.NodeOutput:
        with save_path.saving(MIXTURES, name, if_exists, is_mixture) as path:
            save_mixture(mixture, path)
        return with_thumbnails(cls, mixture, str(path.relative_to(save_path.root(MIXTURES))))
