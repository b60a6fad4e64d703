# SPDX-License-Identifier: Apache-2.0
"""Media that come and go: what the device is told and sees, which events follow, and who has the image's locks."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.traces import open_files
from tests.unit.test_block_lock import locked_bytes
from tests.unit.test_block_online import node
from vmmd.block.graph import BlockGraph
from vmmd.block.media import MediaChanger
from vmmd.core.events import DeviceTrayMovedEvent
from vmmd.errors import StateError, UsageError, VmmdError
from vmmd.eventloop import EventLoopPort
from vmmd.options.read_backends import drive_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from vmmd.block.drives import Drive

KIB = 1024


class FakeCdrom:
    """A drive with a tray; notes what it is told and what it finds then."""

    has_tray = True

    def __init__(self, drive: Drive, lock: threading.Lock) -> None:
        self.drive = drive
        self.lock = lock
        self.tray_open = False
        self.medium_locked = False
        self.told: list[str] = []
        drive.attach_media(self)
        drive.qdev = "cd0"

    def medium_changed(self, load: bool) -> None:
        assert self.lock.locked()
        self.tray_open = not load
        self.told.append(f"load {self.drive.backend.size_bytes}" if load else "open")

    def eject_request(self, force: bool) -> None:
        assert self.lock.locked()
        self.told.append("force" if force else "please")


class FakeFloppy(FakeCdrom):
    """A drive that is open when it is empty."""

    def medium_changed(self, load: bool) -> None:
        super().medium_changed(load)
        self.tray_open = not (load and self.drive.inserted)


class FakeSlot(FakeCdrom):
    """A drive without a tray."""

    has_tray = False


class Rig:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        port = EventLoopPort()
        port.bind(asyncio.get_running_loop())
        self.graph = BlockGraph(port)
        self.lock = threading.Lock()
        self.events: list[Any] = []
        self.rests = 0
        sink: Any = self
        self.changer = MediaChanger(self.graph, self.lock, sink, self.at_rest)

    def emit(self, event: object) -> None:
        self.events.append(event)

    @asynccontextmanager
    async def at_rest(self) -> AsyncIterator[None]:
        self.rests += 1
        yield

    def image(self, name: str, size_kib: int) -> str:
        path = self.directory / name
        path.write_bytes(bytes(size_kib * KIB))
        return str(path)

    def device(self, line: str, kind: type[FakeCdrom] = FakeCdrom, *, writes: bool = False) -> FakeCdrom:
        """A device on the drive of a -drive line."""
        self.graph.add_drive(drive_options("-drive", f"if=none,id=d0,{line}"))
        return kind(self.graph.claim("d0", "ide-cd", allow_empty=True, writes=writes), self.lock)


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Callable[[Rig], Awaitable[None]]], None]:
    """Runs a story on a loop of its own."""

    def runner(story: Callable[[Rig], Awaitable[None]]) -> None:
        async def main() -> None:
            rig = Rig(tmp_path)
            try:
                await asyncio.wait_for(story(rig), 10)
            finally:
                rig.graph.close()

        asyncio.run(main())

    return runner


OPENED = DeviceTrayMovedEvent("d0", "cd0", True)
CLOSED = DeviceTrayMovedEvent("d0", "cd0", False)


def test_a_medium_is_changed_step_by_step(run: Any) -> None:
    async def story(rig: Rig) -> None:
        old, new = rig.image("old", 64), rig.image("new", 128)
        cdrom, changer = rig.device(f"file={old},format=raw,readonly=on"), rig.changer
        drive = cdrom.drive
        await rig.graph.add_later(node("n0", "raw", read_only=True, file={"driver": "file", "filename": new}))
        fresh = rig.graph.nodes["n0"]
        with pytest.raises(UsageError, match=r"^Tray of device 'cd0' is not open"):
            await changer.remove(drive, "cd0")
        with pytest.raises(UsageError, match=r"^Tray of the device is not open; 'cd0'"):
            await changer.insert(drive, "cd0", fresh)
        assert changer.open_tray(drive, "cd0", force=False)
        assert changer.open_tray(drive, "cd0", force=False)  # again means nothing
        with pytest.raises(UsageError, match=r"^There already is a medium in the device; 'cd0'"):
            await changer.insert(drive, "cd0", fresh)
        await changer.remove(drive, "cd0")
        await changer.remove(drive, "cd0")  # nothing is there
        assert not drive.inserted
        assert drive.backend.size_bytes == 0
        assert old not in open_files()
        await changer.insert(drive, "cd0", changer.free_node("n0"))
        with pytest.raises(UsageError, match=r"^Node 'n0' is already in use"):
            changer.free_node("n0")
        with pytest.raises(UsageError, match=r"^Node 'n1' not found"):
            changer.free_node("n1")
        changer.close_tray(drive, "cd0")
        changer.close_tray(drive, "cd0")
        assert cdrom.told == ["open", f"load {128 * KIB}"]
        assert rig.events == [OPENED, CLOSED]
        assert rig.rests == 2  # one medium out, one in
        changer.open_tray(drive, "cd0", force=False)
        await changer.remove(drive, "cd0")
        assert changer.free_node("n0") is fresh  # the monitor's own stays
        assert new in open_files()
        await rig.graph.remove("n0")

    run(story)


def test_a_guest_that_has_locked_the_tray_is_asked(run: Any) -> None:
    async def story(rig: Rig) -> None:
        cdrom = rig.device(f"file={rig.image('a', 64)},format=raw,readonly=on")
        cdrom.medium_locked = True
        assert not rig.changer.open_tray(cdrom.drive, "d0", force=False)
        with pytest.raises(StateError, match=r"^Device 'd0' is locked and force was not specified, wait for tray"):
            await rig.changer.eject(cdrom.drive, "d0", force=False)
        with pytest.raises(StateError, match="is locked"):
            await rig.changer.change(cdrom.drive, "d0", rig.image("b", 8), "raw", read_only=None, force=False)
        assert cdrom.told == ["please"] * 3
        assert not rig.events
        assert cdrom.drive.inserted
        assert len(rig.graph.nodes) == 2  # the image that was opened in vain is closed
        await rig.changer.eject(cdrom.drive, "d0", force=True)
        assert cdrom.told[3:] == ["force", "open"]
        assert rig.events == [OPENED]
        assert not rig.graph.nodes

    run(story)


def test_change_opens_the_new_image_first_as_the_old_one_was(run: Any) -> None:
    async def story(rig: Rig) -> None:
        old, new = rig.image("old", 64), rig.image("new", 128)
        cdrom = rig.device(f"file={old},format=raw,readonly=on,cache=unsafe")
        drive = cdrom.drive
        with pytest.raises(VmmdError, match=r"^Could not open '/nowhere': No such file or directory"):
            await rig.changer.change(drive, "d0", "/nowhere", "raw", read_only=None, force=False)
        with pytest.raises(VmmdError, match=r"^Unknown driver 'bogus'"):
            await rig.changer.change(drive, "d0", new, "bogus", read_only=None, force=False)
        assert not cdrom.told
        assert drive.filename == old
        await rig.changer.change(drive, "d0", new, "raw", read_only=None, force=False)
        assert cdrom.told == ["open", f"load {128 * KIB}"]
        assert rig.events == [OPENED, CLOSED]
        assert (drive.filename, drive.read_only, drive.cache_no_flush) == (new, True, True)
        assert old not in open_files()
        await rig.changer.eject(drive, "d0", force=False)
        await rig.changer.change(drive, "d0", old, "raw", read_only=False, force=False)
        assert not drive.read_only
        assert rig.events == [OPENED, CLOSED, OPENED, CLOSED]

    run(story)


def test_an_empty_drive_shows_its_medium_when_it_gets_one(run: Any) -> None:
    async def story(rig: Rig) -> None:
        floppy = FakeFloppy(rig.graph.claim_empty("floppy"), rig.lock)
        floppy.tray_open = True
        drive, path = floppy.drive, rig.image("f", 64)
        assert rig.graph.query() == [drive]
        await rig.changer.change(drive, "fd0", path, "raw", read_only=False, force=False)
        assert rig.events == [DeviceTrayMovedEvent("", "cd0", False)]
        assert locked_bytes(Path(path)) == {100, 101, 201}  # it reads and writes, and nobody else writes
        rig.graph.release(drive)
        await rig.graph.unlock_later()
        assert not rig.graph.nodes  # the drive went with its device, and its medium too
        assert path not in open_files()

    run(story)


def test_a_drive_without_tray_is_told_of_the_media_themselves(run: Any) -> None:
    async def story(rig: Rig) -> None:
        slot = rig.device(f"file={rig.image('a', 64)},format=raw", FakeSlot)
        assert slot.drive.tray_open is None
        await rig.changer.change(slot.drive, "d0", rig.image("b", 128), "raw", read_only=None, force=False)
        assert slot.told == ["open", f"load {128 * KIB}"]

    run(story)


def test_a_disk_keeps_its_medium_and_a_drive_without_device_does_not(run: Any) -> None:
    async def story(rig: Rig) -> None:
        path = rig.image("a", 64)
        drive = rig.graph.add_drive(drive_options("-drive", f"if=none,id=d0,file={path},format=raw"))
        await rig.changer.eject(drive, "d0", force=False)
        assert not drive.inserted
        await rig.changer.change(drive, "d0", path, "raw", read_only=None, force=False)
        assert locked_bytes(Path(path)) == {100}
        rig.graph.claim("d0", "virtio-blk-device")
        with pytest.raises(UsageError, match=r"^Device 'd0' is not removable"):
            rig.changer.open_tray(drive, "d0", force=True)
        with pytest.raises(UsageError, match=r"^Device 'd0' is not removable"):
            await rig.changer.eject(drive, "d0", force=True)

    run(story)


def test_nobody_else_changes_a_drive_meanwhile(run: Any) -> None:
    async def story(rig: Rig) -> None:
        cdrom = rig.device(f"file={rig.image('a', 64)},format=raw")
        rig.changer.open_tray(cdrom.drive, "d0", force=False)
        removing = asyncio.ensure_future(rig.changer.remove(cdrom.drive, "d0"))
        await asyncio.sleep(0)
        with pytest.raises(UsageError, match=r"^Device 'd0' is busy"):
            rig.graph.empty("d0")
        await removing
        assert rig.graph.empty("d0") is None

    run(story)
