# SPDX-License-Identifier: Apache-2.0
"""QAPI types of machine and CPUs."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict


class UuidInfo(TypedDict):
    """The guest's UUID, zeroes when none was given."""

    UUID: str


class KvmInfo(TypedDict):
    """Acceleration."""

    enabled: bool
    present: bool


CpuInstanceProperties = TypedDict(
    "CpuInstanceProperties",
    {"socket-id": NotRequired[int], "core-id": NotRequired[int], "thread-id": NotRequired[int]},
)
"""Where a vCPU sits in the guest's topology."""

CpuInfoFast = TypedDict(
    "CpuInfoFast",
    {
        "cpu-index": int,
        "qom-path": str,
        "thread-id": int,
        "props": NotRequired[CpuInstanceProperties],
        "target": Literal["x86_64"],
    },
)
"""One vCPU, without disturbing it."""

MachineInfo = TypedDict(
    "MachineInfo",
    {
        "name": str,
        "alias": NotRequired[str],
        "is-default": NotRequired[bool],
        "cpu-max": int,
        "hotpluggable-cpus": bool,
        "numa-mem-supported": bool,
        "deprecated": bool,
        "default-cpu-type": NotRequired[str],
        "default-ram-id": NotRequired[str],
    },
)
"""A board that -machine takes."""


class BalloonInfo(TypedDict):
    """What the guest has left."""

    actual: int


class GuidInfo(TypedDict):
    """The VM generation id."""

    guid: str
