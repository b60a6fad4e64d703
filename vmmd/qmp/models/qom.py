# SPDX-License-Identifier: Apache-2.0
"""QAPI types of the object model."""

from __future__ import annotations

from typing import NotRequired

from typing_extensions import TypedDict

from vmmd.options.objects import OBJECTS
from vmmd.qmp.models.options import option_union

ObjectOptions = option_union(__name__, "qom-type", OBJECTS)

ObjectPropertyInfo = TypedDict(
    "ObjectPropertyInfo",
    {"name": str, "type": str, "description": NotRequired[str], "default-value": NotRequired[object]},
)
"""A property of an object or of a type."""


class ObjectTypeInfo(TypedDict):
    name: str
    abstract: NotRequired[bool]
    parent: NotRequired[str]


"""A type of objects."""
