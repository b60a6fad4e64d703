# SPDX-License-Identifier: Apache-2.0
"""Character devices over a long life: full disks, peers that come and go, names that no system call takes."""

from __future__ import annotations

import errno
import gc
import os
import socket

import pytest

from tests.unit.chardev_rig import Frontend, chardevs
from tests.unit.select_loop import SelectLoop
from vmmd.chardev import base
from vmmd.errors import VmmdError


@pytest.fixture
def loop():
    return SelectLoop()


@pytest.fixture
def make(loop):
    with chardevs(loop) as build:
        yield build


def open_descriptors():
    gc.collect()  # what earlier tests left to it
    return len(os.listdir("/proc/self/fd"))


class SmallDisk:
    """``os.write`` to one file as on a file system with ``room`` bytes left."""

    def __init__(self, monkeypatch, fd):
        self.fd, self.room, self.write = fd, 0, os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, fd, data):
        if fd != self.fd:
            return self.write(fd, data)
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = self.write(fd, bytes(data[: self.room]))
        self.room -= taken
        return taken


def test_file_on_a_disk_that_fills_up_goes_on_when_there_is_room_again(make, loop, tmp_path, monkeypatch):
    path = tmp_path / "console.log"
    chardev = make("file", path=str(path))
    disk = SmallDisk(monkeypatch, chardev._write_fd)
    disk.room = 4
    chardev.write(b"0123456789")  # a part fits: the kernel gives a short count first
    loop.until(lambda: chardev.dropped_bytes == 6)
    disk.room = 100
    chardev.write(b"after")
    loop.until(lambda: path.read_bytes() == b"0123after")


def test_peer_that_leaves_with_a_full_buffer_lets_the_guest_print_again(make, loop):
    here, there = socket.socketpair()
    chardev = make("socket", fd=str(here.detach()))
    frontend = Frontend()
    chardev.attach(frontend)
    loop.settle(3)
    while chardev.write(b"y" * 65536) == 65536:
        loop.settle(1)
    loop.settle(20)
    assert frontend.ready == 0
    there.shutdown(socket.SHUT_WR)  # the end of its output; it still does not read
    loop.until(lambda: frontend.ready)
    assert chardev.write(b"more") == 4
    assert len(chardev._out) < base.BUFFER_BYTES
    there.close()


def test_clients_that_come_and_go_cost_no_descriptor_and_no_output_of_others(make, loop, tmp_path):
    path = str(tmp_path / "s")
    chardev = make("socket", path=path, server=True, wait=False)
    frontend = Frontend()
    chardev.attach(frontend)
    loop.settle(3)
    before = open_descriptors()
    for number in range(200):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            loop.until(lambda: chardev.connected)
            text = b"<%d>" % number
            chardev.write(text)
            if number % 3:
                client.settimeout(5)
                loop.until(lambda: not chardev._out)
                assert client.recv(100) == text
            client.send(b"x")
        loop.until(lambda: not chardev.connected)
    loop.until(lambda: not chardev._wake)
    assert open_descriptors() == before
    assert len(frontend.events) == 400


def test_terminal_opened_and_closed_fifty_times(make, loop, capfd):
    chardev = make("pty")
    frontend = Frontend()
    chardev.attach(frontend)
    loop.settle(3)
    before = open_descriptors()
    for number in range(50):
        terminal = os.open(chardev.slave_path, os.O_RDWR | os.O_NOCTTY)
        os.write(terminal, b"k")
        loop.until(lambda: chardev.connected)
        chardev.write(b"%d\n" % number)
        loop.until(lambda: not chardev._out)
        assert os.read(terminal, 100) == b"%d\n" % number
        os.close(terminal)
        loop.until(lambda: not chardev.connected)
    loop.settle(5)
    assert open_descriptors() == before
    assert frontend.data == b"k" * 50


def test_large_ring_buffer_costs_what_is_printed_not_what_is_kept(make, loop):
    chardev = make("ringbuf", size=1 << 26)
    for _ in range(65):
        chardev.write(b"a" * (1 << 20))
        chardev._flush()
    chardev.write(b"end")
    before = id(chardev._kept)
    chardev._flush()
    assert id(chardev._kept) == before  # changed in place
    assert chardev.count == 1 << 26
    assert chardev.read(5) == b"aaaaa"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fd": "9" * 30}, "is not a socket"),
        ({"host": "a" * 70 + ".example", "port": "1", "server": True, "wait": False}, "address resolution failed"),
        ({"host": "a..b", "port": "1"}, "address resolution failed for a..b:1: it is no name of a host"),
        ({"path": "/nonexistent/\udcff", "server": True, "wait": False}, "Failed to bind socket"),
        ({"path": "/\udcff" * 60, "server": True}, "too long"),
    ],
)
def test_addresses_that_no_system_call_takes_are_named(make, options, words):
    with pytest.raises(VmmdError, match=words):
        make("socket", **options)
