"""Pictures in files: upright, in full range, and refused in the user's words."""

from __future__ import annotations

import pytest
import torch
from PIL import ExifTags, Image

from lorweb_core import LoRWebError
from lorweb_core.image_file import read_image


def test_pictures_are_read_upright_and_in_full_range(tmp_path):
    grey = Image.fromarray((torch.arange(400).view(20, 20) * 160).numpy().astype("uint16"))
    grey.save(tmp_path / "grey.png")
    torch.testing.assert_close(
        read_image(tmp_path / "grey.png")[..., 1],
        torch.arange(400.0).view(20, 20) * 160 / 65535,
        atol=0.004,
        rtol=0,
    )
    sideways = Image.new("RGB", (30, 20))
    exif = sideways.getexif()
    exif[ExifTags.Base.Orientation] = 6
    sideways.save(tmp_path / "sideways.jpg", exif=exif)
    assert read_image(tmp_path / "sideways.jpg").shape == (30, 20, 3)


@pytest.mark.parametrize("cut", [0, 4, 300, -40])
def test_a_damaged_picture_is_refused_with_its_name(tmp_path, cut):
    whole, path = tmp_path / "whole.png", tmp_path / "cut.png"
    Image.effect_noise((40, 30), 60).save(whole)
    path.write_bytes(whole.read_bytes()[:cut])
    with pytest.raises(LoRWebError, match=r"--a .*cut\.png is not an image that can be read"):
        read_image(path, "--a")


def test_a_missing_picture_is_said_to_be_missing(tmp_path):
    with pytest.raises(LoRWebError, match=r"The picture .*none\.png: there is no such file"):
        read_image(tmp_path / "none.png")
