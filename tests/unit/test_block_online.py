# SPDX-License-Identifier: Apache-2.0
"""Nodes and drives that come and go while the loop runs: on a thread, all or nothing, and nobody else notices."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.framework.traces import open_files
from tests.unit.test_block_lock import locked_bytes
from vmmd.block import file as block_file
from vmmd.block import syscalls
from vmmd.block.graph import BlockGraph
from vmmd.core.fdsets import FdSets
from vmmd.errors import VmmdError
from vmmd.eventloop import EventLoopPort
from vmmd.messages import messages
from vmmd.options.read_backends import block_node

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from vmmd.block.base import BlockNode

KIB = 1024


def node(name: str | None, driver: str = "file", **keys: object) -> Any:
    given = {key.replace("_", "-"): value for key, value in keys.items()}
    return block_node({"driver": driver, **({"node-name": name} if name else {}), **given}, "blockdev-add")


def open_images() -> list[str]:
    """The files that are open: threads and their event come with the first image and stay."""
    return [name for name in open_files() if name.startswith("/") and not name.startswith("/dev")]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(64 * KIB))
    return path


def run(story: Callable[[BlockGraph], Awaitable[None]]) -> None:
    """The story on a loop of its own, with a graph that is closed at the end."""

    async def main() -> None:
        port = EventLoopPort()
        port.bind(asyncio.get_running_loop())
        graph = BlockGraph(port)
        try:
            await asyncio.wait_for(story(graph), 10)
        finally:
            graph.close()

    asyncio.run(main())


class Blocked:
    """Opening an image waits until the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
        self.entered = threading.Event()
        self.go_on = threading.Event()
        original = getattr(block_file.FileNode, method)

        def wait(node: BlockNode, *args: object) -> None:
            assert threading.current_thread() is not threading.main_thread()
            self.entered.set()
            assert self.go_on.wait(10)
            original(node, *args)

        monkeypatch.setattr(block_file.FileNode, method, wait)

    async def wait_entered(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.entered.wait, 10)


@pytest.fixture
def slow_open(monkeypatch: pytest.MonkeyPatch) -> Iterator[Blocked]:
    made = Blocked(monkeypatch, "open")
    yield made
    made.go_on.set()


def test_an_image_that_opens_slowly_holds_nobody_up_and_its_name_is_taken(image: Path, slow_open: Blocked) -> None:
    async def story(graph: BlockGraph) -> None:
        adding = asyncio.ensure_future(
            graph.add_later(node("top", "raw", file={"driver": "file", "filename": str(image)}))
        )
        await slow_open.wait_entered()  # and the loop runs
        assert graph.nodes == {}  # nothing half-open is seen
        with pytest.raises(VmmdError, match="Duplicate nodes with node-name='top'"):
            await graph.add_later(node("top", "null-co"))
        with pytest.raises(VmmdError, match="Failed to find node"):
            await graph.remove("top")
        await graph.add_later(node("other", "null-co"))
        slow_open.go_on.set()
        made = await adding
        assert made.file is not None
        assert list(graph.nodes) == ["other", made.file.node_name, "top"]

    run(story)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ({"offset": 1 << 20}, "cannot be greater than size"),
        ({"size": 513}, "not multiple of 512"),
        ({"size": 1 << 20}, "has to be smaller or equal"),
        ({"node-name": "same"}, "Duplicate nodes with node-name='same'"),
        ({"node-name": "there"}, "Duplicate nodes with node-name='there'"),
    ],
)
def test_what_fails_above_an_open_image_closes_it_again(image: Path, broken: dict[str, Any], sentence: str) -> None:
    before = open_images()

    async def story(graph: BlockGraph) -> None:
        await graph.add_later(node("there", "null-co"))
        inner = {"driver": "file", "filename": str(image), "node-name": "same"}
        with pytest.raises(VmmdError, match=sentence):
            await graph.add_later(block_node({"driver": "raw", "node-name": "top", "file": inner, **broken}, ""))
        assert list(graph.nodes) == ["there"]
        assert graph.reserved == set()
        assert open_images() == before

    run(story)


def test_what_fails_above_a_named_node_gives_it_back(image: Path) -> None:
    async def story(graph: BlockGraph) -> None:
        await graph.add_later(node("f", filename=str(image)))
        with pytest.raises(VmmdError, match="not multiple"):
            await graph.add_later(node("top", "raw", file="f", size=1))
        await graph.add_later(node("top", "raw", file="f"))
        with pytest.raises(VmmdError, match="Node 'f' is busy: node 'top' uses it"):
            await graph.add_later(node("top2", "raw", file="f"))
        await graph.remove("top")
        await graph.remove("f")
        assert graph.nodes == {}

    run(story)


def test_removal_closes_on_a_thread_and_frees_the_name_then(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(graph: BlockGraph) -> None:
        await graph.add_later(node("f", filename=str(image)))
        closing = Blocked(monkeypatch, "close")
        removing = asyncio.ensure_future(graph.remove("f"))
        await closing.wait_entered()
        assert graph.nodes == {}
        with pytest.raises(VmmdError, match="Duplicate"):
            await graph.add_later(node("f", "null-co"))
        closing.go_on.set()
        await removing
        await graph.add_later(node("f", "null-co"))

    run(story)


def test_a_node_with_a_user_stays(image: Path) -> None:
    async def story(graph: BlockGraph) -> None:
        inner = {"driver": "file", "filename": str(image), "node-name": "below"}
        await graph.add_later(node("top", "raw", file=inner))
        with pytest.raises(VmmdError, match="Node below is not owned by the monitor"):
            await graph.remove("below")
        drive = graph.claim("top", "virtio-blk-device")
        with pytest.raises(VmmdError, match="Node top is in use; virtio-blk-device uses it"):
            await graph.remove("top")
        graph.release(drive)
        with pytest.raises(VmmdError, match=r"Failed to find node with node-name='topp'; did you mean 'top'\?"):
            await graph.remove("topp")
        await graph.remove("top")
        assert graph.nodes == {}

    run(story)


@pytest.mark.parametrize("size", [128 * KIB, 4 * KIB, 100_000])
def test_an_image_changes_its_size_and_its_users_are_told(image: Path, size: int) -> None:
    async def story(graph: BlockGraph) -> None:
        top = await graph.add_later(node("top", "raw", offset=512, file={"driver": "file", "filename": str(image)}))
        told: list[int] = []
        top.on_resize(lambda: told.append(top.size_bytes))
        await graph.resize(top, size)
        assert told == [-(-(size + 512) // 512) * 512 - 512]

    run(story)
    assert image.stat().st_size == size + 512


def test_an_image_whose_size_is_being_changed_stays(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, go_on = threading.Event(), threading.Event()
    original = os.ftruncate

    def slow(fd: int, length: int) -> None:
        entered.set()
        assert go_on.wait(10)
        original(fd, length)

    async def story(graph: BlockGraph) -> None:
        file = {"driver": "file", "filename": str(image)}
        top = await graph.add_later(node("top", "raw", file=file))
        monkeypatch.setattr(os, "ftruncate", slow)
        changing = asyncio.ensure_future(graph.resize(top, 4 * KIB))
        await asyncio.get_running_loop().run_in_executor(None, entered.wait, 10)
        for refused in (graph.remove("top"), graph.resize(top, 8 * KIB)):
            with pytest.raises(VmmdError, match=r"is in use; its size is being changed"):
                await refused
        go_on.set()
        await changing
        await graph.remove("top")

    run(story)
    assert image.stat().st_size == 4 * KIB


def test_what_cannot_change_its_size_says_so(image: Path, tmp_path: Path) -> None:
    async def story(graph: BlockGraph) -> None:
        file = {"driver": "file", "filename": str(image)}
        window = await graph.add_later(node("window", "raw", size=512, file={**file, "locking": "off"}))
        with pytest.raises(VmmdError, match="Cannot resize fixed-size raw disks"):
            await graph.resize(window, 1024)
        null = await graph.add_later(node("null", "null-co"))
        with pytest.raises(VmmdError, match="Image format driver does not support resize"):
            await graph.resize(null, 1024)
        fixed = await graph.add_later(node("ro", "raw", read_only=True, file=file))
        with pytest.raises(VmmdError, match="is read-only"):
            await graph.resize(fixed, 1024)
        with pytest.raises(VmmdError, match=r"File too large|Invalid argument"):
            await graph.resize((await graph.add_later(node("f", filename=str(image)))), (1 << 63) - 1)
        behind = await graph.add_later(node("behind", "raw", offset=512, file="f"))
        with pytest.raises(VmmdError, match="File too large"):
            await graph.resize(behind, (1 << 63) - 1)

    run(story)
    assert image.stat().st_size == 64 * KIB


def test_how_much_is_allocated_is_asked_on_a_thread_where_it_may_wait(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(graph: BlockGraph) -> None:
        local = await graph.add_later(node("local", filename=str(image)))
        before = local.actual_size
        assert before is not None
        monkeypatch.setattr(block_file.probe, "is_local", lambda kind: kind not in ("tmpfs", "ext4", "overlay", "xfs"))
        remote: Any = await graph.add_later(node("remote", filename=str(image), locking="off"))
        asking = Blocked(monkeypatch, "_ask")
        with open(image, "r+b") as file:  # noqa: ASYNC230  # a little one
            file.write(b"x" * 64 * KIB)
            os.fsync(file.fileno())
        assert [remote.actual_size, remote.actual_size] == [before, before]  # and one thread asks
        await asking.wait_entered()
        asking.go_on.set()
        graph.drain()
        assert remote.actual_size == local.actual_size

    run(story)


CLASHES = (
    "Duplicate nodes with node-name=", "Node ", "Block device ", "Failed to find node", "Cannot find device=",
    "Drive ", "Property 'user.drive' can't find value", "Failed to get",
)  # fmt: skip


KINDS = ("file", "over", "both", "broken", "remove")
OPERATION = st.tuples(st.sampled_from(KINDS), st.sampled_from("abcd"), st.sampled_from("abcd"))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(OPERATION, min_size=1, max_size=5), max_size=4))
def test_any_order_of_additions_and_removals_keeps_the_graph_whole(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[list[tuple[str, str, str]]]
) -> None:
    """Many at a time, on threads: what is refused is refused in a sentence, users and names stay right, and in the end
    everything can be taken away."""
    path = tmp_path_factory.getbasetemp() / "shared.img"
    path.write_bytes(bytes(64 * KIB))
    before = open_images()

    def start(graph: BlockGraph, kind: str, name: str, other: str) -> Awaitable[object]:
        inside: Any = {"driver": "file", "filename": str(path), "locking": "off"}
        if kind == "remove":
            return graph.remove(name)
        made = {
            "file": lambda: node(name, filename=str(path), locking="off"),
            "over": lambda: node(name, "raw", file=other),
            "both": lambda: node(name, "raw", file={**inside, "node-name": other}),
            "broken": lambda: node(name, "raw", size=1, file=inside),
        }[kind]()
        return graph.add_later(made)

    async def story(graph: BlockGraph) -> None:
        for together in rounds:
            for result in await asyncio.gather(*(start(graph, *each) for each in together), return_exceptions=True):
                if isinstance(result, VmmdError):
                    assert str(result).startswith((*CLASHES, "Specified size is not multiple"))
                else:
                    assert not isinstance(result, BaseException), result
            assert graph.reserved == set()
            for name, each in graph.nodes.items():
                assert each.node_name == name
                assert each.parent is None or (each.parent.file is each and graph.nodes[each.parent.node_name])
                assert each.file is None or (each.file.parent is each and each.file.node_name in graph.nodes)
        while tops := [each for each in graph.nodes.values() if each.parent is None]:
            await graph.remove(tops[0].node_name)
        assert graph.nodes == {}
        assert open_images() == before

    run(story)


def test_a_drive_taken_from_its_device_fails_every_request_and_its_image_is_free(image: Path) -> None:
    from vmmd.options.backends import DriveOptions

    before = open_images()

    async def story(graph: BlockGraph) -> None:
        items = [("id", "d0"), ("if", "none"), ("file", str(image)), ("format", "raw")]
        await graph.add_drive_later(DriveOptions.from_items(items, "-drive"))
        drive = graph.claim("d0", "virtio-blk-device")
        lost: list[int] = []
        drive.on_lost(lambda: lost.append(1))
        left = graph.empty("d0")
        assert left is not None
        await graph.discard(left)
        assert open_images() == before
        assert (lost, graph.drives, graph.nodes) == ([1], {}, {})
        assert (drive.inserted, drive.name, graph.query()) == (False, "", [drive])
        errors: list[int] = []
        drive.backend.readv(0, [memoryview(bytearray(512))], errors.append)
        drive.backend.flush(errors.append)
        assert errors == [errno.ENOMEDIUM] * 2
        graph.release(drive)
        assert graph.query() == []

    run(story)


def test_a_drive_that_fails_to_be_added_leaves_nothing(image: Path) -> None:
    from vmmd.options.backends import DriveOptions

    before = open_images()
    image.write_bytes(b"QFI\xfb" + bytes(512))

    async def story(graph: BlockGraph) -> None:
        for items in ([("id", "d0"), ("file", str(image))], [("id", "d0"), ("file", str(image) + "x")]):
            with pytest.raises(VmmdError):
                await graph.add_drive_later(DriveOptions.from_items(items, "-drive"))
            assert (graph.nodes, graph.drives, graph.reserved) == ({}, {}, set())
        assert open_images() == before

    run(story)


def test_a_passed_descriptor_is_opened_on_the_loop_and_let_go(image: Path) -> None:
    """The sets belong to the loop, and duplicating a descriptor waits for nobody."""

    async def main() -> None:
        port, sets = EventLoopPort(), FdSets()
        port.bind(asyncio.get_running_loop())
        graph = BlockGraph(port, sets)
        number = sets.add(None, os.open(image, os.O_RDWR))
        opened_by: list[threading.Thread] = []
        original = sets.open

        def spy(path: str, flags: int) -> int:
            opened_by.append(threading.current_thread())
            return original(path, flags)

        sets.open = spy  # type: ignore[method-assign]
        await graph.add_later(node("f", filename=f"/dev/fdset/{number}"))
        assert opened_by == [threading.main_thread()]
        await graph.remove("f")
        sets.close_unused()
        assert sets.query() == {}
        with pytest.raises(VmmdError, match="Could not open '/dev/fdset/9': No such file"):
            await graph.add_later(node("f", filename="/dev/fdset/9"))
        graph.close()

    before = open_images()
    asyncio.run(main())
    assert open_images() == before


def test_what_there_is_to_tell_of_an_image_goes_where_messages_go(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vmmd.options.backends import DriveOptions

    told: list[str] = []
    monkeypatch.setattr(messages, "later", told.append)

    async def story(graph: BlockGraph) -> None:
        await graph.add_drive_later(DriveOptions.from_items([("id", "d0"), ("file", str(image))], "-drive"))
        (warning,) = told
        assert warning.startswith(
            f"vmmd: WARNING: Image format was not specified for '{image}' and probing guessed raw"
        )

        def fail(fd: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "fdatasync", fail)
        left = graph.empty("d0")
        assert left is not None
        await graph.discard(left)

    run(story)
    assert told[1:] == [f"vmmd: warning: image {image}: the last flush failed: Input/output error"]


@pytest.mark.parametrize("name", ["d0", "n0"])
def test_an_image_whose_locks_are_being_changed_stays(image: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from vmmd.options.backends import DriveOptions

    def taken_away(graph: BlockGraph) -> Awaitable[None]:
        async def take() -> None:
            graph.empty(name)

        return take() if name == "d0" else graph.remove(name)

    async def story(graph: BlockGraph) -> None:
        items = [("id", "d0"), ("if", "none"), ("format", "raw"), ("file", str(image))]
        await graph.add_drive_later(DriveOptions.from_items(items, "-drive"))
        await graph.add_later(node("n0", filename=str(image)))

        async def give_back() -> None:
            graph.spare(name)
            await graph.unlock_later()

        for change in (lambda: graph.lock_later(name, share_rw=False), give_back):
            with monkeypatch.context() as patched:
                slow = Blocked(patched, "set_lock")
                changing = asyncio.ensure_future(change())
                await slow.wait_entered()
                with pytest.raises(VmmdError, match="is in use; its locks are being changed"):
                    await taken_away(graph)
                slow.go_on.set()
                await changing
        await taken_away(graph)

    run(story)


def test_what_cannot_be_had_gets_no_lock_and_keeps_that_of_its_device(image: Path) -> None:
    async def story(graph: BlockGraph) -> None:
        await graph.add_later(node("n0", filename=str(image)))
        await graph.lock_later("n0", share_rw=True)
        drive = graph.claim("n0", "virtio-blk-device", share_rw=True)
        held = locked_bytes(image)
        for name in ("n0", "nope"):
            await graph.lock_later(name, share_rw=False)
        await graph.unlock_later()
        assert locked_bytes(image) == held == {100, 101}
        graph.release(drive)
        await graph.unlock_later()
        assert locked_bytes(image) == set()

    run(story)


def test_a_lock_that_cannot_be_given_back_is_told_and_keeps_nobody(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(messages, "later", told.append)

    async def story(graph: BlockGraph) -> None:
        await graph.add_later(node("n0", filename=str(image)))
        graph.release(graph.claim("n0", "virtio-blk-device"))

        def fail(*_args: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patched:
            patched.setattr(syscalls, "set_ofd_lock", fail)
            await graph.unlock_later()

    run(story)
    assert told == ["vmmd: node n0: the locks of its image were not given back: Input/output error"]
