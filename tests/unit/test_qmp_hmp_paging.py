# SPDX-License-Identifier: Apache-2.0
"""``info mem``, ``info tlb`` and ``info walk`` over tables of every kind of paging. The texts were compared with QEMU's
(tests/differential/test_hmp_paging.py)."""

from __future__ import annotations

import asyncio

import pytest

from tests.framework import paging_guest as guest
from tests.unit.qmp_support import FakeVm, ManualLoop
from vmmd.kvm import abi
from vmmd.kvm.cpustate import CR0_PG, CR4_LA57, EFER_LMA
from vmmd.qmp.hmp import paging
from vmmd.qmp.hmp.monitor import HumanMonitor

USER, WRITABLE = guest.USER, guest.WRITABLE


class Loop(ManualLoop):
    """Pauses end at once, and are counted."""

    pauses = 0

    def create_future(self) -> asyncio.Future[None]:  # type: ignore[override]
        return asyncio.get_running_loop().create_future()

    def post(self, callback: object, *args: object) -> None:
        type(self).pauses += 1
        asyncio.get_running_loop().call_soon(callback, *args)  # type: ignore[arg-type]


def machine(tables: bytes, *, cr4: int, efer: int = 0, root: int = guest.TABLES) -> FakeVm:
    vm = FakeVm(Loop())
    vm.memory.write(guest.TABLES, tables)
    vm.cpus.sregs = abi.Sregs(cr0=CR0_PG | 1, cr3=root, cr4=cr4, efer=efer)
    return vm


def sample(name: str) -> FakeVm:
    mode = guest.MODES[name]
    tables = guest.sample(name)[: guest.CODE_OFFSET]
    return machine(tables, cr4=mode.cr4, efer=mode.efer | (EFER_LMA if mode.efer & guest.EFER_LONG_MODE else 0))


def say(vm: FakeVm, line: str) -> list[str]:
    return asyncio.run(HumanMonitor(vm).run(line)).split("\r\n")[:-1]


def test_without_paging_there_is_nothing_to_show() -> None:
    vm = FakeVm(ManualLoop())
    assert say(vm, "info mem") == say(vm, "info tlb") == ["PG disabled"]
    assert say(vm, "info walk 0x1000")[:3] == [
        "GVA 0x0000000000001000", "  paging is off", "GPA 0x0000000000001000  page of 4 KiB",
    ]  # fmt: skip


def test_rights_of_all_levels_count_and_neighbours_are_joined() -> None:
    assert say(sample("32"), "info mem") == [
        "0000000000000000-0000000000008000 0000000000008000 -rw",
        "0000000000010000-0000000000011000 0000000000001000 ur-",
        "0000000000011000-0000000000016000 0000000000005000 -r-",
        "0000000000016000-0000000000017000 0000000000001000 ur-",
        "0000000000400000-0000000000c00000 0000000000800000 -rw",
        "0000000000c00000-0000000001000000 0000000000400000 ur-",
        "0000000080000000-0000000080008000 0000000000008000 -r-",
        "0000000080010000-0000000080017000 0000000000007000 -r-",
        "00000000ffc00000-0000000100000000 0000000000400000 -rw",
    ]
    assert say(sample("64"), "info mem")[-1] == "ffffffff80000000-ffffffff80400000 0000000000400000 -rw"
    assert "0000000080000000" not in "".join(say(sample("pae"), "info mem"))


def test_flags_are_those_of_the_last_entry() -> None:
    lines = say(sample("pae"), "info tlb")
    assert "000000000001e000: 0000000000001000 X-------W" in lines
    assert "0000000000016000: 0000000000046000 ---DA--U-" in lines
    assert "0000000000400000: 0000000000400000 X-P----UW" in lines
    assert lines[-1] == "00000000ffe00000: 00000000ffe00000 -GP-----W"


def test_five_levels() -> None:
    tables = guest.Tables(8)
    table = 0
    for index in (300, 1, 2, 3):
        table = tables.link(table, index, guest.PRESENT | WRITABLE | USER)
    tables.entry(table, 4, 0x5000 | guest.PRESENT | USER)
    vm = machine(tables.image, cr4=guest.CR4_PAE | CR4_LA57, efer=EFER_LMA)
    gva = 0xFE << 56 | (300 << 48 | 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12) | 1 << 56
    gva |= 0xFFFF_0000_0000_0000 & ~((1 << 57) - 1)
    assert say(vm, "info tlb") == [f"{gva:016x}: 0000000000005000 -------U-"]
    walk = say(vm, f"info walk {gva + 0x123:#x}")
    assert [line.split()[0] for line in walk] == [
        "GVA", "CR3", "PML5E", "PML4E", "PDPTE", "PDE", "PTE", "GPA", "slot", "HVA", "no",
    ]  # fmt: skip
    assert walk[7] == "GPA 0x0000000000005123  page of 4 KiB"
    assert walk[9] == "HVA 0x00007f0000005123"


def test_a_walk_says_where_it_ends() -> None:
    walk = say(sample("64"), "info walk 0x1ff000")
    assert walk[-1] == "  no translation: not present"
    assert say(sample("64"), "info walk 0xffe00000")[-1].startswith("  No memory is mapped at address 0xffe00000")


@pytest.mark.parametrize("line", ["info mem", "info tlb"])
def test_tables_that_refer_to_themselves_come_to_an_end(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr(paging, "MAX_PIECES", 500)
    monkeypatch.setattr(paging, "MAX_LINES", 1000)
    tables = guest.Tables(8)
    for index in range(512):  # every entry of the only table is that table: 2**36 pages
        tables.entry(0, index, guest.TABLES | guest.PRESENT | (WRITABLE if index % 2 else 0))
    vm = machine(tables.image, cr4=guest.CR4_PAE, efer=EFER_LMA)
    Loop.pauses = 0
    text = say(vm, line)
    assert len(text) <= 1001
    assert text[-1].startswith(("(more than 1000 lines)", "(the tables go on; "))


def test_a_long_walk_leaves_the_loop_its_turns() -> None:
    tables = guest.Tables(8)
    third = tables.link(0, 0, guest.PRESENT)
    second = tables.link(third, 0, guest.PRESENT)
    last = tables.new()
    for index in range(512):
        tables.entry(second, index, guest.TABLES + last * 4096 | guest.PRESENT)
        tables.entry(last, index, index << 12 | guest.PRESENT)
    vm = machine(tables.image, cr4=guest.CR4_PAE, efer=EFER_LMA)
    Loop.pauses = 0
    assert say(vm, "info mem") == ["0000000000000000-0000000040000000 0000000040000000 -r-"]
    assert Loop.pauses > 20
