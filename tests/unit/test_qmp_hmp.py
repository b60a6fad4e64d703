# SPDX-License-Identifier: Apache-2.0
"""The monitor for people: expressions, formats, dumps and the layout of ``info`` texts, as measured on QEMU 7.2."""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.qmp_support import RAM_BYTES, FakeVm, ManualLoop, run_to_end
from vmmd.devices.pci.bus import PciDeviceInfo, PciRegion
from vmmd.errors import UsageError, VmmdError
from vmmd.machine.memory_map import Slot
from vmmd.qmp.hmp import registry
from vmmd.qmp.hmp.formats import cell
from vmmd.qmp.hmp.monitor import HumanMonitor
from vmmd.qmp.hmp.physical import host_physical
from vmmd.runstate import RunState


@pytest.fixture
def vm() -> FakeVm:
    return FakeVm(ManualLoop())


def say(vm: FakeVm, line: str, cpu_index: int = 0) -> str:
    return run_to_end(HumanMonitor(vm, cpu_index).run(line), vm.loop)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("print 1+2", "0x3"), ("p/x 0x10+1", "0x11"), ("p/d 0xffffffffffffffff", "-1"),
        ("p/u 0xffffffffffffffff", "18446744073709551615"), ("p/o 8", "010"), ("p/o 0", "0"), ("p/c 10", "'\\n'"),
        ("p/c 39", "'\\''"), ("p/c 92", "'\\\\'"), ("p/c 300", "'\\x12c'"), ("p/i 3", "3"), ("p/2xw 3", "0x3"),
        ("p 4+1&1", "0x5"), ("p 2*3+4", "0xa"), ("p 1|2*4", "0x9"), ("p ~0", "0xffffffffffffffff"),
        ("p -1", "0xffffffffffffffff"), ("p (1+2)*3", "0x9"), ("p 5%3", "0x2"), ("p 'a'", "0x61"), ("p 010", "0x8"),
        ("p -7/2", "0xfffffffffffffffd"), ("p $eax", "0x1234"), ("p $pc+1", "0xfffffff1"), ("p $cs.base", "0xffff0000"),
        ("p $eflags", "0x2"),
    ],
)  # fmt: skip
def test_expressions_have_qemus_values(vm: FakeVm, line: str, text: str) -> None:
    assert say(vm, line) == f"{text}\r\n"


def test_a_line_has_a_length_that_is_worked_on_in_a_moment(vm: FakeVm) -> None:
    too_long = "the line is longer than 16384 characters and is not run\r\n"
    assert say(vm, f"print {'1' * 16379}") == say(vm, "x" * 2_000_000) == too_long
    assert say(vm, f"{'print 1':<16384}") == "0x1\r\n"
    assert say(vm, f"print {'+'.join('1' * 256)}") == "0x100\r\n"
    assert say(vm, f"print {'+'.join('1' * 257)}").startswith("the expression has more than 256 terms\r\n")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("p", "unexpected end of expression"), ("p (1", "')' expected"), ("p 1/0", "division by zero"),
        ("p $foo", "unknown register"), ("p $", "unknown register"), ("p 'a", "missing terminating ' character"),
        ("p 0x", "print|p: extraneous characters at the end of line"), ("p 99999999999999999999", "number too large"),
        ("p 1 2", "print|p: extraneous characters at the end of line"), ("p 1+", "unexpected end of expression"),
        ("xp", "unexpected end of expression"), ("xp /4z 0", "invalid char in format: 'z'"),
        ("xp/4xw0", "invalid char in format: '0'"), ("xp /-1xb 0", "invalid char in format: '-'"),
        ("gva2gpa zz", "invalid char 'z' in expression"), ("info registers -z", "registers: unsupported option -z"),
        ("info status x", "status: extraneous characters at the end of line"),
        ("stop 1", "stop|s: extraneous characters at the end of line"),
        ("xp /9999999xb 0", "at most 65536 items are shown at once"),
        ("xp /4097i 0", "at most 4096 instructions are shown at once"),
        ("p " + "(" * 5000, "the expression is nested too deeply"),
        ("p " + "-" * 5000, "the expression is nested too deeply"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_a_pointer_to_help(vm: FakeVm, line: str, text: str) -> None:
    name = " ".join(line.replace("/", " ").split()[: 2 if line.startswith("info") else 1])
    assert say(vm, line) == f'{text}\r\nTry "help {name}" for more information\r\n'


def test_chardev_add_lists_the_backends(vm: FakeVm) -> None:
    text = say(vm, "chardev-add help")
    assert text.startswith("Available chardev backend types:")
    assert all(backend in text for backend in ("ringbuf", "socket", "pty"))


def test_unknown_commands_are_named(vm: FakeVm) -> None:
    for line in ("bogus", "info bogus", "INFO status", "xp4 0"):
        name = line if line.startswith("info") else line.split()[0]
        assert say(vm, line) == f"unknown command: '{name}'\r\n"
    assert say(vm, "") == say(vm, "  ") == ""


@pytest.mark.parametrize(
    ("value", "letter", "size", "text"),
    [
        (0xEA, "x", 1, "0xea"), (0, "o", 1, "  0"), (0o22103, "o", 2, "022103"), (0o142203, "o", 2, "0142203"),
        (0o30440622103, "o", 4, "030440622103"), (137, "d", 1, "137"), (8, "d", 1, "  8"), (9283, "u", 2, " 9283"),
        (3296928835, "d", 4, "3296928835"), (0, "d", 8, f"{0:20}"),
        ((1 << 64) - 1, "d", 8, f"{-1:20}"),
        (0x83, "c", 1, "'\\x83'"), (0x43, "c", 1, "'C'"), (0x5F5E5B20C4832443, "x", 8, "0x5f5e5b20c4832443"),
    ],
)  # fmt: skip
def test_items_are_as_wide_as_qemus(value: int, letter: str, size: int, text: str) -> None:
    assert cell(value, letter, size) == text


def test_dumps_have_qemus_lines(vm: FakeVm) -> None:
    vm.memory.write(0, bytes(range(64)))
    assert say(vm, "xp /10xb 0") == (
        "0000000000000000: 0x00 0x01 0x02 0x03 0x04 0x05 0x06 0x07\r\n0000000000000008: 0x08 0x09\r\n"
    )
    assert say(vm, "xp/3xg 1") == (
        "0000000000000001: 0x0807060504030201 0x100f0e0d0c0b0a09\r\n0000000000000011: 0x1817161514131211\r\n"
    )
    assert say(vm, "x /2uh 0x20") == "0000000000000020:  8480  8994\r\n"
    assert say(vm, "xp /0xb 0") == ""
    assert say(vm, "xp 4") == "0000000000000004: 0x07060504\r\n"
    assert say(vm, f"xp /3xw {RAM_BYTES - 4:#x}") == f"{RAM_BYTES - 4:016x}: Cannot access memory\r\n"
    assert say(vm, "xp /4xb -1") == "ffffffffffffffff: Cannot access memory\r\n"
    assert say(vm, "x /1xb 0x40000000") == "0000000040000000: Cannot access memory\r\n"
    assert say(vm, "xp /1xb 0xfee00000") == "00000000fee00000: 0xff\r\n"


def test_address_translation_reaches_the_hosts_memory(vm: FakeVm) -> None:
    assert say(vm, "gva2gpa 0x1000") == "gpa: 0x1000\r\n"
    assert say(vm, "gva2gpa 0x40000000") == "Unmapped\r\n"
    assert say(vm, "gpa2hva 0x1000") == "Host virtual address for 0x1000 (pc.ram) is 0x7f0000001000\r\n"
    assert say(vm, "gpa2hva 0xfee00000") == "Memory at address 0xfee00000 is not RAM\r\n"
    assert say(vm, "gpa2hpa 0x80000000") == "No memory is mapped at address 0x80000000\r\n"


def test_firmware_is_read_and_named_wherever_it_is_mapped(vm: FakeVm) -> None:
    rom = SimpleNamespace(hva=0x7F10_0000_0000, view=memoryview(bytes(range(256)) * 512))
    low = Slot(0xE0000, 0x20000, rom.hva, True, "isa-bios")
    vm.memory_map = SimpleNamespace(
        rom=rom, roms=(rom,), slots=lambda: [low, Slot(0xFFFE0000, 0x20000, rom.hva, True, "pc.bios")]
    )
    assert say(vm, "xp /4xb 0xffff0") == "00000000000ffff0: 0xf0 0xf1 0xf2 0xf3\r\n"
    assert say(vm, "xp /4xb 0xfffffffc") == "00000000fffffffc: 0xfc 0xfd 0xfe 0xff\r\n"
    assert say(vm, "gpa2hva 0xe0010") == "Host virtual address for 0xe0010 (pc.bios) is 0x7f1000000010\r\n"
    assert "(prio 0, rom): pc.bios KVM\r\n" in say(vm, "info mtree -f")


def test_host_physical_address_has_the_offset_in_the_page() -> None:
    page = ctypes.create_string_buffer(b"x" * 8192)
    hva = ctypes.addressof(page)
    hpa = host_physical(hva)
    if os.geteuid():
        assert hpa is None  # the kernel hides frame numbers
    else:
        assert hpa is not None
        assert hpa % 4096 == hva % 4096
    assert host_physical(0x1000) is None


def test_info_status_follows_the_run_state(vm: FakeVm) -> None:
    assert say(vm, "info status") == "VM status: paused (prelaunch)\r\n"
    assert say(vm, "cont") == ""
    assert say(vm, "info status") == "VM status: running\r\n"
    assert say(vm, "s") == ""
    assert say(vm, " info  status ") == "VM status: paused\r\n"
    assert say(vm, "cont") == ""
    vm.runstate.set(RunState.INTERNAL_ERROR)
    assert say(vm, "c") == "Error: Resetting the Virtual Machine is required\r\n"


def test_info_registers_of_one_and_of_all(vm: FakeVm) -> None:
    one = "\r\nCPU#0\r\nEAX=00001234\r\n"
    assert say(vm, "info registers") == say(vm, "info registers 0") == one
    assert say(vm, "info registers", 1) == one.replace("#0", "#1")
    assert say(vm, "info registers -a") == one + one.replace("#0", "#1")
    assert say(vm, "info registers 9") == "CPU#9 not available\r\n"
    vm.cpus = None
    assert say(vm, "info registers") == "Error: No CPU available\r\n"


def test_running_vcpus_are_asked_on_their_threads(vm: FakeVm) -> None:
    asked = []

    def run_on_vcpu(index: int, function: Any, done: Any) -> None:
        asked.append(index)
        if index:
            done(None, VmmdError("it went away"))
        else:
            done(function(SimpleNamespace(translate=lambda gva: gva + 0x100000)), None)

    vm.cpus.all_parked = False
    vm.cpus.run_on_vcpu = run_on_vcpu
    vm.memory.write(0x1000, b"\x11")
    assert say(vm, "gva2gpa 0x1000") == "gpa: 0x101000\r\n"
    assert say(vm, "x /1xb 0xffffffffffff1000 + 0x100000 - 0x100000") == "ffffffffffff1000: Cannot access memory\r\n"
    assert say(vm, "gva2gpa 0x1000", 1) == "Error: it went away\r\n"
    assert asked == [0, 0, 1]


def test_info_pci_is_laid_out_as_qemus(vm: FakeVm) -> None:
    regions = (
        PciRegion(0, "io", 128, -1, None, None),
        PciRegion(1, "memory", 4096, 0xFEBD5000, False, False),
        PciRegion(4, "memory", 16384, -1, True, True),
    )
    disk = PciDeviceInfo(0, 2, 0, 0x100, "SCSI controller", 0x1AF4, 0x1001, 0x1AF4, 2, 0, 1, "disk0", regions)
    host = PciDeviceInfo(0, 0, 0, 0x600, "Host bridge", 0x8086, 0x1237, 0x1AF4, 0x1100, None, 0, "", ())
    vm.pci = SimpleNamespace(query=lambda: (host, disk))  # type: ignore[assignment]
    assert say(vm, "info pci").replace("\r\n", "\n") == (
        "  Bus  0, device   0, function 0:\n"
        "    Host bridge: PCI device 8086:1237\n"
        "      PCI subsystem 1af4:1100\n"
        '      id ""\n'
        "  Bus  0, device   2, function 0:\n"
        "    SCSI controller: PCI device 1af4:1001\n"
        "      PCI subsystem 1af4:0002\n"
        "      IRQ 0, pin A\n"
        "      BAR0: I/O at 0xffffffffffffffff [0x007e].\n"
        "      BAR1: 32 bit memory at 0xfebd5000 [0xfebd5fff].\n"
        "      BAR4: 64 bit prefetchable memory at 0xffffffffffffffff [0x00003ffe].\n"
        '      id "disk0"\n'
    )


def test_short_info_texts_are_qemus(vm: FakeVm) -> None:
    assert say(vm, "info name") == "foo\r\n"
    assert say(vm, "info uuid") == "11111111-2222-3333-4444-555555555555\r\n"
    assert say(vm, "info kvm").startswith("kvm support: enabled\r\n")
    assert say(vm, "info chardev") == "c0: filename=null\r\n"
    assert say(vm, "info cpus", 1) == "  CPU #0: thread_id=1000\r\n* CPU #1: thread_id=1001\r\n"
    assert say(vm, "info version").startswith("7.2.0vmmd-")


def test_info_block_shows_source_device_and_cache_mode(vm: FakeVm) -> None:
    short = (
        "d0 (#block137): /images/d.img (raw)\r\n"
        "    Attached to:      /machine/peripheral/disk0/virtio-backend\r\n"
        "    Cache mode:       writeback, direct\r\n"
    )
    assert say(vm, "info block") == say(vm, "info block d0") == short
    assert say(vm, "info block nosuch") == ""
    cache = "    Cache mode:       writeback, direct\r\n"
    assert say(vm, "info block -n #block137") == "#block137: /images/d.img (raw)\r\n" + cache
    nodes = f"#block137: /images/d.img (raw)\r\n{cache}\r\n#block051: /images/d.img (file)\r\n{cache}"
    assert say(vm, "info block -n") == nodes
    assert say(vm, "info block -v") == short + (
        "\r\nImages:\r\nimage: /images/d.img\r\nfile format: raw\r\n"
        "virtual size: 1 MiB (1048576 bytes)\r\ndisk size: 0 B\r\n"
    )


def test_info_mtree_shows_memory_and_ports(vm: FakeVm) -> None:
    tree = say(vm, "info mtree").replace("\r\n", "\n")
    assert "    0000000000000000-00000000000fffff (prio 0, ram): pc.ram\n" in tree
    assert "address-space: I/O\n  0000000000000000-000000000000ffff (prio 0, i/o): io\n" in tree
    flat = say(vm, "info mtree -f").replace("\r\n", "\n")
    assert "  0000000000000000-00000000000fffff (prio 0, ram): pc.ram KVM\n" in flat
    assert (
        "  0000000000000000-000000000000006f (prio 0, i/o): io\n"
        "  0000000000000070-0000000000000071 (prio 0, i/o): rtc\n"
        "  0000000000000072-000000000000ffff (prio 0, i/o): io @0000000000000072\n" in flat
    )


def test_help_lists_every_command_and_explains_one(vm: FakeVm) -> None:
    everything = say(vm, "help")
    for name in ("cont|c ", "xp /fmt addr", "gpa2hpa addr", "system_reset "):
        assert f"{name}" in everything
    assert say(vm, "help xp").startswith("xp /fmt addr -- ")
    assert say(vm, "help info mtree").startswith("info mtree [-f] -- ")
    assert say(vm, "help bogus") == "unknown command: 'bogus'\r\n"
    assert say(vm, "info") == say(vm, "help info")


def test_a_qmp_command_is_run_with_its_checks(vm: FakeVm) -> None:
    monitor = HumanMonitor(vm)
    assert asyncio.run(monitor.qmp("query-name")) == {"name": "foo"}
    with pytest.raises(UsageError, match="Parameter 'command-line' is missing"):
        asyncio.run(monitor.qmp("human-monitor-command", {"cpu-index": 1}))


def test_every_module_of_the_package_with_commands_is_in_the_table() -> None:
    directory = Path(registry.__file__).parent
    declaring = {
        path.stem for path in directory.glob("*.py") if re.search(r"^(@hmp|forward)\(", path.read_text(), re.M)
    }
    assert declaring == set(registry.MODULES)
    assert list(registry.MODULES) == sorted(registry.MODULES)
