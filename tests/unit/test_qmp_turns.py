# SPDX-License-Identifier: Apache-2.0
"""Commands with much to do, at a machine at rest, leave the loop its turns; and what they keep meanwhile is bounded."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.unit.qmp_support import RAM_BYTES, FakeVm, ManualLoop, run_to_end
from vmmd.errors import UsageError
from vmmd.qmp import save_memory
from vmmd.qmp.hmp.monitor import HumanMonitor
from vmmd.qmp.save_memory import save_virtual

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PAGE_BYTES = 4096


class Loop(ManualLoop):
    """Counts the turns that others had."""

    turns = 0

    def run_posted(self) -> None:
        self.turns += bool(self.posted)
        super().run_posted()


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def vm(loop: Loop) -> FakeVm:
    return FakeVm(loop)


def taking_us(duration_us: int, answer: Callable[..., object]) -> Callable[..., object]:
    """A function that takes that long at least, as system calls do."""

    def slow(*arguments: object) -> object:
        ends = time.monotonic_ns() + 1000 * duration_us
        while time.monotonic_ns() < ends:
            pass
        return answer(*arguments)

    return slow


def test_memsave_goes_on_page_by_page(vm: FakeVm, loop: Loop, tmp_path: Path) -> None:
    vm.memory.write(RAM_BYTES - 4, b"end ")
    vm.memory.write(0, b"and start")
    vm.cpus.translate = taking_us(20, lambda _index, gva: (gva + PAGE_BYTES) % RAM_BYTES)
    run_to_end(save_virtual(vm, 0, RAM_BYTES, str(tmp_path / "out"), 0), loop)
    start = RAM_BYTES - PAGE_BYTES
    assert (tmp_path / "out").read_bytes()[start - 4 : start + 9] == b"end and start"
    assert loop.turns >= RAM_BYTES // PAGE_BYTES // 16 - 1


def test_memory_that_is_scattered_is_saved_in_its_order(vm: FakeVm, loop: Loop, tmp_path: Path) -> None:
    for page in range(4):
        vm.memory.write(page * PAGE_BYTES, bytes([page]) * PAGE_BYTES)
    order = (2, 3, 0, 2)
    vm.cpus.translate = lambda _index, gva: order[gva // PAGE_BYTES] * PAGE_BYTES + gva % PAGE_BYTES
    run_to_end(save_virtual(vm, 1, 4 * PAGE_BYTES - 2, str(tmp_path / "out"), 0), loop)
    assert (tmp_path / "out").read_bytes() == b"".join(bytes([page]) * PAGE_BYTES for page in order)[1:-1]


def test_what_is_remembered_of_scattered_memory_has_a_limit(
    vm: FakeVm, loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(save_memory, "MAX_PIECES", 100)
    out = tmp_path / "out"
    run_to_end(save_virtual(vm, 0, 200 * PAGE_BYTES, str(out), 0), loop)  # one piece
    out.unlink()
    vm.cpus.translate = lambda _index, gva: RAM_BYTES - PAGE_BYTES - gva
    with pytest.raises(UsageError, match="more than 100 places; save it in parts"):
        run_to_end(save_virtual(vm, 0, 200 * PAGE_BYTES, str(out), 0), loop)
    assert not out.exists()


def test_registers_of_many_vcpus_come_one_by_one(vm: FakeVm, loop: Loop) -> None:
    vm.cpus.infos = vm.cpus.infos * 8
    vm.cpus.registers_text = taking_us(250, lambda _index: "EAX=00001234\n")
    text = run_to_end(HumanMonitor(vm).run("info registers -a"), loop)
    assert text.count("CPU#") == 16
    assert loop.turns >= 15


@pytest.mark.parametrize("command", ["query-stats", "__org.vmmd_query-kvm"])
def test_statistics_of_many_vcpus_come_one_by_one(vm: FakeVm, loop: Loop, command: str) -> None:
    statistics = vm.cpus.statistics
    vm.cpus.infos = vm.cpus.infos * 8
    vm.cpus.exit_meter = type(vm.cpus.exit_meter)([[0] * 80 for _ in vm.cpus.infos])
    vm.cpus.statistics = taking_us(250, statistics)
    arguments: dict[str, object] = {"target": "vcpu"} if command == "query-stats" else {}
    run_to_end(HumanMonitor(vm).qmp(command, arguments), loop)
    assert loop.turns >= 15
