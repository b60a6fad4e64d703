# SPDX-License-Identifier: Apache-2.0
"""QAPI types of the schema itself."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from typing_extensions import TypedDict

from vmmd.qmp.models.unions import Tagged

JSONType = Literal["string", "number", "int", "boolean", "null", "object", "array", "value"]


class SchemaInfoEnumMember(TypedDict):
    """A word of an enumeration."""

    name: str


class SchemaInfoObjectMember(TypedDict):
    """A member; optional when ``default`` is there."""

    name: str
    type: str
    default: NotRequired[object]


class SchemaInfoObjectVariant(TypedDict):
    """What an object has besides, when its tag is ``case``."""

    case: str
    type: str


class SchemaInfoAlternateMember(TypedDict):
    """One of the kinds of value that an alternate takes."""

    type: str


SchemaInfoBuiltin = TypedDict(
    "SchemaInfoBuiltin", {"name": str, "meta-type": Literal["builtin"], "json-type": JSONType}
)
"""A type of JSON."""

SchemaInfoEnum = TypedDict(
    "SchemaInfoEnum",
    {"name": str, "meta-type": Literal["enum"], "members": list[SchemaInfoEnumMember], "values": list[str]},
)
"""One of a few words; ``values`` is for clients of before 6.2."""

SchemaInfoArray = TypedDict("SchemaInfoArray", {"name": str, "meta-type": Literal["array"], "element-type": str})
"""A list."""

SchemaInfoObject = TypedDict(
    "SchemaInfoObject",
    {
        "name": str,
        "meta-type": Literal["object"],
        "members": list[SchemaInfoObjectMember],
        "tag": NotRequired[str],
        "variants": NotRequired[list[SchemaInfoObjectVariant]],
    },
)
"""An object, or with ``tag`` a union."""

SchemaInfoAlternate = TypedDict(
    "SchemaInfoAlternate", {"name": str, "meta-type": Literal["alternate"], "members": list[SchemaInfoAlternateMember]}
)
"""Values of different JSON kinds."""

SchemaInfoCommand = TypedDict(
    "SchemaInfoCommand",
    {
        "name": str,
        "meta-type": Literal["command"],
        "arg-type": str,
        "ret-type": str,
        "allow-oob": NotRequired[bool],
        "features": NotRequired[list[str]],
    },
)
"""A command."""

SchemaInfoEvent = TypedDict("SchemaInfoEvent", {"name": str, "meta-type": Literal["event"], "arg-type": str})
"""An event."""

SchemaInfo = Annotated[
    SchemaInfoBuiltin
    | SchemaInfoEnum
    | SchemaInfoArray
    | SchemaInfoObject
    | SchemaInfoAlternate
    | SchemaInfoCommand
    | SchemaInfoEvent,
    Tagged("meta-type"),
]
"""An entity of the schema."""
