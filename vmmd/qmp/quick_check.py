# SPDX-License-Identifier: Apache-2.0
"""Strict checking of plain QMP arguments without pydantic, from the same annotations and with the same sentences.

Plain are strings, booleans, numbers, enumerations, any value, and lists and TypedDicts of these. A manager that looks
at an emulator sends nothing else, and would otherwise wait 0.15 s for the import of pydantic; unions and option models
are left to ``arguments``. ``tests/unit/test_qmp_quick_check.py`` compares both on everything.
"""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Any

from typing_extensions import is_typeddict

from vmmd.errors import UsageError
from vmmd.qmp.introspect import arguments_of, members_of, resolved_hints, without_none
from vmmd.qmp.refusals import not_a_word, unexpected

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.qmp.registry import CommandSpec

#: (value, its path) → the value as the handler gets it. Raises UsageError.
Check = typing.Callable[[Any, str], Any]

_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1


class _NotPlain(Exception):
    """An annotation that this module leaves to pydantic."""


def quick_check(spec: CommandSpec) -> Callable[[dict[str, object]], dict[str, object]] | None:
    """A function from the ``arguments`` object to keyword arguments that raises UsageError in QAPI's words; None for a
    command whose arguments are not plain."""
    if spec.takes_more:
        return None
    hints = resolved_hints(spec)
    try:
        if spec.boxed:
            return _boxed(_check_of(hints[spec.boxed]))
        members = [
            (name, _check_of(without_none(hint) if optional else hint), optional)
            for name, hint, optional in arguments_of(spec, hints)
        ]
    except _NotPlain:
        return None
    whole = _object(members)

    def check(arguments: dict[str, object]) -> dict[str, object]:
        return {name.replace("-", "_"): value for name, value in whole(arguments, "").items()}

    return check


def _boxed(whole: Check) -> Callable[[dict[str, object]], dict[str, object]]:
    return lambda arguments: typing.cast("dict[str, object]", whole(arguments, ""))


def _check_of(hint: Any) -> Check:
    """The check of one type. Raises _NotPlain."""
    if hint in _SCALARS:
        return _SCALARS[hint]
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal and all(isinstance(word, str) for word in inside):
        return _enumeration(frozenset(inside))
    if origin is list:
        return _array(_check_of(inside[0]))
    if is_typeddict(hint):
        return _object([(name, _check_of(member), optional) for name, member, optional in members_of(hint)])
    raise _NotPlain


def _wrong(path: str, expected: str) -> UsageError:
    return UsageError(f"Invalid parameter type for '{path}', expected: {expected}")


def _any(value: Any, _path: str) -> Any:
    return value


def _string(value: Any, path: str) -> str:
    if type(value) is not str:
        raise _wrong(path, "string")
    return value


def _boolean(value: Any, path: str) -> bool:
    if type(value) is not bool:
        raise _wrong(path, "boolean")
    return value


def _integer(value: Any, path: str) -> int:
    if type(value) is not int or not _INT64_MIN <= value <= _INT64_MAX:
        raise _wrong(path, "integer")
    return value


def _number(value: Any, path: str) -> float:
    if type(value) is int or type(value) is float:
        return float(value)
    raise _wrong(path, "number")


_SCALARS: dict[Any, Check] = {
    str: _string, bool: _boolean, int: _integer, float: _number, object: _any, Any: _any
}  # fmt: skip


def _enumeration(words: frozenset[str]) -> Check:
    def check(value: Any, path: str) -> str:
        if _string(value, path) not in words:
            # QEMU-COMPAT: 7.2 names the member without its path, and an element of a list 'null'
            shown = "null" if path.endswith("]") else path.rpartition(".")[2]
            raise not_a_word(shown, value, words)
        return typing.cast("str", value)

    return check


def _array(element: Check) -> Check:
    def check(value: Any, path: str) -> list[Any]:
        if type(value) is not list:
            raise _wrong(path, "array")
        return [element(each, f"{path}[{index}]") for index, each in enumerate(value)]

    return check


def _object(members: list[tuple[str, Check, bool]]) -> Check:
    names = frozenset(name for name, _, _ in members)

    def check(value: Any, path: str) -> dict[str, Any]:
        if type(value) is not dict:
            raise _wrong(path, "object")
        prefix = f"{path}." if path else ""
        found = {}
        for name, member, optional in members:
            if name in value:
                found[name] = member(value[name], prefix + name)
            elif not optional:
                raise UsageError(f"Parameter '{prefix}{name}' is missing")
        for name in value:
            if name not in names:
                raise unexpected(prefix + name, None if path else names)
        return found

    return check
