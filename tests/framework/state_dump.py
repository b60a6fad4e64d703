# SPDX-License-Identifier: Apache-2.0
"""The state of a device as plain data, whatever the device: what a reset must bring back, compared as a whole.

Values, containers and the device's own objects (classes of ``vmmd``) are followed; the seams it was given, handlers,
properties and other devices are not. A finding is named by its path: ``.virtio.queues[0].size``.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING, Any

from vmmd.core.address_space import AddressSpace
from vmmd.core.clock import ClockTimer
from vmmd.core.device import Device, DeviceContext
from vmmd.core.memory import GuestMemory
from vmmd.core.props import PropSet
from vmmd.devices.pci.bus import PciBus
from vmmd.log import Logger

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLAIN = (int, str, bytes, float, bool, type(None), enum.Enum)
_SEAMS = (DeviceContext, PropSet, Logger, GuestMemory, AddressSpace, PciBus, type)


def dump(device: Device) -> dict[str, object]:
    """path -> value of everything that the device holds, but what it declares to keep."""
    found: dict[str, object] = {}
    seen: set[int] = {id(device)}
    kept = {f".{name}" for name in type(device).KEPT_AT_RESET}
    todo = deque(_attributes("", device))
    while todo:
        path, value = todo.popleft()  # breadth first: the shortest path names a thing
        if path in kept or isinstance(value, (*_SEAMS, Device)):
            continue
        if isinstance(value, _PLAIN):
            found[path] = value
        elif isinstance(value, (bytearray, memoryview)):
            found[path] = bytes(value)
        elif isinstance(value, ClockTimer):
            found[path] = value.deadline_ns
        elif id(value) not in seen:
            seen.add(id(value))
            todo.extend(_inside(path, value, found))
    return found


def _inside(path: str, value: Any, found: dict[str, object]) -> Iterator[tuple[str, object]]:
    if isinstance(value, (list, tuple, deque)):
        found[f"len({path})"] = len(value)
        return ((f"{path}[{index}]", each) for index, each in enumerate(value))
    if isinstance(value, (set, frozenset)):
        found[path] = sorted(map(repr, value))
        return iter(())
    if isinstance(value, dict):
        found[f"len({path})"] = len(value)
        return ((f"{path}[{key!r}]", each) for key, each in value.items() if isinstance(key, _PLAIN))
    return _attributes(path, value) if type(value).__module__.startswith("vmmd.") else iter(())


def _attributes(path: str, value: object) -> Iterator[tuple[str, object]]:
    names = list(getattr(value, "__dict__", ()))
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        names += [slots] if isinstance(slots, str) else slots
    return ((f"{path}.{name}", getattr(value, name)) for name in names if hasattr(value, name))


def differences(first: dict[str, object], second: dict[str, object]) -> list[str]:
    """One line for each path whose value is not the same."""
    missing = "(not there)"
    return [
        f"{path}: {first.get(path, missing)!r:.80} != {second.get(path, missing)!r:.80}"
        for path in sorted(first.keys() | second.keys())
        if first.get(path, missing) != second.get(path, missing)
    ]
