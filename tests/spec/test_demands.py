from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from partitioner.errors import SpecError
from partitioner.spec import (
    Colocate,
    Constraint,
    Contiguous,
    Demands,
    Pin,
    Separate,
    Targets,
    match,
    nearest,
    parse_constraint,
    resolve,
)

DEVICES = ("cuda:0", "cuda:1")

# A little language model: nodes in order, each with the module that made it.
TARGETS = Targets(
    nodes={
        "tokens": "",
        "embedding": "embedding",
        "layers_0_attention": "layers.0.attention",
        "add": "layers.0",
        "layers_1_attention": "layers.1.attention",
        "add_1": "layers.1",
        "lm_head": "lm_head",
        "softmax": "",
    },
    parameters={
        "embedding.weight": ("embedding",),
        "layers.0.attention.weight": ("layers_0_attention",),
        "layers.1.attention.weight": ("layers_1_attention",),
        "lm_head.weight": ("lm_head",),
        "unused": (),
    },
)
LAYER_0 = ("layers_0_attention", "add")
LAYER_1 = ("layers_1_attention", "add_1")


def resolved(*constraints: Constraint, colocated: tuple[tuple[str, ...], ...] = ()) -> Demands:
    return resolve(constraints, TARGETS, DEVICES, colocated)


def test_a_pin_on_a_module_covers_its_submodules() -> None:
    assert resolved(Pin("layers.0", "cuda:1")).pinned == dict.fromkeys(LAYER_0, "cuda:1")


def test_a_pin_may_name_a_parameter_or_a_node() -> None:
    demands = resolved(Pin("lm_head.weight", "cuda:0"), Pin("add_1", torch.device("cuda:1")))
    assert demands.pinned == {"lm_head": "cuda:0", "add_1": "cuda:1"}


def test_a_star_matches_everything() -> None:
    assert set(resolved(Pin("*", "cuda:1")).pinned) == set(TARGETS.nodes)


def test_a_glob_matches_dots_too() -> None:
    assert set(resolved(Pin("layers.*.weight", "cuda:1")).pinned) == {LAYER_0[0], LAYER_1[0]}


def test_colocate_puts_all_matches_of_all_patterns_together() -> None:
    assert resolved(Colocate("lm_head", "embedding")).colocated == (("embedding", "lm_head"),)
    assert resolved(Colocate("layers")).colocated == ((*LAYER_0, *LAYER_1),)


def test_separate_keeps_patterns_apart() -> None:
    demands = resolved(Separate("layers.0", "layers.1"))
    assert demands.separated == ((LAYER_0, LAYER_1),)


def test_separate_of_one_pattern_keeps_the_shallowest_matches_apart() -> None:
    assert resolved(Separate("layers.?")).separated == ((LAYER_0, LAYER_1),)
    assert len(resolved(Separate("layers.*")).separated) == 1
    three = resolved(Separate("[el]*d*"))  # embedding, lm_head, and no layer
    assert three.separated == ((("embedding",), ("lm_head",)),)


def test_separate_of_three_patterns_is_pairwise() -> None:
    assert len(resolved(Separate("embedding", "layers", "lm_head")).separated) == 3


def test_contiguous_is_a_flag() -> None:
    assert resolved(Contiguous()).contiguous
    assert not resolved().contiguous


names = st.text("abcxyz019_.*?[]", min_size=1, max_size=8)
constraints = st.one_of(
    st.builds(Pin, names, st.sampled_from(["cuda:0", "cuda:13", "cpu"])),
    st.lists(names, min_size=1, max_size=3).map(lambda patterns: Colocate(*patterns)),
    st.lists(names, min_size=1, max_size=3).map(lambda patterns: Separate(*patterns)),
    st.just(Contiguous()),
)


@settings(max_examples=60, deadline=None)
@given(constraints)
def test_a_constraint_is_a_value_with_one_text(constraint: Constraint) -> None:
    assert parse_constraint(str(constraint)) == constraint
    assert copy.deepcopy(constraint) == pickle.loads(pickle.dumps(constraint)) == constraint
    assert len({constraint, parse_constraint(str(constraint))}) == 1
    assert eval(repr(constraint)) == constraint


def test_constraints_of_different_classes_differ() -> None:
    assert Colocate("a") != Separate("a")


@pytest.mark.parametrize(
    ("text", "constraint"),
    [
        ("pin lm_head=cuda:1", Pin("lm_head", "cuda:1")),
        ("  pin  lm_head = cuda:1 ", Pin("lm_head", "cuda:1")),
        ("colocate a*,b*", Colocate("a*", "b*")),
        ("separate a, b", Separate("a", "b")),
        ("contiguous", Contiguous()),
    ],
)
def test_texts_are_read(text: str, constraint: Constraint) -> None:
    assert parse_constraint(text) == constraint


BAD_TEXTS = [
    ("", "unknown constraint ''"),
    ("pine a=cuda:0", "did you mean 'pin'"),
    ("Pin a=cuda:0", "did you mean 'pin'"),
    ("pin", "names no device"),
    ("pin lm_head", "names no device"),
    ("pin lm_head=", "knows no device ''"),
    ("pin =cuda:0", "pattern is empty"),
    ("pin a b=cuda:0", "has a space"),
    ("pin a=gpu:0", "knows no device 'gpu:0'"),
    ("colocate", "pattern is empty"),
    ("colocate a,,b", "pattern is empty"),
    ("separate a b", "has a space"),
    ("separate a=b", "has a space, a comma or '='"),
    ("contiguous a", "takes no pattern"),
]


@pytest.mark.parametrize(("text", "fragment"), BAD_TEXTS)
def test_bad_texts(text: str, fragment: str) -> None:
    with pytest.raises(SpecError) as error:
        parse_constraint(text)
    assert fragment in str(error.value)


BAD_CONSTRAINTS = [
    ([Pin("lm_haed", "cuda:0")], "Pin(pattern='lm_haed', device='cuda:0'): the pattern 'lm_haed'"),
    ([Pin("lm_haed", "cuda:0")], "did you mean 'lm_head'"),
    ([Pin("encoder.*", "cuda:0")], "matches nothing"),
    ([Colocate("embedding", "nothing")], "'nothing' matches nothing"),
    ([Separate("embedding", "decoder*")], "'decoder*' matches nothing"),
    ([Pin("unused", "cuda:0")], "no node uses what the pattern 'unused' matches"),
    ([Pin("lm_head", "cuda:2")], "unknown device 'cuda:2'; did you mean 'cuda:"),
    (
        [Pin("lm_head", "cuda:0"), Pin("lm_*", "cuda:1")],
        "Pin(pattern='lm_head', device='cuda:0') and Pin(pattern='lm_*', device='cuda:1') "
        "contradict each other: both pin 'lm_head'",
    ),
    (
        [Colocate("embedding", "lm_head"), Separate("embedding", "lm_head")],
        "Separate('embedding', 'lm_head') contradicts Colocate('embedding', 'lm_head')",
    ),
    (
        [Colocate("embedding", "add"), Colocate("add", "lm_head"), Separate("emb*", "lm_head")],
        "Colocate('embedding', 'add') and Colocate('add', 'lm_head')",
    ),
    ([Colocate("layers"), Separate("layers.?")], "cannot be both apart and together"),
    (
        [Pin("embedding", "cuda:0"), Pin("lm_head", "cuda:1"), Colocate("embedding", "lm_head")],
        "contradict Colocate('embedding', 'lm_head'): 'embedding' and 'lm_head' must share",
    ),
    (
        [Pin("embedding", "cuda:0"), Pin("lm_head", "cuda:0"), Separate("embedding", "lm_head")],
        "'embedding' and 'lm_head' are both pinned to 'cuda:0'",
    ),
    ([Separate("embedding", "emb*")], "both 'embedding' and 'emb*' match the node 'embedding'"),
    ([Separate("lm_head")], "matches one thing only"),
    (["pin lm_head=cuda:0"], "is no constraint"),
    ([Pin], "is no constraint"),
]


@pytest.mark.parametrize(("given_constraints", "fragment"), BAD_CONSTRAINTS)
def test_bad_constraints(given_constraints: list[Constraint], fragment: str) -> None:
    with pytest.raises(SpecError) as error:
        resolved(*given_constraints)
    assert fragment in str(error.value)


def test_what_the_model_needs_together_cannot_be_pinned_apart() -> None:
    with pytest.raises(SpecError, match="the model itself"):
        resolved(
            Pin("embedding", "cuda:0"),
            Pin("lm_head", "cuda:1"),
            colocated=(("embedding", "lm_head"),),
        )


@pytest.mark.parametrize(
    ("make", "fragment"),
    [
        (lambda: Pin(3, "cuda:0"), "not 3"),
        (lambda: Pin("a", 3), "not 3"),
        (lambda: Pin("a", "cudda:0"), "knows no device 'cudda:0'"),
        (lambda: Colocate(""), "pattern is empty"),
        (lambda: Colocate(["a", "b"]), "not ['a', 'b']"),
        (lambda: Separate("a", "b,c"), "'b,c' has"),
    ],
)
def test_constraints_that_cannot_be_made(make, fragment: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SpecError) as error:
        make()
    assert fragment in str(error.value)


def test_names_are_matched_in_their_order_or_the_nearest_are_told() -> None:
    assert match("b*", ["ba", "a", "bb"]) == ("ba", "bb")
    with pytest.raises(SpecError, match="did you mean 'encoder'"):
        match("encodr", ["decoder", "encoder"])


def test_nearest_spelling_ignores_case() -> None:
    assert nearest("A100-40GB", ["v100", "a100-40gb"])[0] == "a100-40gb"
