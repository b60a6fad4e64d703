# SPDX-License-Identifier: Apache-2.0
"""PciDevice: the base of every PCI function: header, BARs, capabilities, INTx, bus mastering.

A subclass's ``realize`` calls ``super().realize()`` first (header, place on the bus), then declares BARs and
capabilities; ``plug`` seals the configuration space, so what is set until then is what a reset brings back.
The machine sets ``bus`` before ``plug``. Guest accesses come through ``config_read``/``config_write`` with the
DeviceLock held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from vmmd.core.address_space import MASKS
from vmmd.core.device import Device
from vmmd.core.memory import GuestMemory
from vmmd.core.props import BOOL, PCI_ADDR, STR, U32, PciAddress, prop
from vmmd.core.trace_events import PCI_INTX, PCI_UPDATE_MAPPINGS_ADD, PCI_UPDATE_MAPPINGS_DEL
from vmmd.core.tree import Property
from vmmd.devices.pci import regs
from vmmd.devices.pci.bar import ROM_INDEX, Bar, BarMap, BarRegion, drops_writes, reads_zero
from vmmd.devices.pci.config_space import ConfigSpace
from vmmd.devices.pci.intx import Intx
from vmmd.devices.pci.option_rom import adopt
from vmmd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.irq import IrqLine
    from vmmd.core.props import PropSet
    from vmmd.core.rom import RomImage
    from vmmd.devices.pci.bus import PciBus

#: what a function sees of RAM while bus mastering is off: nothing
_NO_MEMORY = GuestMemory()
ROM_SIZE_AUTO = 0xFFFF_FFFF


class PciDevice(Device):
    """One PCI function. See the module's head for the order of things."""

    bus_type = "PCI"
    vendor_id: ClassVar[int] = 0xFFFF
    device_id: ClassVar[int] = 0xFFFF
    revision: ClassVar[int] = 0
    class_code: ClassVar[int] = 0  # 24 bits: base class, sub-class, interface
    subsystem_vendor_id: ClassVar[int] = 0x1AF4
    subsystem_id: ClassVar[int] = 0x1100
    #: where a part of the board sits; None: ``addr=`` or the first free slot
    fixed_address: ClassVar[PciAddress | None] = None
    #: option ROM of devices whose ``romfile`` is not given
    default_romfile: ClassVar[str | None] = None

    class Props(Device.Props):
        """Properties of every PCI function."""

        addr = prop(PCI_ADDR, None, "Slot and optional function number, example: 06.0 or 06")
        multifunction = prop(BOOL, False, "more than one function in this slot")
        rombar = prop(U32, 1, "1: offer the ROM to the guest by a base address register")
        romfile = prop(STR, None, "option ROM image; empty: none; default: the type's own, if it has one")
        romsize = prop(U32, ROM_SIZE_AUTO, "size of the ROM's register, a power of two; default: that of the image")
        acpi_index = prop(U32, 0, "number by which ACPI tells the guest the device (eno1); 0: none")

    bus: PciBus
    props: PciDevice.Props

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        #: the guest has let go of it: it answers nothing any more, and is about to be unplugged
        self.vanished = False
        self.slot = -1
        self.function = 0
        self.config = ConfigSpace()
        self.bus_master = False
        #: the only way to guest memory: all RAM, or nothing while bus mastering is off
        self.dma: GuestMemory = _NO_MEMORY
        self._intx = Intx(self.config)
        self.intx: IrqLine = self._intx.line
        self._bars = BarMap(ctx.pio, ctx.mmio)
        self._rom: RomImage | None = None
        self._last_capability = regs.REG_CAPABILITIES
        self._next_capability = regs.FIRST_CAPABILITY
        self._reset_hooks: list[Callable[[], None]] = []
        self._watches: list[tuple[int, int, Callable[[int, int], None]]] = []

    # -- life ----------------------------------------------------------------------------------------------

    def plug(self) -> None:
        super().plug()
        if self._rom is not None and self.props.romfile is None:  # what the user has chosen is for the user to fit
            adopt(self._rom.view, self.config.get(regs.REG_VENDOR_ID, 2), self.config.get(regs.REG_DEVICE_ID, 2))
        self.config.seal()

    def realize(self) -> None:
        """Fill the header and take a place on the bus. Raises UsageError."""
        self._define_header()
        self._load_rom()
        self.bus.attach(self, self.fixed_address or self.props.addr)
        self.on_undo(self._leave_bus)
        self.resolved |= {"addr": PciAddress(self.slot, self.function), "multifunction": self.multifunction}

    def _load_rom(self) -> None:
        """The option ROM, in the register for it or, with rombar=0, in firmware's files. Raises VmmdError."""
        props, roms = self.props, self.ctx.roms
        romfile = self.default_romfile if props.romfile is None else props.romfile
        self.resolved["romfile"] = romfile
        if not romfile:
            return
        if not props.rombar:
            if self.hotplugged:
                # QEMU-COMPAT: the sentence
                raise UsageError("Hot-plugged device without ROM bar can't have an option ROM", "rombar=1 or romfile=")
            self.on_undo(roms.give_to_firmware(romfile))
            return
        size_bytes = None if props.romsize == ROM_SIZE_AUTO else props.romsize
        image = self._rom = roms.load(romfile, f"{self.type_name}.rom", size_bytes)
        self.on_undo(self._drop_rom)
        self.resolved["romsize"] = image.size_bytes
        self.add_bar(ROM_INDEX, image.size_bytes, "rom", self._read_rom, name=f"{self.type_name}.rom", max_width=8)

    def _read_rom(self, offset: int, size: int) -> int:
        if self._rom is None:  # a vCPU that was late for the unplugging
            return MASKS[size]
        return int.from_bytes(self._rom.view[offset : offset + size], "little")

    def _drop_rom(self) -> None:
        image, self._rom = self._rom, None
        if image is not None:
            self.ctx.roms.release(image)

    def extra_properties(self) -> Iterable[Property]:
        yield Property("legacy-addr", "str", lambda: f"{self.slot:02x}.{self.function:x}")

    def _define_header(self) -> None:
        config = self.config
        config.define(regs.REG_VENDOR_ID, 2, self.vendor_id)
        config.define(regs.REG_DEVICE_ID, 2, self.device_id)
        config.define(regs.REG_COMMAND, 2, 0, regs.CMD_WRITABLE)
        config.define(regs.REG_STATUS, 2, 0)
        config.set_w1c_mask(regs.REG_STATUS, 2, regs.STATUS_W1C)
        config.define(regs.REG_REVISION, 1, self.revision)
        config.define(regs.REG_CLASS, 3, self.class_code)
        config.define(regs.REG_CACHE_LINE, 1, 0, 0xFF)
        config.define(regs.REG_HEADER_TYPE, 1, regs.HEADER_MULTIFUNCTION if self.multifunction else 0)
        config.define(regs.REG_SUBSYSTEM_VENDOR_ID, 2, self.subsystem_vendor_id)
        config.define(regs.REG_SUBSYSTEM_ID, 2, self.subsystem_id)
        config.define(regs.REG_INTERRUPT_LINE, 1, 0, 0xFF)

    @property
    def multifunction(self) -> bool:
        """True when the slot announces further functions (header type bit 7)."""
        return self.props.multifunction

    def _leave_bus(self) -> None:
        self._intx.connect(None)
        self._remap(io_on=False, memory_on=False)
        self.bus_master = False
        self.dma = _NO_MEMORY
        self.bus.detach(self)

    def vanish(self) -> None:
        """Out of the guest's sight at once: configuration space reads all-ones, nothing is mapped, no interrupt and no
        new DMA. Any thread, DeviceLock held; ``unrealize`` follows."""
        self.vanished = True
        self._intx.connect(None)
        self._remap(io_on=False, memory_on=False)
        self.bus_master = False
        self.dma = _NO_MEMORY

    def reset(self, kind: ResetKind) -> None:
        """Registers to their reset values, BARs unmapped, INTx low. Subclasses call it and reset what they add."""
        self.intx.lower()
        old = self.config.get(regs.REG_COMMAND, 2)
        self.config.reset()
        self._apply_command(old)
        for hook in self._reset_hooks:
            hook()

    # -- declaration ---------------------------------------------------------------------------------------

    def use_intx(self, pin: int = 0) -> None:
        """The function has an interrupt pin (0..3 = INTA..INTD); ``self.intx`` drives it."""
        self.config.define(regs.REG_INTERRUPT_PIN, 1, pin + 1)
        fan_in, slot, function, name = self.bus.pirqs, self.slot, self.function, self.name

        def drive(level: int) -> None:
            if PCI_INTX.on:
                PCI_INTX(name, level)
            fan_in.set(slot, function, pin, level)

        self._intx.connect(drive)

    def add_bar(  # noqa: PLR0913  # the parameters of one BAR, as agreed with every user of it
        self,
        index: int,
        size_bytes: int,
        kind: str,
        read: Callable[[int, int], int] = reads_zero,
        write: Callable[[int, int, int], None] = drops_writes,
        *,
        name: str,
        max_width: int = 4,
        prefetch: bool = False,
    ) -> Bar:
        """Declare BAR ``index``: ``kind`` is "io", "mem32" or "mem64" (two registers). Handlers as IoRange's;
        without them only what ``add_bar_region`` and ``Msix`` lay over it answers, the rest reads zero."""
        bar = Bar(index, size_bytes, kind, prefetch)
        bar.regions.append(BarRegion(0, size_bytes, read, write, name, max_width))
        bar.define(self.config)
        self._bars.bars[index] = bar
        return bar

    def add_bar_region(self, index: int, region: BarRegion) -> None:
        """Lay a region over a part of a BAR declared before; it wins there."""
        bar = self._bars.bars[index]
        if region.offset < 0 or region.offset + region.size_bytes > bar.size_bytes:
            raise ValueError(f"{region.name} does not fit in BAR {index}")
        bar.regions.append(region)

    @property
    def bars(self) -> dict[int, Bar]:
        """The declared BARs by index."""
        return self._bars.bars

    def add_capability(self, cap_id: int, length: int) -> int:
        """Append a capability of ``length`` bytes (header included) to the list; returns its offset."""
        offset = self._next_capability
        if offset + length > regs.CONFIG_SPACE_BYTES:
            raise ValueError(f"no room for capability {cap_id:#x} of {length} bytes")
        self._next_capability = (offset + length + 3) & ~3
        self.config.define(offset, 1, cap_id)
        link = self._last_capability
        self.config.define(link if link == regs.REG_CAPABILITIES else link + 1, 1, offset)
        self._last_capability = offset
        status = self.config.get(regs.REG_STATUS, 2)
        self.config.set(regs.REG_STATUS, 2, status | regs.STATUS_CAPABILITIES)
        return offset

    def watch_config(self, offset: int, size: int, callback: Callable[[int, int], None]) -> None:
        """Call ``callback(offset, size)`` after every guest write that touches these bytes."""
        self._watches.append((offset, offset + size, callback))

    def on_reset(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` at every reset, after the configuration space has its reset values."""
        self._reset_hooks.append(callback)

    def end_dma(self) -> None:
        """After ``vanish``: a vCPU waits until what is in flight has ended, some seconds at most. DeviceLock held; it
        is let go meanwhile."""

    # -- hooks ---------------------------------------------------------------------------------------------

    def bar_mapped(self, index: int, address: int | None) -> None:
        """BAR ``index`` is now at ``address`` (None: not decoded). DeviceLock held."""

    def command_changed(self, old: int, new: int) -> None:
        """The command register changed; BARs, ``dma`` and INTx have followed. DeviceLock held."""

    def config_written(self, offset: int, size: int) -> None:
        """The guest wrote configuration space. DeviceLock held."""

    # -- the guest's side ----------------------------------------------------------------------------------

    def config_read(self, offset: int, size: int) -> int:
        """A guest's read of 1, 2 or 4 bytes at any offset."""
        return self.config.read(offset, size)

    def config_write(self, offset: int, size: int, value: int) -> None:
        """A guest's write of 1, 2 or 4 bytes at any offset."""
        config = self.config
        command = config.get(regs.REG_COMMAND, 2)
        config.write(offset, size, value)
        end = offset + size
        if offset < regs.REG_COMMAND + 2 and end > regs.REG_COMMAND:
            self._apply_command(command)
        elif offset < regs.REG_ROM_BAR + 4 and end > regs.REG_BAR0:
            self._remap(bool(command & regs.CMD_IO), bool(command & regs.CMD_MEMORY))
        for start, stop, callback in self._watches:
            if offset < stop and end > start:
                callback(offset, size)
        self.config_written(offset, size)

    def _apply_command(self, old: int) -> None:
        new = self.config.get(regs.REG_COMMAND, 2)
        self.bus_master = bool(new & regs.CMD_BUS_MASTER)
        self.dma = self.ctx.memory if self.bus_master else _NO_MEMORY
        self._remap(bool(new & regs.CMD_IO), bool(new & regs.CMD_MEMORY))
        self._intx.update()
        if new != old:
            self.command_changed(old, new)

    def _remap(self, io_on: bool, memory_on: bool) -> None:
        for bar, old in self._bars.remap(self.config, io_on, memory_on):
            if old is not None and PCI_UPDATE_MAPPINGS_DEL.on:
                PCI_UPDATE_MAPPINGS_DEL(self.name, *self._place, bar.index, old, bar.size_bytes)
            if bar.address is not None and PCI_UPDATE_MAPPINGS_ADD.on:
                PCI_UPDATE_MAPPINGS_ADD(self.name, *self._place, bar.index, bar.address, bar.size_bytes)
            if bar.kind == "rom":
                self._rom_mapped(bar.address)
            self.bar_mapped(bar.index, bar.address)

    def _rom_mapped(self, address: int | None) -> None:
        assert self._rom is not None  # it has the register
        self.ctx.roms.hide(self._rom)
        if address is not None:
            self.ctx.roms.show(self._rom, address)

    @property
    def _place(self) -> tuple[int, int, int]:
        """Bus, slot, function."""
        return self.bus.number, self.slot, self.function
