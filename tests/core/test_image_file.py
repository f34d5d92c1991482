"""Pictures in files: upright, in full range, and refused in the user's words."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import torch
from PIL import ExifTags, Image, PngImagePlugin

from lorweb_core import LoRWebError
from lorweb_core.files import image_file
from lorweb_core.files.image_file import read_image


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


@pytest.mark.parametrize("name", ["none.png", "none\ud800.png", "none\0.png"])
def test_a_missing_picture_is_said_to_be_missing(tmp_path, name):
    with pytest.raises(LoRWebError, match=r"The picture .*none.*\.png: there is no such file"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("kind", ["EPS", "GIF", "PPM"])
def test_a_picture_of_another_format_is_not_given_to_its_reader(tmp_path, monkeypatch, kind):
    """Pillow would start Ghostscript for the first."""
    path, read = tmp_path / "x.png", []
    Image.new("RGB", (20, 20), "red").save(path, kind)
    Image.init()
    monkeypatch.setitem(Image.OPEN, kind, (lambda *file: read.append(file), lambda beginning: True))
    with pytest.raises(LoRWebError, match=r"x\.png .*expected PNG, JPEG, WebP, BMP or TIFF"):
        read_image(path)
    assert not read


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")
def test_a_pipe_is_refused_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(LoRWebError, match=r"pipe\.png is a pipe; expected a file\. It was not opened"):
        read_image(tmp_path / "pipe.png")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(LoRWebError, match="is a folder; expected a file"):
        read_image(tmp_path)


def test_a_file_of_absurd_size_is_refused(tmp_path):
    with open(tmp_path / "big.bmp", "wb") as file:
        file.write(b"BM")
        file.truncate(image_file.MOST_BYTES + 1)
    with pytest.raises(LoRWebError, match=r"big\.bmp has 1,000,000,001 bytes; at most 1,000,000,000 are read"):
        read_image(tmp_path / "big.bmp")


def header_only(path: Path, width: int, height: int) -> None:
    """A PNG that says how large it is, and holds no pixels."""
    with open(path, "wb") as file:
        file.write(b"\211PNG\r\n\032\n")
        size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
        PngImagePlugin.putchunk(file, b"IHDR", size, bytes([8, 2, 0, 0, 0]))
        PngImagePlugin.putchunk(file, b"IDAT", b"")
        PngImagePlugin.putchunk(file, b"IEND", b"")


def test_more_than_200_megapixels_are_refused_before_they_are_decoded(tmp_path):
    header_only(tmp_path / "bomb.png", 20_000, 10_001)
    with pytest.raises(LoRWebError, match=r"bomb\.png has 20000 × 10001 pixels; at most 200,000,000"):
        read_image(tmp_path / "bomb.png")


def test_pictures_up_to_there_are_read_without_a_warning(tmp_path, monkeypatch):
    """Of Pillow's own bound, which warns from 89 megapixels on and raises from 179."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("RGB", (30, 20), "red").save(tmp_path / "large.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "large.png").shape == (20, 30, 3)


def test_of_several_frames_the_first_is_taken(tmp_path):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    for name in ("frames.png", "frames.webp", "frames.tiff"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        assert read_image(tmp_path / name)[0, 0].tolist() == [1, 0, 0], name


def floats(path: Path, *values: float) -> Path:
    grey = torch.zeros(20, 20)
    grey[0, : len(values)] = torch.tensor(values)
    Image.fromarray(grey.numpy()).save(path)
    return path


@pytest.mark.parametrize("full", [1.0, 255.0])
def test_floats_are_in_0_to_1_or_in_0_to_255(tmp_path, full):
    found = read_image(floats(tmp_path / "x.tiff", full, full / 2))
    torch.testing.assert_close(found[0, :3, 1], torch.tensor([1, 0.5, 0]))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5, 256.0])
def test_floats_that_are_no_levels_of_grey_are_refused(tmp_path, value):
    with pytest.raises(LoRWebError, match=r"x\.tiff has values"):
        read_image(floats(tmp_path / "x.tiff", value, 1.0))


def test_whole_numbers_of_more_than_16_bits_are_refused(tmp_path):
    Image.fromarray(torch.full((20, 20), 70_000, dtype=torch.int32).numpy()).save(tmp_path / "x.tiff")
    with pytest.raises(LoRWebError, match=r"x\.tiff has values from 70000 to 70000; expected 8 or 16 bits"):
        read_image(tmp_path / "x.tiff")


def half_white(mode: str) -> Image.Image:
    """Five black columns and fifteen white ones."""
    if mode.startswith("I;16"):
        return Image.frombytes(mode, (20, 20), (bytes(10) + b"\xff" * 30) * 20)
    grey = Image.new("L", (20, 20))
    grey.paste(255, (5, 0, 20, 20))
    return grey.convert("RGB").convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I;16B", "F"])
def test_pictures_of_all_modes_have_their_colours(tmp_path, mode):
    half_white(mode).save(tmp_path / "x.tiff")
    assert read_image(tmp_path / "x.tiff")[3, 3:7, 1].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("transparency", [0, bytes(range(100))], ids=["one colour", "each its own"])
def test_the_transparency_of_a_palette_is_dropped_without_a_warning(tmp_path, transparency):
    half_white("P").save(tmp_path / "x.png", transparency=transparency)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "x.png")[3, 3:7, 1].tolist() == [0, 0, 1, 1]


@pytest.mark.filterwarnings("ignore")  # that a header is damaged, Pillow says too
def test_whatever_a_damaged_header_makes_pillow_raise_is_our_error(tmp_path):
    """In every byte of the header and of the EXIF one at a time: some give a picture, none another exception."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.XResolution] = 6, 72.5
    read = 0
    for kind in image_file.FORMATS:
        Image.new("RGB", (16, 16), "red").save(tmp_path / "whole", kind, exif=exif)
        whole = (tmp_path / "whole").read_bytes()
        for place in range(min(len(whole), 120)):
            damaged = bytearray(whole)
            damaged[place] ^= 0xFF
            (tmp_path / "damaged").write_bytes(damaged)
            try:
                read += read_image(tmp_path / "damaged").isfinite().all().item()
            except LoRWebError as error:
                assert "damaged" in str(error)
    assert read > 0
