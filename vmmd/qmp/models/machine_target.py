# SPDX-License-Identifier: Apache-2.0
"""QAPI types of CPU models."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

CpuModelExpansionType = Literal["static", "full"]

CpuDefinitionInfo = TypedDict(
    "CpuDefinitionInfo",
    {
        "name": str,
        "migration-safe": NotRequired[bool],
        "static": bool,
        "unavailable-features": NotRequired[list[str]],
        "typename": str,
        "alias-of": NotRequired[str],
        "deprecated": bool,
    },
)
"""A CPU model, and what keeps it from running on this host."""


class CpuModelInfo(TypedDict):
    """A CPU model and its properties, as -cpu takes them."""

    name: str
    props: NotRequired[object]


class CpuModelExpansionInfo(TypedDict):
    """What a CPU model stands for."""

    model: CpuModelInfo
