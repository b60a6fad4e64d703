# SPDX-License-Identifier: Apache-2.0
"""System control port A (92h) of the PS/2: fast A20 and fast reset.

LIMIT: KVM has no A20 gate; the bit is kept and shown, memory does not wrap at 1 MiB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.address_space import IoRange
from vmmd.core.device import Device, ShutdownCause

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.props import PropSet

PORT = 0x92
FAST_RESET = 0x01  # reset on 0 -> 1
FAST_A20 = 0x02


class Port92(Device):
    """The port. The machine may set ``a20_changed`` before ``plug``."""

    type_name = "port92"
    description = "PS/2 system control port A"
    bus_type = "ISA"

    class Props(Device.Props):
        """No properties."""

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        self.a20_changed: Callable[[bool], None] = lambda enabled: None
        self._value = 0

    def realize(self) -> None:
        self.claim_pio(IoRange(PORT, 1, self._read, self._write, name="port92", max_width=1))

    def reset(self, kind: ResetKind) -> None:
        self._value = 0

    def _read(self, offset: int, size: int) -> int:
        return self._value

    def _write(self, offset: int, size: int, value: int) -> None:
        old, self._value = self._value, value
        if (old ^ value) & FAST_A20:
            self.a20_changed(bool(value & FAST_A20))
        if value & ~old & FAST_RESET:
            self.ctx.requests.request_reset(ShutdownCause.GUEST_RESET)
