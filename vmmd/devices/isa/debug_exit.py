# SPDX-License-Identifier: Apache-2.0
"""isa-debug-exit: a guest's write ends the process with status ``value * 2 + 1`` (test guests use it)."""

from __future__ import annotations

from vmmd.core.address_space import IoRange
from vmmd.core.device import Device
from vmmd.core.props import U32, prop
from vmmd.errors import UsageError


class IsaDebugExit(Device):
    """Ends vmmd on the first write to its ports. Reads give 0."""

    type_name = "isa-debug-exit"
    description = "end the emulator from the guest"
    category = "misc"
    bus_type = "ISA"
    user_creatable = True

    class Props(Device.Props):
        """Where it is."""

        iobase = prop(U32, 0x501, "first I/O port")
        iosize = prop(U32, 0x02, "number of I/O ports")

    props: IsaDebugExit.Props

    def realize(self) -> None:
        base, size = self.props.iobase, self.props.iosize
        if not size or base + size > self.ctx.pio.size:
            raise UsageError(
                f"{self.type_name}: iobase {base:#x} with iosize {size:#x} is no range of ports",
                "ports are 0 to 0xffff",
            )
        self.claim_pio(IoRange(base, size, lambda offset, width: 0, self._write, name=self.type_name, max_width=4))

    def _write(self, offset: int, size: int, value: int) -> None:
        # QEMU-COMPAT: the whole value goes in, the host keeps the low 8 bits of the status
        self.ctx.requests.request_exit_code((value << 1 | 1) & 0xFF)
