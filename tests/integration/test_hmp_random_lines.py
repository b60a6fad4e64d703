# SPDX-License-Identifier: Apache-2.0
"""Whatever is typed, the monitor for people answers with a text, and the machine goes on."""

from __future__ import annotations

import random

import pytest

from tests.framework.vm import Vm, emulator
from vmmd.qmp.hmp import registry

pytestmark = pytest.mark.kvm

LINES = 2000
#: what would touch the host's files, or end the process
LEFT_OUT = {"quit", "q", "memsave", "pmemsave", "logfile", "chardev-add", "chardev-change", "drive_add", "object_add"}
WORDS = (
    "0", "-1", "0xffffffffffffffff", "0xfffffffffffffff0", "0xfee00000", "1<<3", "$pc", "$rax", "$cs.base", "$",
    "ring", "d0", "nodes", "/3i", "/2xb", "/99999999999999999999xg", "/0i", "/i", "/70000dw", "/s", "-a", "-f", "-v",
    "-n", "--", "on", "off", "help", "id=x", "a=b,c", '"', '"\\n"', '"a b"', "\\", "'a'", "'", "(1", "1+", "~0", "*",
    "%0", ",", "=", "/machine", "/objects", "type", "virtio-blk-pci", "virtio-blk-pci,drive=nodes,id=v", "v",
    "type,help", "ü", "\u2028", "\x00",
)  # fmt: skip
ARGUMENTS = (
    "-m", "16", "-smp", "2", "-nodefaults", "-S", "-chardev", "ringbuf,id=ring,size=64",
    "-blockdev", "null-co,node-name=nodes", "-blockdev", "null-co,node-name=d0", "-device", "virtio-blk-pci,drive=d0",
)  # fmt: skip


@pytest.mark.parametrize("seed", [1, 2])
def test_every_line_gets_a_text(seed: int) -> None:
    registry.load()
    names = sorted((set(registry.COMMANDS) - LEFT_OUT) | {f"info {topic}" for topic in registry.TOPICS})
    generator = random.Random(seed)
    with Vm(emulator("vmmd"), ARGUMENTS, serial=False) as vm:
        for number in range(LINES):
            words = generator.choices(WORDS, k=generator.randrange(5))
            line = generator.choice(("", " ", "  ")).join([generator.choice(names), *words])
            text = vm.qmp.hmp(line)  # raises for an error reply: a bug
            assert "\n" not in text.replace("\r\n", ""), (seed, number, line)
        assert vm.qmp.hmp("info name") == ""
        assert "Traceback" not in (vm.directory / "stderr").read_text()
