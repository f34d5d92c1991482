"""Broken training configs: as the config beside a basis, and as that of a training."""

from __future__ import annotations

import math
import re
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

import yaml

from . import plain
from .basis import KEYS, RANK, SIZES, N, basis_tensors
from .case import Case
from .mutations import BYTES, OBSTACLES, in_place_of, listed, odd_name, words

DOCUMENT: dict[str, Any] = {
    "config": {
        "name": "tiny",
        "process": [
            {
                "network": {
                    "type": "lorweb",
                    "linear": RANK,
                    "linear_alpha": 2,
                    "network_kwargs": {
                        "loras_num": N,
                        "lora_keys_dim": KEYS,
                        "lora_heads": 2,
                        "lora_softmax": True,
                        "mixing_coeffs_type": "mean",
                        "external_query": True,
                        "external_query_model": "openai/clip-vit-large-patch14",
                        "query_projection_type": "linear",
                        "query_mode": "cat-aa'b",
                        "pooling_type": "avg",
                        "lora_parts": [1, 3],
                        "query_network": 0,
                    },
                },
                "save": {"dtype": "float16", "save_every": 10, "max_step_saves_to_keep": 2},
                "datasets": [{"folder_path": "pairs", "caption_ext": "txt", "resolution": 64, "held_out": ["x"]}],
                "train": {
                    "batch_size": 1,
                    "steps": 3,
                    "lr": 0.001,
                    "optimizer": "adamw",
                    "optimizer_params": {"betas": [0.9, 0.99], "weight_decay": 0.05, "eps": 1.0e-8},
                    "max_grad_norm": 1.0,
                    "timestep_type": "linear",
                    "seed": 42,
                    "ema_decay": 0.5,
                    "query_dropout": 0.1,
                    "coefficient_entropy": -0.1,
                },
                "model": {"name_or_path": "x", "arch": "flux_kontext", "quantize": False, "text_tokens": 512},
                "sample": {"sample_every": 0, "sample_steps": 2, "guidance_scale": 4.0, "seed": 1},
            }
        ],
    }
}

BOMB = (
    "bomb0: &b0 [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"bomb{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 9)}]\n" for i in range(1, 12))
    + "config: *b11\n"
)


def values(random: Random) -> list[str]:
    """YAML of what hardly any key may hold, some of it long."""
    deep, long = random.choice((50, 500, 5000)), random.choice((300, 100_000, 3_000_000))
    short = listed("""
        null true -1 0 0.5 1.5 .nan .inf -.inf 1e400 1.0e+300 1e-3 2.0 3.0e0 010 1:30 1_000 +1 -0.0 5.e-1 ~ y off = <<
        '' x [] {} [[1]] [null] '1' 'true' "\\ud800" "\\0" "\\e[31m" *nowhere ../../x /etc/passwd 2024-13-45 2024-01-01
        0001-01-01 9999-99-99 2024-01-01T10:00:00Z
    """)
    spaced = listed(
        """
        '  ' | [1, 2] | {a: 1} | 2024-01-01 25:61:00 | !!binary AAECAw== | !!binary '%%%' | !!set {a, b} | !x y
        | !!int x | !!python/object/apply:os.system ['touch pwned'] | !!float 'a' | !!timestamp x | !!bool x
        | !!omap [a: 1] | !!pairs [a: 1] | !!str [1] | !!null x | &self [*self] | &me {a: *me} | '%s {0}' | 'a

        b'
    """,
        "|",
    )
    nested = ["[" * deep + "]" * deep, "{a: " * deep + "1" + "}" * deep]
    large = ["9" * 30, "9" * 5000, "0x" + "f" * 5000, "x" * long, "[" + "1, " * (long % 50_000) + "1]"]
    return [*short, *spaced, *nested, *large]


def a_value_of_another_kind(random: Random) -> bytes:
    """One key, anywhere in the document, says something else."""
    document = deepcopy(DOCUMENT)
    held, key = random.choice(list(_places(document)))
    held[key] = "PLACE"
    return yaml.safe_dump(document).replace("PLACE", random.choice(values(random))).encode("utf-8", "surrogatepass")


def _places(held: Any):
    for key, value in held.items() if isinstance(held, dict) else enumerate(held):
        yield held, key
        if isinstance(value, dict | list):
            yield from _places(value)


def a_key_missing(random: Random) -> bytes:
    document = deepcopy(DOCUMENT)
    held, key = random.choice(list(_places(document)))
    del held[key]
    return yaml.safe_dump(document).encode()


def a_key_unknown(random: Random) -> bytes:
    document = deepcopy(DOCUMENT)
    held = random.choice([held for held, _ in _places(document) if isinstance(held, dict)])
    key = random.choice(["step", "x" * 5000, "", 1, None, True, 1.5, "é", "\u202e", ("a", "b"), "__class__", "<<x"])
    held[key] = random.choice([1, "x", None, [], {"a": 1}, "y" * 100_000])
    return yaml.dump(document).encode()


def a_key_twice(random: Random) -> bytes:
    lines = yaml.safe_dump(DOCUMENT).splitlines(keepends=True)
    index = random.randrange(len(lines))
    return "".join([*lines[: index + 1], *lines[index:]]).encode()


def one_value_by_alias(random: Random) -> bytes:
    """Aliases that a plain reader resolves: legal, and small."""
    text = yaml.safe_dump(DOCUMENT)
    return text.replace("batch_size: 1", "batch_size: &one 1").replace("steps: 3", "steps: *one").encode()


def nested_aliases(random: Random) -> bytes:
    """Half a kilobyte that is 9 to the 11th values when it is written out."""
    return random.choice(
        [
            BOMB,
            BOMB.replace("config:", "other:") + yaml.safe_dump(DOCUMENT),
            BOMB.replace("config: *b11", "config: {name: *b11, process: [{network: *b11}]}"),
            BOMB.replace("config: *b11", "config: {process: [{network: {linear: *b11}}]}"),
            BOMB.replace("config: *b11", "config: {process: [{network: {network_kwargs: {query_mode: *b11}}}]}"),
            BOMB.replace("config: *b11", "config: {process: [{network: {network_kwargs: {lora_parts: *b11}}}]}"),
            BOMB.replace("config: *b11", "config: {name: a, process: [{train: {lr: *b11}, datasets: *b11}]}"),
            BOMB.replace(
                "config: *b11", "config: {name: a, process: [{datasets: [{held_out: *b11, folder_path: x}]}]}"
            ),
        ]
    ).encode()


def another_encoding(random: Random) -> bytes:
    text = yaml.safe_dump(DOCUMENT).replace("tiny", "tiny é")
    encoding = random.choice(("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp500"))
    return text.encode(encoding)


def a_control_character(random: Random) -> bytes:
    text = yaml.safe_dump(DOCUMENT)
    place = random.randrange(len(text))
    return (text[:place] + random.choice("\0\a\x1b\x7f\x85\u2028\ufeff\ufffe\t") + text[place:]).encode()


def a_document_of_another_kind(random: Random) -> bytes:
    deep = random.choice((500, 5000))
    documents = listed(
        """
         | 42 | null | - a | config: | config: {process: []} | config: {process: {}} | a: b: c | %YAML 9.9 | [a
        | config: {process: [null]} | config: {process: [{network: []}]} | config: {process: [{network: {linear: []}}]}
        | config: {process: [{network: {network_kwargs: [1]}}]} | config: {process: [{network: {network_kwargs: x}}]}
        | x: 2024-13-45 | 2024-13-45: x | &a [*a] | &a {*a : 1} | ? {a: b} | !!set [a] | config: &a {process: [*a]}
    """,
        "|",
    )
    nested = [part * deep for part in ("[", "- ", "{a: ", "? ", "'")]
    return random.choice([*documents, *nested]).encode()


OPERATORS = [
    *[a_value_of_another_kind] * 12,
    a_key_missing,
    a_key_unknown,
    a_key_twice,
    one_value_by_alias,
    nested_aliases,
    nested_aliases,
    another_encoding,
    a_control_character,
    a_document_of_another_kind,
    a_document_of_another_kind,
]


def make(seed: int, folder: Path) -> Case:
    """See Case. Every second one is the config of a basis, every other that of a training."""
    random = Random(seed)
    path = folder / odd_name(random, "fuzzed.yaml")
    number, of_basis = seed // 2, seed % 2 == 0
    ways = [*OPERATORS, *BYTES[:8], *OBSTACLES]
    operator = ways[number % len(ways)]
    if operator in OPERATORS:
        path.write_bytes(operator(random))
    elif operator in BYTES:
        path.write_bytes(operator(random, yaml.safe_dump(DOCUMENT).encode()))
    else:
        in_place_of(path, operator)
    what = f"{words(operator)}, {'basis' if of_basis else 'training'}"
    if not of_basis:
        return Case(what, ("fuzzed",), lambda: _load_training(path), lambda held: _check_training(path, held))
    basis = folder / "basis.safetensors"
    tensors = basis_tensors(Random(seed % 4))
    basis.write_bytes(plain.file(plain.header(tensors), tensors))
    return Case(what, ("fuzzed",), lambda: _load_basis(basis, path), lambda held: _check_basis(path, held))


def _load_basis(basis: Path, path: Path):
    from lorweb_core import load_basis

    return load_basis(basis, path)


class _Plain(yaml.SafeLoader):
    """A loader to which what is no date, number or switch is the text that it is."""

    def construct_object(self, node, deep=False):
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError):
            return node.value


def _plain(path: Path) -> Any:
    return yaml.load(path.read_text("utf-8"), Loader=_Plain)


def _check_basis(path: Path, basis) -> None:
    """What the YAML says of how the basis is routed is what the config holds, in the type that it is of."""
    network = _plain(path)["config"]["process"][0]["network"]
    given = {"linear": network.get("linear"), **(network.get("network_kwargs") or {})}
    assert len(basis.layers) == len(SIZES)
    for key, value in given.items():
        unused = key == "external_query_model" and given.get("external_query") is False
        if value is None or unused or key not in vars(basis.config):
            continue
        held = getattr(basis.config, key)
        assert (tuple(value) if key == "lora_parts" else value) == held, f"{key}: {held!r}, not {value!r}"
        assert type(held) is (tuple if key == "lora_parts" else type(value)), f"{key} is {held!r}"


def _load_training(path: Path):
    from lorweb_core.training.settings.document import read_training_config

    return read_training_config(path)


def _check_training(path: Path, config) -> None:
    """Each value that the YAML has is the value held, whatever its spelling."""
    document = _plain(path)["config"]
    (process,) = document["process"]
    assert config.name == document["name"]
    assert re.fullmatch(r'[^<>:"/\\|?*\x00-\x1f]+', config.name)
    _compare({"train": config.train, "save": config.save, "sample": config.sample, "model": config.model}, process)
    _compare({"network": config.network}, {"network": {**(process.get("network") or {}), "network_kwargs": {}}})
    for held, given in zip(config.datasets, process["datasets"], strict=True):
        _compare({"dataset": held}, {"dataset": given})


def _compare(held: dict[str, Any], given: dict[str, Any]) -> None:
    for section, settings in held.items():
        for key, value in (given.get(section) or {}).items():
            kept = getattr(settings, key, None)
            if value is None or isinstance(value, dict) or key not in vars(settings):
                continue
            if isinstance(kept, float | int) and not isinstance(kept, bool):
                assert math.isfinite(kept) and float(value) == kept, f"{section}.{key}: {kept!r}, not {value!r}"
            elif isinstance(kept, tuple):
                assert list(kept) == (value if isinstance(value, list) else [value]), f"{section}.{key}: {kept!r}"
            elif key != "dtype":
                assert kept == value or str(kept) == str(Path(value)) or kept == value.removeprefix("."), (
                    f"{section}.{key}: {kept!r}"
                )
