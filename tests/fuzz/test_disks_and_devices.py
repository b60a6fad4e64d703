# SPDX-License-Identifier: Apache-2.0
"""Random orders of commands that add and remove disks and devices, right and wrong ones, on a real machine: each is
answered, and at the end all of it can be taken away and nothing is left."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.qmp import QmpError
from tests.framework.vm import Vm, emulator

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.kvm

COMMANDS = 800
NAMES = "abcde"
HUGE = (1 << 63) - 1
SIZES = (0, 1, 512, 513, 1 << 20, 1 << 21, HUGE, -1)


class Player:
    """Makes commands of five names and four images (one of them missing)."""

    def __init__(self, seed: int, directory: Path) -> None:
        self.rng = random.Random(seed)
        self.directory = directory

    def chance(self, one_in: int) -> bool:
        return self.rng.randrange(one_in) == 0

    def name(self) -> str:
        return self.rng.choice(NAMES)

    def path(self) -> str:
        return str(self.directory / self.rng.choice(("0", "1", "2", "missing")))

    def some(self, **choices: tuple[object, ...]) -> dict[str, object]:
        """Some of the members, each with one of its values."""
        return {key.replace("_", "-"): self.rng.choice(values) for key, values in choices.items() if self.chance(10)}

    def node(self) -> dict[str, Any]:
        image = {
            "driver": "file", "filename": self.path(),
            **self.some(read_only=(True, False), locking=("on", "off", "auto"), aio=("threads", "io_uring", "native")),
            **self.some(node_name=tuple(NAMES), cache=({"direct": True}, {"no-flush": True})),
        }  # fmt: skip
        kind = self.rng.randrange(4)
        if kind == 0:
            return {**image, "node-name": self.name()}
        if kind == 1:
            return {"driver": "null-co", "node-name": self.name(), **self.some(size=SIZES[:-1], read_zeroes=(True,))}
        below = self.name() if self.chance(2) else image
        raw = {"driver": "raw", "node-name": self.name(), "file": below}
        return {**raw, **self.some(offset=SIZES, size=SIZES, read_only=(True, False), force_share=(True,))}

    def device(self) -> dict[str, Any]:
        drivers = (*("virtio-blk-pci",) * 6, "virtio-blk-pci-transitional", "isa-serial", "PIIX3", "x")
        return {
            "driver": self.rng.choice(drivers), "drive": self.name(), "id": self.name(),
            **self.some(addr=("4", "4.1", 5, "zz"), bootindex=(0, 1, -1, "x"), num_queues=(0, 1, 1024, 1025)),
            **self.some(queue_size=(1, 256, 3), multifunction=(True,), logical_block_size=(512, 4096, 1000)),
            **self.some(serial=("s", 5, None, []), bus=("pci.0", "isa.0", "nowhere"), bogus=(1,)),
        }  # fmt: skip

    def line(self) -> str:
        lines = (
            f"drive_add 0 if=none,id={self.name()},file={self.path()},format=raw", f"drive_del {self.name()}",
            f"drive_add 0 if=none,id={self.name()}", f"drive_add -n 0 driver=null-co,node-name={self.name()}",
            f"device_add virtio-blk-pci,drive={self.name()},id={self.name()}", f"device_del {self.name()}",
            f"block_resize {self.name()} 1M", "info block -v", "info block -n", "info qtree",
        )  # fmt: skip
        return self.rng.choice(lines)

    def command(self) -> tuple[str, dict[str, Any]]:
        queries = ("query-block", "query-blockstats", "query-named-block-nodes", "query-pci")
        choices: list[Callable[[], tuple[str, dict[str, Any]]]] = [
            lambda: ("blockdev-add", self.node()),
            lambda: ("blockdev-add", self.node()),
            lambda: ("blockdev-del", {"node-name": self.name()}),
            lambda: ("device_add", self.device()),
            lambda: ("device_add", self.device()),
            lambda: ("device_del", {"id": self.rng.choice((self.name(), "", "/machine", "/machine/peripheral/a"))}),
            lambda: ("block_resize", {"node-name": self.name(), "size": self.rng.choice(SIZES)}),
            lambda: ("human-monitor-command", {"command-line": self.line()}),
            lambda: (self.rng.choice(queries), {}),
            lambda: ("query-blockstats", {"query-nodes": True}),
            lambda: (self.rng.choice(("cont", "stop", "stop")), {}),
            lambda: ("system_reset", {}),
        ]
        return self.rng.choice(choices)()


def answer(vm: Vm, name: str, arguments: dict[str, Any]) -> QmpError | None:
    """None when the command succeeded."""
    try:
        vm.qmp.cmd(name, arguments)
    except QmpError as error:
        return error
    return None


def images_open(vm: Vm, directory: Path) -> list[str]:
    fds = f"/proc/{vm.pid}/fd"
    return [name for fd in os.listdir(fds) if (name := os.readlink(f"{fds}/{fd}")).startswith(str(directory))]


@pytest.mark.parametrize("seed", range(2))
def test_nothing_is_left_of_any_order_of_commands(seed: int, tmp_path: Path) -> None:
    for image in "012":
        with (tmp_path / image).open("wb") as file:
            file.truncate(1 << 20)
    player = Player(seed, tmp_path)
    done = dict.fromkeys(("blockdev-add", "blockdev-del", "device_add", "device_del"), 0)
    machine = ["-machine", "pc,accel=kvm", "-m", "16", "-nodefaults", "-S"]
    with Vm(emulator("vmmd"), machine, serial=False) as vm:
        qmp = vm.qmp
        for _ in range(COMMANDS):
            name, arguments = player.command()
            refused = answer(vm, name, arguments)
            if refused is None:
                done[name] = done.get(name, 0) + 1
            else:
                assert refused.error_class in ("GenericError", "DeviceNotFound"), refused
                assert len(refused.desc) > 10
        assert min(done.values()) > 0, done  # it has done something
        qmp.cmd("stop")
        qmp.cmd("system_reset")
        for device in [each["name"] for each in qmp.cmd("qom-list", {"path": "/machine/peripheral"})]:
            if device != "type":
                qmp.cmd("device_del", {"id": device})
        for drive in qmp.cmd("query-block"):
            assert qmp.hmp(f"drive_del {drive['device']}") == ""
        while nodes := qmp.cmd("query-named-block-nodes"):
            qmp.cmd("blockdev-del", {"node-name": nodes[0]["node-name"]})  # the newest has nobody on top
        assert qmp.cmd("query-block") == []
        assert images_open(vm, tmp_path) == []
        assert "Traceback" not in vm.stderr()
