# SPDX-License-Identifier: Apache-2.0
"""fw_cfg: how firmware asks the machine for its description (QEMU specification ``docs/specs/fw_cfg``).

Ports 0x510 (selector, 16 bit, write only), 0x511 (data, 8 bit, moves on by itself) and 0x514-0x51b (DMA address,
big-endian 64 bit; writing the low half starts the transfer). Items are byte strings under 16-bit keys; named files
get the keys from 0x20 on in the order of their names and are listed by item 0x19. Nothing is writable by the guest:
a DMA write ends with the error bit, a write to the data port is dropped. A byte read from 0x510 gives data, too
(measured: QEMU decodes both ports as one register).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.address_space import IoRange
from vmmd.core.device import Device
from vmmd.core.memory import GuestAddressError
from vmmd.core.trace import GUEST_ERRORS
from vmmd.core.trace_events import FW_CFG_SELECT
from vmmd.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.props import PropSet

PORT_SELECTOR = 0x510
PORT_DMA = 0x514

KEY_SIGNATURE = 0x00
KEY_ID = 0x01
KEY_UUID = 0x02
KEY_RAM_SIZE = 0x03
KEY_NOGRAPHIC = 0x04
KEY_NB_CPUS = 0x05
KEY_NUMA = 0x0D
KEY_BOOT_MENU = 0x0E
KEY_MAX_CPUS = 0x0F
KEY_FILE_DIR = 0x19
KEY_FILE_FIRST = 0x20
KEY_IRQ0_OVERRIDE = 0x8002  # architecture-local items from 0x8000
KEY_HPET = 0x8004

KEY_MASK = 0xBFFF  # bit 14 once chose the write channel; without it the same item is meant
FILE_NAME_MAX = 55  # 56 bytes with the NUL
FILE_COUNT_MAX = 0x3FFF - KEY_FILE_FIRST

ID_TRADITIONAL_AND_DMA = 0b11
DMA_SIGNATURE = b"QEMU CFG"
DMA_ERROR, DMA_READ, DMA_SKIP, DMA_SELECT, DMA_WRITE = 1, 2, 4, 8, 16
#: A transfer that asks for more than this behind the end of an item is refused: no firmware does, and filling all of
#: RAM with zeros would hold the device lock for seconds.
DMA_OVERREAD_MAX = 16 << 20
_ZEROS = bytes(1 << 16)


class FwCfg(Device):
    """The fw_cfg interface on I/O ports. Handlers run under the DeviceLock; items are added before the guest runs."""

    type_name = "fw_cfg_io"
    parent_type = "fw_cfg"
    description = "firmware configuration ports 0x510-0x51b"

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        self._items: dict[int, bytes | Callable[[], bytes]] = {}
        self._files: dict[str, tuple[bytes | Callable[[], bytes], int | None]] = {}
        self._writable: dict[str, bytearray] = {}
        self._directory_stale = True
        self._selected = KEY_SIGNATURE
        self._evaluated: dict[int, bytes] = {}
        self._data = b""
        self._size = 0
        self._offset = 0
        self._dma_high = 0
        self.add_bytes(KEY_SIGNATURE, b"QEMU")
        self.add_int(KEY_ID, ID_TRADITIONAL_AND_DMA, 4)

    # --- for the machine -------------------------------------------------------------------------------------------

    def add_bytes(self, key: int, data: bytes | Callable[[], bytes]) -> None:
        """Publish an item. A callable is asked once per reset, when the item is first selected."""
        self._items[key & KEY_MASK] = data

    def add_int(self, key: int, value: int, size_bytes: int) -> None:
        """Publish a little-endian number."""
        self.add_bytes(key, value.to_bytes(size_bytes, "little"))

    def add_file(self, name: str, data: bytes | Callable[[], bytes], *, size_bytes: int | None = None) -> None:
        """Publish a file; one of the same name is replaced.

        ``size_bytes`` is the size that the directory shows for a callable; what it returns is filled up with zeros.
        It is needed where the content is only known after the firmware has read the directory (ACPI tables).
        """
        if not 0 < len(name) <= FILE_NAME_MAX or not name.isascii():
            raise InternalError(f"fw_cfg: '{name}' is no file name of 1 to {FILE_NAME_MAX} characters")
        if len(self._files) >= FILE_COUNT_MAX:
            raise InternalError("fw_cfg: too many files")
        self._files[name] = (data, size_bytes)
        self._directory_stale = True

    def add_writable_file(self, name: str, size_bytes: int) -> None:
        """Publish a file of zeros that the guest may write (by DMA); a reset brings the zeros back."""
        content = self._writable[name] = bytearray(size_bytes)
        self.add_file(name, lambda: bytes(content), size_bytes=size_bytes)

    def remove_file(self, name: str) -> None:
        """Withdraw a file; unknown names are ignored."""
        self._files.pop(name, None)
        self._directory_stale = True

    def file_names(self) -> list[str]:
        """Names in the order of their keys."""
        return sorted(self._files)

    def files(self) -> list[tuple[str, int]]:
        """(name, bytes) as the directory shows them. DeviceLock held."""
        directory = self.item(KEY_FILE_DIR)
        found = []
        for entry in range(4, len(directory), 64):
            name = directory[entry + 8 : entry + 64].rstrip(b"\0").decode("ascii")
            found.append((name, int.from_bytes(directory[entry : entry + 4], "big")))
        return found

    def item(self, key: int) -> bytes:
        """The content of an item as the guest would read it; empty for an unknown key."""
        if self._directory_stale:
            self._build_directory()
        key &= KEY_MASK
        source = self._items.get(key, b"")
        if isinstance(source, bytes):
            return source
        data = self._evaluated.get(key)
        if data is None:
            data = self._evaluated[key] = source()
        return data

    def _build_directory(self) -> None:
        self._directory_stale = False
        for key in [key for key in self._items if KEY_FILE_FIRST <= key < 0x8000]:
            del self._items[key]
            self._evaluated.pop(key, None)
        entries = [len(self._files).to_bytes(4, "big")]
        for key, name in enumerate(sorted(self._files), KEY_FILE_FIRST):
            source, size_bytes = self._files[name]
            if not isinstance(source, bytes) and size_bytes is not None:
                source = _padded(name, source, size_bytes)
            self._items[key] = source
            size = size_bytes if size_bytes is not None else len(self.item(key))
            entries.append(size.to_bytes(4, "big") + key.to_bytes(2, "big") + bytes(2) + name.encode().ljust(56, b"\0"))
        self._items[KEY_FILE_DIR] = b"".join(entries)

    # --- Device ----------------------------------------------------------------------------------------------------

    def realize(self) -> None:
        self.claim_pio(IoRange(PORT_SELECTOR, 2, self._read_data, self._write_selector, name="fwcfg", max_width=2))
        self.claim_pio(IoRange(PORT_DMA, 8, self._read_dma, self._write_dma, name="fwcfg.dma", max_width=8))

    def reset(self, kind: ResetKind) -> None:
        self._evaluated.clear()
        for content in self._writable.values():
            content[:] = bytes(len(content))
        self._dma_high = 0
        self._select(KEY_SIGNATURE)

    def _file_name(self, key: int) -> str:
        """The file behind a key; "" for the fixed items."""
        names = self.file_names()
        position = (key & KEY_MASK) - KEY_FILE_FIRST
        return names[position] if 0 <= position < len(names) else ""

    # --- registers -------------------------------------------------------------------------------------------------

    def _select(self, key: int) -> None:
        self._selected = key
        data = self._data = self.item(key)
        self._size = len(data)
        if FW_CFG_SELECT.on:
            FW_CFG_SELECT(key, self._file_name(key), bool(self._size))
        self._offset = 0

    def _read_data(self, offset: int, size: int) -> int:
        if size != 1:
            return 0
        position = self._offset
        if position >= self._size:
            return 0
        self._offset = position + 1
        return self._data[position]

    def _write_selector(self, offset: int, size: int, value: int) -> None:
        if offset == 0 and size == 2:
            self._select(value)

    def _read_dma(self, offset: int, size: int) -> int:
        return int.from_bytes(DMA_SIGNATURE[offset : offset + size], "little")

    def _write_dma(self, offset: int, size: int, value: int) -> None:
        swapped = int.from_bytes(value.to_bytes(size, "little"), "big")
        if offset == 0 and size == 4:
            self._dma_high = swapped
        elif offset == 4 and size == 4:
            gpa = self._dma_high << 32 | swapped
            self._dma_high = 0
            self._transfer(gpa)
        elif offset == 0 and size == 8:
            self._dma_high = 0
            self._transfer(swapped)

    def _transfer(self, gpa: int) -> None:
        """Carry out the command block at ``gpa``: control, length (32 bit), address (64 bit), all big-endian."""
        memory = self.ctx.memory
        try:
            block = memory.read(gpa, 16)
        except GuestAddressError:
            return  # nowhere to report it: QEMU drops it, too
        control = int.from_bytes(block[:4], "big")
        length = int.from_bytes(block[4:8], "big")
        target = int.from_bytes(block[8:], "big")
        if control & DMA_SELECT:
            self._select(control >> 16)
        failed = False
        if control & DMA_READ:
            failed = not self._copy_out(target, length)
        elif control & DMA_WRITE:
            failed = not self._copy_in(target, length)
        elif control & DMA_SKIP:
            self._offset = min(self._offset + length, self._size)
        if failed and GUEST_ERRORS.on:
            GUEST_ERRORS(f"fw_cfg: transfer of {length} bytes at {target:#x}, control {control:#x}, fails")
        try:
            memory.write(gpa, (DMA_ERROR if failed else 0).to_bytes(4, "big"))
        except GuestAddressError:
            return  # the block lies across the end of RAM

    def _copy_in(self, gpa: int, length: int) -> bool:
        """RAM to a writable file. False, and nothing is written, when it is none, is full, or the source is no RAM."""
        content = self._writable.get(self._file_name(self._selected))
        start, end = self._offset, self._offset + length
        if content is None or end > len(content):
            return False
        try:
            content[start:end] = self.ctx.memory.read(gpa, length)
        except GuestAddressError:
            return False
        self._evaluated.pop(self._selected & KEY_MASK, None)
        self._data = bytes(content)
        self._offset = end
        return True

    def _copy_out(self, gpa: int, length: int) -> bool:
        """Item bytes to RAM, zeros behind the end of the item. False when the target is not RAM."""
        position = self._offset
        take = min(length, self._size - position)
        fill = length - take
        if fill > DMA_OVERREAD_MAX:
            return False
        memory = self.ctx.memory
        try:
            if take:
                memory.write(gpa, memoryview(self._data)[position : position + take])
                self._offset = position + take
            gpa += take
            while fill:
                step = min(fill, len(_ZEROS))
                memory.write(gpa, memoryview(_ZEROS)[:step])
                gpa += step
                fill -= step
        except GuestAddressError:
            return False
        return True


def _padded(name: str, source: Callable[[], bytes], size_bytes: int) -> Callable[[], bytes]:
    """``source`` filled up to the size that the directory announces."""

    def read() -> bytes:
        data = source()
        if len(data) > size_bytes:
            raise InternalError(f"fw_cfg: {name} has grown to {len(data)} bytes, {size_bytes} were announced")
        return data.ljust(size_bytes, b"\0")

    return read
