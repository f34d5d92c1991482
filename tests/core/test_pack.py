"""What the registry would be sent, and what it and its scanners ask of that."""

import ast
import subprocess
import sys

import pytest
from environment import ROOT
from pack import shipped_files
from PIL import Image

from small_world.models.files import SHIPPED

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture(scope="module")
def files() -> list[str]:
    try:
        return shipped_files()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git, or no checkout of it")


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_what_nodes_need_is_packed_and_nothing_for_developers(files):
    tops = {path.split("/")[0] for path in files}
    assert {"__init__.py", "nodes", "lorweb_core", "small_world", "workflows", "pyproject.toml", "LICENSE"} <= tops
    assert not tops & {"tests", "tools", "docs", ".github", ".ci", "CONTRIBUTING.md", ".pre-commit-config.yaml"}
    on_disk = {
        path.relative_to(ROOT).as_posix()
        for folder in ("nodes", "lorweb_core", "web", "locales", "subgraphs", "workflows")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert on_disk <= {*files}


def test_of_the_small_worlds_models_those_are_packed_that_nodes_load(files):
    packed = {path.split("/")[2] for path in files if path.startswith("small_world/models/") and path.count("/") > 2}
    assert packed == {SHIPPED.name}
    on_disk = {path.relative_to(ROOT).as_posix() for path in SHIPPED.folder.rglob("*") if path.is_file()}
    assert on_disk <= {*files}


def test_the_package_is_of_a_size_that_people_download(files):
    assert sum((ROOT / path).stat().st_size for path in files) < 16e6


def test_nothing_that_scanners_flag_is_in_the_code(files):
    for path in files:
        if path.endswith(".py"):
            found = {*_flagged(ast.parse((ROOT / path).read_text("utf-8")))}
            assert not found, (path, found)


def _flagged(tree: ast.AST):
    """What runs code or programs, or reads what can; torch's own load is only used with weights_only."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="eval" | "exec" | "compile" | "__import__" as name)):
                yield name
            case ast.Import(names=names):
                yield from {name.name.split(".")[0] for name in names} & FORBIDDEN
            case ast.ImportFrom(module=str(module), level=0) if module.split(".")[0] in FORBIDDEN:
                yield module
            case ast.Attribute(value=ast.Name(id="os"), attr="system" | "popen" as name):
                yield f"os.{name}"
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load"), keywords=given) if not any(
                word.arg == "weights_only" and getattr(word.value, "value", False) is True for word in given
            ):
                yield "torch.load"


FORBIDDEN = {"subprocess", "pickle", "marshal", "shelve", "dill", "ctypes", "pip", "requests", "socket"}


def test_a_scanner_that_finds_nothing_would_find_these():
    code = "import pickle\nfrom subprocess import run\neval(x)\nos.system(y)\ntorch.load(z, weights_only=False)"
    assert [*_flagged(ast.parse(code))] == ["pickle", "subprocess", "eval", "torch.load", "os.system"]


def test_the_registry_finds_what_it_shows(project):
    about, comfy = project["project"], project["tool"]["comfy"]
    assert {"Homepage", "Repository", "Documentation", "Issues"} <= {*about["urls"]}
    assert about["license"] == "MIT"
    assert comfy["requires-comfyui"].startswith(">=")
    for field, folder in (("Icon", "icon.png"), ("Banner", "banner.png")):
        assert comfy[field].endswith(f"/main/docs/{folder}")
    icon, banner = (Image.open(ROOT / "docs" / name) for name in ("icon.png", "banner.png"))
    assert icon.size == (400, 400)
    assert banner.width * 9 == banner.height * 21
