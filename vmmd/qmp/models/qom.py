# SPDX-License-Identifier: Apache-2.0
"""QAPI types of the object model."""

from __future__ import annotations

from typing import NotRequired

from typing_extensions import TypedDict

ObjectPropertyInfo = TypedDict(
    "ObjectPropertyInfo",
    {"name": str, "type": str, "description": NotRequired[str], "default-value": NotRequired[object]},
)
"""A property of an object or of a type."""
