# SPDX-License-Identifier: Apache-2.0
"""QAPI types of machine and CPUs."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from typing_extensions import TypedDict

from vmmd.qmp.models.unions import Tagged


class UuidInfo(TypedDict):
    """The guest's UUID, zeroes when none was given."""

    UUID: str


class KvmInfo(TypedDict):
    """Acceleration."""

    enabled: bool
    present: bool


CpuInstanceProperties = TypedDict(
    "CpuInstanceProperties",
    {
        "node-id": NotRequired[int],
        "socket-id": NotRequired[int],
        "die-id": NotRequired[int],
        "core-id": NotRequired[int],
        "thread-id": NotRequired[int],
    },
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


Accelerator = Literal["kvm", "qtest"]


class AcceleratorInfo(TypedDict):
    """What runs the guest, and what could."""

    enabled: Accelerator
    present: list[Accelerator]


class TargetInfo(TypedDict):
    """The guest's architecture."""

    arch: Literal["x86_64"]


CurrentMachineParams = TypedDict("CurrentMachineParams", {"wakeup-suspend-support": bool})
"""What this machine can do."""

HotpluggableCPU = TypedDict(
    "HotpluggableCPU",
    {
        "type": str,
        "vcpus-count": int,
        "props": CpuInstanceProperties,
        "qom-path": NotRequired[str],
    },
)
"""A place for a vCPU; with ``qom-path`` there is one."""

MemoryInfo = TypedDict("MemoryInfo", {"base-memory": int})
"""The guest's RAM in bytes."""


class PCDIMMDeviceInfo(TypedDict):
    """A DIMM."""

    id: NotRequired[str]
    addr: int
    size: int
    slot: int
    node: int
    memdev: str
    hotplugged: bool
    hotpluggable: bool


class PCDIMMDeviceInfoWrapper(TypedDict):
    """A DIMM among memory devices."""

    type: Literal["dimm"]
    data: PCDIMMDeviceInfo


MemoryDeviceInfo = Annotated[PCDIMMDeviceInfoWrapper, Tagged("type")]

Memdev = TypedDict(
    "Memdev",
    {
        "id": NotRequired[str],
        "size": int,
        "merge": bool,
        "dump": bool,
        "prealloc": bool,
        "share": bool,
        "reserve": NotRequired[bool],
        "host-nodes": list[int],
        "policy": Literal["default"],
    },
)
"""A memory backend."""
