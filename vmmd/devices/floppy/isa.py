# SPDX-License-Identifier: Apache-2.0
"""isa-fdc: the floppy disk controller of a PC, at ports 3F1h-3F5h and 3F7h, with interrupt 6 and DMA channel 2.

The board has one, with or without drives; ``floppy`` devices sit on its bus ``floppy-bus.0``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from vmmd.core.address_space import IoRange
from vmmd.core.device import Device
from vmmd.core.props import BOOT_INDEX, U32, enum_type, prop
from vmmd.devices.floppy.controller import Fdc
from vmmd.devices.floppy.formats import KINDS
from vmmd.devices.floppy.registers import REG_DIR, REG_FIFO, REG_SRB
from vmmd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.props import Prop, PropSet
    from vmmd.devices.isa.i8257 import IsaDma

DRIVE_TYPE = enum_type("FdcDriveType", "144", "288", "120", "none", "auto")
ISA_INTERRUPTS = 16


class FloppyBus:
    """The cable: what ``floppy`` devices are plugged into."""

    def __init__(self, fdc: Fdc, fallback: str) -> None:
        self.fdc = fdc
        self.fallback = fallback  # kind of a drive without diskette that was not told one
        self.owners: list[Device | None] = [None for _ in fdc.drives]

    def attach(self, unit: int, owner: Device) -> Callable[[], None]:
        """Take a place; returns the undo function."""
        self.owners[unit] = owner
        return lambda: self._detach(unit)

    def _detach(self, unit: int) -> None:
        self.owners[unit] = None
        self.fdc.drives[unit].disconnect()

    def free_unit(self, wanted: int | None) -> int:
        """The place for a new drive. Raises UsageError in QEMU's words."""
        count = len(self.owners)
        unit = wanted
        if unit is None:
            unit = next((each for each, owner in enumerate(self.owners) if owner is None), count)
        if unit >= count:
            raise UsageError(f"Can't create floppy unit {unit}, bus supports only {count} units")
        if self.owners[unit] is not None:
            raise UsageError(f"Floppy unit {unit} is in use")
        return unit


class IsaFdc(Device):
    """The controller as a device on ISA. The board sets ``dma`` before it is plugged."""

    type_name = "isa-fdc"
    description = "floppy disk controller"
    category = "storage"
    bus_type = "ISA"
    bus_of_drives = "floppy-bus.0"
    KEPT_AT_RESET = ("fdc.dma",)  # another device's

    class Props(Device.Props):
        """Names and defaults as QEMU 7.2 shows them."""

        iobase = prop(U32, 0x3F0, "I/O port that registers count from")
        irq = prop(U32, 6, "ISA interrupt")
        dma = prop(U32, 2, "DMA channel")
        fdtypeA = prop(DRIVE_TYPE, "auto", "FDC drive type, 144/288/120/none/auto; only auto")
        fdtypeB = prop(DRIVE_TYPE, "auto", "FDC drive type, 144/288/120/none/auto; only auto")
        fallback = prop(DRIVE_TYPE, "288", "FDC drive type, 144/288/120/none/auto, of an empty drive")
        bootindexA = prop(BOOT_INDEX, None, "place of drive A in the boot order", live=True)
        bootindexB = prop(BOOT_INDEX, None, "place of drive B in the boot order", live=True)

    props: IsaFdc.Props
    dma: IsaDma

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        self.fdc: Fdc
        self.floppies: FloppyBus
        self._boot_owners = {"bootindexA": object(), "bootindexB": object()}

    def realize(self) -> None:
        """Take ports, interrupt and DMA channel. Raises UsageError."""
        props, ctx = self.props, self.ctx
        self._check()
        channel = self.dma.channel(props.dma)
        irq = ctx.irqs.line(props.irq)
        self.fdc = Fdc(ctx.clock, irq, channel)
        self.floppies = FloppyBus(self.fdc, props.fallback)
        self.on_undo(self._silence)
        self.on_undo(channel.on_ready(self.fdc.dma_ready))
        for name, owner in self._boot_owners.items():
            ctx.boot_indices.claim(owner, props.values.get(name))
            self.on_undo(lambda owner=owner: ctx.boot_indices.release(owner))  # type: ignore[misc]
        self._claim(REG_SRB, REG_FIFO)
        self._claim(REG_DIR, REG_DIR)

    def _check(self) -> None:
        props = self.props
        if props.fallback == "auto":
            raise UsageError("Cannot choose a fallback FDrive type of 'auto'")
        if props.fallback not in KINDS or (props.fdtypeA, props.fdtypeB) != ("auto", "auto"):
            raise UsageError("isa-fdc: fdtypeA and fdtypeB have no effect", "give -device floppy,drive-type=")
        if props.irq >= ISA_INTERRUPTS:
            raise UsageError(f'Maximum value for "irq" is: {ISA_INTERRUPTS - 1}')
        if props.iobase + REG_DIR >= self.ctx.pio.size:
            raise UsageError(f"isa-fdc: iobase {props.iobase:#x} is no port", "ports are 0 to 0xffff")

    def _claim(self, first: int, last: int) -> None:
        self.claim_pio(
            IoRange(
                self.props.iobase + first,
                last - first + 1,
                lambda offset, size: self.fdc.read(first + offset),
                lambda offset, size, value: self.fdc.write(first + offset, value),
                name="fdc",
                max_width=1,
            )
        )

    def _silence(self) -> None:
        self.fdc.reset(interrupt=False)

    def reset(self, kind: ResetKind) -> None:
        self.fdc.power_on()

    def change_property(self, declared: Prop[Any], value: object) -> None:
        self.ctx.boot_indices.claim(self._boot_owners[declared.name], cast("int", value))
        super().change_property(declared, value)
