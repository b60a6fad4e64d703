# SPDX-License-Identifier: Apache-2.0
"""QAPI types of PCI."""

from __future__ import annotations

from typing import NotRequired

from typing_extensions import TypedDict


class PciMemoryRegion(TypedDict):
    bar: int
    type: str  # "io" or "memory"
    address: int
    size: int
    prefetch: NotRequired[bool]
    mem_type_64: NotRequired[bool]


"""A BAR; ``address`` is -1 while it is not mapped."""

PciDeviceClass = TypedDict("PciDeviceClass", {"desc": NotRequired[str], "class": int})
"""Class code in numbers and words."""

PciDeviceId = TypedDict(
    "PciDeviceId",
    {"device": int, "vendor": int, "subsystem": NotRequired[int], "subsystem-vendor": NotRequired[int]},
)
"""Identification registers."""


class PciDeviceInfo(TypedDict):
    """One function of a bus."""

    bus: int
    slot: int
    function: int
    class_info: PciDeviceClass
    id: PciDeviceId
    irq: NotRequired[int]
    irq_pin: int
    qdev_id: str
    regions: list[PciMemoryRegion]


class PciInfo(TypedDict):
    """A bus and its functions."""

    bus: int
    devices: list[PciDeviceInfo]
