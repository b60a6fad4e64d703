# SPDX-License-Identifier: Apache-2.0
"""Intel 82441FX (440FX PMC) host bridge, 00:00.0: configuration mechanism 1, PAM and SMRAM registers.

Data sheet: Intel 290549 "440FX PCIset, 82441FX (PMC)". Implemented: CONFADD/CONFDATA, PAM0-6, SMRAM. The other
registers of the bridge (DRAM timing, DRB …) only hold what is written. QEMU-COMPAT: they are writable as a whole, as
in QEMU 7.2; firmware writes some of them and reads them back. Differences to QEMU 7.2, on purpose: SMRAM's C_BASE_SEG
is hardwired to 010b, and D_LCK locks D_OPEN, D_LCK and G_SMRAME until reset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.address_space import IoRange
from vmmd.core.props import PciAddress
from vmmd.devices.pci.device import PciDevice

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.props import PropSet

PORT_CONFADD = 0xCF8
PORT_CONFDATA = 0xCFC
CONFADD_ENABLE = 0x8000_0000

REG_PAM0 = 0x59  # seven registers of two segments; the low half of the first is reserved
REG_RAM_SIZE = 0x57
RAM_SIZE_UNIT_BYTES = 8 << 20
REG_SMRAM = 0x72
PAM_SEGMENTS = 13
PAM_READ = 1  # reads go to DRAM
PAM_WRITE = 2  # writes go to DRAM
SMRAM_OPEN = 0x40
SMRAM_CLOSED = 0x20
SMRAM_LOCK = 0x10
SMRAM_ENABLE = 0x08
SMRAM_BASE = 0x02  # C_BASE_SEG: A0000-BFFFF, the only value there is


def pam_range(segment: int) -> tuple[int, int]:
    """(address, size) of a PAM segment: 0 is the BIOS area F0000-FFFFF, 1..12 are 16 KiB each from C0000."""
    if segment == 0:
        return 0xF0000, 0x10000
    return 0xC0000 + (segment - 1) * 0x4000, 0x4000


class I440fx(PciDevice):
    """The host bridge. The machine sets ``pam_changed`` and ``smram_changed`` before ``plug``."""

    type_name = "i440FX"
    description = "Host bridge"
    category = "bridge"
    vendor_id = 0x8086
    device_id = 0x1237
    revision = 0x02
    class_code = 0x060000
    fixed_address = PciAddress(0, 0)

    class Props(PciDevice.Props):
        """Nothing beyond a PCI function's."""

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        #: called as (segment 0..12, reads to DRAM, writes to DRAM) for each segment that changed
        self.pam_changed: Callable[[int, bool, bool], None] = lambda segment, read, write: None
        #: called with True when A0000-BFFFF shows DRAM instead of the display
        self.smram_changed: Callable[[bool], None] = lambda is_open: None
        #: all RAM of the machine
        self.ram_bytes = 128 << 20
        self._pam = [0] * PAM_SEGMENTS
        self._smram_open = False
        self._confadd = 0

    def realize(self) -> None:
        super().realize()
        config = self.config
        config.define(0x40, 0xC0, 0, (1 << (8 * 0xC0)) - 1)
        # QEMU-COMPAT: the amount of RAM, for firmware that has no fw_cfg
        config.define(REG_RAM_SIZE, 1, min(self.ram_bytes // RAM_SIZE_UNIT_BYTES, 0xFF), 0xFF)
        config.define(REG_SMRAM, 1, SMRAM_BASE, 0xFF & ~0x07)
        self.claim_pio(
            IoRange(PORT_CONFADD, 4, self._confadd_read, self._confadd_write, name="pci-conf-idx", max_width=4)
        )
        self.claim_pio(IoRange(PORT_CONFDATA, 4, self._data_read, self._data_write, name="pci-conf-data", max_width=4))

    def reset(self, kind: ResetKind) -> None:
        super().reset(kind)
        self._confadd = 0
        self._apply_pam()
        self._apply_smram()

    # -- configuration mechanism 1 -------------------------------------------------------------------------

    def _confadd_read(self, offset: int, size: int) -> int:
        return self._confadd  # QEMU-COMPAT: a narrow read gives the lowest bits, wherever it is

    def _confadd_write(self, offset: int, size: int, value: int) -> None:
        if offset == 0 and size == 4:  # only a double word cycle is meant for the register
            self._confadd = value

    def _data_read(self, offset: int, size: int) -> int:
        address = self._confadd
        if not address & CONFADD_ENABLE:
            return 0xFFFF_FFFF
        # QEMU-COMPAT: the two low bits of CONFADD count and are ORed with those of the port (libqos needs it)
        register = (address & 0xFF) | offset
        return self.bus.config_read(address >> 16 & 0xFF, address >> 11 & 0x1F, address >> 8 & 7, register, size)

    def _data_write(self, offset: int, size: int, value: int) -> None:
        address = self._confadd
        if address & CONFADD_ENABLE:
            register = (address & 0xFF) | offset
            bus, slot, function = address >> 16 & 0xFF, address >> 11 & 0x1F, address >> 8 & 7
            self.bus.config_write(bus, slot, function, register, size, value)

    # -- PAM and SMRAM -------------------------------------------------------------------------------------

    def config_write(self, offset: int, size: int, value: int) -> None:
        smram = self.config.get(REG_SMRAM, 1)
        super().config_write(offset, size, value)
        end = offset + size
        if offset < REG_PAM0 + 7 and end > REG_PAM0:
            self._apply_pam()
        if offset <= REG_SMRAM < end:
            if smram & SMRAM_LOCK:  # D_LCK: locked bits stay until reset, D_OPEN is off
                kept = SMRAM_LOCK | smram & SMRAM_ENABLE | self.config.get(REG_SMRAM, 1) & SMRAM_CLOSED
                self.config.set(REG_SMRAM, 1, kept | SMRAM_BASE)
            elif self.config.get(REG_SMRAM, 1) & SMRAM_LOCK:
                self.config.set(REG_SMRAM, 1, self.config.get(REG_SMRAM, 1) & ~SMRAM_OPEN)
            self._apply_smram()

    def _apply_pam(self) -> None:
        for segment in range(PAM_SEGMENTS):
            register = self.config.get(REG_PAM0 + (segment + 1) // 2, 1)
            bits = (register >> (4 if segment % 2 == 0 else 0)) & (PAM_READ | PAM_WRITE)
            if bits != self._pam[segment]:
                self._pam[segment] = bits
                self.pam_changed(segment, bool(bits & PAM_READ), bool(bits & PAM_WRITE))

    def _apply_smram(self) -> None:
        smram = self.config.get(REG_SMRAM, 1)
        is_open = smram & (SMRAM_OPEN | SMRAM_ENABLE) == SMRAM_OPEN | SMRAM_ENABLE
        if is_open != self._smram_open:
            self._smram_open = is_open
            self.smram_changed(is_open)
