# SPDX-License-Identifier: Apache-2.0
"""IDE function of the Intel 82371SB (PIIX3), 00:01.1: two channels at the PC's fixed ports, with bus mastering.

Data sheet: Intel 290550 "82371FB (PIIX) and 82371SB (PIIX3)" §2.3 (configuration) and §2.6 (bus master registers).
Implemented: BMIBA (BAR 4), both channels with their bus masters; interrupts 14 and 15. IDETIM and SIDETIM hold what is
written: they are about cable timing, which nothing here has. QEMU-COMPAT: the channels decode whatever IDETIM bit 15
says, as programs that run without firmware expect. Difference to QEMU 7.2, on purpose: a reset clears 40h-FFh.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.props import PciAddress
from vmmd.devices.ide.channel import PRIMARY, SECONDARY, Channel
from vmmd.devices.ide.dma import REGISTER_BYTES, BusMaster
from vmmd.devices.pci.device import PciDevice
from vmmd.devices.pci.regs import FIRST_CAPABILITY, REG_STATUS, STATUS_DEVSEL_MEDIUM, STATUS_FAST_BACK

if TYPE_CHECKING:
    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.memory import GuestMemory
    from vmmd.core.props import PropSet

BAR_BUS_MASTER = 4
BAR_BYTES = 16
DEVICE_SPECIFIC_BYTES = 256 - FIRST_CAPABILITY


class Piix3Ide(PciDevice):
    """The IDE controller of the board."""

    type_name = "piix3-ide"
    parent_type = "pci-ide"
    description = "PIIX3 IDE controller"
    category = "storage"
    vendor_id = 0x8086
    device_id = 0x7010
    class_code = 0x010180
    fixed_address = PciAddress(1, 1)

    class Props(PciDevice.Props):
        """Nothing beyond a PCI function's."""

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        self.channels: tuple[Channel, ...] = ()

    def realize(self) -> None:
        super().realize()
        config = self.config
        config.set(REG_STATUS, 2, STATUS_DEVSEL_MEDIUM | STATUS_FAST_BACK)
        config.set_write_mask(FIRST_CAPABILITY, DEVICE_SPECIFIC_BYTES, (1 << 8 * DEVICE_SPECIFIC_BYTES) - 1)
        self.channels = tuple(
            Channel(place, self.ctx.irqs.line(place.gsi), BusMaster(self._memory)) for place in (PRIMARY, SECONDARY)
        )
        for channel in self.channels:
            for entry in channel.ranges():
                self.claim_pio(entry)
            self.on_undo(channel.reset)
        self.add_bar(
            BAR_BUS_MASTER, BAR_BYTES, "io", self._read_bus_master, self._write_bus_master, name="piix-bmdma-container"
        )

    def _memory(self) -> GuestMemory:
        return self.dma

    def reset(self, kind: ResetKind) -> None:
        super().reset(kind)
        for channel in self.channels:
            channel.reset()

    def _read_bus_master(self, offset: int, size: int) -> int:
        return self.channels[offset // REGISTER_BYTES].dma.read(offset % REGISTER_BYTES, size)

    def _write_bus_master(self, offset: int, size: int, value: int) -> None:
        self.channels[offset // REGISTER_BYTES].dma.write(offset % REGISTER_BYTES, size, value)
