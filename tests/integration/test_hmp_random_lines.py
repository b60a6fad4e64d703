# SPDX-License-Identifier: Apache-2.0
"""Whatever is typed, by one or by several at a time, the monitor for people answers with a text, and the machine goes
on. It works in a directory of its own: no word begins a path outside of it where a command writes files."""

from __future__ import annotations

import random
import signal
from contextlib import ExitStack

import pytest

from tests.framework.vm import Vm, emulator
from vmmd.qmp.hmp import registry

pytestmark = pytest.mark.kvm

LINES = 2000
SESSIONS = 3
ROUNDS = 150
LINES_AT_ONCE = 3  # of each session
#: what would end the process
LEFT_OUT = {"quit", "q"}
WORDS = (
    "0", "-1", "0xffffffffffffffff", "0xfffffffffffffff0", "0xfee00000", "1<<3", "$pc", "$rax", "$cs.base", "$",
    "ring", "d0", "nodes", "/3i", "/2xb", "/99999999999999999999xg", "/0i", "/i", "/70000dw", "/s", "-a", "-f", "-v",
    "-n", "--", "on", "off", "help", "id=x", "a=b,c", '"', '"\\n"', '"a b"', "\\", "'a'", "'", "(1", "1+", "~0", "*",
    "%0", ",", "=", "/machine", "/objects", "type", "virtio-blk-pci", "virtio-blk-pci,drive=nodes,id=v", "v",
    "type,help", "ü", "\u2028", "\x00", "c1", "d1", "n1", "o1",
)  # fmt: skip
#: commands that make files, and things that others remove: (almost) right arguments, random ones seldom get that far
MAKERS = {
    "memsave": ("0 4096 saved", "0xfffffffffffffff0 64 saved", "0 0 saved", "0 16 missing/saved", "-1 1 saved"),
    "pmemsave": ("0 8192 saved", "0xffffff0 64 saved", "-1 1 saved", '0 16 ""', "0 16 ."),
    "logfile": ("log", "log-%d", "%s", "missing/log", ".", "a\0b"),
    "chardev-add": (
        "null,id=c1", "ringbuf,id=c1,size=64", "file,id=c1,path=out", "pty,id=c1", "file,id=c1,path=missing/out",
        "socket,id=c1,path=sock,server=on,wait=off", "socket,id=c1,path=sock,server=on", "null,id=ring",
        "file,id=c1,path=a\0b", "socket,id=c1,path=a\0b,server=on,wait=off",
    ),
    "chardev-change": ("c1 null", "c1 ringbuf,size=64", "c1 file,path=out", "ring ringbuf,size=128", "c1 pty"),
    "drive_add": (
        "0 if=none,id=d1,format=raw,file=image", "0 if=none,id=d1,file=image", "0 if=none,id=d1", "0 if=ide,file=image",
        "-n 0 driver=file,node-name=n1,filename=image", "-n 0 driver=raw,node-name=top,file=n1", "0 if=none,file=no",
        "0 if=none,format=raw,file=a\0b", "-n 0 driver=file,node-name=n1,filename=a\0b",
    ),
    "object_add": (
        "iothread,id=o1", "secret,id=o1,data=x", "rng-random,id=o1", "memory-backend-ram,id=o1,size=1M",
        "secret,id=o1,file=a\0b", "memory-backend-file,id=o1,size=1M,mem-path=a\0b",
    ),
}  # fmt: skip
#: what several do at a time to the same things
MEETING = (
    "stop", "cont", "drive_del d1", "drive_del d1", "drive_del n1", "block_resize d1 4k",
    "block_resize n1 4k", "block_resize d1 1M", "device_add virtio-blk-pci,drive=d1,id=v", "device_del v",
    "device_add virtio-blk-pci,drive=n1,id=v,bootindex=1", "object_del o1", "chardev-remove c1", "system_reset",
    "info block", "info qtree", "info qom-tree", "log cpu_reset", "log none", "ringbuf_write c1 x", "ringbuf_read c1 9",
)  # fmt: skip
BEFORE_A_ROUND = ("cont", "drive_add 0 if=none,id=d1,format=raw,file=image")
ARGUMENTS = (
    "-m", "16", "-smp", "2", "-nodefaults", "-S", "-chardev", "ringbuf,id=ring,size=64",
    "-blockdev", "null-co,node-name=nodes", "-drive", "if=none,id=d0,format=raw,file=null-co://",
    "-device", "virtio-blk-pci,drive=d0",
)  # fmt: skip


class Typist:
    """Types the same lines for the same seed."""

    def __init__(self, seed: int) -> None:
        registry.load()
        self.random = random.Random(seed)
        self.names = sorted((set(registry.COMMANDS) - LEFT_OUT) | {f"info {topic}" for topic in registry.TOPICS})

    def any_line(self) -> str:
        name = self.random.choice(self.names)
        if name in MAKERS:
            return self.maker(name)
        words = self.random.choices(WORDS, k=self.random.randrange(5))
        return self.random.choice(("", " ", "  ")).join([name, *words])

    def maker(self, name: str) -> str:
        words = self.random.choice(MAKERS[name]).split()
        if not self.random.randrange(4):
            words[self.random.randrange(len(words))] = self.random.choice([each for each in WORDS if each[0] != "/"])
        return " ".join([name, *words])

    def hot_lines(self) -> list[str]:
        """A few, so that many type the same at a time."""
        return [*self.random.choices(MEETING, k=2), self.maker(self.random.choice(list(MAKERS))), self.any_line()]


def machine() -> Vm:
    vm = Vm(emulator("vmmd"), ARGUMENTS, serial=False)
    (vm.directory / "image").write_bytes(bytes(65536))
    return vm


def assert_well(vm: Vm) -> None:
    assert vm.qmp.hmp("info name") == ""
    assert "Traceback" not in vm.stderr()


@pytest.mark.parametrize("seed", [1, 2])
def test_every_line_gets_a_text(seed: int) -> None:
    typist = Typist(seed)
    with machine() as vm:
        for number in range(LINES):
            line = typist.any_line()
            text = vm.qmp.hmp(line)  # raises for an error reply: a bug
            assert "\n" not in text.replace("\r\n", ""), (seed, number, line)
        assert_well(vm)


@pytest.mark.parametrize("seed", [3, 4])
def test_every_line_of_several_sessions_gets_a_text(seed: int) -> None:
    """All lines of a round are there before the process sees the first: while one waits for the machine to stand still,
    others change what it was asked for."""
    typist = Typist(seed)
    with machine() as vm, ExitStack() as closing:
        sessions = [vm.connect_qmp() for _ in range(SESSIONS)]
        for session in sessions:
            closing.callback(session.close)
        for number in range(ROUNDS):
            for line in BEFORE_A_ROUND:
                vm.qmp.hmp(line)
            hot = typist.hot_lines()
            vm.kill(signal.SIGSTOP)
            asked = [
                (session, session.start("human-monitor-command", {"command-line": line}), line)
                for session in sessions
                for line in typist.random.choices(hot, k=LINES_AT_ONCE)
            ]
            vm.kill(signal.SIGCONT)
            for session, wire_id, line in asked:
                try:
                    session.finish(wire_id)
                except Exception as error:
                    error.add_note(f"seed {seed}, round {number}: {line!r} of {[each for _, _, each in asked]}")
                    raise
        assert_well(vm)
