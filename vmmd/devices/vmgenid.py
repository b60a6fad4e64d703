# SPDX-License-Identifier: Apache-2.0
"""vmgenid: a 128-bit number by which a guest learns that it was copied or went back in time (Microsoft, "Virtual
Machine Generation ID"; QEMU's docs/specs/vmgenid for how firmware and ACPI pass it on).

It has no registers: ``machine.firmware_setup`` gives the number to firmware, which puts it into a page of guest RAM and
tells its address back. LIMIT: only a restored snapshot or an incoming migration changes the number, and there are none
yet; then the number in RAM changes, too, and GPE 5 says so.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from vmmd.core.device import Device
from vmmd.core.props import PropType, prop

if TYPE_CHECKING:
    from vmmd.core.device import DeviceContext
    from vmmd.core.props import PropSet

AUTO = "auto"
_ACCEPTS = "a UUID like 6a0b8f1e-3c74-4d0a-9a2e-0c9f6d2f5b11, or auto"


def _parse(text: str) -> str:
    if text == AUTO:
        return text
    try:
        guid = str(uuid.UUID(text))
    except ValueError:
        guid = AUTO
    if guid != text.lower():  # UUID() takes other notations as well
        raise ValueError(_ACCEPTS)
    return guid


GUID = PropType("str", _ACCEPTS, _parse, json_kinds=())


class VmGenId(Device):
    """The holder of the number: ``guid``."""

    type_name = "vmgenid"
    description = "tells a guest that it was copied or restored"
    category = "misc"
    parent_type = "device"
    user_creatable = True
    single = True
    KEPT_AT_RESET = ("resolved",)  # the number itself

    class Props(Device.Props):
        """The number."""

        guid = prop(GUID, AUTO, "UUID, or auto for a random one")

    props: Props

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        given = self.props.guid
        self.guid = uuid.uuid4() if given == AUTO else uuid.UUID(given)

    def realize(self) -> None:
        self.resolved["guid"] = str(self.guid)
