# SPDX-License-Identifier: Apache-2.0
"""QAPI's unions and alternates as annotations: they tell pydantic how to choose, and introspection what to publish.

    ObjectOptions = Annotated[SecretOptions | RamOptions, Tagged("qom-type")]   # the member says which
    BlockdevRef = Annotated[str | BlockdevOptions, Alternate("BlockdevRef")]    # the kind of JSON value says which

The arms of a ``Tagged`` union are TypedDicts whose tag is a ``Literal``. pydantic is imported when a validator is
built.
"""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Any

from vmmd.core.unions import TaggedUnion, arms_of

if TYPE_CHECKING:
    from collections.abc import Callable

#: starts the choices of unions in the location of an error, where they are no part of the path (``arguments``)
CHOICE = "\0"
#: type of the error when no arm fits; its context has ``tag`` and ``words``, or ``expected``
NO_ARM = "no_arm"

_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "bool"),
    (str, "str"),
    (int, "int"),
    (float, "number"),
    (list, "array"),
    (dict, "object"),
)


class Tagged(TaggedUnion):
    """A union whose member ``tag`` says which arm it is."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """A tagged union; a word that selects nothing is reported with the tag's name."""
        arms = self.arms(source)
        choices = {CHOICE + word: handler.generate_schema(arm) for word, arm in arms.items()}  # type: ignore[attr-defined]
        return _tagged_union(choices, self._choose, {"tag": self.tag, "words": " ".join(arms)})

    def _choose(self, value: Any) -> str | None:
        word = value.get(self.tag) if isinstance(value, dict) else None
        return None if word is None else CHOICE + word if isinstance(word, str) else CHOICE + CHOICE


class Alternate:
    """A union whose arms are told apart by the kind of JSON value (QAPI: alternate ``name``)."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """A union by the kind of value."""
        choices = {
            CHOICE + json_kind(arm): handler.generate_schema(arm)  # type: ignore[attr-defined]
            for arm in arms_of(source)
        }
        return _tagged_union(choices, self._choose, {"expected": self.name})

    @staticmethod
    def _choose(value: Any) -> str:
        return CHOICE + next((word for kind, word in _KINDS if isinstance(value, kind)), "null")


def json_kind(arm: Any) -> str:
    """The kind of JSON value that an arm of an alternate takes."""
    if typing.get_origin(arm) is typing.Annotated:
        arm = typing.get_args(arm)[0]
    if typing.get_origin(arm) is list:
        return "array"
    return {bool: "bool", str: "str", int: "int", float: "number"}.get(arm, "object")


def _tagged_union(choices: dict[str, Any], choose: Callable[[Any], str | None], context: dict[str, Any]) -> Any:
    from pydantic_core import core_schema

    return core_schema.tagged_union_schema(
        choices, choose, custom_error_type=NO_ARM, custom_error_message="no arm fits", custom_error_context=context
    )
