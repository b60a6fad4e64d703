# SPDX-License-Identifier: Apache-2.0
"""Play a script of accesses on a whole machine, vmmd or QEMU, and print what was read.

usage: python -m tests.fuzz.replay FILE [--emulator vmmd|qemu|both]

With «both» what differs is printed. QEMU of Debian has no clock to step: those lines do nothing there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.framework.access_script import In, Memory, Out, Qmp, Read, Step, Write, arguments_of, parse
from tests.framework.qtest import Qtest, QtestError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Value(NamedTuple):
    """What a line read."""

    number: int  # of the line, from 1
    line: str
    value: int


def play(vm: Qtest, script: str) -> Iterator[Value]:
    """Carry out every line; what was read, in order. Raises QtestError when the machine dies or a device raised."""
    for number, line in enumerate(script.splitlines(), 1):
        match parse(line):
            case In(port, size):
                yield Value(number, line, vm.port_read(port, size))
            case Read(address, size):
                yield Value(number, line, vm.load(address, size))
            case Out(port, size, value):
                vm.port_write(port, size, value)
            case Write(address, size, value):
                vm.store(address, size, value)
            case Memory(address, data):
                vm.write(address, data)
            case Step(nanoseconds) if vm.has_clock:
                vm.clock_step(nanoseconds)
            case Qmp(command):
                vm.qmp(command)
                if command == "system_reset":
                    vm.wait_event("RESET")
    check(vm)


def check(vm: Qtest) -> None:
    """The machine lives, and nothing in it has raised. Raises QtestError."""
    status = vm.qmp("query-status")["status"]
    text = (vm.directory / "stderr").read_text("utf-8", "replace")
    if status == "internal-error" or "Traceback" in text or "raised" in text:
        raise QtestError(f"status {status}\n{text[-3000:]}")


def main() -> int:
    """Parse the command line, play, print."""
    parser = argparse.ArgumentParser(description="replay a script of register accesses.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--emulator", choices=("vmmd", "qemu", "both"), default="vmmd")
    options = parser.parse_args()
    script = options.file.read_text("utf-8")
    read: dict[str, list[Value]] = {}
    for name in ("vmmd", "qemu") if options.emulator == "both" else (options.emulator,):
        with Qtest(name, *arguments_of(script)) as vm:
            read[name] = list(play(vm, script))
    if options.emulator != "both":
        for each in read[options.emulator]:
            print(f"{each.number}: {each.line}: {each.value:#x}")
        return 0
    differing = [(ours, theirs) for ours, theirs in zip(read["vmmd"], read["qemu"], strict=True) if ours != theirs]
    for ours, theirs in differing:
        print(f"{ours.number}: {ours.line}: vmmd {ours.value:#x}, QEMU {theirs.value:#x}")
    print(f"{len(read['vmmd'])} values read, {len(differing)} differ")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
