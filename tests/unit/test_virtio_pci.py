# SPDX-License-Identifier: Apache-2.0
"""The PCI function of a virtio disk: what QEMU 7.2's shows after reset, registers of both interfaces, properties."""

from __future__ import annotations

import pytest

from tests.framework.virtio_function import LEGACY_BASE, MODERN_BASE
from tests.framework.virtqueue_driver import Driver
from tests.unit.fakes import make_context
from tests.unit.virtio_rig import FULL, RINGS, Rig, rig
from vmmd.devices.virtio.blk.device import VirtioBlkPci, VirtioBlkPciNonTransitional, VirtioBlkPciTransitional
from vmmd.devices.virtio.queue import RingError, VirtQueue
from vmmd.errors import UsageError

# Configuration space of QEMU 7.2.22 after reset, -smp 1, as read through qtest (black box); 32-bit words by offset
MODERN_CAPS = {
    0x34: 0x98, 0x3C: 0x100,
    0x40: 0x01100009, 0x44: 4, 0x48: 0, 0x4C: 0x1000, 0x50: 0x03104009, 0x54: 4, 0x58: 0x1000, 0x5C: 0x1000,
    0x60: 0x04105009, 0x64: 4, 0x68: 0x2000, 0x6C: 0x1000, 0x70: 0x02146009, 0x74: 4, 0x78: 0x3000, 0x7C: 0x1000,
    0x80: 4, 0x84: 0x05147009, 0x98: 0x00018411, 0x9C: 1, 0xA0: 0x801,
}  # fmt: skip
TRANSITIONAL = {0: 0x10011AF4, 4: 0x00100000, 8: 0x01000000, 0x10: 1, 0x20: 0xC, 0x2C: 0x00021AF4, **MODERN_CAPS}
MODERN_ONLY = {0: 0x10421AF4, 4: 0x00100000, 8: 0x01000001, 0x20: 0xC, 0x2C: 0x11001AF4, **MODERN_CAPS}
LEGACY_ONLY = {
    0: 0x10011AF4, 4: 0x00100000, 8: 0x01000000, 0x10: 1, 0x2C: 0x00021AF4,
    0x34: 0x40, 0x3C: 0x100, 0x40: 0x00010011, 0x44: 1, 0x48: 0x801,
}  # fmt: skip
#: what sticks when all-ones are written to the BARs
SIZES = {0x10: 0xFFFFFF81, 0x14: 0xFFFFF000, 0x18: 0, 0x1C: 0, 0x20: 0xFFFFC00C, 0x24: 0xFFFFFFFF}


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        (VirtioBlkPci, {}, TRANSITIONAL),
        (VirtioBlkPciTransitional, {}, TRANSITIONAL),
        (VirtioBlkPciNonTransitional, {}, MODERN_ONLY),
        (VirtioBlkPci, {"disable_legacy": "on"}, MODERN_ONLY),
        (VirtioBlkPci, {"disable_modern": "on"}, LEGACY_ONLY),
        (VirtioBlkPci, {"vectors": "0"}, {**TRANSITIONAL, 0x34: 0x84, 0x98: 0, 0x9C: 0, 0xA0: 0}),
        (VirtioBlkPci, {"num_queues": "4", "vectors": "3"}, {**TRANSITIONAL, 0x98: 0x00028411}),
    ],
)
def test_configuration_space_is_qemus(
    kind: type[VirtioBlkPci], given: dict[str, str], expected: dict[int, int]
) -> None:
    with rig(kind, **given) as blk:
        blk.reset()
        words = {offset: blk.registers.config_read(offset, 4) for offset in range(0, 256, 4)}
        assert {offset: hex(word) for offset, word in words.items() if word} == {
            offset: hex(word) for offset, word in expected.items() if word
        }


def test_bar_sizes_are_qemus() -> None:
    with rig() as blk:
        blk.reset()
        for register, expected in SIZES.items():
            blk.registers.config_write(register, 4, 0xFFFF_FFFF)
            assert blk.registers.config_read(register, 4) == expected, hex(register)


# Device configuration of QEMU 7.2.22 for a disk of 1 GiB
QEMU_CONFIG = bytes.fromhex(
    "0000200000000000" "00000000" "fe000000" "2008103f" "00020000" "00000000" "00000000" "01000100"
    "ffff3f00" "01000000" "01000000" "ffff3f00" "01000000" "01"
)  # fmt: skip


@pytest.mark.parametrize(
    ("given", "legacy", "modern", "changed"),
    [
        ({}, 0x79006E54, 0x101_30006E54, {}),
        ({"num_queues": "4", "queue_size": "128"}, 0x79007E54, 0x101_30007E54, {0xC: 0x7E, 0x22: 4}),
        ({"discard": "off"}, 0x79004E54, 0x101_30004E54, {0x24: 0, 0x25: 0, 0x26: 0, 0x28: 0, 0x2C: 0}),
        ({"config_wce": "off"}, 0x79006654, 0x101_30006654, {}),
        ({"write_cache": "off"}, 0x79006E54, 0x101_30006E54, {0x20: 0}),
        ({"event_idx": "off"}, 0x59006E54, 0x101_10006E54, {}),
        ({"indirect_desc": "off"}, 0x69006E54, 0x101_20006E54, {}),
        ({"any_layout": "off"}, 0x71006E54, 0x101_30006E54, {}),
        ({"notify_on_empty": "off"}, 0x78006E54, 0x101_30006E54, {}),
        ({"queue_reset": "off"}, 0x79006E54, 0x001_30006E54, {}),
        ({"cyls": "10", "heads": "3", "secs": "7"}, 0x79006E54, 0x101_30006E54, {0x10: 10, 0x11: 0, 0x12: 3, 0x13: 7}),
        ({"seg_max_adjust": "off"}, 0x79006E54, 0x101_30006E54, {0xC: 0x7E}),
        ({"discard_granularity": "4096"}, 0x79006E54, 0x101_30006E54, {0x2C: 8}),
        (
            {"physical_block_size": "4096", "min_io_size": "8192", "opt_io_size": "65536"},
            0x79006E54, 0x101_30006E54, {0x18: 3, 0x1A: 0x10, 0x1C: 0x80},
        ),
        (
            {"logical_block_size": "1024", "physical_block_size": "1024"},
            0x79006E54, 0x101_30006E54, {0x13: 0x3E, 0x15: 4, 0x2C: 2},
        ),
    ],
)  # fmt: skip
def test_features_and_device_configuration_are_qemus(
    given: dict[str, str], legacy: int, modern: int, changed: dict[int, int]
) -> None:
    made = Rig(**given)
    made.disk.data = HugeDisk(1 << 30)  # type: ignore[assignment]
    made.plug()
    expected = bytearray(QEMU_CONFIG)
    for offset, value in changed.items():
        expected[offset] = value
    old, new = Driver(made.registers, made.memory, modern=False), Driver(made.registers, made.memory, modern=True)
    assert hex(old.offered()) == hex(legacy)
    assert hex(new.offered()) == hex(modern)
    for driver in (old, new):
        assert bytes(driver.config(offset, 1) for offset in range(len(expected))).hex() == expected.hex()
        assert driver.config(0, 4) == 0x200000
        assert driver.config(len(expected), 1) == 0xFF  # behind the end
    made.close()


class HugeDisk:
    """Only a length."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"scsi": "on"}, "Please set scsi=off for virtio-blk devices in order to use virtio 1.0"),
        ({"num_queues": "0"}, "num-queues property must be larger than 0"),
        ({"queue_size": "2"}, r"invalid queue-size property \(2\), must be > 2"),
        ({"queue_size": "100"}, r"invalid queue-size property \(100\), must be a power of 2 \(max 1024\)"),
        ({"queue_size": "2048"}, r"invalid queue-size property \(2048\), must be a power of 2 \(max 1024\)"),
        ({"logical_block_size": "600"}, "Property .logical_block_size doesn't take value '600', it's not a power of 2"),
        ({"logical_block_size": "4194304"}, r"doesn't take value 4194304 \(minimum: 512, maximum: 2097152\)"),
        ({"logical_block_size": "4096"}, "logical_block_size > physical_block_size not supported"),
        ({"min_io_size": "100"}, "min_io_size must be a multiple of logical_block_size"),
        ({"min_io_size": "33554432"}, "min_io_size must not exceed 65535 logical blocks"),
        ({"discard_granularity": "100"}, "discard_granularity must be a multiple of logical_block_size"),
        ({"max_discard_sectors": "0"}, r"invalid max-discard-sectors property \(0\), must be between 1 and 4194303"),
        ({"max_write_zeroes_sectors": "4194304"}, r"invalid max-write-zeroes-sectors property \(4194304\)"),
        ({"cyls": "1"}, "heads must be between 1 and 255"),
        ({"heads": "3"}, "cyls must be between 1 and 65535"),
        ({"cyls": "70000", "heads": "1", "secs": "1"}, "cyls must be between 1 and 65535"),
        ({"disable_legacy": "on", "disable_modern": "on"}, "neither modern nor legacy mode is enabled"),
        ({"packed": "on"}, "property 'packed' is not available in this version"),
        ({"iommu_platform": "on"}, "property 'iommu_platform' is not available in this version"),
        ({"iothread": "io0"}, "property 'iothread' is not available in this version"),
        ({"page_per_vq": "on"}, "property 'page-per-vq' is not available in this version"),
    ],
)
def test_bad_property_is_refused_and_leaves_no_trace(given: dict[str, str], words: str) -> None:
    made = Rig(**given)
    with pytest.raises(UsageError, match=words), made.machine.lock:
        made.device.plug()
    assert made.device.bus.devices == {}
    assert made.machine.backends.claimed == []
    assert made.machine.requests.quiesce_callbacks == made.machine.requests.resume_callbacks == []
    assert made.machine.pio.ranges == made.machine.mmio.ranges == ()
    made.loop.close()


def test_a_drive_that_needs_bigger_blocks_is_refused_with_the_remedy() -> None:
    made = Rig()
    made.disk.request_alignment = 4096  # type: ignore[misc]
    with pytest.raises(UsageError, match="logical_block_size=4096"), made.machine.lock:
        made.device.plug()
    made.loop.close()


def test_too_many_vectors_means_none_as_in_qemu() -> None:
    with rig(vectors="3000") as blk:
        assert blk.device.msix is None
        assert blk.device.interrupt_queue  # INTx remains
        assert blk.registers.config_read(0x3D, 1) == 1


# -- modern registers ----------------------------------------------------------------------------------------


@pytest.fixture
def modern() -> Driver:  # type: ignore[misc]
    with rig(num_queues="2") as blk:
        driver = Driver(blk.registers, blk.memory, modern=True)
        driver.blk = blk  # type: ignore[attr-defined]
        yield driver


def test_status_reads_back_as_drivers_expect(modern: Driver) -> None:
    assert modern.negotiate(FULL) == 11
    modern.setup_queue(0, RINGS)
    modern.ready()
    assert modern.status == 15
    modern.status = 0
    assert modern.status == 0
    assert modern.get(0x1C, 2) == 0
    assert modern.get(0x20, 4) == 0


def test_features_that_are_not_offered_are_refused(modern: Driver) -> None:
    modern.status = 3
    modern.put(8, 4, 0)
    modern.put(0xC, 4, 1 << 7)  # SCSI
    modern.status = 11
    assert modern.status == 3


def test_features_are_frozen_by_features_ok(modern: Driver) -> None:
    modern.negotiate(FULL)
    modern.put(8, 4, 0)
    before = modern.get(0xC, 4)
    modern.put(0xC, 4, 0)
    assert modern.get(0xC, 4) == before
    modern.put(8, 4, 7)
    modern.put(0xC, 4, 0xFFFF_FFFF)
    assert modern.get(0xC, 4) == 0
    modern.put(0, 4, 2)
    assert modern.get(4, 4) == 0


@pytest.mark.parametrize(("select", "size"), [(0, 256), (1, 256), (2, 0), (1023, 0)])
def test_queue_select_reaches_only_queues_that_exist(modern: Driver, select: int, size: int) -> None:
    modern.put(0x16, 2, select)
    assert modern.get(0x16, 2) == select
    assert modern.get(0x18, 2) == size
    assert modern.get(0x1A, 2) == 0xFFFF
    modern.put(0x1C, 2, 1)
    assert modern.get(0x1C, 2) == (1 if size else 0)


def test_queue_select_beyond_1023_is_ignored(modern: Driver) -> None:
    modern.put(0x16, 2, 1)
    modern.put(0x16, 2, 1024)
    assert modern.get(0x16, 2) == 1


def test_queue_registers_freeze_once_enabled(modern: Driver) -> None:
    modern.negotiate(FULL)
    ring = modern.setup_queue(0, RINGS, size=128)
    assert modern.get(0x18, 2) == 128
    for register, size, value in ((0x18, 2, 64), (0x20, 4, 0x4000), (0x24, 4, 1), (0x1C, 2, 0), (0x1C, 2, 1)):
        modern.put(register, size, value)
    assert modern.get(0x18, 2) == 128
    assert modern.get(0x20, 8) == ring.desc
    assert modern.get(0x1C, 2) == 1


@pytest.mark.parametrize("size", [0, 512, 32769])
def test_queue_size_may_only_shrink(modern: Driver, size: int) -> None:
    modern.put(0x18, 2, size)
    assert modern.get(0x18, 2) == 256


def test_queue_of_three_asks_for_a_reset(modern: Driver) -> None:
    modern.negotiate(FULL)
    modern.setup_queue(0, RINGS, size=3)
    modern.ready()
    assert modern.status == 15 | 0x40
    blk = modern.blk  # type: ignore[attr-defined]
    assert blk.run(blk.driver().queues[0], 4) == 0


def test_accesses_of_any_shape_have_a_defined_result(modern: Driver) -> None:
    assert modern.get(0x14, 4) == modern.get(0x14, 1) | modern.get(0x15, 1) << 8 | modern.get(0x16, 2) << 16
    assert modern.get(0x19, 1) == 1  # upper half of 256
    assert modern.get(0x3C, 4) == 0
    assert modern.get(0xFFC, 8) == 0
    modern.put(0x10, 4, 0x0000_0001)  # two registers at once: dropped
    assert modern.get(0x10, 2) == 0xFFFF
    assert modern.get(0x1001, 1) == 0
    assert modern.get(0x3000, 2) == 0
    assert modern.get(0x2FFC, 8) == 0xFFFF_FFFF  # not aligned: two reads, and notifications read zero
    for offset in range(0x40):
        for size in (1, 2, 4, 8):
            assert 0 <= modern.get(offset, size) < 1 << (8 * size)


def test_pci_configuration_window_reaches_the_bar(modern: Driver) -> None:
    blk = modern.blk  # type: ignore[attr-defined]
    at = 0x84

    def window(bar: int, offset: int, length: int) -> None:
        blk.registers.config_write(at + 4, 1, bar)
        blk.registers.config_write(at + 8, 4, offset)
        blk.registers.config_write(at + 12, 4, length)

    window(4, 0x18, 2)
    assert blk.registers.config_read(at + 16, 4) == 0x100
    window(4, 0x2000, 4)
    assert blk.registers.config_read(at + 16, 4) == 512
    window(4, 0x14, 1)
    blk.registers.config_write(at + 16, 1, 1)
    assert modern.status == 1
    for bar, offset, length in ((0, 0, 4), (4, 0x4000, 4), (4, 0xFFFF_FFFE, 4), (4, 1, 2), (4, 0, 3), (4, 0, 0)):
        window(bar, offset, length)
        blk.registers.config_write(at + 16, 4, 0)
        assert blk.registers.config_read(at + 16, 4) == 0
    assert modern.status == 1


# -- legacy registers ----------------------------------------------------------------------------------------


def test_legacy_registers() -> None:
    with rig(num_queues="2") as blk:
        old = Driver(blk.registers, blk.memory, modern=False)
        old.put(4, 4, 0xFFFF_FFFF)
        assert old.get(4, 4) == 0, "a driver that takes every bit gets none (QEMU)"
        old.put(4, 4, 0x3000_0001)
        assert old.get(4, 4) == 0x3000_0000
        assert (old.get(0xC, 2), old.get(0xE, 2), old.get(0x10, 2), old.get(0x12, 1)) == (256, 0, 0xFFFF, 0)
        old.put(0xE, 2, 2)
        assert old.get(0xC, 2) == 0
        old.put(8, 4, 0x123)
        assert old.get(8, 4) == 0
        old.put(0xE, 2, 1)
        old.put(8, 4, 0x10)
        assert old.get(8, 4) == 0x10
        old.put(0xE, 2, 0xFFFF)
        assert old.get(0xE, 2) == 1
        old.status = 7
        assert old.status == 7
        old.put(8, 4, 0)
        assert (old.status, old.get(8, 4)) == (0, 0)


def test_legacy_configuration_moves_behind_the_vectors() -> None:
    with rig() as blk:
        old = Driver(blk.registers, blk.memory, modern=False)
        assert old.get(0x14, 4) == 512
        blk.registers.enable_msix(2)
        assert (old.get(0x14, 2), old.get(0x16, 2)) == (0xFFFF, 0xFFFF)
        assert old.get(0x18, 4) == 512
        old.put(0x14, 2, 1)
        old.put(0x16, 2, 9)
        assert (old.get(0x14, 2), old.get(0x16, 2)) == (1, 0xFFFF)


def test_every_shape_of_access_to_the_legacy_bar_is_answered() -> None:
    with rig() as blk:
        for offset in range(128):
            for size in (1, 2, 4):
                for value in (0, 1, 0xFFFF_FFFF):
                    with blk.machine.lock:
                        blk.machine.pio.write(LEGACY_BASE + offset, size, value & ((1 << (8 * size)) - 1))
                        assert 0 <= blk.machine.pio.read(LEGACY_BASE + offset, size) < 1 << (8 * size)


def test_legacy_bar_is_absent_when_disabled() -> None:
    with rig(disable_legacy="on") as blk, blk.machine.lock:
        assert blk.machine.pio.read(LEGACY_BASE, 4) == 0xFFFF_FFFF
        assert blk.machine.mmio.read(MODERN_BASE + 0x12, 2) == 1


@pytest.mark.parametrize(
    ("size", "rings"),
    [
        (0, (0, 0, 0)), (3, (0, 0x1000, 0x2000)), (32769, (0, 0x1000, 0x2000)), (65536, (0, 0x1000, 0x2000)),
        (8, (8, 0x1000, 0x2000)), (8, (0, 0x1001, 0x2000)), (8, (0, 0x1000, 0x2002)), (8, (0xFFFF0, 0x1000, 0x2000)),
        (8, (0, 0x1000, 1 << 20)), (8, (0, (1 << 64) - 2, 0x2000)), (256, (0, 0x1000, 0xFF804)),
    ],
)  # fmt: skip
def test_impossible_rings_are_refused(size: int, rings: tuple[int, int, int]) -> None:
    memory = make_context(1 << 20).memory
    with pytest.raises(RingError):
        VirtQueue(memory, size, rings, event_idx=False, indirect=False)
