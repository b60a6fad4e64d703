# SPDX-License-Identifier: Apache-2.0
"""Unions in annotations of what is declared below the monitor: ``Annotated[A | B, TaggedUnion("type")]``.

The arms are TypedDicts whose tag is a ``Literal``. ``qmp.models.unions`` has the form that pydantic understands.
"""

from __future__ import annotations

import typing
from typing import Any


class TaggedUnion:
    """A union whose member ``tag`` says which arm it is (QAPI: union with discriminator)."""

    def __init__(self, tag: str) -> None:
        self.tag = tag

    def arms(self, union: Any) -> dict[str, Any]:
        """The arms by the words that select them. ``union`` is the ``Union``, or a single arm."""
        found: dict[str, Any] = {}
        for arm in arms_of(union):
            hint = typing.get_type_hints(arm)[self.tag]
            found |= dict.fromkeys(typing.get_args(hint), arm)
        return found


def arms_of(union: Any) -> tuple[Any, ...]:
    """The members of a ``Union``; anything else is a union of one."""
    import types

    is_union = typing.get_origin(union) in (typing.Union, types.UnionType)
    return typing.get_args(union) if is_union else (union,)
