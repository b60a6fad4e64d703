# SPDX-License-Identifier: Apache-2.0
"""blkdebug: which requests fail by which rules, and what a configuration file may not say."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from tests.unit.select_loop import SelectLoop
from vmmd.block.blkdebug import parse
from vmmd.block.graph import BlockGraph
from vmmd.errors import BackendError, UsageError
from vmmd.options.read_backends import blockdev_options, drive_options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vmmd.block.base import BlockNode

INJECT = '[inject-error]\nevent = "{}"\n'


@pytest.fixture
def loop() -> SelectLoop:
    return SelectLoop()


@pytest.fixture
def make(loop: SelectLoop, tmp_path: Path) -> Iterator[Callable[[str], BlockNode]]:
    graph = BlockGraph(loop)

    def add(rules: str) -> BlockNode:
        path = tmp_path / "rules"
        path.write_text(rules)
        graph.add(blockdev_options("-blockdev", f"null-co,node-name=n{len(graph.nodes)}"))
        image = list(graph.nodes)[-1]
        return graph.add(blockdev_options("-blockdev", f"blkdebug,node-name=b{image},image={image},config={path}"))

    yield add
    graph.close()


def outcome(loop: SelectLoop, node: BlockNode, kind: str, sector: int = 0) -> int:
    ended: list[int] = []
    buffers = [memoryview(bytearray(512))]
    if kind == "flush":
        node.flush(ended.append)
    elif kind == "discard":
        node.discard(512 * sector, 512, ended.append)
    elif kind == "zero":
        node.write_zeroes(512 * sector, 512, True, ended.append)
    else:
        (node.readv if kind == "read" else node.writev)(512 * sector, buffers, ended.append)
    loop.until(lambda: ended)
    return ended[0]


def test_no_rules_no_errors(loop: SelectLoop, make: Callable[[str], BlockNode]) -> None:
    node = make("# nothing\n\n")
    assert [outcome(loop, node, kind) for kind in ("read", "write", "flush", "discard", "zero")] == [0] * 5


def test_event_starts_the_error_and_it_stays(loop: SelectLoop, make: Callable[[str], BlockNode]) -> None:
    node = make(INJECT.format("write_aio") + 'errno = "28"\n')
    assert [outcome(loop, node, kind) for kind in ("read", "write", "read", "flush")] == [0, 28, 28, 28]


def test_once_is_for_one_request(loop: SelectLoop, make: Callable[[str], BlockNode]) -> None:
    node = make(INJECT.format("flush_to_disk") + 'once = "on"\nimmediately = "on"\n')
    assert [outcome(loop, node, "flush") for _ in range(3)] == [errno.EIO, 0, 0]


def test_sector_and_io_type_choose(loop: SelectLoop, make: Callable[[str], BlockNode]) -> None:
    node = make(INJECT.format("none") + 'sector = "7"\niotype = "write"\n')
    assert [outcome(loop, node, "write", sector) for sector in (6, 7, 8)] == [0, errno.EIO, 0]
    assert outcome(loop, node, "read", 7) == 0


def test_states_make_the_third_write_fail(loop: SelectLoop, make: Callable[[str], BlockNode]) -> None:
    steps = "".join(
        f'[set-state]\nevent = "write_aio"\nstate = "{each}"\nnew_state = "{each + 1}"\n' for each in (1, 2)
    )
    node = make(steps + INJECT.format("write_aio") + 'state = "3"\nonce = "on"\n')
    assert [outcome(loop, node, "write") for _ in range(4)] == [0, 0, errno.EIO, 0]


def test_drive_names_rules_and_image(loop: SelectLoop, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text(INJECT.format("read_aio"))
    graph = BlockGraph(loop)
    drive = graph.add_drive(drive_options("-drive", f"id=d,if=none,format=raw,file=blkdebug:{rules}:null-co://"))
    assert drive.filename == f"blkdebug:{rules}:null-co://"
    assert outcome(loop, drive.backend, "read") == errno.EIO
    assert [node.driver for node in graph.all_nodes()] == ["null-co", "blkdebug", "raw"]
    graph.close()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[x]\n", "There is no option group 'x'.*line 1"),
        ('event = "none"\n', "no group defined"),
        ('[inject-error]\nevent="none"\n', "Invalid parameter 'event=\"none\"'.*line 2"),  # (QEMU) blanks around the =
        ('[set-state]\nevent = "none"\nerrno = "5"\n', "Invalid parameter"),
        ("[inject-error]\n", "Missing event name"),
        ('[inject-error]\nevent = "l1_update"\n', "does not accept value 'l1_update'.*read_aio"),
        ('[inject-error]\nevent = "none"\nerrno = "x"\n', "'errno' expects a number"),
        ('[inject-error]\nevent = "none"\nonce = "yes"\n', "'once' does not accept value"),
        ('[inject-error]\nevent = "none"\n' * 1025, "too many rules"),
    ],
)
def test_wrong_file_is_refused_naming_the_line(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse(text)


def test_file_that_is_not_there_leaves_nothing(loop: SelectLoop, tmp_path: Path) -> None:
    graph = BlockGraph(loop)
    graph.add(blockdev_options("-blockdev", "null-co,node-name=n0"))
    with pytest.raises(BackendError, match="Could not read blkdebug config file: No such file"):
        graph.add(blockdev_options("-blockdev", f"blkdebug,node-name=b,image=n0,config={tmp_path}/none"))
    assert list(graph.nodes) == ["n0"]
    assert graph.nodes["n0"].user is None
    graph.close()
