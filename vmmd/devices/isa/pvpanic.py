# SPDX-License-Identifier: Apache-2.0
"""pvpanic on the ISA bus: the register of ``devices.panic_register`` at port 505h, which guests find by ACPI (QEMU0001)
or firmware by the fw_cfg file ``etc/pvpanic-port``."""

from __future__ import annotations

from vmmd.core.address_space import IoRange
from vmmd.core.device import Device
from vmmd.core.props import U8, U16, prop
from vmmd.devices.panic_register import ALL_EVENTS, PanicRegister


class Pvpanic(Device):
    """The guest's panic button."""

    type_name = "pvpanic"
    description = "tells the host that the guest has panicked"
    category = "misc"
    bus_type = "ISA"
    user_creatable = True
    single = True  # one fw_cfg file tells its port

    class Props(Device.Props):
        """Where it is, and what it knows."""

        ioport = prop(U16, 0x505, "I/O port; 0: none, the guest cannot reach it")
        events = prop(U8, ALL_EVENTS, "events that a guest may report: 1 panicked, 2 crash kernel loaded")

    props: Props

    def realize(self) -> None:
        register = PanicRegister(self.ctx, self.props.events)
        if self.props.ioport:
            self.claim_pio(IoRange(self.props.ioport, 1, register.read, register.write, name="pvpanic", max_width=1))
