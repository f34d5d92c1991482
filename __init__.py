"""LoRWeB for ComfyUI: the host's entry point."""

import os

import folder_paths
from comfy_api.latest import ComfyExtension

from .nodes import NODES
from .nodes.host import routes
from .nodes.host.example_pictures import offer_pictures

WEB_DIRECTORY = "web"

for folder in ("lorweb", "lorweb_mixtures", "lorweb_datasets"):
    folder_paths.add_model_folder_path(folder, os.path.join(folder_paths.models_dir, folder))


class LoRWebExtension(ComfyExtension):
    async def get_node_list(self):
        return NODES


async def comfy_entrypoint() -> ComfyExtension:
    offer_pictures()
    routes.serve()
    return LoRWebExtension()
