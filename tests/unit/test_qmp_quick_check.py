# SPDX-License-Identifier: Apache-2.0
"""The check without pydantic is the check with it: the same values, the same sentences, for every plain command."""

from __future__ import annotations

import subprocess
import sys
import typing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import is_typeddict

from vmmd.errors import UsageError
from vmmd.qmp.arguments import argument_check
from vmmd.qmp.introspect import arguments_of, members_of, resolved_hints, without_none
from vmmd.qmp.quick_check import quick_check
from vmmd.qmp.registry import load

if typing.TYPE_CHECKING:
    from vmmd.qmp.registry import CommandSpec

PLAIN = {name: spec for name, spec in load().items() if spec.has_arguments and quick_check(spec) is not None}
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1)
JSON = st.one_of(st.none(), st.booleans(), NUMBERS, st.floats(allow_nan=False, allow_infinity=False), TEXTS)
ANYTHING = st.one_of(JSON, st.lists(JSON, max_size=2), st.dictionaries(TEXTS, JSON, max_size=2))


def members(found: list[tuple[str, Any, bool]]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects that are right, or nearly so."""
    every = {name: values(without_none(hint)) for name, hint, _ in found}
    needed = {name: every[name] for name, _, optional in found if not optional}
    optional = {name: every[name] for name in every if name not in needed}
    right = st.fixed_dictionaries(needed, optional=optional)
    lacking = st.fixed_dictionaries({}, optional=every)
    more = st.builds(lambda given, other: given | other, right, st.dictionaries(TEXTS, JSON, min_size=1, max_size=1))
    return st.one_of(right, right, lacking, more)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a type, and others."""
    scalars = {str: TEXTS, bool: st.booleans(), int: NUMBERS, float: st.floats(allow_nan=False, allow_infinity=False)}
    if hint in scalars:
        right: st.SearchStrategy[Any] = scalars[hint]
    elif typing.get_origin(hint) is typing.Literal:
        right = st.sampled_from(typing.get_args(hint))
    elif typing.get_origin(hint) is list:
        right = st.lists(values(typing.get_args(hint)[0]), max_size=3)
    elif is_typeddict(hint):
        right = members(members_of(hint))
    else:
        return ANYTHING
    return st.one_of(right, right, right, ANYTHING)


def whole(spec: CommandSpec) -> st.SearchStrategy[dict[str, Any]]:
    hints = resolved_hints(spec)
    return members(members_of(hints[spec.boxed]) if spec.boxed else arguments_of(spec, hints))


def outcome(check: Any, arguments: dict[str, Any]) -> object:
    try:
        return check(arguments)
    except UsageError as error:
        return str(error)


def test_what_managers_ask_is_plain_and_unions_are_not() -> None:
    assert {"query-cpu-model-expansion", "human-monitor-command", "qmp_capabilities", "device-list-properties"} & set(
        load()
    ) <= set(PLAIN)
    assert len(PLAIN) > 20
    assert not {"chardev-add", "device_add"} & set(PLAIN)


@pytest.mark.parametrize("name", PLAIN)
def test_both_checks_agree(name: str) -> None:
    spec = PLAIN[name]
    quick, model = quick_check(spec), argument_check(spec)

    @settings(max_examples=25, deadline=None, database=None)
    @given(whole(spec))
    def agree(arguments: dict[str, Any]) -> None:
        assert outcome(quick, arguments) == outcome(model, arguments)

    agree()


@pytest.mark.parametrize("key", ["\0", "\0str", "a\0b", "vmmd"])
def test_an_unexpected_member_is_named_whatever_its_name(key: str) -> None:
    spec = PLAIN["query-blockstats"]
    expected = f"Parameter '{key}' is unexpected; known are: query-nodes"
    assert outcome(argument_check(spec), {key: 1}) == expected
    assert outcome(quick_check(spec), {key: 1}) == expected


@pytest.mark.parametrize("depth", [210, 300, 900])  # pydantic ends at about 200, orjson at 254
@pytest.mark.parametrize("name", ["blockdev-add", "device_add"])
def test_arguments_nested_too_deeply_are_refused(name: str, depth: int) -> None:
    nested: dict[str, object] = {"driver": "null-co"}
    for _ in range(depth):
        nested = {"driver": "raw", "file": nested}
    with pytest.raises(UsageError, match=r"nested too deeply$"):
        argument_check(load()[name])(nested)


def test_integers_have_64_bits() -> None:
    quick = quick_check(PLAIN["balloon"])
    assert quick is not None
    assert quick({"value": (1 << 63) - 1}) == {"value": (1 << 63) - 1}
    for number in (1 << 63, -(1 << 63) - 1):
        with pytest.raises(UsageError, match="Invalid parameter type for 'value', expected: integer"):
            quick({"value": number})


def test_a_plain_command_does_not_import_pydantic() -> None:
    code = """
import sys
from vmmd.qmp.registry import load, needs_models
from vmmd.qmp.session import Request
spec = load()["query-cpu-model-expansion"]
request = Request(spec, {"type": "full", "model": {"name": "base"}}, None, oob=False)
assert needs_models(request) is False
assert spec.argument_check(request.arguments) == request.arguments
assert needs_models(Request(load()["chardev-add"], {"id": "c"}, None, oob=False)) is True
assert "pydantic" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
