# SPDX-License-Identifier: Apache-2.0
"""pci-testdev: a PCI function for measuring and testing how writes arrive (QEMU's specification pci-testdev).

BAR 0 is memory, BAR 1 ports; both begin with a header. Writing a number to its first byte selects a test, and the
header tells how to do it: write ``data``, ``width`` bytes, at ``offset``; ``count`` tells how many such writes the
device has seen. Test 0 arrives as an access of the device; 1 (any data) and 2 (only ``data``) at a doorbell (KVM's
ioeventfd), so that the guest does not leave for the device, and are not counted. Beyond the last test the header is
empty. BAR 2, when ``membar`` gives its size, is memory that reads zero. A reset selects no test.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from vmmd.core.props import SIZE, prop
from vmmd.devices.pci.device import PciDevice
from vmmd.errors import BackendError, UsageError

if TYPE_CHECKING:
    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.notify import Doorbell
    from vmmd.core.props import PropSet

MEMORY_BAR, PORT_BAR, EXTRA_BAR = 0, 1, 2
MEMORY_BYTES, PORT_BYTES = 4096, 256
EXTRA_BYTES_MIN, EXTRA_BYTES_MAX = 16, 1 << 40
MEMORY_TESTS_AT, PORT_TESTS_AT = 0x800, 0x80
WIDTH = 1
DATA, DATA_OF_ANY = 0xFA, 0xCE
_HEADER = struct.Struct("<BB2xIII")


class PciTest(NamedTuple):
    """One way to write."""

    number: int
    name: str
    offset: int
    data: int
    doorbell: bool
    any_data: bool

    def header(self, count: int) -> bytes:
        """What the guest reads at the beginning of the BAR."""
        return _HEADER.pack(self.number, WIDTH, self.offset, self.data, count) + self.name.encode() + b"\0"


def _tests(first: int, base: int, prefix: str) -> tuple[PciTest, ...]:
    kinds = (("no-eventfd", DATA, False), ("wildcard-eventfd", DATA_OF_ANY, True), ("datamatch-eventfd", DATA, True))
    return tuple(
        PciTest(first + index, f"{prefix}-{name}", base + first + index, data, doorbell, name.startswith("wild"))
        for index, (name, data, doorbell) in enumerate(kinds)
    )


TESTS = {MEMORY_BAR: _tests(0, MEMORY_TESTS_AT, "mmio"), PORT_BAR: _tests(3, PORT_TESTS_AT, "portio")}
_SPACES = {MEMORY_BAR: "mmio", PORT_BAR: "pio"}


class PciTestdev(PciDevice):
    """The test function. One test is selected at a time, of one BAR."""

    type_name = "pci-testdev"
    description = "PCI test device"
    category = "misc"
    user_creatable = True
    vendor_id = 0x1B36
    device_id = 0x0005
    class_code = 0x00FF00

    class Props(PciDevice.Props):
        """Names and defaults as QEMU 7.2 shows them."""

        membar = prop(SIZE, 0, "size of a memory BAR, a power of two; 0: none")

    props: PciTestdev.Props

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        self._bar = MEMORY_BAR  # of the selected test
        self._test: PciTest | None = None
        self._count = 0
        self._at: dict[int, int | None] = dict.fromkeys(TESTS)  # where the BARs are
        self._doorbell: Doorbell | None = None

    def realize(self) -> None:
        """Declare the BARs. Raises UsageError."""
        size = self.props.membar
        if size and (size & (size - 1) or not EXTRA_BYTES_MIN <= size <= EXTRA_BYTES_MAX):
            raise UsageError(f"pci-testdev: membar={size}", "it takes a power of two from 16 to 1T, or 0")
        super().realize()
        self.on_undo(self._select_none)
        for bar, size_bytes, kind, name in (
            (MEMORY_BAR, MEMORY_BYTES, "mem32", "pci-testdev-mmio"),
            (PORT_BAR, PORT_BYTES, "io", "pci-testdev-portio"),
        ):
            self.add_bar(
                bar,
                size_bytes,
                kind,
                lambda offset, size, bar=bar: self._read(bar, offset, size),  # type: ignore[misc]
                lambda offset, size, value, bar=bar: self._write(bar, offset, value),  # type: ignore[misc]
                name=name,
                max_width=1,
            )
        if size:
            self.add_bar(EXTRA_BAR, size, "mem64", name="pci-testdev-membar", prefetch=True)

    def reset(self, kind: ResetKind) -> None:
        super().reset(kind)
        self._select_none()
        self._bar = MEMORY_BAR

    def bar_mapped(self, index: int, address: int | None) -> None:
        if index in TESTS:
            self._at[index] = address
            self._place_doorbell()

    # -- the guest's side ------------------------------------------------------------------------------------

    def _read(self, bar: int, offset: int, size: int) -> int:
        if self._test is None:
            return 0
        header = self._test.header(self._count)
        return header[offset] if offset < len(header) else 0

    def _write(self, bar: int, offset: int, value: int) -> None:
        test = self._test
        if offset == 0:
            self._select(bar, value)
        elif test is not None and bar == self._bar and not test.doorbell:
            self._count += (offset, value) == (test.offset, test.data)
            self._count &= 0xFFFF_FFFF

    def _select(self, bar: int, number: int) -> None:
        self._select_none()
        tests = TESTS[bar]
        if number < len(tests):
            self._bar, self._test = bar, tests[number]
            self._place_doorbell()

    def _select_none(self) -> None:
        self._close_doorbell()
        self._test, self._count = None, 0

    # -- doorbells -------------------------------------------------------------------------------------------

    def _close_doorbell(self) -> None:
        if self._doorbell is not None:
            self._doorbell.close()
            self._doorbell = None

    def _place_doorbell(self) -> None:
        """At the selected test, while its BAR is somewhere."""
        self._close_doorbell()
        test, base = self._test, self._at.get(self._bar)
        if test is None or not test.doorbell or base is None:
            return
        match = None if test.any_data else test.data
        try:
            self._doorbell = self.ctx.doorbells.attach(
                _SPACES[self._bar], base + test.offset, WIDTH, match, lambda: None
            )
        except BackendError as error:  # then the writes arrive as accesses, which are not counted either
            self.log.warning("no doorbell for test %s: %s", test.name, error)
