"""The help pages and translations: there for every node, and for nothing else."""

import re
import shutil

import pytest
from environment import ROOT
from help_pages import TABLES, page_path, tables, translations

DOCS = ROOT / "web" / "docs"


@pytest.fixture
def schemas(host):
    import nodes

    return {name: node for name, node in nodes.NODE_CLASS_MAPPINGS.items() if name.startswith("LoRWeB")}


@pytest.mark.parametrize("language", TABLES)
def test_every_node_has_a_page_that_names_its_inputs_and_outputs_and_shows_it(schemas, language):
    for name, node in schemas.items():
        schema, page = node.GET_SCHEMA(), page_path(name, language).read_text("utf-8")
        told = set(re.findall(r"`([^`\n]+)`", "".join(line for line in page.splitlines() if line.startswith("| "))))
        assert told == {socket.id for socket in (*schema.inputs, *schema.outputs)}, page_path(name, language)
        (picture,) = re.findall(r"!\[\]\((.+?)\)", page)
        assert (DOCS / picture).is_file()
        assert page.startswith(f"# {translations(language).get(name, {}).get('display_name', schema.display_name)}\n")
        text = page[: min(f"{page}{heading}".find(heading) for heading in TABLES[language])]
        assert len(text) > 100, "a page is more than its tables"


def test_there_are_no_pages_and_pictures_of_nodes_that_do_not_exist(schemas):
    files = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*") if path.is_file()}
    pages = {page_path(name, language).relative_to(DOCS).as_posix() for name in schemas for language in TABLES}
    assert files == pages | {f"pictures/{name}.png" for name in schemas}


@pytest.mark.parametrize("language", TABLES.keys() - {"en"})
def test_translations_cover_every_name_and_tooltip_and_no_other(schemas, language):
    translated = translations(language)
    assert translated.keys() == schemas.keys()
    for name, node in schemas.items():
        schema, texts = node.GET_SCHEMA(), translated[name]
        assert texts["inputs"].keys() == {wanted.id for wanted in schema.inputs}, name
        assert texts["outputs"].keys() == {str(place) for place in range(len(schema.outputs))}, name
        assert texts["display_name"]
        assert texts["description"]
        for socket in (*texts["inputs"].values(), *texts["outputs"].values()):
            assert socket.keys() == {"name", "tooltip"}
            assert all(socket.values())


@pytest.mark.parametrize("language", TABLES.keys() - {"en"})
def test_translations_have_no_sign_that_the_frontends_messages_read_as_syntax(language):
    """In vue-i18n { } interpolate, @ links and | separates plurals."""

    def texts(part):
        return [part] if isinstance(part, str) else [text for value in part.values() for text in texts(value)]

    assert not [text for text in texts(translations(language)) if set(text) & set("{}@|")]


def test_tables_say_what_the_schema_says():
    schema = {
        "input": {
            "required": {"a": ["IMAGE", {"tooltip": "Before."}]},
            "optional": {"b": ["INT", {"tooltip": "More.", "advanced": True}]},
        },
        "output_name": ["out"],
        "output_tooltips": ["After."],
    }
    translated = {"inputs": {"b": {"name": "乙", "tooltip": "更多。"}}}
    assert tables(schema, {}, "en").splitlines() == [
        *("## Inputs", "", "| | |", "| --- | --- |", "| `a` | Before. |", "| `b` (advanced) | More. |"),
        *("", "## Outputs", "", "| | |", "| --- | --- |", "| `out` | After. |"),
    ]
    assert "| 乙 `b` (高级) | 更多。 |" in tables(schema, translated, "zh")
    assert "Outputs" not in tables(schema | {"output_name": [], "output_tooltips": []}, {}, "en")


def test_the_host_hands_the_translations_to_the_frontend(host, tmp_path, monkeypatch):
    import folder_paths

    # In tests with the oldest host another module `utils` is found before the host's own package.
    manager = pytest.importorskip("app.custom_node_manager", exc_type=ImportError).CustomNodeManager

    shutil.copytree(ROOT / "locales", tmp_path / "pack" / "locales")
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda name: [str(tmp_path)])
    found = manager().build_translations()
    assert found == {language: {"nodeDefs": translations(language)} for language in TABLES if language != "en"}
