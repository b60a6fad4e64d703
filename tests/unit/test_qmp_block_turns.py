# SPDX-License-Identifier: Apache-2.0
"""Commands about disks that wait for their turn: what they were asked for may be gone when it comes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.qmp_support import FakeVm
from vmmd.block.graph import BlockGraph
from vmmd.errors import UsageError
from vmmd.eventloop import EventLoopPort
from vmmd.options.backends import DriveOptions
from vmmd.options.read_backends import block_node
from vmmd.qmp.commands.block import block_resize
from vmmd.qmp.hmp.monitor import HumanMonitor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

IMAGE_BYTES = 65536


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(IMAGE_BYTES))
    return path


def while_another_has_the_turn(
    image: Path, begin: Callable[[FakeVm], list[Awaitable[Any]]], meanwhile: Callable[[FakeVm], Awaitable[Any]]
) -> tuple[list[Any], BlockGraph]:
    """What ``begin``'s commands return or raise when ``meanwhile`` is done before their turn comes. There are the drive
    d0 and the node n0, both with the image."""

    async def main() -> tuple[list[Any], BlockGraph]:
        port = EventLoopPort()
        port.bind(asyncio.get_running_loop())
        vm = FakeVm(port)
        graph = vm.block = BlockGraph(port)
        drive = DriveOptions.from_items([("id", "d0"), ("if", "none"), ("format", "raw"), ("file", str(image))], "")
        await graph.add_drive_later(drive)
        await graph.add_later(block_node({"driver": "file", "node-name": "n0", "filename": str(image)}, ""))
        try:
            async with vm.at_rest():
                waiting = [asyncio.ensure_future(each) for each in begin(vm)]
                await asyncio.sleep(0)  # they get as far as they can
                await meanwhile(vm)
            return await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10), graph
        finally:
            graph.close()

    return asyncio.run(main())


async def nothing(vm: FakeVm) -> None:
    """No command in between."""


def test_a_drive_is_taken_away_once(image: Path) -> None:
    results, graph = while_another_has_the_turn(
        image, lambda vm: [HumanMonitor(vm).run("drive_del d0") for _ in range(3)], nothing
    )
    assert sorted(results) == ["", "Device 'd0' not found\r\n", "Device 'd0' not found\r\n"]
    assert (graph.drives, graph.disks) == ({}, [])


def test_a_drive_that_came_back_under_its_name_is_the_one_that_goes(image: Path) -> None:
    async def replace(vm: FakeVm) -> None:
        left = vm.block.empty("d0")
        await vm.block.discard(left)
        await vm.block.add_drive_later(DriveOptions.from_items([("id", "d0"), ("if", "none")], ""))

    results, graph = while_another_has_the_turn(image, lambda vm: [HumanMonitor(vm).run("drive_del d0")], replace)
    assert results == [""]
    assert (graph.drives, graph.disks) == ({}, [])


@pytest.mark.parametrize(
    ("which", "gone"),
    [
        ({"node_name": "n0"}, lambda vm: vm.block.remove("n0")),
        ({"device": "d0"}, lambda vm: vm.block.discard(vm.block.empty("d0"))),
    ],
)
def test_an_image_that_was_removed_is_not_made_shorter(image: Path, which: dict[str, Any], gone: Any) -> None:
    (result,), _ = while_another_has_the_turn(
        image, lambda vm: [block_resize(SimpleNamespace(vm=vm), size=512, **which)], gone
    )
    assert isinstance(result, UsageError)
    device, node_name = which.get("device", ""), which.get("node_name", "")
    assert str(result).startswith(f"Cannot find device='{device}' nor node-name='{node_name}'")
    assert image.stat().st_size == IMAGE_BYTES
