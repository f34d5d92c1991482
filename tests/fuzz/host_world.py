"""A host in this process that graphs are executed in, with a small FLUX, and a look at what they leave behind."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import parity
import standins
import torch
from pairs import save_pairs
from safetensors.torch import save_file

from .case import Refused, wrong_in_message

GIVEN: dict[str, Any] = {}
"""By name: what the node FuzzGive gives, of any type."""
TAKEN: list[Any] = []
"""What came to the node FuzzTake."""


class Give:
    RETURN_TYPES = ("*",)
    FUNCTION = "give"
    CATEGORY = "fuzz"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"name": ("STRING", {})}}

    def give(self, name: str) -> tuple:
        return (GIVEN[name],)


class Take:
    RETURN_TYPES = ()
    FUNCTION = "take"
    CATEGORY = "fuzz"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"value": ("*", {})}}

    def take(self, value: Any) -> dict:
        TAKEN.append(value)
        return {}


class World:
    """`run` executes a prompt as the server's worker does; `left_behind` says what it should not have done."""

    def __init__(self, around: Path):
        from host_process import load_pack

        self.around, self.base = around, around / "host"
        self.base.mkdir()
        self.host = load_pack(Path(os.environ["COMFYUI_PATH"]), self.base)
        import comfy.sd
        import nodes

        nodes.NODE_CLASS_MAPPINGS |= {"FuzzGive": Give, "FuzzTake": Take}
        weights = {name[5:]: t.float() for name, t in parity.load_parity().items() if name.startswith("base.")}
        self.model = comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": torch.float32})
        self.weights = {name: t.clone() for name, t in self.model.model.diffusion_model.state_dict().items()}
        self._fill_folders()
        GIVEN.update(self._good_values(comfy.sd))
        self.kept = self._files()

    def _fill_folders(self) -> None:
        """Bases, a mixture, pictures, and files of others, in the host's folders and beside them."""
        models, elsewhere = self.base / "models", self.around / "elsewhere"
        lorweb = models / "lorweb"
        parity.write_checkpoint(lorweb, "tanh_sum_4")
        parity.write_activation_checkpoint(lorweb, "aa'bb'", "avg")
        content = (lorweb / "tanh_sum_4.safetensors").read_bytes()
        (lorweb / "cut.safetensors").write_bytes(content[: len(content) // 2])
        standins.image_encoder(models / "clip_vision" / "clip-vit-large-patch14", 16)
        scenes = {i: standins.picture(False, ("house", "tree")[i % 2], (48, 48)) for i in range(2)}
        save_pairs(self.base / "input" / "pairs", {"dark": lambda x: x * 0.3}, scenes)
        for name in ("loras", "lorweb_mixtures"):
            (models / name).mkdir(parents=True, exist_ok=True)
        for folder in (elsewhere, *(models / name for name in ("loras", "lorweb", "lorweb_mixtures"))):
            (folder / "theirs" / "samples").mkdir(parents=True)
            for name in ("theirs.safetensors", "theirs/theirs.safetensors", "theirs/theirs_000000009.safetensors"):
                save_file({"x": torch.ones(2)}, folder / name)
            (folder / "theirs" / "samples" / "mine.png").write_bytes(b"mine")
            (folder / "theirs" / "losses.csv").write_text("mine")
            if folder != elsewhere and os.name != "nt":
                (folder / "link").symlink_to(elsewhere, target_is_directory=True)

    def _good_values(self, sd) -> dict[str, Any]:
        tensors, core = parity.load_parity(), self.host.core
        text = {"pooled_output": tensors["pooled"].float(), "guidance": 2.5}
        basis = core.load_basis(self.base / "models" / "lorweb" / "tanh_sum_4.safetensors")
        activation = core.load_basis(self.base / "models" / "lorweb" / "aa'bb'.avg.safetensors")
        queries = torch.cat([tensors["query"], -tensors["query"]])
        pictures = {"a": (False, "house"), "a_prime": (True, "house"), "b": (False, "tree")}
        return {
            "model": self.model,
            "vae": sd.VAE(sd=standins.autoencoder()),
            "conditioning": [[tensors["txt"].float(), text]],
            "basis": basis,
            "activation basis": activation,
            "mixture": basis.route(queries[:1]),
            "batch": basis.route(queries),
            "activation mixture": activation.route(None),
            **{name: standins.picture(*scene, size=(64, 48))[None] for name, scene in pictures.items()},
        }

    def run(self, prompt: dict[str, dict]) -> None:
        """Execute a prompt. Raises Refused, the pack's LoRWebError, or AssertionError for any other exception."""
        import execution

        TAKEN.clear()
        events: list[tuple[str, dict]] = []
        server = SimpleNamespace(client_id="fuzz", last_node_id=None, last_prompt_id=None)
        server.send_sync = lambda event, data, sid=None: events.append((event, data))
        prompt = json.loads(json.dumps(prompt))
        valid, _, outputs, node_errors = asyncio.run(execution.validate_prompt("fuzz", prompt, None))
        if not valid:
            raise self._refusal(node_errors)
        with torch.inference_mode():
            executor = execution.PromptExecutor(
                server, execution.CacheType.CLASSIC, dict(lru=0, ram=2.0, ram_inactive=2.0)
            )
            executor.execute(prompt, "fuzz", {}, outputs)
        for event, data in [*executor.status_messages, *events]:
            if event == "execution_error":
                assert "LoRWebError" in data["exception_type"] or "Diverged" in data["exception_type"], (
                    f"{data['node_type']}: {data['exception_type']}: {data['exception_message'][:300]}\n"
                    + "".join(data["traceback"][-2:])
                )
                raise self.host.core.LoRWebError(data["exception_message"].removesuffix("\n"))

    def _refusal(self, node_errors: dict) -> Exception:
        for node in node_errors.values():
            for error in node["errors"]:
                kind = error["extra_info"].get("exception_type", "LoRWebError")
                assert "LoRWebError" in kind, f"{error['message']}: {kind}: {error['details'][:500]}"
                if error["type"] == "custom_validation_failed":
                    wrong = wrong_in_message(error["details"], ("",))
                    assert not wrong, wrong
        return Refused(str(node_errors)[:300])

    def left_behind(self) -> str | None:
        """Say what was changed that is not a prompt's to change; what it may leave is taken away."""
        import comfy.model_management

        comfy.model_management.unload_all_models()
        flux = self.model.model.diffusion_model
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + ("forward" in vars(m)) for m in flux.modules())
        changed = [name for name, t in flux.state_dict().items() if not torch.equal(t, self.weights[name])]
        after = self._files()
        theirs = [name for name in self.kept if after.get(name) != self.kept[name]]
        new = after.keys() - self.kept.keys()
        own = tuple(f"host/{name}/" for name in ("output", "temp", "user", "models/lorweb", "models/loras"))
        outside = [name for name in new if not name.startswith((*own, "host/models/lorweb_mixtures/"))]
        for name in new:
            (self.around / name).unlink(missing_ok=True)
        for folder, _, _ in os.walk(self.base, topdown=False):
            if not any(os.scandir(folder)) and Path(folder).parent.parent == self.base / "models":
                os.rmdir(folder)
        left = {"hooks": hooks, "weights": changed, "files of others": theirs, "files outside": outside}
        left["not whole"] = [name for name in new if name.endswith(".part")]
        wrong = {what: held for what, held in left.items() if held}
        return f"Left behind: {wrong}" if wrong else None

    def _files(self) -> dict[str, tuple]:
        """Every file around the host, and beside it, with what changes when it is written; links are not followed."""
        found = {}
        for folder, _, names in os.walk(self.around):
            for name in names:
                path = os.path.join(folder, name)
                stat = os.lstat(path)
                found[os.path.relpath(path, self.around).replace(os.sep, "/")] = (
                    stat.st_size,
                    stat.st_mtime_ns,
                    stat.st_ino,
                )
        return {name: stat for name, stat in found.items() if not name.startswith("host/user/comfyui")}


@lru_cache(maxsize=1)
def world() -> World:
    """The one of this process; its folder goes when the process ends."""
    around = tempfile.mkdtemp(prefix="around-")
    atexit.register(shutil.rmtree, around, ignore_errors=True)
    return World(Path(around))


def give(name: str) -> list:
    """A link to a node that gives GIVEN[name]; the prompt needs `gives` as well."""
    return [f"give {name}", 0]


def gives(*nodes: dict) -> dict[str, dict]:
    """The nodes FuzzGive that the inputs of these nodes are linked to."""
    links = [value for node in nodes for value in node["inputs"].values() if isinstance(value, list) and value]
    names = [link[0][5:] for link in links if str(link[0]).startswith("give ")]
    return {f"give {name}": {"class_type": "FuzzGive", "inputs": {"name": name}} for name in names}
