"""Hold the settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from ..errors import LoRWebError, shown
from ..fitting.settings import Range
from .judge import NO_JUDGE

NONE = "none"
"""Choice of no such metric."""

LPIPS_NETS = ("alex", "vgg", NONE)
PROMPTS = ("captions", NONE)

_PATIENCE = ("judge_timeout", "judge_retries")

_RANGES = {
    "limit": Range(1, 10_000),
    "tasks": Range(0, 100_000),
    "seed": Range(0, 2**63 - 1),
    "steps": Range(1, 1000),
    "guidance": Range(0, 100),
    "megapixels": Range(0.001, 16),
    "text_tokens": Range(1, 512),
    "fit_steps": Range(1, 10_000),
    "judge_timeout": Range(1, 3600),
    "judge_retries": Range(0, 100),
}


class Group(NamedTuple):
    """Hold a name for tasks, and the glob that their names match."""

    name: str
    pattern: str


@dataclass(frozen=True)
class EvaluationSettings:
    """Choose what is compared on what, and how it is measured."""

    data: str
    """Folder of pairs grouped by task, as training reads it."""
    basis: str
    """File of the basis."""
    model: str
    """FLUX.1 Kontext in diffusers' layout, a folder or a Hugging Face id."""
    ways: tuple[str, ...] = ("routed", "copy")
    """Names of what is compared, in the order of the table."""
    groups: tuple[Group, ...] = ()
    """Groups of tasks; a task is in the first that it matches, and else in none."""
    layout: str = "auto"
    """Layout of the data's folder."""
    limit: int = 4
    """Analogies of each task, at most."""
    tasks: int = 0
    """Tasks of each group, at most; 0 for all."""
    seed: int = 50
    """Seed of the draw, of every noise and of a fit."""
    config: str | None = None
    """Training config of the basis; None for the one beside it."""
    encoder: str | None = None
    """Image encoder of the basis; None for the one that it was trained with."""
    lora: str | None = None
    """LoRA file of the way `lora`."""
    fit_steps: int = 20
    """Steps of the way `fitted`."""
    steps: int = 28
    """Denoising steps."""
    guidance: float = 2.5
    """Guidance scale."""
    megapixels: float = 1.0
    """Size of the grid in 1024² pixels."""
    fit: str = "stretch"
    """Way of fitting pictures of another shape than a's, one of grid.FITS."""
    sampled: str | None = None
    """Part of the grid that is sampled; None as the basis was trained."""
    prompts: str = "captions"
    """Words that the model is told: those of the data, or none."""
    text_tokens: int = 512
    """Length of a prompt's encoding."""
    lpips: str = "alex"
    """Net of LPIPS, one of LPIPS_NETS."""
    lpips_weights: str | None = None
    """File of that net's weights; None for torchvision's, which it downloads."""
    clip: str = "openai/clip-vit-large-patch14"
    """CLIP of the directions, a folder or a Hugging Face id, or none."""
    judge: str = NO_JUDGE
    """Vision-language model: none, stand-in, a folder or id for transformers, or an address."""
    judge_model: str | None = None
    """Name of the model at an address."""
    judge_timeout: float = 120.0
    """Seconds that an address may take for an answer."""
    judge_retries: int = 4
    """Further tries where an address does not answer."""
    against: str | None = None
    """Way that every other is held against in pairs; None for the first."""

    def check(self, ways: tuple[str, ...]) -> None:
        """Raise LoRWebError for a value that is none of these. ways: those that there are."""
        for key, value, known in (
            *(("ways", way, ways) for way in self.ways),
            ("against", self.held_against, self.ways),
            ("prompts", self.prompts, PROMPTS),
            ("lpips", self.lpips, LPIPS_NETS),
        ):
            if value not in known:
                raise LoRWebError(f"{key} is {shown(value)}; expected one of: {', '.join(known)}.")
        if len(set(self.ways)) < len(self.ways):
            raise LoRWebError(f"ways names one twice: {', '.join(self.ways)}. Name each once.")
        for field in fields(self):
            if field.name in _RANGES and not _RANGES[field.name].holds(getattr(self, field.name)):
                least, most = _RANGES[field.name]
                value = shown(getattr(self, field.name))
                raise LoRWebError(f"{field.name} is {value}; expected a number from {least} to {most}.")
        if ("lora" in self.ways) != (self.lora is not None):
            raise LoRWebError("The way lora and a LoRA file go together: give both, --ways … lora and --lora FILE.")

    @property
    def held_against(self) -> str:
        """Name the way that every other is held against."""
        return self.ways[0] if self.against is None else self.against

    def document(self) -> dict[str, Any]:
        """List the settings that figures depend on, as JSON keeps them."""
        given = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _PATIENCE}
        groups = {"groups": [f"{group.name}={group.pattern}" for group in self.groups]}
        return given | {"ways": list(self.ways)} | groups
