"""Picture Strip: pictures in a row."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..lorweb_core.pictures.strip import HEIGHT, strip
from .host import shared_inputs
from .host.checked_node import CheckedNode
from .host.previews import with_picture


class PictureStrip(CheckedNode):
    """Lay pictures side by side, with captions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBPictureStrip",
            display_name="Picture Strip",
            category="LoRWeB",
            search_aliases=["compare", "before after", "contact sheet", "side by side"],
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
                    tooltip="A line for each picture, or a list of texts. Pictures beyond the last line have no "
                    "caption; further lines are ignored. Accents and signs that the font lacks are replaced.",
                ),
                io.Int.Input(
                    "height",
                    optional=True,
                    default=HEIGHT,
                    min=64,
                    max=2048,
                    tooltip="The pictures' height in pixels. They are made smaller, but never larger than the tallest.",
                ),
                shared_inputs.theme(),
            ],
            outputs=[io.Image.Output("image", tooltip="One picture with rows of at most eight.")],
        )

    @classmethod
    def execute(
        cls,
        images: list[Tensor],
        captions: list[str] | tuple[str, ...] = (),
        height: list[int] | tuple[int, ...] = (HEIGHT,),
        theme: list[str] | tuple[str, ...] = ("dark",),
    ) -> io.NodeOutput:
        # A single text is the widget's, with a caption in each line; in a list each text is one caption.
        lines = captions[0].splitlines() if len(captions) == 1 and captions[0] else captions
        picture = strip(images, [line or "" for line in lines], theme[0], height[0])[None]
        return with_picture(cls, picture, picture)
