"""Where the models of the small world are kept. Imports nothing, so that ComfyUI's nodes may ask too."""

from pathlib import Path

FOLDER = Path(__file__).parent
AUTOENCODER = FOLDER / "autoencoder.safetensors"
ENCODER = FOLDER / "small-world"
BASE = FOLDER / "base.safetensors"
BASIS = FOLDER / "basis.safetensors"
