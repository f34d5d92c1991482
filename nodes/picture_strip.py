from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ..lorweb_core.pictures.strip import HEIGHT, strip
from .host import shared_inputs
from .host.checked_node import CheckedNode


class PictureStrip(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBPictureStrip",
            display_name="Picture Strip",
            category="LoRWeB",
            description="Lays pictures side by side with a caption below each: the results of a sweep, of seeds, of "
            "strengths.",
            is_input_list=True,
            is_output_node=True,  # what it shows is worth a run with nothing behind it
            inputs=[
                io.Image.Input("images", tooltip="The pictures from left to right: a list, a batch or several."),
                io.String.Input(
                    "captions",
                    optional=True,
                    multiline=True,
                    default="",
                    tooltip="A line for each picture, or a list of texts. Pictures without one have none; lines that "
                    "are over are left out. Accents and signs that the font lacks are replaced.",
                ),
                io.Int.Input(
                    "height",
                    optional=True,
                    default=HEIGHT,
                    min=64,
                    max=2048,
                    tooltip="Of the pictures, in pixels. They are made smaller, not larger than the highest is.",
                ),
                shared_inputs.theme(),
            ],
            outputs=[io.Image.Output("image", tooltip="One picture, of rows of at most eight.")],
        )

    @classmethod
    def execute(
        cls,
        images: list[Tensor],
        captions: list[str] | tuple[str, ...] = (),
        height: list[int] | tuple[int, ...] = (HEIGHT,),
        theme: list[str] | tuple[str, ...] = ("dark",),
    ) -> io.NodeOutput:
        # One text is the widget's, or one for all pictures; of a list each text is one caption.
        lines = captions[0].splitlines() if len(captions) == 1 and captions[0] else captions
        picture = strip(images, [line or "" for line in lines], theme[0], height[0])[None]
        return io.NodeOutput(picture, ui=ui.PreviewImage(picture, cls=cls))
