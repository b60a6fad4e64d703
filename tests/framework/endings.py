# SPDX-License-Identifier: Apache-2.0
"""Ends an emulator by a signal at a chosen kind of moment and looks for what should not be there afterwards.

The guest is the benchmark guest: it writes zeroes to blocks of a disk in an order that is known, as fast as it can. So
what the image holds afterwards tells whether a write was lost, torn, or went elsewhere.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.framework import guests
from tests.framework.qmp import Qmp, QmpClosed
from tests.framework.vm import Emulator, Vm

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

#: moment -> the longest time from where it begins to the signal, in seconds
MOMENTS = {
    "exec": 0.03,
    "import": 0.06,
    "build": 0.05,
    "boot": 0.25,
    "disk writes": 0.3,
    "stopped": 0.02,
    "stopping": 0.003,
}
BLOCK_BYTES = 4096
BLOCKS = 16384
DEPTH = 32
TIMEOUT_S = 20.0
GUEST_RNG_SEED = 0x12345  # of the bench guest's xorshift


@dataclass
class EndedRun:
    """One run: what was done, and what was wrong afterwards (nothing, one hopes)."""

    moment: str
    signal: signal.Signals
    delay_s: float
    status: int | None = None
    written_blocks: int = 0
    faults: list[str] = field(default_factory=list)


def make_image(path: Path) -> None:
    """A disk whose blocks all differ and are not zero."""
    with path.open("wb") as image:
        for first in range(0, BLOCKS, 1024):
            image.write(b"".join(_block(number) for number in range(first, first + 1024)))


def _fresh_image(path: Path) -> None:
    """`make_image`, by way of a copy."""
    template = path.with_suffix(".template")
    if not template.exists():
        make_image(template)
    shutil.copyfile(template, path)


def _block(number: int) -> bytes:
    return (number | 1 << 31).to_bytes(4, "little") * (BLOCK_BYTES // 4)


def guest_blocks() -> Iterator[int]:
    """The blocks that the guest writes, in order."""
    state = GUEST_RNG_SEED
    while True:
        state ^= state << 13 & 0xFFFFFFFF
        state ^= state >> 17
        state ^= state << 5 & 0xFFFFFFFF
        yield state % BLOCKS


def check_image(path: Path) -> tuple[int, list[str]]:
    """How many blocks the guest has written, and what is wrong: torn writes, and lost ones (a stray write shows as
    one long before its turn, with those before it lost)."""
    zero = bytes(BLOCK_BYTES)
    written, faults = set(), []
    with path.open("rb") as image:
        for number in range(BLOCKS):
            data = image.read(BLOCK_BYTES)
            if data == zero:
                written.add(number)
            elif data != _block(number):
                faults.append(f"block {number} is damaged")
    first: dict[int, int] = {}  # block -> when the guest wrote it first
    for turn, number in enumerate(guest_blocks()):
        if len(written - first.keys()) == 0:
            break
        first.setdefault(number, turn)
    # the guest keeps DEPTH requests under way: an earlier one than that had to be complete before the last was sent
    last = max((first[number] for number in written), default=0)
    if lost := [number for number, turn in first.items() if turn < last - 2 * DEPTH and number not in written]:
        faults.append(f"writes to blocks {lost[:5]} are lost")
    return len(written), faults


def end_at(program: Emulator, directory: Path, moment: str, number: signal.Signals, chance: random.Random) -> EndedRun:
    """One run of *program*, ended by the signal *number* at a random time within *moment*."""
    run = EndedRun(moment, number, chance.uniform(0, MOMENTS[moment]))
    image, pidfile, monitor = directory / "disk", directory / "pid", directory / "monitor"
    _fresh_image(image)
    vm = Vm(program, [
        "-machine", "pc,accel=kvm", "-cpu", "qemu64,-cx16,-pni,-xsave", "-m", "64", "-nodefaults",
        "-kernel", str(guests.bench().multiboot), "-append", f"blk 600000ms {BLOCK_BYTES} {DEPTH} w",
        "-blockdev", f"file,node-name=n0,filename={image}", "-device", "virtio-blk-pci,drive=n0",
        "-pidfile", str(pidfile), "-qmp", f"unix:{monitor},server=on,wait=off",
    ], qmp=False)  # fmt: skip
    with vm, ExitStack() as clients:
        client = _reach(vm, moment, monitor, clients)
        time.sleep(run.delay_s)
        vm.kill(number)
        status = vm.wait_exit(TIMEOUT_S)
        run.status = status
        # before Python has come to the program's first line there is nobody to take the signal, and nothing was made
        if status != 0 and (moment, status) != ("exec", -number):
            run.faults.append(f"status {status}")
        if vm.stderr():
            run.faults.append(f"stderr: {vm.stderr()}")
        if client is not None:
            run.faults += _check_events(client)
    run.faults += [f"{path.name} is left" for path in (monitor, pidfile) if path.exists()]
    run.faults += [f"process {pid} is left" for pid in _children(vm.pid)]
    run.written_blocks, faults = check_image(image)
    run.faults += faults
    image.unlink()
    return run


def _reach(vm: Vm, moment: str, monitor: Path, clients: ExitStack) -> Qmp | None:
    """Go to where *moment* begins; the negotiated monitor connection, if there is one by then."""
    if moment == "exec":
        return None
    if moment == "import":
        _wait_handlers(vm.pid)
        return None
    sock = vm.connect_unix(monitor)
    client = Qmp(sock, vm.reactor)
    clients.callback(client.close)
    if moment == "build":
        return None
    client.negotiate()
    if moment == "boot":
        return client
    vm.serial.expect("@S blk", TIMEOUT_S)
    if moment == "disk writes":
        return client
    time.sleep(0.05)
    wire_id = client.start("stop")
    if moment == "stopped":
        client.finish(wire_id)
    return client


def _check_events(client: Qmp) -> list[str]:
    try:
        event = client.wait_event("SHUTDOWN", 5)
    except QmpClosed:
        return ["no SHUTDOWN event"]
    expected = {"guest": False, "reason": "host-signal"}
    return [] if event["data"] == expected else [f"SHUTDOWN with {event['data']}"]


def _wait_handlers(pid: int) -> None:
    """Until the process has a handler for SIGTERM: before, it is a Python interpreter that has not come to us."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        caught = next(
            line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt")
        )
        if int(caught.split()[1], 16) >> signal.SIGTERM - 1 & 1:
            return
    raise AssertionError("no handler for SIGTERM")


def _children(pid: int) -> list[int]:
    """Processes, zombies too, whose parent or group is *pid*."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit():
                fields = Path(f"/proc/{entry}/stat").read_text(errors="replace").rpartition(")")[2].split()
                if str(pid) in (fields[1], fields[2]):
                    found.append(int(entry))
        except OSError:
            continue
    return found
