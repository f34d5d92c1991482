"""The demo: what it shows is held out and said in words, and its console shows one line."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections import Counter

import pytest
import torch
from environment import ROOT
from progress_line import QUIET, ProgressLine

from lorweb_core.files.image_file import read_image
from small_world import demo_rows
from small_world.demo_rows import ROWS, ROWS_OF
from small_world.install import PICTURES
from small_world.world.families.edits import SINGLE
from small_world.world.families.filters import swap
from small_world.worlds import FAMILIES, PLAIN

WORDS = {
    "flip": "upside down",
    "colour 90": "yellow-green",
    "outline 0.2": "thick outline",
    "turn 30": "object turned 30°",
    "season winter": "winter",
    "season spring": "spring",
    "tree -0.75": "tree",
    "saturation 0": "gray",
    "zoom 1.3": "closer",
    "hour 0": "midnight",
    "border 0.34 1": "very wide white border",
    "vignette 1": "dark corners",
    "swap 5": "red and blue swapped",
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_rows_are_held_out_and_those_of_new_families_or_edits_are_fitted():
    kinds = {world: Counter(row.kind for row in rows) for world, rows in ROWS_OF.items()}
    assert kinds == {PLAIN: {"new_pairs": 6, "new_edits": 2}, FAMILIES: {"new_pairs": 4, "outside": 2, "whole": 2}}
    for world, rows in ROWS_OF.items():
        assert [row.kind for row in rows if row.fit_steps] == [rows[-1].kind] * 2
        for row in rows:
            assert row.edit in world.splits[row.kind].edits
            assert row.edit not in world.splits["trained"].edits
    assert len({SINGLE[row.edit[0]][0] for row in ROWS_OF[FAMILIES] if row.kind == "whole"}) == 2


def test_labels_name_every_part_of_an_edit_and_no_number_of_the_world():
    for row in (row for rows in ROWS_OF.values() for row in rows):
        assert row.label == " + ".join(WORDS.get(part, part) for part in row.edit)
    red, blue = torch.eye(3)[[0, 2]].view(2, 1, 3, 1, 1)
    assert torch.equal(swap(red, torch.tensor([5.0])), blue)


def test_every_row_has_pictures_of_its_own(tmp_path):
    demo_rows.save_pictures(tmp_path)
    saved = {row: [read_image(tmp_path / row.file(name), name) for name in PICTURES] for row in ROWS}
    assert len(list(tmp_path.iterdir())) == len(ROWS) * len(PICTURES)
    for a, a_prime, b, truth in saved.values():
        assert a.shape == (64, 64, 3)
        assert (a - b).abs().max() > 0.1
        assert min((a_prime - a).square().mean(), (truth - b).square().mean()) > 0.005


def test_a_terminal_shows_one_line_and_the_last_state_stays():
    with ProgressLine(terminal := Terminal()) as line:
        line.say("1 of 8: a long name")
        line.say("2 of 8: short")
    assert terminal.getvalue() == "\r1 of 8: a long name\r2 of 8: short      \n"


def test_a_line_is_cut_to_the_terminals_width_but_the_last(monkeypatch):
    monkeypatch.setenv("COLUMNS", "11")
    with ProgressLine(terminal := Terminal()) as line:
        line.say("0123456789abc")
        line.say("next")
        line.end("the end of the line")
    assert terminal.getvalue() == "\r0123456789\rnext      \rthe end of the line\n"


def test_a_file_has_a_line_for_each_state():
    with ProgressLine(file := io.StringIO()) as line:
        line.say("1 of 2")
        line.say("2 of 2")
    assert file.getvalue() == "1 of 2\n2 of 2\n"


def test_an_error_begins_on_a_line_of_its_own():
    terminal = Terminal()
    with pytest.raises(ValueError), ProgressLine(terminal) as line:
        line.say("1 of 2")
        raise ValueError
    assert terminal.getvalue().endswith("\n")


NOISY = """
import warnings
from tqdm.auto import tqdm
for _ in tqdm(range(3), desc="the bar"): warnings.warn("the warning")
import diffusers, transformers
for library in (diffusers, transformers):
    library.logging.get_logger(f"{library.__name__}.x").warning("the warning")
    library.logging.get_logger(f"{library.__name__}.x").error("the error")
raise RuntimeError("the failure")
"""


def test_libraries_show_neither_bars_nor_warnings_but_their_errors():
    told = {}
    for name, environment in {"plain": {}, "quiet": QUIET}.items():
        command = [sys.executable, "-c", NOISY]
        told[name] = subprocess.run(command, env=os.environ | environment, cwd=ROOT, capture_output=True, text=True)
    counts = {
        name: Counter(re.findall(r"the bar|the warning|the error|the failure", run.stderr))
        for name, run in told.items()
    }
    assert counts["plain"]["the bar"] and counts["plain"]["the warning"] >= 2
    # The traceback shows the line that raises, too.
    assert counts["quiet"] == {"the error": 2, "the failure": counts["plain"]["the failure"]}
