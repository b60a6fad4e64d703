# SPDX-License-Identifier: Apache-2.0
"""Power management function of the Intel 82371AB (PIIX4), 00:01.3: ACPI fixed hardware of the pc machine.

Data sheet: Intel 290562 "82371AB PCI-TO-ISA/IDE XCELERATOR (PIIX4)"; ACPI 4.0 chapter 4. Implemented: PM1 status,
enable and control, PM timer, SCI on interrupt 9, sleep type S5 and S4 (power-off), the ACPI on/off commands at port
B2h, the SMBus host (``smbus.py``). QEMU-COMPAT: a general-purpose event block at AFE0h (not the PIIX4's own), ports
and sleep types as the machine's DSDT names them; the power button counts only while it is enabled.

Differences to QEMU 7.2, on purpose: SCI_EN gates the SCI, PM1 registers keep only the bits that exist, the SMBus base
register and its enable bit are honoured. No SMM: DEVACTB says from the start that APM commands are set up, as QEMU's
``smm=off`` does, so that firmware does not wait for an SMI. LIMIT: S3 wakes up at once (issue 2 has no suspended
state); tables built with ``sleep_types`` do not offer it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.address_space import IoRange
from vmmd.core.device import ShutdownCause
from vmmd.core.events import SuspendDiskEvent
from vmmd.core.props import BOOL, U8, PciAddress, prop
from vmmd.core.trace import UNIMP
from vmmd.core.trace_events import PM_POWER_BUTTON, PM_SCI, PM_SLEEP
from vmmd.devices.acpi.pci_hotplug import PCI_HOTPLUG_BASE, PCI_HOTPLUG_BYTES, PciHotplug
from vmmd.devices.acpi.pm_timer import PmTimer
from vmmd.devices.acpi.smbus import SMBUS_BYTES, SmbusHost
from vmmd.devices.pci.device import PciDevice
from vmmd.devices.pci.regs import (
    REG_INTERRUPT_PIN,
    REG_STATUS,
    STATUS_DEVSEL_MEDIUM,
    STATUS_FAST_BACK,
)
from vmmd.log import RateLimiter

if TYPE_CHECKING:
    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.props import PropSet

SCI_GSI = 9
GPE0_BASE = 0xAFE0
GPE_PCI_HOTPLUG = 1  # number of the event
PORT_APM_CONTROL = 0xB2
APM_ACPI_ENABLE = 0xF1
APM_ACPI_DISABLE = 0xF0

# configuration space
REG_PMBASE = 0x40
REG_DEVACTB = 0x58
DEVACTB_APM_SMI = 0x0200_0000  # APMC_EN: firmware takes it for «SMM is set up»
REG_DEVRESA = 0x5C
REG_PMREGMISC = 0x80
REG_SMBBASE = 0x90
REG_SMBHSTCFG = 0xD2
PMREGMISC_IO_ENABLE = 0x01
SMBHSTCFG_ENABLE = 0x01
SMBHSTCFG_INTERRUPT = 0x0E
SMBHSTCFG_IRQ9 = 0x08

# PM1 registers, offsets from PMBASE
PM_BYTES = 64
PM1_STATUS = 0x00
PM1_ENABLE = 0x02
PM1_CONTROL = 0x04
PM_TIMER = 0x08

EVENT_TIMER = 0x0001
EVENT_GLOBAL = 0x0020
EVENT_POWER_BUTTON = 0x0100
EVENT_RTC = 0x0400
STATUS_BUS_MASTER = 0x0010
STATUS_WAKE = 0x8000
STATUS_BITS = EVENT_TIMER | STATUS_BUS_MASTER | EVENT_GLOBAL | EVENT_POWER_BUTTON | EVENT_RTC | STATUS_WAKE
ENABLE_BITS = EVENT_TIMER | EVENT_GLOBAL | EVENT_POWER_BUTTON | EVENT_RTC
CONTROL_SCI_ENABLE = 0x0001
CONTROL_BM_RELOAD = 0x0002
CONTROL_SLEEP_TYPE = 0x1C00
CONTROL_SLEEP_ENABLE = 0x2000
CONTROL_BITS = CONTROL_SCI_ENABLE | CONTROL_BM_RELOAD | CONTROL_SLEEP_TYPE

SLEEP_TYPE_S5 = 0
SLEEP_TYPE_S3 = 1


class Piix4Pm(PciDevice):
    """ACPI power management, SCI, GPE0 and SMBus."""

    type_name = "PIIX4_PM"
    description = "PM"
    category = "bridge"
    vendor_id = 0x8086
    device_id = 0x7113
    revision = 0x03
    class_code = 0x068000
    fixed_address = PciAddress(1, 3)
    KEPT_AT_RESET = ("pci_hotplug.selected", "pci_hotplug.plugged")  # QEMU-COMPAT

    class Props(PciDevice.Props):
        """Which sleep states the ACPI tables offer."""

        disable_s3 = prop(U8, 0, "1: no suspend to RAM (S3)", wire="disable_s3")
        disable_s4 = prop(U8, 0, "1: no suspend to disk (S4)", wire="disable_s4")
        s4_val = prop(U8, 2, "sleep type value of S4", wire="s4_val")
        acpi_root_pci_hotplug = prop(BOOL, True, "devices of pci.0 may come and go while the guest runs")
        acpi_pci_hotplug_with_bridge_support = prop(BOOL, True, "registers and tables for hot plug behind bridges")

    props: Piix4Pm.Props

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        #: COM ports that DEVRESA announces; set by the machine before ``plug``
        self.serial_ports: frozenset[int] = frozenset()
        #: there are ACPI tables: guests that have none know of no hot plug; set by the machine before ``plug``
        self.has_tables = True
        self._status = 0
        self._enable = 0
        self._control = 0
        self._gpe_status = 0
        self._gpe_enable = 0
        self._may_warn = RateLimiter()
        self._apm = bytearray(2)
        self._timer = PmTimer(ctx.clock, self._update_sci)
        self.pci_hotplug = PciHotplug(
            lambda: self.raise_gpe(1 << GPE_PCI_HOTPLUG), one_bus=not self.props.acpi_pci_hotplug_with_bridge_support
        )
        self._sci = ctx.irqs.line(SCI_GSI)
        self._smbus_irq = ctx.irqs.line(SCI_GSI)
        self._smbus = SmbusHost(self._set_smbus_interrupt)
        self._pm_range: IoRange | None = None
        self._smbus_range: IoRange | None = None

    # -- life ----------------------------------------------------------------------------------------------

    def realize(self) -> None:
        super().realize()
        config = self.config
        config.set(REG_STATUS, 2, STATUS_FAST_BACK | STATUS_DEVSEL_MEDIUM)
        config.define(REG_INTERRUPT_PIN, 1, 1)  # told to firmware; the SCI itself is interrupt 9
        config.define(0x40, 0xC0, 0, (1 << (8 * 0xC0)) - 1)  # QEMU-COMPAT: all of it takes writes
        config.define(REG_PMBASE, 4, 0x01, 0xFFFF_FFFF)
        config.define(REG_DEVACTB, 4, DEVACTB_APM_SMI, 0xFFFF_FFFF)
        config.define(REG_DEVRESA, 4, 0x1000_0000, 0xFFFF_FFFF)
        config.define(0x60, 4, 0x6000_0000, 0xFFFF_FFFF)
        serial = (0x08 if 0 in self.serial_ports else 0) | (0x90 if 1 in self.serial_ports else 0)
        config.define(0x64, 4, serial << 24, 0xFFFF_FFFF)
        config.define(REG_SMBBASE, 4, 0xB101, 0xFFFF_FFFF)
        config.define(REG_SMBHSTCFG, 1, SMBHSTCFG_ENABLE | SMBHSTCFG_IRQ9, 0xFF)
        self.claim_pio(IoRange(GPE0_BASE, 4, self._gpe_read, self._gpe_write, name="acpi-gpe0", max_width=1))
        self.claim_pio(IoRange(PORT_APM_CONTROL, 2, self._apm_read, self._apm_write, name="apm-io", max_width=1))
        self._claim_pci_hotplug()
        self.on_undo(self._unmap)
        self._map_ranges()

    def _claim_pci_hotplug(self) -> None:
        props, hotplug = self.props, self.pci_hotplug
        if not self.has_tables:
            return
        if props.acpi_root_pci_hotplug:
            hotplug.bus = self.bus
        if props.acpi_root_pci_hotplug or props.acpi_pci_hotplug_with_bridge_support:
            self.claim_pio(
                IoRange(PCI_HOTPLUG_BASE, PCI_HOTPLUG_BYTES, hotplug.read, hotplug.write, name="acpi-pci-hotplug")
            )

    def _unmap(self) -> None:
        self._timer.watch(on=False)
        self._sci.lower()
        self._smbus_irq.lower()
        gone = [each for each in (self._pm_range, self._smbus_range) if each is not None]
        self.ctx.pio.update(gone, [])
        self._pm_range = self._smbus_range = None

    def reset(self, kind: ResetKind) -> None:
        super().reset(kind)
        self._status = self._enable = self._control = 0
        self._gpe_status = self._gpe_enable = 0
        self.pci_hotplug.reset()
        self._apm[:] = bytes(2)
        self._timer.clear()
        self._smbus.reset()
        self._map_ranges()
        self._update_sci()

    # -- what others use -----------------------------------------------------------------------------------

    @property
    def pm_base(self) -> int:
        """First port of the PM1 block as programmed by the firmware; 0 while it is off."""
        if not self.config.get(REG_PMREGMISC, 1) & PMREGMISC_IO_ENABLE:
            return 0
        return self.config.get(REG_PMBASE, 4) & 0xFFC0

    @property
    def sleep_types(self) -> dict[str, int]:
        """Sleep states for the ACPI tables (``_S5`` …) with their SLP_TYP values."""
        types = {"S5": SLEEP_TYPE_S5}
        if not self.props.disable_s4:
            types["S4"] = self.props.s4_val & 7
        return types

    def press_power_button(self) -> None:
        """system_powerdown. QEMU-COMPAT: nothing while the guest has not enabled the button. DeviceLock held."""
        enabled = bool(self._enable & EVENT_POWER_BUTTON)
        if PM_POWER_BUTTON.on:
            PM_POWER_BUTTON(enabled)
        if enabled:
            self._status |= EVENT_POWER_BUTTON
            self._update_sci()

    def raise_gpe(self, bits: int) -> None:
        """Set status bits (16 bits) of the general-purpose event block. DeviceLock held."""
        self._gpe_status |= bits & 0xFFFF
        self._update_sci()

    # -- configuration -------------------------------------------------------------------------------------

    def config_written(self, offset: int, size: int) -> None:
        if offset + size > REG_PMBASE:
            self._map_ranges()
            self._smbus.update_interrupt()

    def _map_ranges(self) -> None:
        """Make the two movable port ranges follow their base and enable registers."""
        smbus_base = self.config.get(REG_SMBBASE, 4) & 0xFFF0
        if not self.config.get(REG_SMBHSTCFG, 1) & SMBHSTCFG_ENABLE:
            smbus_base = 0
        removed: list[IoRange] = []
        added: list[IoRange] = []
        if (self._pm_range.base if self._pm_range else 0) != self.pm_base:
            removed += [self._pm_range] if self._pm_range else []
            new = IoRange(self.pm_base, PM_BYTES, self._pm_read, self._pm_write, name="piix4-pm")
            self._pm_range = new if self.pm_base else None
            added += [new] if self.pm_base else []
        if (self._smbus_range.base if self._smbus_range else 0) != smbus_base:
            removed += [self._smbus_range] if self._smbus_range else []
            smbus = self._smbus
            new = IoRange(smbus_base, SMBUS_BYTES, smbus.read, smbus.write, name="pm-smbus", max_width=1)
            self._smbus_range = new if smbus_base else None
            added += [new] if smbus_base else []
        if removed or added:
            self.ctx.pio.update(removed, added)

    # -- PM1 and timer -------------------------------------------------------------------------------------

    def _pm1_status(self) -> int:
        return self._status | (EVENT_TIMER if self._timer.status else 0)

    def _pm_read(self, offset: int, size: int) -> int:
        if offset == PM_TIMER and size == 4:  # the guest's clock source: hot
            return self._timer.value()
        image = self._pm1_status() | self._enable << 16 | self._control << 32 | 0xFFFF << 48 | self._timer.value() << 64
        image |= -1 << 96  # behind the timer nothing answers
        return image >> (8 * offset) & ((1 << (8 * size)) - 1)

    def _pm_write(self, offset: int, size: int, value: int) -> None:
        mask = ((1 << (8 * size)) - 1) << (8 * offset)
        value <<= 8 * offset
        clear = value & mask & STATUS_BITS
        self._status &= ~clear
        if clear & EVENT_TIMER:
            self._timer.clear()
        enable_mask, control_mask = mask >> 16 & 0xFFFF, mask >> 32 & 0xFFFF
        if enable_mask:
            self._enable = (self._enable & ~enable_mask | value >> 16 & enable_mask) & ENABLE_BITS
        if control_mask:
            merged = self._control & ~control_mask | value >> 32 & control_mask
            self._control = merged & CONTROL_BITS
            if value >> 32 & control_mask & CONTROL_SLEEP_ENABLE:
                self._sleep((merged & CONTROL_SLEEP_TYPE) >> 10)
        self._update_sci()

    def _sleep(self, sleep_type: int) -> None:
        if PM_SLEEP.on:
            PM_SLEEP(sleep_type)
        if sleep_type == SLEEP_TYPE_S5:
            self.ctx.requests.request_shutdown(ShutdownCause.GUEST_SHUTDOWN)
        elif sleep_type == self.props.s4_val & 7:
            self.ctx.events.emit(SuspendDiskEvent())
            self.ctx.requests.request_shutdown(ShutdownCause.GUEST_SHUTDOWN)
        elif sleep_type == SLEEP_TYPE_S3:
            if UNIMP.on:
                UNIMP("piix4-pm: the guest asks for S3")
            if self._may_warn():
                self.log.warning("the guest asks for S3, which is not available in this version: woken up at once")
            self._status |= STATUS_WAKE

    def _update_sci(self) -> None:
        fixed = self._pm1_status() & self._enable
        general = self._gpe_status & self._gpe_enable
        level = 1 if (fixed or general) and self._control & CONTROL_SCI_ENABLE else 0
        if PM_SCI.on and level != self._sci.level:
            PM_SCI(level)
        self._sci.set(level)
        self._timer.watch(on=bool(self._enable & EVENT_TIMER))

    # -- GPE0 ----------------------------------------------------------------------------------------------

    def _gpe_read(self, offset: int, size: int) -> int:
        return (self._gpe_status | self._gpe_enable << 16) >> (8 * offset)

    def _gpe_write(self, offset: int, size: int, value: int) -> None:
        if offset < 2:
            self._gpe_status &= ~(value << (8 * offset))
        else:
            shift = 8 * (offset - 2)
            self._gpe_enable = self._gpe_enable & ~(0xFF << shift) | value << shift
        self._update_sci()

    # -- APM and SMBus -------------------------------------------------------------------------------------

    def _apm_read(self, offset: int, size: int) -> int:
        return self._apm[offset]

    def _apm_write(self, offset: int, size: int, value: int) -> None:
        self._apm[offset] = value
        if offset == 0 and value in (APM_ACPI_ENABLE, APM_ACPI_DISABLE):
            if value == APM_ACPI_ENABLE:
                self._control |= CONTROL_SCI_ENABLE
            else:
                self._control &= ~CONTROL_SCI_ENABLE
            self._update_sci()

    def _set_smbus_interrupt(self, level: int) -> None:
        to_irq9 = self.config.get(REG_SMBHSTCFG, 1) & SMBHSTCFG_INTERRUPT == SMBHSTCFG_IRQ9
        self._smbus_irq.set(level if to_irq9 else 0)
