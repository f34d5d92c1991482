"""The training YAML: reading it with overrides, writing it again, and its fingerprint."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any

from ...errors import LoRWebError, named, shown
from ...fields import DECAY, SWITCH, read_section, sections_of, setting, wrong_value
from ...files.yaml_file import parse_yaml, read_yaml
from .config import TrainingConfig, TrainSettings
from .published_keys import check_keys, joined, refuse_unknown, unknown_keys

log = logging.getLogger(__name__)


def read_training_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read the training that a YAML describes, as published: `config: {name, process: [{network, train, …}]}`.

    overrides: `train.lr=2e-4`, `datasets.0.folder_path=pairs`, … each in the place of what the file says. Keys that
    are known and do nothing here are said once, at INFO. Raises LoRWebError, naming the key, for one that is unknown,
    missing, or of a value that cannot be trained with.
    """
    path = Path(path)
    return training_config(read_yaml(path), named(path), overrides)


def training_config(document: Any, file: str, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read a training from a YAML's content, as `read_training_config` does; `file` is what errors call it."""
    given = _process(document, file)
    for assignment in overrides:
        _override(given, assignment)
    _average_as_published(file, given)
    # All keys before any value: a misspelled key is not to be called a missing one.
    ignored = check_keys(file, sections_of(file, TrainingConfig, given))
    if ignored:
        log.info("%s: these keys have no effect here: %s.", file, joined(ignored, ", "))
    config = read_section(file, TrainingConfig, given)
    if not config.network.basis.external_query:
        for key in ("query_dropout", "coefficient_entropy"):
            if value := getattr(config.train, key):
                raise wrong_value(file, f"train.{key}", value, "0, as external_query is false")
    return config


def checked_config(config: TrainingConfig, what: str) -> TrainingConfig:
    """Hold a config that was not read from a YAML against what a YAML may say; returns an equal one.

    what: how errors begin. Raises LoRWebError, naming the key, for a value that cannot be trained with.
    """
    return training_config(training_document(config), what)


def _process(document: Any, file: str) -> dict[str, Any]:
    """Find the one process of a document; returns its settings, with the name that stands beside it."""
    try:
        config = document["config"]
        (process,) = config["process"]
        given = {"name": config.get("name"), **process}
        unknown = unknown_keys("", document, ["config", "job", "meta"])
        unknown |= unknown_keys("config", config, ["name", "process"])
        if "name" in process:
            unknown["config.process.0.name"] = ["config.name"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LoRWebError(
            f"{file} is not a LoRWeB training config: expected a YAML of the form config: {{name: …, process: "
            "[{network: …, datasets: …, train: …}]}, with one process, as published."
        ) from error
    refuse_unknown(file, unknown)
    return given


def _override(given: dict[str, Any], assignment: str) -> None:
    """Put `train.lr=2e-4`, or in a list `datasets.0.folder_path=pairs`, into the settings.

    Lists and sections that it changes are copied: others may hold them too, by a YAML's alias. The value is YAML; an
    empty one brings back the default. Sections that are not there are made; a list's number may be its next one.
    Whether the key is known is for the reader of the settings. Raises LoRWebError if this is no assignment, or leads
    into what has no keys.
    """
    path, equals, value = assignment.partition("=")
    assignment = named(assignment)
    keys = [key.strip() for key in path.split(".")]
    if not equals or not all(keys):
        raise LoRWebError(f"--set {assignment}: expected key=value, such as train.lr=2e-4.")
    value = parse_yaml(value, f"--set {assignment}: the value")
    held: Any = given
    for key, following in pairwise(keys):
        place = _place(held, key, assignment)
        inner = held[place]
        held[place] = ([] if following.isdecimal() else {}) if inner is None else copy.copy(inner)
        held = held[place]
    held[_place(held, keys[-1], assignment)] = value


def _place(held: Any, key: str, assignment: str) -> str | int:
    """Find where `held` has this key, which is made if need be. Raises LoRWebError where it cannot have it."""
    if isinstance(held, dict):
        held.setdefault(key)
        return key
    if isinstance(held, list) and key.isdecimal() and len(key) < 10 and int(key) <= len(held):
        held += [None] * (int(key) == len(held))
        return int(key)
    if isinstance(held, list):
        why = f"is to be in a list of {len(held)}; expected 0 to {len(held)}"
    else:
        why = f"cannot be set, as what it is to be in is {shown(held)}, without keys"
    raise LoRWebError(f"--set {assignment}: {named(key)} {why}.")


@dataclass(frozen=True)
class _PublishedAverage:
    """Hold `train.ema_config`."""

    use_ema: bool = setting(False, SWITCH)
    ema_decay: float = setting(0.999, DECAY)


def _average_as_published(file: str, given: dict[str, Any]) -> None:
    """Turn the `ema_config` of `train` into its `ema_decay`, in a copy of the section."""
    train, where = given.get("train"), "train.ema_config"
    if not isinstance(train, dict) or "ema_config" not in train:
        return
    given["train"] = train = dict(train)
    if (published := train.pop("ema_config")) is None:
        return
    check_keys(file, sections_of(file, _PublishedAverage, published, where))
    average = read_section(file, _PublishedAverage, published, where)
    if train.get("ema_decay") is not None:
        raise LoRWebError(f"{file} has both train.ema_decay and {where}, which say the same. Leave one out.")
    train["ema_decay"] = average.ema_decay if average.use_ema else 0


def training_document(config: TrainingConfig) -> dict[str, Any]:
    """Turn a config into the YAML's content again, whole, with every key; reading it gives an equal config."""
    process = _plain(asdict(config))
    name = process.pop("name")
    # Their keys are network.linear and train.sampled.
    for key in ("linear", "sampled"):
        del process["network"]["network_kwargs"][key]
    process["network"] = {"type": "attlora", **process["network"]}
    return {"config": {"name": name, "process": [process]}}


def _plain(value: Any) -> Any:
    """Turn a value into what YAML and JSON hold."""
    if isinstance(value, dict):
        return {key: _plain(held) for key, held in value.items()}
    if isinstance(value, tuple):
        return [_plain(held) for held in value]
    return value.as_posix() if isinstance(value, PurePath) else value


def config_fingerprint(config: TrainingConfig, identity: str | None = None) -> str:
    """Digest all that decides what a step does to the parameters: a run resumes with an equal one only.

    That is not where it is, what it is called, what is saved, sampled and logged, nor how long it goes on. The number
    of steps counts where the learning rate follows it, which only a constant one does not. identity: tells the model
    from others where its name does not.
    """
    document = training_document(config)["config"]["process"][0]
    for key in ("training_folder", "device", "save", "sample"):
        del document[key]
    del document["train"]["log_every"]
    # Runs that began before there were these keys go on.
    for key in ("sampled", "query_dropout", "coefficient_entropy"):
        if document["train"][key] == getattr(TrainSettings, key):
            del document["train"][key]
    if not config.network.basis.query_network:
        del document["network"]["network_kwargs"]["query_network"]
    if identity is not None:
        document["model"]["name_or_path"] = identity
    if config.train.lr_scheduler == "constant":
        del document["train"]["steps"]
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
