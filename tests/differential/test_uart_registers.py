# SPDX-License-Identifier: Apache-2.0
"""The same random register accesses on QEMU's isa-serial (through HMP ``i`` and ``o``) and on vmmd's model."""

from __future__ import annotations

import json
import random
import shutil
import socket
import subprocess

import pytest

from tests.unit.fakes import FakeChardev, make_context, props
from vmmd.devices.isa.serial import IsaSerial

QEMU = shutil.which("qemu-system-x86_64")
pytestmark = [pytest.mark.qemu, pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not installed")]
BASE = 0x3F8
NAMES = ("DATA", "IER", "IIR/FCR", "LCR", "MCR", "LSR", "MSR", "SCR")


class QemuUart:
    def __init__(self, path):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            options = f"-nodefaults -machine pc -display none -accel tcg -S -qmp unix:{path} -chardev null,id=c"
            self.process = subprocess.Popen([QEMU, *options.split(), "-device", "isa-serial,chardev=c"])
            connection, _ = listener.accept()
        with connection:
            self.file = connection.makefile("rw")
        self.file.readline()
        self._execute("qmp_capabilities")

    def _execute(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            reply = json.loads(self.file.readline())
            if "return" in reply:
                return reply["return"]

    def _hmp(self, line):
        return self._execute("human-monitor-command", **{"command-line": line})

    def write(self, register, value):
        self._hmp(f"o/b {BASE + register:#x} {value:#x}")

    def read(self, register):
        return int(self._hmp(f"i/b {BASE + register:#x}").split("=")[1], 16)

    def close(self):
        self.file.close()
        self.process.terminate()
        self.process.wait(10)


class OurUart:
    def __init__(self):
        self.machine = make_context()
        self.machine.backends.chardevs["c"] = FakeChardev("c")
        IsaSerial(props(IsaSerial, chardev="c"), self.machine.ctx).plug()

    def write(self, register, value):
        self.machine.pio.write(BASE + register, 1, value)

    def read(self, register):
        return self.machine.pio.read(BASE + register, 1)


def a_value(rnd, register, loopback):
    value = rnd.randrange(256)
    if register == 1:
        return value & 0x07  # not the modem interrupt: QEMU keeps no deltas in loopback, the data sheet does
    if register == 2:
        return value & ~0x08
    if register == 3:
        return value & 0x7F if rnd.random() < 0.8 else value
    if register == 4:
        return (value & 0x0F) | loopback
    return value


def test_random_register_accesses_agree(tmp_path):
    theirs, ours = QemuUart(str(tmp_path / "qmp")), OurUart()
    both = (theirs, ours)
    try:
        for seed in range(150):
            rnd = random.Random(seed)
            loopback = rnd.choice((0, 0x10))
            for register, value in ((3, 0), (1, 0), (2, 1), (2, 0), (7, 0), (4, loopback)):
                for each in both:
                    each.write(register, value)
            for register in (5, 6, 2):
                for each in both:
                    each.read(register)
            trail = []
            for _ in range(40):
                register = rnd.randrange(8)
                if rnd.random() < 0.5 and register not in (5, 6):
                    value = a_value(rnd, register, loopback)
                    trail.append(f"write {NAMES[register]} {value:#x}")
                    for each in both:
                        each.write(register, value)
                else:
                    mask = 0xF0 if register == 6 else 0xFF
                    trail.append(f"read {NAMES[register]}")
                    assert ours.read(register) & mask == theirs.read(register) & mask, (seed, trail[-15:])
    finally:
        theirs.close()
