# SPDX-License-Identifier: Apache-2.0
"""Stops and continues a guest that does disk I/O as fast as it can, and counts what must not get lost."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.framework import guests
from tests.framework.vm import Emulator, Vm

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: name -> -blockdev of the disk; {path} is a raw file
DISKS = {
    "null-co": "null-co,node-name=n0,size=67108864",
    "threads": "file,node-name=n0,filename={path},aio=threads",
    "io_uring": "file,node-name=n0,filename={path},aio=io_uring",
}
DISK_BYTES = 64 << 20
DEPTH = 32
GUEST_TIMEOUT_S = 60.0


@dataclass
class StopContRun:
    """What came of it; `faults` is empty when nothing was lost."""

    disk: str
    stop_s: list[float] = field(default_factory=list)  # sorted
    cont_s: list[float] = field(default_factory=list)
    requests: int = 0
    faults: list[str] = field(default_factory=list)

    def quantile(self, fraction: float) -> float:
        """Of the `stop` latencies, in seconds."""
        return self.stop_s[min(len(self.stop_s) - 1, int(len(self.stop_s) * fraction))]


def stop_and_cont(
    program: Emulator, disk: str, directory: Path, *, pairs: int, guest_s: float, mode: str = "r"
) -> StopContRun:
    """*pairs* times `stop`, look, `cont`, while the guest does I/O for *guest_s* seconds; then let it finish and count.

    `mode` is the guest's: r random reads, w random writes.
    """
    run = StopContRun(disk)
    image = directory / "stop-cont.img"
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    vm = Vm(program, [
        "-machine", "pc,accel=kvm", "-cpu", "qemu64,-cx16,-pni,-xsave", "-m", "64", "-nodefaults",
        "-kernel", str(guests.bench().multiboot), "-append", f"blk {int(guest_s * 1000)}ms 4096 {DEPTH} {mode}",
        "-blockdev", DISKS[disk].format(path=image), "-device", "virtio-blk-pci,drive=n0",
    ])  # fmt: skip
    with vm:
        vm.serial.expect("@S blk", GUEST_TIMEOUT_S)
        for number in range(pairs):
            if "@E" in vm.serial.text:
                run.faults.append(f"the guest ended after {number} of {pairs} pairs: it needs more than {guest_s} s")
                break
            _pair(vm, run, look=number % 16 == 0)
        match = vm.serial.expect(r"@E blk n=(\d+) .* err=(\d+) ", guest_s + GUEST_TIMEOUT_S)
        run.requests = int(match[1])
        _check_counts(vm, run, errors=int(match[2]), mode=mode)
        _check_events(run, [event["event"] for event in vm.qmp.events])
    run.stop_s.sort()
    run.cont_s.sort()
    return run


def _pair(vm: Vm, run: StopContRun, *, look: bool) -> None:
    began = time.perf_counter()
    vm.qmp.cmd("stop")
    run.stop_s.append(time.perf_counter() - began)
    if look:  # nothing is in flight: no counter moves, and the state is as it was said
        if vm.qmp.cmd("query-status")["status"] != "paused":
            run.faults.append("not paused after stop")
        first, second = _operations(vm), _operations(vm)
        if first != second:
            run.faults.append(f"requests ended while stopped: {first}, {second}")
    began = time.perf_counter()
    vm.qmp.cmd("cont")
    run.cont_s.append(time.perf_counter() - began)


def _operations(vm: Vm) -> tuple[int, int]:
    (disk,) = vm.qmp.cmd("query-blockstats")
    return disk["stats"]["rd_operations"], disk["stats"]["wr_operations"]


def _check_counts(vm: Vm, run: StopContRun, *, errors: int, mode: str) -> None:
    if errors:
        run.faults.append(f"the guest saw {errors} failed requests")
    counted = _operations(vm)[mode == "w"]
    if counted != run.requests:
        run.faults.append(f"the guest counted {run.requests} requests, query-blockstats {counted}")


def _check_events(run: StopContRun, events: Sequence[str]) -> None:
    expected = ["STOP", "RESUME"] * len(run.stop_s)
    if list(events) != expected:
        wrong = next((at for at, pair in enumerate(zip(events, expected, strict=False)) if pair[0] != pair[1]), -1)
        run.faults.append(f"{len(events)} events, {len(expected)} expected; the first wrong one is number {wrong}")
