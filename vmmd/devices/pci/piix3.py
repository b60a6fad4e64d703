# SPDX-License-Identifier: Apache-2.0
"""Intel 82371SB (PIIX3) PCI-to-ISA bridge, 00:01.0: PIRQ routing and the reset control register.

Data sheet: Intel 290550 "82371FB (PIIX) and 82371SB (PIIX3)". Implemented: PIRQRC[A:D] (60h-63h), RC (port CF9h). The
other registers hold what is written, with the reset values of the data sheet; no PC guest depends on their function.
QEMU-COMPAT: all of 40h-FFh is writable, as in QEMU 7.2. ELCR (4D0h/4D1h) is part of the interrupt controller.
Difference to QEMU 7.2, on purpose: a PIRQ routed to one of the reserved interrupts 0, 1, 2, 8 and 13 is not
connected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.address_space import IoRange
from vmmd.core.device import ShutdownCause
from vmmd.core.props import PciAddress
from vmmd.devices.pci.device import PciDevice
from vmmd.devices.pci.intx import PIRQ_COUNT
from vmmd.devices.pci.regs import REG_STATUS, STATUS_DEVSEL_MEDIUM

if TYPE_CHECKING:
    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.irq import IrqLine
    from vmmd.core.props import PropSet

REG_PIRQRC = 0x60
PIRQ_DISABLED = 0x80
ROUTABLE_IRQS = frozenset({3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15})

PORT_RESET_CONTROL = 0xCF9
RC_HARD = 0x02  # SRST: hard instead of soft
RC_RESET = 0x04  # RCPU: reset on 0 -> 1

#: reset values of configuration 40h-FFh that are not zero
_RESET_VALUES = {
    0x4C: 0x4D,  # ISA I/O recovery timer
    0x4E: 0x03,  # X-bus chip select
    0x60: PIRQ_DISABLED,
    0x61: PIRQ_DISABLED,
    0x62: PIRQ_DISABLED,
    0x63: PIRQ_DISABLED,
    0x69: 0x02,  # top of memory
    0x70: 0x80,  # MBIRQ0
    0x76: 0x0C,  # MBDMA0
    0x77: 0x0C,  # MBDMA1
    0x78: 0x02,  # PCSC
    0xA0: 0x08,  # SMICNTL
    0xA8: 0x0F,  # FTMR
}


class Piix3(PciDevice):
    """The ISA bridge: routes PIRQA-D to ISA interrupts. Above the host bridge's port CF8h range with CF9h."""

    type_name = "PIIX3"
    parent_type = "pci-piix3"
    description = "ISA bridge"
    category = "bridge"
    vendor_id = 0x8086
    device_id = 0x7000
    class_code = 0x060100
    fixed_address = PciAddress(1, 0)
    KEPT_AT_RESET = ("_lines",)  # made when first routed; all low after a reset

    class Props(PciDevice.Props):
        """Nothing beyond a PCI function's."""

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        self._levels = [0] * PIRQ_COUNT
        self._route: list[int | None] = [None] * PIRQ_COUNT
        self._lines: dict[tuple[int, int], IrqLine] = {}  # (pirq, irq) -> source
        self._reset_control = 0

    @property
    def multifunction(self) -> bool:
        return True

    def realize(self) -> None:
        super().realize()
        config = self.config
        config.set(REG_STATUS, 2, STATUS_DEVSEL_MEDIUM)
        config.define(0x40, 0xC0, 0, (1 << (8 * 0xC0)) - 1)
        for offset, value in _RESET_VALUES.items():
            config.define(offset, 1, value, 0xFF)
        self.claim_pio(
            IoRange(
                PORT_RESET_CONTROL,
                1,
                lambda offset, size: self._reset_control,
                self._reset_control_write,
                name="piix3-reset-control",
                max_width=1,
                priority=1,
            )
        )
        self.bus.pirqs.output = self.set_pirq
        self.on_undo(self._disconnect)

    def _disconnect(self) -> None:
        self.bus.pirqs.output = None
        for line in self._lines.values():
            line.lower()

    def reset(self, kind: ResetKind) -> None:
        super().reset(kind)
        self._reset_control = 0
        self._apply_routes()

    # -- interrupt routing ---------------------------------------------------------------------------------

    def set_pirq(self, pirq: int, level: int) -> None:
        """PIRQ 0..3 went high or low. DeviceLock held."""
        self._levels[pirq] = level
        self._drive(pirq)

    def route_of(self, pirq: int) -> int | None:
        """The ISA interrupt (= GSI) that PIRQ 0..3 goes to, or None while it is not connected."""
        return self._route[pirq]

    def config_written(self, offset: int, size: int) -> None:
        if offset < REG_PIRQRC + PIRQ_COUNT and offset + size > REG_PIRQRC:
            self._apply_routes()

    def _apply_routes(self) -> None:
        for pirq in range(PIRQ_COUNT):
            value = self.config.get(REG_PIRQRC + pirq, 1)
            irq = value & 0x0F
            new = irq if not value & PIRQ_DISABLED and irq in ROUTABLE_IRQS else None
            old = self._route[pirq]
            if new != old:
                if old is not None:
                    self._line(pirq, old).lower()
                self._route[pirq] = new
                self._drive(pirq)

    def _drive(self, pirq: int) -> None:
        irq = self._route[pirq]
        if irq is not None:
            self._line(pirq, irq).set(self._levels[pirq])

    def _line(self, pirq: int, irq: int) -> IrqLine:
        line = self._lines.get((pirq, irq))
        if line is None:
            line = self._lines[pirq, irq] = self.ctx.irqs.line(irq)
        return line

    # -- reset control -------------------------------------------------------------------------------------

    def _reset_control_write(self, offset: int, size: int, value: int) -> None:
        # RCPU needs no memory of the old value: setting it resets the machine and with it this register
        self._reset_control = value & RC_HARD
        if value & RC_RESET:
            self.ctx.requests.request_reset(ShutdownCause.GUEST_RESET)
