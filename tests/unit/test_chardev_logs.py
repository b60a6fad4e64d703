# SPDX-License-Identifier: Apache-2.0
"""Logs of character devices that stay within bounds, and output that waits for whoever comes late."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from tests.unit.chardev_rig import Frontend, chardev_options, chardevs
from tests.unit.select_loop import SelectLoop
from vmmd.chardev.output_file import WAITING_BYTES, OutputFile
from vmmd.core.backend import CharEvent
from vmmd.core.fdsets import FdSets
from vmmd.errors import BackendError, UsageError

LIMIT = 4096


@pytest.fixture
def loop():
    return SelectLoop()


@pytest.fixture
def make(loop):
    with chardevs(loop) as build:
        yield build


def say(loop, chardev, text):
    assert chardev.write(text) == len(text)
    loop.settle(5)


def contents(path, keep):
    """What is in PATH.keep … PATH.1, PATH, the oldest first."""
    parts = [path.with_name(f"{path.name}.{number}") for number in range(keep, 0, -1)]
    return [part.read_bytes() for part in (*parts, path) if part.exists()]


@pytest.mark.parametrize("kind", ["logfile", "file"])
def test_a_full_file_is_moved_and_no_byte_is_lost(make, loop, tmp_path, kind):
    path = tmp_path / "console.log"
    if kind == "logfile":
        chardev = make("null", logfile=str(path), logmax=LIMIT, logkeep=3)
    else:
        chardev = make("file", path=str(path), max=LIMIT, keep=3)
    lines = [(b"line %04d of what the guest prints " % number).ljust(350, b".") for number in range(50)]
    for line in lines:
        say(loop, chardev, line)
    found = contents(path, 3)
    assert [len(each) for each in found[:-1]] == [LIMIT] * 3
    assert len(found[-1]) < LIMIT
    assert b"".join(lines).endswith(b"".join(found))
    assert not (tmp_path / "console.log.4").exists()
    assert chardev.dropped_bytes == 0
    assert (chardev.log or chardev.bounded).moved == 50 * 350 // LIMIT


def test_one_write_may_fill_several_files(tmp_path):
    path = tmp_path / "log"
    file = OutputFile(str(path), append=False, fdsets=None, limit_bytes=LIMIT, keep=2)
    file.open()
    data = bytes(range(256)) * 64
    file.write(data)
    file.close()
    assert b"".join(contents(path, 2)) == data[-3 * LIMIT :]
    assert file.lost_bytes == 0


def test_without_kept_files_it_begins_again(tmp_path):
    path = tmp_path / "log"
    file = OutputFile(str(path), append=False, fdsets=None, limit_bytes=LIMIT, keep=0)
    file.open()
    file.write(b"a" * LIMIT + b"b")
    file.close()
    assert path.read_bytes() == b"b"
    assert os.listdir(tmp_path) == ["log"]


def test_an_old_file_counts_towards_the_limit(make, loop, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"previous boot ".ljust(LIMIT - 3, b"."))
    chardev = make("null", logfile=str(path), logappend=True, logmax=LIMIT, logkeep=1)
    say(loop, chardev, b"123456")
    assert path.read_bytes() == b"456"
    assert (tmp_path / "log.1").read_bytes().endswith(b"...123")


def test_the_log_of_the_run_before_is_kept(make, loop, tmp_path):
    path = tmp_path / "log"
    for run in (b"first", b"second", b"third"):
        chardev = make("file", path=str(path), max=LIMIT, keep=2)
        say(loop, chardev, run)
    assert contents(path, 2) == [b"first", b"second", b"third"]
    make("null", logfile=str(path))  # as QEMU
    assert contents(path, 2) == [b"first", b"second", b""]


def test_a_file_that_somebody_truncated_has_room_again(make, loop, tmp_path):
    path = tmp_path / "log"
    chardev = make("null", logfile=str(path), logmax=LIMIT, logkeep=1)
    say(loop, chardev, b"x" * LIMIT)
    os.truncate(path, 0)
    say(loop, chardev, b"after")
    assert path.read_bytes() == b"after"
    assert chardev.log.moved == 0


def test_when_no_new_file_can_be_begun_bytes_are_lost_and_counted(make, loop, tmp_path, monkeypatch):
    path = tmp_path / "log"
    chardev = make("null", logfile=str(path), logmax=LIMIT, logkeep=2)
    say(loop, chardev, b"x" * LIMIT)

    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vmmd.chardev.output_file.create_output", full)
    for _ in range(10):
        say(loop, chardev, b"lost")
    assert chardev.log.lost_bytes == 40
    assert path.stat().st_size == LIMIT
    assert os.listdir(tmp_path) == ["log"]
    monkeypatch.undo()
    chardev.log._retry_ns = 0
    say(loop, chardev, b"again")
    assert path.read_bytes() == b"again"


def test_a_new_file_is_begun_without_touching_any_other(make, loop, tmp_path):
    path, victim = tmp_path / "log", tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "log.new").symlink_to(victim)
    chardev = make("null", logfile=str(path), logmax=LIMIT, logkeep=1)
    say(loop, chardev, b"x" * LIMIT + b"y")
    assert contents(path, 1) == [b"x" * LIMIT, b"y"]
    assert victim.read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1", "log.new", "victim"]


def test_when_a_full_file_cannot_be_moved_nothing_is_left_behind(make, loop, tmp_path):
    path = tmp_path / "log"
    (tmp_path / "log.1").mkdir()
    chardev = make("null", logfile=str(path), logmax=LIMIT, logkeep=1)
    say(loop, chardev, b"x" * LIMIT + b"lost")
    assert chardev.log.lost_bytes == 4
    assert path.read_bytes() == b"x" * LIMIT
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1"]


@pytest.mark.parametrize(
    ("backend", "given", "sentence"),
    [
        ("null", {"logmax": 8192}, "'logmax' is of a logfile"),
        ("null", {"logfile": "x", "logkeep": 2}, "files are kept only where 'logmax' gives their size"),
        ("null", {"logfile": "x", "logmax": 1}, "'logmax' takes 4096 or more"),
        ("null", {"logfile": "/dev/fdset/1", "logmax": 8192}, "'logmax' needs a file that has a name"),
        ("file", {"path": "x", "keep": 2}, "files are kept only where 'max' gives their size"),
        ("file", {"path": "/dev/fdset/1", "max": 8192}, "'max' needs a file that has a name"),
        ("pty", {"replay": 1 << 30}, "'replay' takes up to"),
    ],
)
def test_what_makes_no_sense_is_refused(backend, given, sentence):
    with pytest.raises(UsageError, match=sentence):
        chardev_options(backend, **given)


def test_a_log_that_is_a_pipe_nobody_reads_holds_nothing_up(make, loop):
    """As libvirt gives them: the pipe's flags are not ours, and it is blocking."""
    reader, writer = os.pipe()
    fdsets = FdSets()
    fdsets.add(1, os.dup(writer))
    chardev = make("null", logfile="/dev/fdset/1", logappend=True, fdsets=fdsets)
    piece = bytes(range(256)) * 256
    for _ in range(40):
        say(loop, chardev, piece)
    assert os.get_blocking(writer)
    took = 40 * len(piece) - WAITING_BYTES - chardev.log.lost_bytes
    assert 0 < took <= 65536
    received = bytearray()
    os.set_blocking(reader, False)
    while len(received) < took + WAITING_BYTES:  # the oldest are kept
        try:
            received += os.read(reader, 1 << 20)
        except BlockingIOError:
            loop.settle(3)
            chardev.log.retry()
    assert bytes(received) == (piece * 40)[: took + WAITING_BYTES]
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("bounded", [False, True])
def test_files_are_opened_again_by_name(make, loop, tmp_path, bounded):
    path, log = tmp_path / "console", tmp_path / "log"
    chardev = make("file", path=str(path), logfile=str(log), **({"max": LIMIT} if bounded else {}))
    say(loop, chardev, b"one")
    path.rename(tmp_path / "console.old")
    log.rename(tmp_path / "log.old")
    say(loop, chardev, b"two")
    assert chardev.reopen() == [str(log), str(path)]
    say(loop, chardev, b"three")
    assert [(tmp_path / name).read_bytes() for name in ("console.old", "log.old")] == [b"onetwo"] * 2
    assert [each.read_bytes() for each in (path, log)] == [b"three"] * 2


def test_a_file_that_cannot_be_opened_again_stays(make, loop, tmp_path):
    directory = tmp_path / "logs"
    directory.mkdir()
    for chardev, name in (
        (make("file", path=str(directory / "console")), "console"),
        (make("null", logfile=str(directory / "log")), "log"),
        (make("file", path=str(directory / "bounded"), max=LIMIT), "bounded"),
    ):
        directory.rename(tmp_path / "moved")
        with pytest.raises(BackendError, match="No such file or directory"):
            chardev.reopen()
        say(loop, chardev, b"still")
        (tmp_path / "moved").rename(directory)
        assert (directory / name).read_bytes() == b"still"


# --- who comes late ---------------------------------------------------------------------------------------------------


def connect(path):
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(str(path))
    peer.settimeout(10)
    return peer


def heard(loop, peer, count):
    peer.setblocking(False)
    data = b""
    for _ in range(1000):
        try:
            data += peer.recv(1 << 16)
        except BlockingIOError:
            loop.settle(2)
        if len(data) >= count:
            break
    return data


def test_a_late_client_of_a_socket_hears_the_end_of_what_was_said(make, loop, tmp_path):
    path, log = tmp_path / "s", tmp_path / "log"
    chardev = make("socket", path=str(path), server=True, wait=False, replay=10, logfile=str(log))
    say(loop, chardev, b"0123456789")
    say(loop, chardev, b"abcdef")
    assert (chardev.kept_bytes, chardev.dropped_bytes) == (10, 6)
    with connect(path) as peer:
        loop.settle(5)
        say(loop, chardev, b" live")
        assert heard(loop, peer, 15) == b"6789abcdef live"
    loop.settle(5)
    say(loop, chardev, b"bye")
    with connect(path) as peer:
        loop.settle(5)
        assert heard(loop, peer, 3) == b"bye"
    assert log.read_bytes() == b"0123456789abcdef livebye"


def test_without_replay_it_is_dropped_as_before(make, loop, tmp_path):
    chardev = make("socket", path=str(tmp_path / "s"), server=True, wait=False)
    say(loop, chardev, b"0123456789")
    assert (chardev.kept_bytes, chardev.dropped_bytes) == (0, 10)


@pytest.mark.parametrize("speaks", [False, True])
def test_a_late_reader_of_a_terminal_hears_it_too(make, loop, capfd, speaks):
    chardev = make("pty", replay=1 << 16)
    chardev.attach(Frontend())
    say(loop, chardev, b"early ")
    reader = os.open(chardev.filename.removeprefix("pty:"), os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    if speaks:
        os.write(reader, b"\n")
        loop.settle(5)
    say(loop, chardev, b"late")
    data = b""
    for _ in range(1000):
        try:
            data += os.read(reader, 100)
        except BlockingIOError:
            loop.settle(2)
        if len(data) >= 10:
            break
    os.close(reader)
    assert data == b"early late"


@pytest.mark.parametrize(("policy", "seen"), [("keep", b"stale fresh"), ("drop", b" fresh")])
def test_input_from_before_the_guest_opened_its_end(make, loop, tmp_path, policy, seen):
    path = tmp_path / "s"
    chardev = make("socket", path=str(path), server=True, wait=False, stale_input=policy)
    frontend = Frontend(room=0)
    chardev.attach(frontend)
    with connect(path) as peer:
        peer.send(b"sta")
        loop.settle(5)
    loop.settle(5)
    with connect(path) as peer:
        peer.send(b"le")
        loop.settle(5)
        frontend.room = 1 << 16
        chardev.set_open(True)
        chardev.accept_input()
        peer.send(b" fresh")
        loop.settle(10)
        assert frontend.data == seen
        assert chardev.dropped_input_bytes == (5 if policy == "drop" else 0)
        assert frontend.events.count(CharEvent.OPENED) == 2
