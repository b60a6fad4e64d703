# SPDX-License-Identifier: Apache-2.0
"""Commands about devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import DeviceNotFoundError, UsageError
from vmmd.qmp.registry import Context, Example, command

if TYPE_CHECKING:
    from vmmd.qmp.models.qdev import ObjectPropertyInfo


@command("device-list-properties", since="1.2", preconfig=True, example=Example({"typename": "isa-serial"}))
def device_list_properties(ctx: Context, *, typename: str) -> list[ObjectPropertyInfo]:
    """The properties that ``-device`` takes for a type of device, with their defaults."""
    from vmmd.machine import types
    from vmmd.qmp.commands.qom import property_info

    found = types.all_types().get(typename)
    if found is None:
        raise DeviceNotFoundError(f"Device '{typename}' not found")
    if found.abstract or not types.is_a(found, "device"):
        # QEMU-COMPAT: the sentence
        raise UsageError("Parameter 'typename' expects a non-abstract device type")
    return [property_info(each, with_default=True) for each in types.own_properties(found)]
