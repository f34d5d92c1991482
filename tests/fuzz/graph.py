"""Broken graphs: one node of the pack in a host, with one or two of its inputs wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random
from typing import Any

import torch

from .case import Case
from .host_world import GIVEN, TAKEN, World, give, gives, world
from .mutations import listed

SOCKETS = {
    "MODEL": "model",
    "VAE": "vae",
    "CONDITIONING": "conditioning",
    "LORWEB_BASIS": "basis",
    "LORWEB_MIXTURE": "mixture",
}
SMALL = {
    "LoRWeBTrainBasis": {"loras": 2, "rank": 1, "keys_dim": 4, "steps": 1, "resolution": 32, "sample_every": 0},
    "LoRWeBFitMixture": {"steps": 1, "noises": 1, "megapixels": 0.02, "preview_every": 0},
    "LoRWeBExtendedAttention": {"megapixels": 0.02},
    "LoRWeBBasisLoader": {"basis_name": "tanh_sum_4.safetensors"},
}
"""Where the defaults would take long."""

SLOW = {
    "steps",
    "batch_size",
    "gradient_accumulation",
    "loras",
    "rank",
    "keys_dim",
    "resolution",
    "megapixels",
    "noises",
}
"""Inputs of which a large value asks for much work: these get it in the widget only, which refuses it."""


def texts(random: Random, around: World) -> str:
    """What a person, or somebody else, may type.

    A path that leads out of the host's folders leads into the test's own, however many slashes it begins with: what is
    tested may follow it.
    """
    elsewhere = (around.around / "elsewhere").as_posix()
    outside = [f"/{elsewhere}/x", f"{elsewhere}/theirs", f"/{elsewhere}/theirs", elsewhere, f"//{elsewhere}/x"]
    outside += [path.replace("/", "\\") for path in outside]
    inside = listed(
        "link/x | link | ../../x | .. | . | ~ | ~/x | ~nouser/x | C:\\x | a/./b | a//b | .x | x. | ./x", "|"
    )
    names = listed("theirs | theirs/theirs | CON | aux.txt | nul | COM1 | a/PRN/x | lpt1.safetensors | x y", "|")
    odd = listed("pairs\ud800 | \udcff | a\0b | a\nb | \x1b[31m | \u202e | %s {0} | \ufeff | \" | ' | é | <b>", "|")
    long = [character * 201 for character in "xé\U0001f6429"] + ["/".join("abcdefghijk"), "x/" * 2000, "9" * 5000]
    others = listed("[ | * | **/* | None | 0-99999999999 | 3- | -1 | 9 | ² | ١ | 1e3 | 0,,0 | 3-1", "|")
    layers = ["single 99", "double 5-2", "al", "all, single", "0x1", "1-2-3", "x " * 50_000, "x ", " x", " ", ""]
    return random.choice([*outside, *inside, *names, *long, *odd, *others, *layers])


def numbers(random: Random) -> Any:
    return random.choice(
        [math.nan, math.inf, -math.inf, 1e308, -1e308, 1e-320, -0.0, 0, -1, 2**31, 2**63, -(2**70), 1.5]
    )


def images(random: Random) -> torch.Tensor:
    """In what a batch of pictures may be wrong."""
    good = torch.rand(1, 40, 30, 3, generator=torch.Generator().manual_seed(random.randrange(1000)))
    holed = good.clone()
    holed[0, 0, 0, 0] = random.choice((math.nan, math.inf, -math.inf))
    shapes = [(40, 30), (40, 30, 3), (0, 40, 30, 3), (1, 0, 30, 3), (1, 40, 30, 1), (1, 40, 30, 2), (1, 40, 30, 4), ()]
    shapes += [(1, 3, 40, 30), (1, 1, 40, 30, 3), (2, 40, 30, 3), (5, 40, 30, 3), (1, 1, 1, 3), (1, 16, 4000, 3), (3,)]
    kinds = [
        (good * 255).byte(),
        good.half(),
        good.double(),
        good.bfloat16(),
        good > 0.5,
        (good * 255).long(),
        good.to(torch.complex64),
    ]
    others = [holed, good * 1e30, -good, good.expand(4, -1, -1, -1), good.transpose(1, 2), good[:, ::3]]
    return random.choice([*(torch.rand(shape) for shape in shapes), *kinds, *others])


def mixtures(random: Random, around: World) -> Any:
    from dataclasses import replace

    good = GIVEN["mixture"]
    scaled = {name: c * random.choice((1e38, 1e30, 0.0, -1e5)) for name, c in good.coefficients.items()}
    return random.choice([GIVEN["batch"], GIVEN["activation mixture"], replace(good, coefficients=scaled)])


def conditionings(random: Random, around: World) -> Any:
    (tokens, values), *_ = GIVEN["conditioning"]
    latent = torch.rand(1, 16, 4, 4)
    return random.choice(
        [
            [],
            [[tokens, {}]],
            [[tokens * math.nan, values]],
            [[tokens, values], [tokens, values]],
            [[tokens, {**values, "reference_latents": [latent]}]],
            [[tokens, {**values, "reference_latents_method": "offset"}]],
            [[tokens, {**values, "guidance": math.nan}]],
            [[tokens.expand(3, -1, -1), values]],
        ]
    )


def models(random: Random, around: World) -> Any:
    """FLUX.1 with other sizes than the basis was made for."""
    from host_process import FLUX_1, build_model

    sizes = {"hidden_size": 256, "num_heads": 2, "depth": 1, "context_in_dim": 96, "vec_in_dim": 48}
    return build_model("Flux", {**FLUX_1, **sizes, "depth_single_blocks": random.choice((1, 2))}, device="cpu")


OBJECTS = {
    "LORWEB_BASIS": lambda random, around: GIVEN["activation basis"],
    "LORWEB_MIXTURE": mixtures,
    "CONDITIONING": conditionings,
    "MODEL": models,
    "IMAGE": lambda random, around: images(random),
}

WIDGETS = [None, {}, [], [1], "x", "1", True, {"__value__": [1]}, {"__value__": "x"}]
"""Of another type, as a client may send them."""


WORDS = ("image", "mixture", "models/", "model", "query", "basis", "b's", "pairs", "safetensors", "Layer ")
"""A refusal may also name what is wrong by the kind of thing that it is."""


def make(seed: int, folder: Path) -> Case:
    """See Case."""
    random, around = Random(seed), world()
    nodes = _pack()
    kind = nodes[seed % len(nodes)]
    schema = around.host.node(kind).GET_SCHEMA()
    inputs = {input.id: _good(kind, input, around) for input in schema.inputs}
    inputs = {name: value for name, value in inputs.items() if value is not None}
    typed = [input for input in schema.inputs if input.get_io_type() == "STRING"]
    wrong = random.sample(schema.inputs, min(len(schema.inputs), random.choice((1, 1, 2))))
    if typed and random.random() < 0.5:
        wrong[0] = random.choice(typed)
    for input in wrong:
        inputs[input.id] = _wrong(random, input, around)
    node = {"class_type": kind, "inputs": inputs}
    prompt = {"node": node, "taken": {"class_type": "FuzzTake", "inputs": {"value": ["node", 0]}}}
    described = {input.id: _told(inputs.get(input.id)) for input in wrong}
    named = (*described, *WORDS)
    return Case(
        f"{kind}, {described}",
        named,
        lambda: _load(around, {**prompt, **gives(node)}),
        lambda _: _check(around),
        writes=True,
    )


def _pack() -> list[str]:
    import nodes

    return sorted(name for name in nodes.NODE_CLASS_MAPPINGS if name.startswith("LoRWeB"))


def _good(kind: str, input: Any, around: World) -> Any:
    type_of, small = input.get_io_type(), SMALL.get(kind, {})
    if input.id in small:
        return small[input.id]
    if type_of == "IMAGE":
        return give(input.id if input.id in ("a", "a_prime", "b") else "b")
    if type_of in SOCKETS:
        return None if input.optional else give(SOCKETS[type_of])
    if input.id == "folder":
        return str(around.base / "input" / "pairs")
    if input.id == "name":
        return "fuzzed"
    return (
        input.default
        if getattr(input, "default", None) is not None
        else next(iter(getattr(input, "options", [])), None)
    )


def _wrong(random: Random, input: Any, around: World) -> Any:
    """A value of the input's type that is wrong, by a link or in the widget; or one of another type."""
    type_of = input.get_io_type()
    if random.random() < 0.15 or type_of not in (*OBJECTS, "STRING", "INT", "FLOAT", "COMBO"):
        value = random.choice(WIDGETS)
        return 0.02 if value == 1.5 and input.id == "megapixels" else value  # 1.5 is right, and takes memory
    if type_of in OBJECTS:
        return _given(input.id, OBJECTS[type_of](random, around))
    if type_of == "STRING":
        text = texts(random, around)
        return text if random.random() < 0.7 else _given(input.id, text)
    if type_of == "COMBO":
        listed_files = ["cut.safetensors", "theirs.safetensors", "theirs/theirs.safetensors"]
        value = random.choice([texts(random, around), *listed_files])
        return value if random.random() < 0.5 else _given(input.id, value)
    value = numbers(random)
    # A link is not held against the least and the most that the widget takes.
    linked = random.random() < 0.5 and not (input.id in SLOW and value > 0)
    if linked and type_of == "INT":
        value = int(value) if math.isfinite(value) else -1
    return _given(input.id, value) if linked else value


def _given(name: str, value: Any) -> list:
    GIVEN[f"wrong {name}"] = value
    return give(f"wrong {name}")


def _told(value: Any) -> str:
    if isinstance(value, list) and value and str(value[0]).startswith("give "):
        value = GIVEN[value[0][5:]]
        if isinstance(value, torch.Tensor):
            return f"linked {value.dtype} {tuple(value.shape)}"
        return f"linked {ascii(value)[:80] if isinstance(value, str | int | float) else type(value).__name__}"
    return ascii(value)[:80]


def _load(around: World, prompt: dict[str, dict]) -> None:
    try:
        around.run(prompt)
    finally:
        left = around.left_behind()
        assert not left, left


def _check(around: World) -> None:
    """What came out can be shown: pictures are pictures, coefficients are numbers, texts are texts."""
    for value in TAKEN:
        if isinstance(value, torch.Tensor):
            assert value.ndim == 4 and value.shape[-1] == 3 and value.shape[1] and value.shape[2], tuple(value.shape)
        elif hasattr(value, "coefficients"):
            value.check_values()
        elif isinstance(value, str):
            value.encode()
            assert not value.startswith(("{", "[\n")) or json.loads(value) is not None
