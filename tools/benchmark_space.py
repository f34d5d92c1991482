"""Measures what is done with mixtures and bases, at full size: `python tools/benchmark_space.py`.

Needs a ComfyUI, 4 GB of memory and 8 GB of disk. The basis has the published geometry, with random values.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

from environment import run_in_host
from measuring import compare, megabytes, own_memory, print_table, row, save_full_basis, seconds, timed


def run(comfyui: Path) -> None:
    import torch
    from host_process import load_pack

    with tempfile.TemporaryDirectory() as base, torch.inference_mode():
        host = load_pack(comfyui, Path(base))
        path = Path(base, "full.safetensors")
        values = save_full_basis(path)
        basis = host.core.load_basis(path)
        basis.check_values()
        no_edit = basis.route(torch.randn(1, 3, 768))
        mixtures = [replace(basis.route(torch.randn(1, 3, 768)), origin=no_edit) for _ in range(4)]
        measure_walking(host, mixtures)
        measure_files(host, mixtures, Path(base))
        measure_compression(host, mixtures[0], Path(base))
        measure_export(host, mixtures[0], Path(base))
        print_table(values)


def measure_walking(host, mixtures) -> None:
    """Measure what is done to mixtures, once the basis was looked at."""
    space, pictures = host.core.space, host.core.pictures

    def inspect(*compared) -> None:
        inspection = space.inspection.inspect_mixture(*compared)
        inspection.to_json()
        pictures.inspection_picture.inspection_picture(inspection)

    def similarity() -> None:
        pictures.similarity_picture.similarity_picture(space.similarity.compare_loras(mixtures[0].basis))

    change = space.edit.Edit(temperature=0.8, mute="3", top_p=0.9, renormalize=True, kind="attention")
    row("First look at a basis: its Gram matrix", seconds(timed(partial(space.gram.basis_gram, mixtures[0].basis))))
    for name, work in {
        "Inspect a mixture: numbers, JSON, picture": partial(inspect, mixtures[0]),
        "Inspect and compare two": partial(inspect, *mixtures[:2]),
        "Similarity of the LoRAs, picture": similarity,
        "Blend four, of coefficients": partial(space.blend.blend, mixtures, [0.5, 1.5, -0.5, -0.5]),
        "Blend four, of logits": partial(space.blend.blend, mixtures, [0.5, 1.5, -0.5, -0.5], "logits"),
        "Edit": partial(space.edit.edit, mixtures[0], change),
        "Blend four, from no edit": partial(space.blend.blend, mixtures, [0.5, 1.5, -0.5, -0.5], origin="no edit"),
        "Choose an edit without one unwanted one": partial(host.core.choosing.without, mixtures[0], mixtures[1:2]),
        "The same without three": partial(host.core.choosing.without, mixtures[0], mixtures[1:]),
    }.items():
        row(name, seconds(median(work)))


def measure_files(host, mixtures, folder: Path) -> None:
    """Measure saving mixtures and bases; a merged basis is twice as large."""
    space, basis = host.core.space, mixtures[0].basis
    file = folder / "mixture.safetensors"
    row("Fingerprint of a basis, once", seconds(timed(partial(space.fingerprint.fingerprint, basis))))
    row("Save a mixture", seconds(median(partial(space.mixture_file.save_mixture, mixtures[0], file))))
    row("Load it", seconds(median(partial(space.mixture_file.load_mixture, file, basis))))
    row(
        "Merge two bases",
        seconds(timed(partial(space.merging.merge_bases, basis, basis, folder / "merged.safetensors"))),
    )
    (folder / "merged.safetensors").unlink()


def median(work: Callable[[], object], runs: int = 9) -> float:
    """Take the median of seconds, after a run that is not counted."""
    work()
    return statistics.median(timed(work) for _ in range(runs))


def measure_export(host, mixture, folder: Path, runs: int = 7) -> None:
    """Compare an exact export with writing as many bytes from the basis itself, each into a fresh file.

    host: as host_process.load_pack gives it. mixture: of a basis of full size. folder: where 3 GB can be written.
    """
    exports = host.core.export.lora_export
    own, plain = folder / "export.safetensors", folder / "bytes"

    def export() -> object:
        own.unlink(missing_ok=True)
        return exports.export_lora(mixture, own)

    def write(synced: bool) -> None:
        plain.unlink(missing_ok=True)
        with open(plain, "wb") as file:
            for layer in mixture.basis.layers.values():
                for values in (layer.A, layer.B):
                    file.write(memoryview(values.flatten().numpy()).cast("B"))
            file.flush()
            if synced:
                os.fsync(file.fileno())

    label = "writing the same bytes"
    compare("Export exact, on the disk", export, partial(write, True), f"{label}, on the disk", runs)
    with mock.patch("os.fsync"):
        compare("Export exact, in the system's cache", export, partial(write, False), f"{label}, likewise", runs)
    for name in (own, plain):
        name.unlink()
    for name in (own, plain):
        name.unlink(missing_ok=True)


def measure_compression(host, mixture, folder: Path) -> None:
    """Measure compression to a rank and to an error, its memory, and what the node's picture takes more."""
    exports, file = host.core.export.lora_export, folder / "compressed.safetensors"
    took, memory = with_memory(partial(exports.export_lora, mixture, file, "rank", 16))
    row("Compress 494 layers to rank 16", seconds(took), f"{megabytes(memory)} beside the basis at most")
    took = timed(partial(exports.export_lora, mixture, file, "error", error=0.1))
    row("The same to an error of 10 %", seconds(took))
    row("Error at every rank, for the picture", seconds(timed(partial(exports.error_by_rank, mixture))))
    file.unlink()


def with_memory(work: Callable[[], object]) -> tuple[float, int]:
    """Measure the seconds that work takes, and the most memory of the process's own that it adds."""
    release_freed_memory()
    before, most, done = own_memory(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            most[0] = max(most[0], own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    work()
    took = time.perf_counter() - start
    done.set()
    watcher.join()
    return took, max(0, most[0] - before)


def release_freed_memory() -> None:
    """Give back what the allocator keeps, or it would hide what is taken next. Linux only, as own_memory is."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    run_in_host(__file__, run, "The benchmark runs in ComfyUI's Python, and needs one.")
