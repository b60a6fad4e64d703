# SPDX-License-Identifier: Apache-2.0
"""pvpanic-pci: the register of ``devices.panic_register`` as byte 0 of BAR 0.

QEMU-COMPAT: ids and class of QEMU's; its BAR 0 has 2 bytes, which no base address register can say (PCI 3.0 §6.2.5.1:
the low four bits are flags): guests see 16 there, and so it is here.
"""

from __future__ import annotations

from vmmd.core.props import U8, prop
from vmmd.devices.panic_register import ALL_EVENTS, PanicRegister
from vmmd.devices.pci.bar import BarRegion
from vmmd.devices.pci.device import PciDevice

BAR_BYTES = 16


class PvpanicPci(PciDevice):
    """The guest's panic button on PCI."""

    type_name = "pvpanic-pci"
    description = "tells the host that the guest has panicked"
    category = "misc"
    user_creatable = True
    vendor_id = 0x1B36
    device_id = 0x0011
    revision = 1
    class_code = 0x08_8000  # system peripheral, other

    class Props(PciDevice.Props):
        """What it knows."""

        events = prop(U8, ALL_EVENTS, "events that a guest may report: 1 panicked, 2 crash kernel loaded")

    props: Props

    def realize(self) -> None:
        super().realize()
        register = PanicRegister(self.ctx, self.props.events)
        self.add_bar(0, BAR_BYTES, "mem32", name="pvpanic-pci")
        self.add_bar_region(0, BarRegion(0, 1, register.read, register.write, "pvpanic", 1))
