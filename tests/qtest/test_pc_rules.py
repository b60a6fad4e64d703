# SPDX-License-Identifier: Apache-2.0
"""What drivers of public test programs assume of the pc (contract §5), and memory as a CPU sees it."""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING

import pytest

from tests.framework.qtest import Qtest
from tests.framework.virtqueue_driver import Buffer
from tests.framework.wire_driver import wire_driver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.framework.virtqueue_driver import Driver

CONFIG_ADDRESS, CONFIG_DATA = 0xCF8, 0xCFC
DISK_BYTES = 1 << 20
#: guest memory that the tests use
QUEUE, HEADER, DATA, MESSAGES = 0x10_0000, 0x11_0000, 0x11_1000, 0x11_8000
BLK_IN, BLK_OUT = 0, 1


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Qtest]:
    image = tmp_path / "disk"
    image.write_bytes(bytes(DISK_BYTES))
    options = ("-device", "virtio-blk-pci,id=drv0,drive=drive0,addr=4.0")
    options += ("-drive", f"if=none,id=drive0,file={image},format=raw,auto-read-only=off")
    with Qtest("vmmd", "-M", "pc", "-nodefaults", *options) as started:
        yield started


# --- RAM and firmware configuration ---


def test_the_size_of_ram_comes_from_fw_cfg() -> None:
    for options, size in (((), 128 << 20), (("-m", "256"), 256 << 20)):
        with Qtest("vmmd", *options) as vm:
            vm.outw(0x510, 3)
            assert int.from_bytes(bytes(vm.inb(0x511) for _ in range(8)), "little") == size
            vm.writel(size - 4, 0x5A5A_5A5A)
            assert vm.readl(size - 4) == 0x5A5A_5A5A
            assert vm.readl(size) == 0


# --- PCI configuration ---


def test_the_low_bits_of_the_config_address_count(vm: Qtest) -> None:
    vm.outl(CONFIG_ADDRESS, 0x8000_2002)
    assert vm.inl(CONFIG_ADDRESS) == 0x8000_2002
    assert vm.inw(CONFIG_DATA) == 0x1001
    assert vm.inb(CONFIG_DATA) == 0x01
    assert vm.inw(CONFIG_DATA + 2) == 0x1001  # or-ed, not added
    assert vm.inb(CONFIG_DATA + 1) == 0x10
    assert vm.inw(CONFIG_DATA + 1) == 0x0110  # not aligned: two accesses of a byte


def test_absent_functions(vm: Qtest) -> None:
    assert vm.pci(6).config_read(0, 2) == 0xFFFF
    assert vm.pci(0x1D).config_read(0, 4) == 0xFFFF_FFFF
    vm.pci(6).config_write(4, 2, 7)
    assert not vm.pci(6).exists


def test_board_functions_are_where_they_belong(vm: Qtest) -> None:
    for slot, function, ids in ((0, 0, 0x1237_8086), (1, 0, 0x7000_8086), (1, 1, 0x7010_8086), (1, 3, 0x7113_8086)):
        assert vm.pci(slot, function).config_read(0, 4) == ids


def test_the_command_register_and_bars(vm: Qtest) -> None:
    function = vm.pci(4)
    assert function.config_read(4, 2) == 0
    assert function.config_read(0x10, 4) == 1
    assert function.config_read(0x20, 4) == 0xC
    function.enable()
    assert function.config_read(4, 2) & 7 == 7
    io = function.place_bar(0)
    assert io.is_io
    assert io.address == 0xC000
    assert io.size & (io.size - 1) == 0
    assert io.read(0, 4) not in (0, 0xFFFF_FFFF)  # features of the legacy interface
    memory = function.place_bar(4)
    assert not memory.is_io
    assert memory.size >= 0x4000
    function.config_write(4, 2, 0)
    assert io.read(0, 4) == 0xFFFF_FFFF
    assert memory.read(0, 4) == 0


def test_transitional_ids_and_capabilities(vm: Qtest) -> None:
    function = vm.pci(4)
    assert function.config_read(0, 4) == 0x1001_1AF4
    assert function.config_read(0x2C, 4) == 0x0002_1AF4
    vendor = [at for id_, at in function.capabilities() if id_ == 9]
    kinds = {function.config_read(at + 3, 1): function.config_read(at + 4, 1) for at in vendor}
    assert {kinds[kind] for kind in (1, 2, 3, 4)} == {4}  # all in one BAR
    (msix,) = [at for id_, at in function.capabilities() if id_ == 0x11]
    assert function.config_read(msix + 4, 4) & 7 == 1


# --- virtio over the wire ---


def until(vm: Qtest, happened: Callable[[], bool]) -> None:
    """As public programs poll: steps of virtual time, bounded by the clock on the wall."""
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline
        vm.clock_step(100)


def start_request(vm: Qtest, driver: Driver, kind: int, sector: int, length: int) -> None:
    vm.write(HEADER, struct.pack("<IIQ", kind, 0, sector))
    vm.writeb(HEADER + 16, 0xFF)
    data = Buffer(DATA, length)
    queue = driver.queues[0]
    readable = [Buffer(HEADER, 16)] + ([data] if kind == BLK_OUT else [])
    writable = ([data] if kind == BLK_IN else []) + [Buffer(HEADER + 16, 1)]
    queue.add(readable, writable)
    queue.kick()


@pytest.mark.parametrize("modern", [False, True], ids=["legacy", "modern"])
def test_a_disk_is_written_and_read_back(vm: Qtest, modern: bool) -> None:
    driver = wire_driver(vm, 4, modern=modern)
    assert driver.negotiate(0) == (11 if modern else 3)
    assert driver.queue_count >= 1
    size = driver.queue_size(0)
    assert size
    assert size & (size - 1) == 0
    driver.setup_queue(0, QUEUE)
    driver.ready()
    assert driver.status == (15 if modern else 7)
    assert driver.config(0, 4) == DISK_BYTES // 512
    vm.write(DATA, b"TEST" + bytes(508))
    start_request(vm, driver, BLK_OUT, 1, 512)
    until(vm, lambda: bool(driver.isr & 1))
    assert driver.queues[0].collect()
    assert vm.readb(HEADER + 16) == 0
    vm.write(DATA, bytes(512))
    start_request(vm, driver, BLK_IN, 1, 512)
    until(vm, lambda: bool(driver.isr & 1))
    assert vm.read(DATA, 4) == b"TEST"
    assert driver.isr == 0  # reading has cleared it


def test_no_bus_mastering_no_dma(vm: Qtest) -> None:
    driver = wire_driver(vm, 4, modern=True)
    driver.negotiate(0)
    driver.setup_queue(0, QUEUE)
    driver.ready()
    vm.pci(4).config_write(4, 2, 3)
    start_request(vm, driver, BLK_IN, 0, 512)
    for _ in range(20):
        vm.clock_step(100)
    assert vm.readb(HEADER + 16) == 0xFF
    assert not driver.queues[0].collect()
    vm.pci(4).config_write(4, 2, 7)
    driver.queues[0].notify()
    until(vm, lambda: vm.readb(HEADER + 16) == 0)


def test_messages_are_memory_writes(vm: Qtest) -> None:
    """MSI-X to an address in RAM: the data is polled there."""
    driver = wire_driver(vm, 4, modern=True)
    driver.registers.enable_msix(2, address=MESSAGES)
    driver.negotiate(0)
    driver.config_vector = 0
    driver.setup_queue(0, QUEUE, vector=1)
    assert driver.config_vector == 0
    driver.ready()
    start_request(vm, driver, BLK_IN, 0, 512)
    until(vm, lambda: vm.readl(MESSAGES + 4) == 0x41)
    vm.qmp("block_resize", device="drive0", size=2 * DISK_BYTES)
    until(vm, lambda: vm.readl(MESSAGES) == 0x40)
    assert driver.config(0, 4) == 2 * DISK_BYTES // 512


@pytest.mark.parametrize("modern", [False, True], ids=["legacy", "modern"])
def test_a_changed_configuration_sets_both_bits(vm: Qtest, modern: bool) -> None:
    driver = wire_driver(vm, 4, modern=modern)
    driver.negotiate(0)
    driver.setup_queue(0, QUEUE)
    driver.ready()
    assert driver.isr == 0
    vm.qmp("block_resize", device="drive0", size=2 * DISK_BYTES)
    seen = []
    until(vm, lambda: bool(seen.append(driver.isr) or seen[-1]))  # type: ignore[func-returns-value]
    assert seen[-1] == 3


def test_the_pin_of_the_disk_reaches_the_io_apic(vm: Qtest) -> None:
    """Slot 4, INTA is PIRQA of the PIIX3; routed to IRQ 11 it shows as pin 11, level-triggered."""
    vm.irq_intercept_in("ioapic")
    for pirq in range(4):
        vm.pci(1).config_write(0x60 + pirq, 1, 11)
    driver = wire_driver(vm, 4, modern=True)
    driver.negotiate(0)
    driver.setup_queue(0, QUEUE)
    driver.ready()
    start_request(vm, driver, BLK_IN, 0, 512)
    until(vm, lambda: vm.irq(11) == 1)
    assert driver.isr == 1
    assert vm.irq(11) == 0


def test_a_queue_that_does_not_exist(vm: Qtest) -> None:
    """Legacy drivers may give it a page; nothing comes of it."""
    driver = wire_driver(vm, 4, modern=False)
    driver.negotiate(0)
    driver.put(0x0E, 2, 200)
    assert driver.get(0x0C, 2) == 0
    driver.put(0x08, 4, QUEUE >> 12)
    assert driver.get(0x08, 4) == 0
    driver.put(0x10, 2, 200)
    driver.ready()
    assert vm.qmp("query-status")["running"]


# --- memory as a CPU sees it ---

#: (register, low nibble or high, base, size) of the PAM segments of the i440FX
SEGMENTS = [(0x59, 4, 0xF_0000, 0x1_0000)] + [
    (0x5A + index // 2, 4 * (index % 2), 0xC_0000 + 0x4000 * index, 0x4000) for index in range(12)
]


def test_pam(vm: Qtest) -> None:
    """Each segment: written where writes go to RAM, kept where they do not, seen where reads come from RAM."""
    bridge = vm.pci(0)
    for register, shift, base, size in SEGMENTS:

        def attributes(value: int, register: int = register, shift: int = shift) -> None:
            others = bridge.config_read(register, 1) & ~(3 << shift)
            bridge.config_write(register, 1, others | value << shift)

        attributes(3)
        vm.write(base, bytes((0x42,)) * size)
        assert vm.read(base, size) == bytes((0x42,)) * size
        attributes(1)
        vm.write(base, bytes((0x82,)) * size)
        assert vm.read(base, size) == bytes((0x42,)) * size
        attributes(2)
        assert vm.read(base, size) != bytes((0x42,)) * size
        vm.write(base, bytes((0x52,)) * size)
        attributes(0)
        assert vm.read(base, size) not in (bytes((0x42,)) * size, bytes((0x52,)) * size)
        vm.write(base, bytes((0x62,)) * size)
        attributes(1)
        assert vm.read(base, size) == bytes((0x52,)) * size


def test_smram(vm: Qtest) -> None:
    """The VGA window is nobody's here; opened, there is RAM behind it."""
    bridge = vm.pci(0)
    vm.writel(0xA_0000, 0x1234_5678)
    assert vm.readl(0xA_0000) == 0
    bridge.config_write(0x72, 1, 0x4A)  # D_OPEN, G_SMRAME
    vm.writel(0xA_0000, 0x1234_5678)
    assert vm.readl(0xA_0000) == 0x1234_5678
    bridge.config_write(0x72, 1, 0x0A)
    assert vm.readl(0xA_0000) == 0


def test_blocks_cross_what_lies_side_by_side(vm: Qtest) -> None:
    """One access over RAM and a hole, over ROM and the end of the address space."""
    vm.write(0x9_FFF0, bytes(range(1, 33)))
    assert vm.read(0x9_FFF0, 32) == bytes(range(1, 17)) + bytes(16)
    top = vm.read(0xFFFF_FFF0, 32)
    assert top[0] == 0xEA
    assert top[16:] == bytes(16)
    assert vm.read((1 << 64) - 8, 16) == bytes(8) + vm.read(0, 8)
    vm.write(0xFFFF_FFF0, bytes(16))  # ROM keeps what it has
    assert vm.read(0xFFFF_FFF0, 16) == top[:16]


def test_ram_above_4_gib() -> None:
    with Qtest("vmmd", "-nodefaults", "-m", "4096") as vm:
        vm.write(0x1_0000_0000, b"above")
        assert vm.read(0x1_0000_0000, 5) == b"above"
        vm.writel(0xBFFF_FFFC, 5)
        assert vm.readl(0xBFFF_FFFC) == 5
        assert vm.readl(0xC000_0000) == 0
        assert vm.readq(0x1_4000_0000) == 0


def test_registers_take_accesses_of_every_width(vm: Qtest) -> None:
    """Bytes of a block that are registers are read in pieces that these take."""
    function = vm.pci(4)
    function.enable()
    bar = function.place_bar(4)
    common = vm.read(bar.address, 8)
    assert common == b"".join(vm.load(bar.address + at, 4).to_bytes(4, "little") for at in (0, 4))
    vm.write(bar.address + 0x14, b"\x01")
    assert vm.read(bar.address + 0x14, 1) == b"\x01"
    assert vm.readq(bar.address) == int.from_bytes(common, "little")
