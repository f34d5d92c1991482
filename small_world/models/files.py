"""Where the models of the small world are kept. Imports nothing of the pack, so that ComfyUI's nodes may ask too."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, eq=False)
class Files:
    """Describe the models of one configuration of the world, in a folder of its name."""

    name: str
    encoder_name: str
    """Name of the image encoder's folder."""

    @property
    def folder(self) -> Path:
        return Path(__file__).parent / self.name

    @property
    def autoencoder(self) -> Path:
        return self.folder / "autoencoder.safetensors"

    @property
    def encoder(self) -> Path:
        return self.folder / self.encoder_name

    @property
    def base(self) -> Path:
        return self.folder / "base.safetensors"

    @property
    def basis(self) -> Path:
        return self.folder / "basis.safetensors"


PLAIN = Files("plain", "small-world")
FAMILIES = Files("families", "small-world-families")
SHIPPED = PLAIN
"""The models that ComfyUI's nodes, the demo and the tests take."""
