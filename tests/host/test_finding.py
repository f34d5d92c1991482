"""Where people find the nodes: in which menu, by which words, and which inputs wait behind a click."""

import pytest

OF_MIXTURES = {"MixtureBlend", "MixtureEdit", "SaveMixture", "LoadMixture", "MixtureInspector", "ExportLoRA"}
OF_BASES = {"BasisSimilarity", "MergeBases", "PruneBasis"}
OF_TRAINING = {"TrainBasis"}


@pytest.fixture
def schemas(host):
    import nodes

    ours = {name.removeprefix("LoRWeB"): node for name, node in nodes.NODE_CLASS_MAPPINGS.items() if "LoRWeB" in name}
    return {name: node.GET_SCHEMA() for name, node in ours.items()}


def test_the_menu_has_the_main_nodes_and_three_submenus(schemas):
    found = {}
    for name, schema in schemas.items():
        found.setdefault(schema.category, set()).add(name)
    assert found.pop("LoRWeB") >= {"BasisLoader", "AnalogyEncoder", "MixedLoRAApply", "ExtendedAttention"}
    assert found["LoRWeB/mixtures"] >= OF_MIXTURES
    assert found["LoRWeB/basis"] >= OF_BASES
    assert found["LoRWeB/training"] >= OF_TRAINING
    assert len(found) == 3


@pytest.mark.parametrize(
    "words",
    [
        *("before after", "edit by example", "visual analogy", "style transfer", "transfer edit", "reference"),
        *("compare", "lora mix", "kontext", "train lora", "analogy", "lorweb"),
    ],
)
def test_the_words_people_type_find_a_node(schemas, words):
    texts = {name: [f"LoRWeB{name}", schema.display_name, *schema.search_aliases] for name, schema in schemas.items()}
    assert any(words in text.lower() for several in texts.values() for text in several)


def test_every_node_is_found_by_other_words_than_its_name(schemas):
    for schema in schemas.values():
        assert schema.search_aliases, schema.node_id
        assert not {schema.display_name.lower(), schema.node_id.lower()} & {*schema.search_aliases}


def test_inputs_that_must_be_given_are_never_hidden(schemas):
    for schema in schemas.values():
        for wanted in schema.inputs:
            assert not wanted.advanced or wanted.default is not None, (schema.node_id, wanted.id)
