from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from lorweb_core import LoRWebError
from lorweb_core.triplet import each_image, rgb_image, rgb_images, triplets


def numbered(name: int, count: int, height: int = 16, width: int = 20) -> torch.Tensor:
    """Images of which each says which of which batch it is."""
    images = torch.zeros(count, height, width, 4)
    images[..., 0], images[..., 1] = name, torch.arange(count)[:, None, None]
    return images


def says(image: torch.Tensor) -> tuple[int, int]:
    name, index, _ = image[0, 0].int().tolist()
    return name, index


A, A_PRIME, B = 1, 2, 3
counts = st.integers(1, 4)


@given(pairs=counts, bs=counts)
def test_one_triplet_per_b_each_with_the_pairs_that_are_its_own(pairs, bs):
    batches = numbered(A, pairs), numbered(A_PRIME, pairs, 24), numbered(B, bs, 16, 32)
    if bs > 1 and pairs not in (1, bs):
        with pytest.raises(LoRWebError, match=f"{pairs} pairs .* and {bs} b's"):
            triplets(*batches)
        return
    matched = triplets(*batches)
    assert [says(triplet.b) for triplet in matched] == [(B, i) for i in range(bs)]
    for i, triplet in enumerate(matched):
        own = range(pairs) if bs == 1 else [0] if pairs == 1 else [i]
        assert [(says(a), says(a_prime)) for a, a_prime in triplet.pairs] == [((A, k), (A_PRIME, k)) for k in own]
        assert [image.shape for image in (*triplet.pairs[0], triplet.b)] == [(16, 20, 3), (24, 20, 3), (16, 32, 3)]


def test_single_images_need_no_batch():
    a, a_prime, b = (torch.rand(20, 30, channels) for channels in (3, 4, 3))
    ((pairs, same_b),) = triplets(a, a_prime[None], b)
    assert torch.equal(same_b, b)
    assert torch.equal(pairs[0][0], a)
    assert torch.equal(pairs[0][1], a_prime[..., :3])


@given(a=counts, a_prime=counts, b=counts)
def test_pairs_need_both_halves(a, a_prime, b):
    if a != a_prime:
        with pytest.raises(LoRWebError, match=f"a is a batch of {a} and a_prime of {a_prime} images"):
            triplets(numbered(A, a), numbered(A_PRIME, a_prime), numbered(B, b))


@pytest.mark.parametrize("shape", [(20, 30, 3), (1, 20, 30, 3), (20, 30, 4), (1, 20, 30, 4)])
def test_one_image_rgb_or_rgba_is_taken(shape):
    assert rgb_image(torch.rand(shape), "a").shape == (20, 30, 3)


@pytest.mark.parametrize("shape", [(20, 30, 3), (1, 20, 30, 4), (5, 20, 30, 4)])
def test_batches_of_images_are_taken(shape):
    assert rgb_images(torch.rand(shape), "a").shape == (1 if len(shape) == 3 else shape[0], 20, 30, 3)


BAD_IMAGES = [
    ((20, 30, 1), "a_prime has the shape"),
    ((20, 30), "a_prime has the shape"),
    ((15, 30, 3), "a_prime is 30×15 pixels"),
    ((1, 30, 15, 3), "a_prime is 15×30 pixels"),
    ((0, 20, 30, 3), "a_prime has the shape"),
    ((1, 1, 20, 30, 3), "a_prime has the shape"),
]


@pytest.mark.parametrize(("shape", "words"), BAD_IMAGES)
def test_other_images_are_refused_by_name(shape, words):
    image, good = torch.rand(shape), torch.rand(20, 30, 3)
    for taken in (rgb_image, rgb_images):
        with pytest.raises(LoRWebError, match=words):
            taken(image, "a_prime")
    with pytest.raises(LoRWebError, match=words):
        triplets(good, image, good)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_images_that_are_not_floating_point_are_refused_by_name_and_type(kind):
    good = torch.ones(1, 20, 30, 3)
    words = f"a_prime holds values of the type {str(kind)[6:]}; expected floating-point values from 0 to 1"
    for taken in (rgb_image, rgb_images, each_image):
        with pytest.raises(LoRWebError, match=words):
            taken(good.to(kind), "a_prime")
    with pytest.raises(LoRWebError, match=words):
        triplets(good, good.to(kind), good)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_images_of_every_floating_point_type_are_taken_as_they_are(kind):
    assert rgb_images(torch.ones(1, 20, 30, 3, dtype=kind), "a").dtype == kind


def test_a_batch_where_one_is_asked_for():
    with pytest.raises(LoRWebError, match="a_prime is a batch of 2"):
        rgb_image(torch.rand(2, 20, 30, 3), "a_prime")
