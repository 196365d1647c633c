"""Names, numbers and JSON of strangers."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microdiff.core.untrusted import are_texts, check_name, check_names_fit, check_part, is_number, load_json

PARTS = st.one_of(st.text(max_size=5), st.sampled_from(["..", ".", "", "a", "\\", "\x00", "~", "x" * 300, "a.mds"]))


@given(st.lists(PARTS, max_size=5).map("/".join))
def test_a_name_that_passes_stays_inside_and_can_be_a_file(name: str) -> None:
    try:
        checked = check_name(name)
    except ValueError:
        return
    assert checked == name
    assert os.path.normpath(f"/top/{name}") == f"/top/{name}"
    assert Path("/top", name).is_relative_to("/top")
    assert Path("/top", name) != Path("/top")
    assert not Path("/top", name).exists()  # raises for a name that the system cannot take, as with NUL


@pytest.mark.parametrize(
    "name", ["a", "a.mds", "512/a.mds", "ä/狐.mds", "...", "..a", "a b", "~", "x" * 230, "a:b", "-rf"]
)
def test_names_inside_pass(name: str) -> None:
    assert check_name(name) == name
    assert (check_part(name) if "/" not in name else name) == name


NAMES = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/..",
    "a/../b",
    "./a",
    "a/./b",
    "a\\b",
    "..\\a",
    "a\x00",
    "a\n",
]
NAMES += ["\x7f", "\ud800", "x" * 231, "ä" * 116, "a/" * 600 + "a"]


@pytest.mark.parametrize("name", [*NAMES, None, 5, 1.5, True, b"a", [], ["a"], {}], ids=ascii)
def test_names_that_lead_out_or_cannot_be_files_are_refused(name: object) -> None:
    with pytest.raises(ValueError, match="not one inside its folder"):
        check_name(name)


def test_a_part_has_no_slash() -> None:
    with pytest.raises(ValueError, match="expected one without a slash"):
        check_part("a/b")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "b", "a"], "the name 'a' twice"),
        (["a/b", "a"], "'a' both of a file and of a folder"),
        (["a/b", "a/b/c/d"], "'a/b' both of a file and of a folder"),
        (["a", "b/a", "a.b", "aa/b", "b/c/d"], None),
    ],
)
def test_names_fit_together(names: list[str], message: str | None) -> None:
    if message is None:
        check_names_fit(names)
        return
    with pytest.raises(ValueError, match=message):
        check_names_fit(names)


@pytest.mark.parametrize(
    ("value", "is_one"), [(0, True), (5, True), (6, False), (-1, False), (True, False), (1.0, False)]
)
def test_numbers(value: object, is_one: bool) -> None:
    assert is_number(value, 0, 5) is is_one


def test_texts() -> None:
    assert are_texts({})
    assert are_texts({"a": "b"})
    assert not any(map(are_texts, ({"a": 1}, [], "a", None)))


@pytest.mark.parametrize(
    "text", ["", "{", b"\xff", "[" * 101 + "]" * 101, "[" * 10**5, '{"a":' * 300 + "1" + "}" * 300]
)
def test_what_is_no_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        load_json(text)


@given(
    st.recursive(st.none() | st.integers() | st.text(), lambda each: st.lists(each) | st.dictionaries(st.text(), each))
)
def test_json_is_read_as_it_is(value: object) -> None:
    assert load_json(json.dumps(value)) == value
