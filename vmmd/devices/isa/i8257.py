# SPDX-License-Identifier: Apache-2.0
"""i8257: a DMA controller 8237A of a PC with its page registers (Intel 8237A data sheet; IBM AT Technical Reference).

A PC has two: channels 0-3 move bytes (ports 00h-0Fh, pages 81h-87h), channels 4-7 words (ports C0h-DFh in steps of two,
pages 89h-8Fh). Implemented: address and count with the byte flip-flop, modes (direction, increment and decrement,
auto-initialisation), single, all and cleared masks, requests and terminal count in the status register, master clear,
controller disable, high page registers where a machine has them. Not: memory-to-memory transfers, cascading, rotating
priorities, compressed timing: in a PC nobody sees them.

A device gets its ``DmaChannel`` from ``IsaDma`` and moves data itself when the channel is ready; that a guest
lets it go on is told to ``on_ready``. QEMU-COMPAT, as measured: address and count get a new value with its high byte;
they start from the programmed values with every command of a device, auto-initialised or not, and the end of
a transfer masks nothing; addresses run on over 64 KiB; the mask register has eight bits after a clear; only
«verify» keeps data away from memory, for the rest the device says which way they go.

DMA reaches RAM only: what is written elsewhere is lost, and ones are read from there. A reset of the machine is a
master clear: addresses, counts and pages stay. While the machine is stopped no device moves anything. DeviceLock held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.address_space import IoRange
from vmmd.core.device import Device
from vmmd.core.memory import GuestAddressError
from vmmd.core.props import I32, prop
from vmmd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.memory import GuestMemory
    from vmmd.core.props import PropSet

CHANNELS = 4
NO_PORT = -1
FIRST_PORT, FIRST_PAGE = 0x00, 0x80
SECOND_PORT, SECOND_PAGE = 0xC0, 0x88
#: page register, counted from the page base, of each channel (AT Technical Reference); gaps are other ports
_PAGE_CHANNELS = {1: 2, 2: 3, 3: 1, 7: 0}

# control registers, by number (data sheet, figure 4)
REG_STATUS = 0  # written: command; further: request, single mask, mode, clear flip-flop, master clear, clear mask
REG_ALL_MASKS = 1  # read; written it is number 7

COMMAND_DISABLE = 0x04
SET_BIT = 0x04  # of single mask and request: set, not clear
MODE_TRANSFER, MODE_VERIFY = 0x0C, 0x00
MODE_DECREMENT = 0x20
MASKS_AFTER_CLEAR = 0xFF

_PIECE = 4096  # of a transfer: it is moved or lost as a whole


class DmaChannel:
    """One channel as a device sees it. ``on_ready`` callbacks hear that the guest has let the channel go."""

    def __init__(self, controller: I8257, index: int) -> None:
        self._controller = controller
        self._index = index
        self.base_address = self.base_count = 0
        self.address = 0  # in bytes or words
        self.count = 0  # what is left, minus one; -1 after the last
        self.mode = 0
        self.page = self.high_page = 0
        self._listeners: list[Callable[[], None]] = []

    # -- the device's side -----------------------------------------------------------------------------------

    def on_ready(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` when the channel may run again; returns the undo function."""
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback)

    @property
    def ready(self) -> bool:
        """The guest lets data through."""
        return self._controller.lets_through(self._index)

    @property
    def remaining_bytes(self) -> int:
        """What is left until the terminal count."""
        return (self.count + 1) << self._controller.shift

    def request(self, on: bool) -> None:
        """DREQ."""
        self._controller.set_request(self._index, on)

    def begin(self) -> None:
        """A command of the device begins: from the programmed address, with DREQ."""
        self.load()
        self.request(True)

    def store(self, data: bytes | bytearray | memoryview) -> int:
        """From the device to memory; returns how many bytes went, and no more at the terminal count."""
        length = self._take(len(data))
        if self.mode & MODE_TRANSFER != MODE_VERIFY:
            if self.mode & MODE_DECREMENT:
                _write(self._memory, self._lowest(length), bytes(data[:length])[::-1])
            else:
                _write(self._memory, self._physical(), bytes(data[:length]))
        self._move(length)
        return length

    def fetch(self, length: int) -> bytes:
        """From memory to the device, up to ``length`` bytes and the terminal count. Verifying gives zeroes."""
        length = self._take(length)
        if self.mode & MODE_TRANSFER == MODE_VERIFY:
            data = bytes(length)
        elif self.mode & MODE_DECREMENT:
            data = _read(self._memory, self._lowest(length), length)[::-1]
        else:
            data = _read(self._memory, self._physical(), length)
        self._move(length)
        return data

    def _take(self, length: int) -> int:
        """Whole units, no further than the terminal count."""
        return min(length, self.remaining_bytes) & ~self._controller.shift

    # -- the controller's side -------------------------------------------------------------------------------

    def load(self) -> None:
        """Current values from the programmed ones."""
        self.address, self.count = self.base_address, self.base_count

    def tell_ready(self) -> None:
        for callback in list(self._listeners):
            callback()

    @property
    def _memory(self) -> GuestMemory:
        return self._controller.ctx.memory

    def _physical(self) -> int:
        shift = self._controller.shift
        page = self.page & ~shift  # of word channels the lowest bit is not wired
        return ((self.high_page & 0x7F) << 24) + (page << 16) + (self.address << shift)

    def _lowest(self, length: int) -> int:
        """Where ``length`` bytes begin that end at the current address."""
        return self._physical() - length + (1 << self._controller.shift)

    def _move(self, length: int) -> None:
        units = length >> self._controller.shift
        self.address += -units if self.mode & MODE_DECREMENT else units
        self.count -= units
        if self.count < 0:
            self._controller.terminal_count(self._index)


def _pieces(gpa: int, length: int) -> list[tuple[int, int]]:
    """(address, length) of a range, cut at multiples of ``_PIECE``."""
    pieces = []
    while length > 0:
        taken = min(length, _PIECE - gpa % _PIECE)
        pieces.append((gpa, taken))
        gpa, length = gpa + taken, length - taken
    return pieces


def _write(memory: GuestMemory, gpa: int, data: bytes) -> None:
    at = 0
    for start, length in _pieces(gpa, len(data)):
        try:
            memory.write(start, data[at : at + length])
        except GuestAddressError:  # no RAM there: nobody takes it
            pass
        at += length


def _read(memory: GuestMemory, gpa: int, length: int) -> bytes:
    parts = []
    for start, taken in _pieces(gpa, length):
        try:
            parts.append(memory.read(start, taken))
        except GuestAddressError:
            parts.append(b"\xff" * taken)
    return b"".join(parts)


class I8257(Device):
    """One controller. Ports are byte wide; the second one's lie two apart."""

    type_name = "i8257"
    description = "DMA controller 8237A"
    bus_type = "ISA"
    KEPT_AT_RESET = ("channels",)

    class Props(Device.Props):
        """Names and defaults as QEMU 7.2 shows them."""

        base = prop(I32, FIRST_PORT, "first port of the channel registers")
        page_base = prop(I32, FIRST_PAGE, "first port of the page registers")
        pageh_base = prop(I32, 0x480, "first port of the high page registers; -1: none")
        dshift = prop(I32, 0, "0: bytes, ports follow each other; 1: words, every other port")

        def place(self, *, second: bool) -> None:
            """Be one of a PC's two."""
            self.base, self.page_base = (SECOND_PORT, SECOND_PAGE) if second else (FIRST_PORT, FIRST_PAGE)
            self.pageh_base, self.dshift = NO_PORT, int(second)

    props: I8257.Props

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        self.channels = tuple(DmaChannel(self, index) for index in range(CHANNELS))
        self.shift = 0
        self._command = 0
        self._mask = MASKS_AFTER_CLEAR
        self._status = 0  # bits 0-3 terminal counts, 4-7 requests
        self._second_byte = False  # the flip-flop
        self._writers = (  # by number
            self._write_command, self._write_request, self._write_single_mask, self._write_mode,
            self._clear_flip_flop, self._master_clear, self._clear_mask, self._write_all_masks,
        )  # fmt: skip

    # -- life ------------------------------------------------------------------------------------------------

    def realize(self) -> None:
        """Take the ports. Raises UsageError."""
        props = self.props
        self.shift = props.dshift
        if self.shift not in (0, 1):
            raise UsageError(f"i8257: dshift={self.shift}", "it takes 0 or 1")
        registers = 8 << self.shift
        channel, control = self._write_channel, self._write_control
        self.claim_pio(IoRange(props.base, registers, self._read_channel, channel, name="dma-chan", max_width=1))
        self.claim_pio(
            IoRange(props.base + registers, registers, self._read_control, control, name="dma-cont", max_width=1)
        )
        self._claim_pages(props.page_base, "page")
        if props.pageh_base != NO_PORT:
            self._claim_pages(props.pageh_base, "high_page")

    def _claim_pages(self, base: int, register: str) -> None:
        for offset, number in _PAGE_CHANNELS.items():
            channel = self.channels[number]
            self.claim_pio(
                IoRange(
                    base + offset,
                    1,
                    lambda at, size, channel=channel: getattr(channel, register),  # type: ignore[misc]
                    lambda at, size, value, channel=channel: setattr(channel, register, value),  # type: ignore[misc]
                    name="dma-page",
                    max_width=1,
                )
            )

    def reset(self, kind: ResetKind) -> None:
        self._master_clear()

    # -- for channels ----------------------------------------------------------------------------------------

    def lets_through(self, index: int) -> bool:
        """Neither the channel nor the controller is held back by the guest."""
        return not (self._mask >> index & 1 or self._command & COMMAND_DISABLE)

    def set_request(self, index: int, on: bool) -> None:
        """A device's DREQ."""
        bit = 0x10 << index
        self._status = self._status | bit if on else self._status & ~bit

    def terminal_count(self, index: int) -> None:
        """The count of a channel has run out."""
        self._status |= 1 << index

    # -- registers -------------------------------------------------------------------------------------------

    def _flip(self) -> bool:
        """Whether this access is to the second byte of a register; the next one is to the other."""
        second = self._second_byte
        self._second_byte = not second
        return second

    def _read_channel(self, offset: int, size: int) -> int:
        number = offset >> self.shift
        channel = self.channels[number >> 1]
        value = channel.count if number & 1 else channel.address
        return value >> (8 * self._flip()) & 0xFF

    def _write_channel(self, offset: int, size: int, value: int) -> None:
        number = offset >> self.shift
        channel = self.channels[number >> 1]
        name = "base_count" if number & 1 else "base_address"
        before = getattr(channel, name)
        if self._flip():
            setattr(channel, name, before & 0xFF | value << 8)
            channel.load()
        else:
            setattr(channel, name, before & 0xFF00 | value)

    def _read_control(self, offset: int, size: int) -> int:
        number = offset >> self.shift
        if number == REG_STATUS:
            value = self._status
            self._status &= 0xF0
            return value
        return self._mask if number == REG_ALL_MASKS else 0

    def _write_control(self, offset: int, size: int, value: int) -> None:
        held = [not self.lets_through(index) for index in range(CHANNELS)]
        self._writers[offset >> self.shift](value)
        for index in range(CHANNELS):
            if held[index] and self.lets_through(index):
                self.channels[index].tell_ready()

    def _write_command(self, value: int) -> None:
        self._command = value

    def _write_request(self, value: int) -> None:
        index = value & 3
        self.set_request(index, bool(value & SET_BIT))
        if not value & SET_BIT:
            self._status &= ~(1 << index)

    def _write_single_mask(self, value: int) -> None:
        bit = 1 << (value & 3)
        self._mask = self._mask | bit if value & SET_BIT else self._mask & ~bit

    def _write_mode(self, value: int) -> None:
        self.channels[value & 3].mode = value

    def _clear_flip_flop(self, value: int) -> None:
        self._second_byte = False

    def _clear_mask(self, value: int) -> None:
        self._mask = 0

    def _write_all_masks(self, value: int) -> None:
        self._mask = value

    def _master_clear(self, value: int = 0) -> None:
        self._second_byte = False
        self._mask = MASKS_AFTER_CLEAR
        self._status = self._command = 0


class IsaDma:
    """The eight DMA channels of an ISA bus."""

    def __init__(self, first: I8257, second: I8257) -> None:
        self._controllers = (first, second)

    def channel(self, number: int) -> DmaChannel:
        """Raises UsageError: there is none of this number, or it links the controllers."""
        if not 0 <= number < 2 * CHANNELS or number == CHANNELS:
            raise UsageError(f"there is no DMA channel {number}", "ISA has channels 0 to 3 and 5 to 7")
        return self._controllers[number // CHANNELS].channels[number % CHANNELS]
