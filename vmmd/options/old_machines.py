# SPDX-License-Identifier: Apache-2.0
"""What devices were like by default on older machines: a guest that was installed on one must not find another device.

Found by comparison: ``info qtree`` of QEMU 7.2 with each ``-machine pc-i440fx-X.Y`` (tests/differential/test_qom.py).
Applied like ``-global``, before those that are given. Of properties that vmmd does not have, nothing happens.
"""

from __future__ import annotations

from typing import NamedTuple


class OldDefault(NamedTuple):
    """Like ``GlobalProperty``, but of a property that need not be there."""

    driver: str
    property: str
    value: str


#: the last version with these defaults -> (driver, property, value). LIMIT: page-per-vq=on, up to 2.7, is not available
_UP_TO: tuple[tuple[tuple[int, int], tuple[tuple[str, str, str], ...]], ...] = (
    ((7, 1), (("virtio-device", "queue_reset", "off"), ("virtio-rng-device", "vectors", "0"))),
    ((6, 0), (("i8042", "extended-state", "off"),)),
    ((5, 2), (("virtio-net-device", "vectors", "3"), ("virtio-blk-device", "report-discard-granularity", "off"))),
    ((5, 0), (("virtio-balloon-device", "page-poison", "off"),)),
    ((4, 2), (("virtio-blk-device", "queue-size", "128"), ("virtio-blk-device", "seg-max-adjust", "off"))),
    ((4, 0), (("virtio-balloon-device", "qemu-4-0-config-size", "on"),)),
    (
        (3, 1),
        (
            ("virtio-balloon-device", "qemu-4-0-config-size", "off"),
            ("virtio-blk-device", "discard", "off"),
            ("virtio-blk-device", "write-zeroes", "off"),
        ),
    ),
    ((2, 7), (("virtio-serial-device", "emergency-write", "off"),)),
    ((2, 6), (("virtio-pci", "disable-modern", "on"), ("virtio-blk-device", "any_layout", "off"))),
    ((2, 5), (("isa-fdc", "fallback", "144"),)),
)


def old_defaults(version: tuple[int, int]) -> list[OldDefault]:
    """Those of a machine version, from the youngest to the oldest: a later one wins."""
    return [OldDefault(*each) for last, defaults in _UP_TO if version <= last for each in defaults]
