"""Reading the training YAML, and writing it again."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

from ...errors import LoRWebError, named
from ...files.yaml_file import read_yaml
from .config import TrainingConfig
from .kinds import DECAY, setting, switch
from .override import override
from .published_keys import check_keys, refuse_unknown, some, unknown_keys
from .sections import read_section, sections_of

log = logging.getLogger(__name__)


def read_training_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """The training that a YAML describes, as published: `config: {name, process: [{network, train, …}]}`.

    overrides: `train.lr=2e-4`, `datasets.0.folder_path=pairs`, … each in the place of what the file says. Keys that
    are known and do nothing here are said once, at INFO. Raises LoRWebError, naming the key, for one that is unknown,
    missing, or of a value that cannot be trained with.
    """
    path = Path(path)
    return training_config(read_yaml(path), named(path), overrides)


def training_config(document: Any, file: str, overrides: Sequence[str] = ()) -> TrainingConfig:
    """The same from the YAML's content; `file` is what errors call it."""
    given = _settings(_apart(document), file)
    for assignment in overrides:
        override(given, assignment)
    _average_as_published(file, given.get("train"))
    # All keys before any value: a misspelled key is not to be told of as a missing one.
    ignored = check_keys(file, sections_of(file, TrainingConfig, given, ""))
    if ignored:
        log.info("%s: these keys have no effect here: %s.", file, some(ignored, ", "))
    return read_section(file, TrainingConfig, given, "")


def _apart(value: Any) -> Any:
    """Copy a document so that no two places in it, as behind a YAML's aliases, are changed by one override."""
    if isinstance(value, dict):
        return {key: _apart(held) for key, held in value.items()}
    return [_apart(held) for held in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class _PublishedAverage:
    """`train.ema_config`."""

    use_ema: bool = setting(False, switch())
    ema_decay: float = setting(0.999, DECAY)


def _average_as_published(file: str, train: Any) -> None:
    """Turn `train`'s `ema_config` into `ema_decay`."""
    if not isinstance(train, dict) or (published := train.pop("ema_config", None)) is None:
        return
    where = "train.ema_config"
    check_keys(file, sections_of(file, _PublishedAverage, published, where))
    average = read_section(file, _PublishedAverage, published, where)
    if train.get("ema_decay") is not None:
        raise LoRWebError(f"{file} has both train.ema_decay and {where}, which say the same. Leave one out.")
    train["ema_decay"] = average.ema_decay if average.use_ema else 0


def _settings(document: Any, file: str) -> dict[str, Any]:
    """The one process of a document, with the name that stands beside it."""
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


def training_document(config: TrainingConfig) -> dict[str, Any]:
    """The YAML's content again, whole, with every key; reading it gives an equal config."""
    process = _plain(asdict(config))
    name = process.pop("name")
    # The rank's key is network.linear.
    del process["network"]["network_kwargs"]["linear"]
    process["network"] = {"type": "attlora", **process["network"]}
    return {"config": {"name": name, "process": [process]}}


def checked_config(config: TrainingConfig, what: str) -> TrainingConfig:
    """Hold a config that was not read from a YAML against what a YAML may say; returns an equal one.

    what: how errors begin. Raises LoRWebError, naming the key, for a value that cannot be trained with.
    """
    return training_config(training_document(config), what)


def _plain(value: Any) -> Any:
    """As YAML and JSON hold it."""
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
    if identity is not None:
        document["model"]["name_or_path"] = identity
    if config.train.lr_scheduler == "constant":
        del document["train"]["steps"]
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
