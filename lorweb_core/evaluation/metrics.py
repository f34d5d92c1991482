"""Measures of one result: LPIPS, CLIP directions, and the error against the data's own b'."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import LoRWebError, shown
from ..files.tensor_files import read_tensors, regular_file
from ..grid import Size, resize
from .tasks import Pictures

MEASURES = {
    "lpips": "LPIPS",
    "clip_image": "CLIP direction",
    "clip_text": "CLIP direction, text",
    "error": "squared error",
}
"""Name → words. LPIPS is between b and b', the error between b' and the data's; of both less is better."""

SHORTEST = 1e-3
"""Part of an embedding's length below which a difference is an encoder's rounding, and no direction."""


class Lpips:
    """Measure LPIPS (Zhang et al. 2018), version 0.1, by the library `lpips`."""

    def __init__(self, net: str, weights: str | None, device: torch.device):
        """net: alex or vgg. weights: a file of the net's weights under torchvision's names; None downloads them.

        Raises LoRWebError if they cannot be had.
        """
        import lpips

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torchvision, about the words that the library calls it by
            try:
                model = lpips.LPIPS(net=net, pnet_rand=weights is not None, verbose=False)
            except OSError as error:
                raise LoRWebError(
                    f"The weights of LPIPS's {net} net cannot be downloaded ({shown(str(error))}). Download them "
                    "elsewhere, as torchvision names them, and give --lpips-weights FILE, or give --lpips none."
                ) from error
        if weights is not None:
            _load_net(model.net, Path(weights))
        self._model, self._device = model.eval().to(device), device

    @torch.no_grad()
    def measure(self, b: Tensor, result: Tensor) -> float:
        """Measure between two pictures, (H, W, 3) in 0–1; the second is brought to the first's size."""
        result = resize(result[None], Size(*b.shape[:2]))[0]
        one, other = (picture.movedim(-1, 0)[None].to(self._device) * 2 - 1 for picture in (b, result))
        return self._model(one, other).item()


def _load_net(net: nn.Module, path: Path) -> None:
    """Load weights under torchvision's names, features.N.weight, into the library's slices of that net."""
    state = _read_weights(path)
    for piece in (child for name, child in net.named_children() if name.startswith("slice")):
        for name, layer in piece.named_children():
            for key, parameter in layer.named_parameters():
                values = state.get(f"features.{name}.{key}")
                if values is None or values.shape != parameter.shape:
                    raise LoRWebError(
                        f"{shown(path)} has not the weights of this net: features.{name}.{key} is missing or of "
                        "another size. Give torchvision's file of the net that --lpips names."
                    )
                parameter.data.copy_(values)


def _read_weights(path: Path) -> dict[str, Any]:
    regular_file(path)
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        return dict(torch.load(path, "cpu", weights_only=True))
    except Exception as error:  # of damaged files torch raises whatever comes of them
        raise LoRWebError(
            f"{shown(path)} cannot be read as weights ({shown(str(error))}). Give a .pth or .safetensors file."
        ) from error


class Clip:
    """Embed pictures, and texts where there is a text tower, with a CLIP of transformers."""

    def __init__(self, source: str, device: torch.device):
        """source: a folder or a Hugging Face id. Raises LoRWebError if it cannot be loaded."""
        from transformers import AutoConfig, CLIPTextModelWithProjection, CLIPTokenizer

        from ..encoder import VisionEncoder, load_encoder

        try:
            vision = load_encoder(source).float().to(device)
            self._device, self._text, self._tokenizer = device, None, None
            if AutoConfig.from_pretrained(source).model_type == "clip":
                text, loaded = CLIPTextModelWithProjection.from_pretrained(source, output_loading_info=True)
                if loaded["missing_keys"]:  # which transformers makes up from random numbers
                    raise ValueError(f"it has no {min(loaded['missing_keys'])}")
                self._text = text.float().eval().to(device)
                self._tokenizer = CLIPTokenizer.from_pretrained(source)
        except Exception as error:  # of damaged or absent files the library raises whatever comes of them
            raise LoRWebError(
                f"The CLIP {shown(source)} cannot be loaded ({shown(str(error))}). Give --clip as a folder or a "
                "Hugging Face id such as openai/clip-vit-large-patch14, or none."
            ) from error
        self._vision = VisionEncoder.from_transformers(vision)

    def directions(self, pictures: Pictures, result: Tensor, caption: str) -> tuple[float, float | None]:
        """Compute the cosine between b → b' and a → a', and between b → b' and no words → the caption.

        The second is None where there is no caption, or no text tower.
        """
        a, a_prime, b, made = self._vision.embed([pictures.a, pictures.a_prime, pictures.b, result])[:, 0].double()
        change = made - b
        still = change.norm() <= SHORTEST * torch.stack([b.norm(), made.norm()]).max()
        of_images = 0.0 if still else _cosine(change, a_prime - a)
        if not caption or self._text is None:
            return of_images, None
        before, after = self._words(["", caption])
        return of_images, 0.0 if still else _cosine(change, after - before)

    @torch.no_grad()
    def _words(self, texts: list[str]) -> Tensor:
        assert self._text is not None and self._tokenizer is not None
        given = self._tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(self._device)
        return self._text(**given).text_embeds.double().cpu()


def _cosine(one: Tensor, other: Tensor) -> float:
    return F.cosine_similarity(one.cpu(), other.cpu(), 0).item()


def squared_error(result: Tensor, wanted: Tensor) -> float:
    """Measure the mean squared difference of values in 0–1; the result is brought to the other's size."""
    return (resize(result[None], Size(*wanted.shape[:2]))[0] - wanted).square().mean().item()
