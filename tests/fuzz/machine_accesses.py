# SPDX-License-Identifier: Apache-2.0
"""Random accesses to a whole vmmd over the qtest wire, with one device of every type that a user may plug.

Ports, BARs, chips at fixed addresses, configuration spaces of all functions, memory, time, resets. The monitor must
answer all the time within a bound, and nothing may raise; the lines so far are then a script for ``tests.fuzz.replay``.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from tests.framework.access_script import (
    Access,
    ConfigRead,
    ConfigWrite,
    In,
    Memory,
    Out,
    Read,
    Step,
    Write,
    lines,
)
from tests.framework.device_rig import NEEDED
from tests.fuzz.device_accesses import DeviceFault
from tests.fuzz.replay import check
from vmmd.core.registry import all_device_classes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.framework.qtest import Qtest

REPLY_BOUND_S = 1.0
QMP_EVERY, RESET_EVERY = 100, 1500
#: a guest may program a timer of nanoseconds: every edge is simulated
STEP_MAX_DIGITS = 7
#: chips of the board at fixed addresses
FIXED_MMIO = (0xFEC0_0000, 0xFEE0_0000, 0xFED0_0000, 0xF_0000, 0xA_0000, 0xFFFC_0000)
#: it ends the machine, as it is for
LEFT_OUT = {"isa-debug-exit"}


def arguments(directory: Path) -> list[str]:
    """A machine with one of each type that a user may create."""
    made = ["-M", "pc", "-m", "16", "-vga", "none", "-no-shutdown", "-action", "watchdog=none,panic=none"]
    slot = 6
    # what brings a bus comes before what sits on it
    types = sorted(all_device_classes().items(), key=lambda each: (not each[1].brings_bus_type, each[0]))
    for number, (name, cls) in enumerate(types):
        if not cls.user_creatable or name in LEFT_OUT or name.endswith("transitional"):
            continue
        given = dict(NEEDED.get(name, {}))
        if "chardev" in given:
            made += ["-chardev", f"null,id=c{number}"]
            given["chardev"] = f"c{number}"
        if "drive" in given:
            image = directory / f"{name}.img"
            image.write_bytes(bytes(1 << 20))
            made += ["-blockdev", f"driver=file,filename={image},node-name=n{number}"]
            given["drive"] = f"n{number}"
        if "netdev" in given:
            made += ["-netdev", f"hubport,id=net{number},hubid={number}"]
            given["netdev"] = f"net{number}"
        if cls.bus_type == "PCI":
            given["addr"] = f"{slot:#x}"
            slot += 1
        made += ["-device", ",".join([name, *(f"{key}={value}" for key, value in given.items())])]
    return made


class MachineAccesses:
    """A stream of random accesses to one running machine."""

    def __init__(self, vm: Qtest, arguments_: list[str], seed: str) -> None:
        self.vm = vm
        self.arguments = arguments_
        self.rng = random.Random(seed)
        self.done: list[str] = []
        self.slowest = (0.0, "")
        self.functions = [devfn for devfn in range(256) if vm.pci(devfn >> 3, devfn & 7).exists]
        self.bars: list[tuple[bool, int, int]] = []
        self.map_bars()

    def map_bars(self) -> None:
        """Give every BAR a place and switch all functions on."""
        self.bars.clear()
        free = {True: 0xC000, False: 0xE000_0000}
        for devfn in self.functions:
            for register in range(0x10, 0x28, 4):
                self._config_write(devfn, register, 0xFFFF_FFFF)
                probed = self.vm.pci(devfn >> 3, devfn & 7).config_read(register, 4)
                is_io = bool(probed & 1)
                mask = probed & (0xFFFF_FFFC if is_io else 0xFFFF_FFF0)
                if not mask or (register == 0x24 and not is_io and mask == 0xFFFF_FFF0):
                    self._config_write(devfn, register, 0)  # none, or the upper half of one
                    continue
                size = (~mask & (0xFFFF if is_io else 0xFFFF_FFFF)) + 1
                base = -(-free[is_io] // size) * size
                self._config_write(devfn, register, base)
                free[is_io] = base + size
                self.bars.append((is_io, base, size))
            self._config_write(devfn, 0x04, 7)

    def _config_write(self, devfn: int, offset: int, value: int) -> None:
        for line in lines(ConfigWrite(devfn, offset, 4, value)):
            self._send(line)

    def run(self, count: int) -> None:
        """So many accesses. Raises DeviceFault."""
        try:
            for turn in range(count):
                for line in lines(self.any()):
                    self._send(line)
                if turn % QMP_EVERY == 0:
                    self._look()
                if turn % RESET_EVERY == RESET_EVERY - 1:
                    self.done.append("qmp system_reset")
                    self.vm.qmp("system_reset")
                    self.map_bars()
            self._look()
        except (AssertionError, OSError) as error:
            head = f"# arguments: {' '.join(self.arguments)}\n# {str(error).splitlines()[0]}\n"
            raise DeviceFault(f"a whole machine: {error}", head + "\n".join([*self.done, ""])) from error

    def _send(self, line: str) -> None:
        self.done.append(line)
        before = time.perf_counter()
        self.vm.ask(line)
        took = time.perf_counter() - before
        if not line.startswith("clock_step"):
            self.slowest = max(self.slowest, (took, line))
            assert took < REPLY_BOUND_S, f"{line} took {took:.2f} s"

    def _look(self) -> None:
        before = time.perf_counter()
        check(self.vm)
        took = time.perf_counter() - before
        assert took < REPLY_BOUND_S, f"query-status took {took:.2f} s after {self.done[-3:]}"
        self.vm.events.clear()

    def any(self) -> Access:
        """A random access of a whole machine."""
        rng, kind = self.rng, self.rng.randrange(20)
        if kind < 8:
            return self._port()
        if kind < 13:
            return self._memory()
        if kind < 17:
            devfn, offset, size = rng.choice(self.functions), rng.randrange(256), rng.choice((1, 2, 4))
            if rng.random() < 0.6:
                return ConfigRead(devfn, offset, size)
            return ConfigWrite(devfn, 0x28 + offset % 0xD8, size, self._value(size))
        if kind < 19:
            return Step(rng.randrange(10 ** rng.randrange(1, STEP_MAX_DIGITS + 1)))
        data = rng.randbytes(rng.choice((2, 16, 64)))
        return Memory(rng.randrange(0x1000, 0x9_0000) & ~0xF, data)

    def _port(self) -> Access:
        rng = self.rng
        io_bars = [(base, size) for is_io, base, size in self.bars if is_io]
        kind, size = rng.randrange(10), rng.choice((1, 1, 2, 4))
        if kind < 6:
            port = rng.randrange(0x600)
        elif kind < 9 and io_bars:
            base, length = rng.choice(io_bars)
            port = base + rng.randrange(length)
        else:
            port = rng.randrange(0x1_0000 - size)
        if rng.random() < 0.4:
            return In(port, size)
        return Out(port, size, self._value(size))

    def _memory(self) -> Access:
        rng, size = self.rng, self.rng.choice((1, 2, 4, 4, 8))
        memory_bars = [(base, length) for is_io, base, length in self.bars if not is_io]
        if memory_bars and rng.random() < 0.7:
            base, length = rng.choice(memory_bars)
            address = base + rng.randrange(min(length, 0x1_0000))
        else:
            address = rng.choice(FIXED_MMIO) + rng.randrange(0x1000)
        if rng.random() < 0.8:
            address &= -size
        if rng.random() < 0.4:
            return Read(address, size)
        return Write(address, size, self._value(size))

    def _value(self, size: int) -> int:
        rng, top = self.rng, (1 << 8 * size) - 1
        return rng.choice((0, 1, top, 1 << rng.randrange(8 * size), rng.randrange(16), rng.getrandbits(8 * size)))
