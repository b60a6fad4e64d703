# SPDX-License-Identifier: Apache-2.0
"""Character devices on the loop that vmmd really uses (uvloop behind ``eventloop.EventLoopPort``)."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time

import uvloop

from tests.unit.chardev_rig import Frontend, chardev_options
from vmmd.chardev import create
from vmmd.core.backend import CharEvent
from vmmd.eventloop import EventLoopPort


async def until(condition):
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "the awaited condition did not come true"
        await asyncio.sleep(0.002)


def run(scenario, backend, room=1 << 20, **options):
    """Open before the loop runs, as at start-up; then run ``scenario(chardev, frontend)``."""
    port = EventLoopPort()
    chardev = create(chardev_options(backend, **options), port, threading.Lock())
    chardev.open()
    frontend = Frontend(room)
    chardev.attach(frontend)
    chardev.write(b"early ")

    async def main():
        port.bind(asyncio.get_running_loop())
        try:
            await scenario(chardev, frontend)
        finally:
            chardev.close()

    uvloop.run(main())


def test_socket_server_serves_one_client_after_the_other(tmp_path):
    path = str(tmp_path / "s")

    async def scenario(chardev, frontend):
        for turn in (b"1", b"2"):
            client = socket.socket(socket.AF_UNIX)
            client.connect(path)
            await until(lambda: chardev.connected)
            client.send(b"in" + turn)
            await until(lambda turn=turn: frontend.data.endswith(b"in" + turn))
            chardev.write(b"out" + turn)
            await asyncio.sleep(0.02)
            assert client.recv(100) == b"out" + turn
            client.close()
            await until(lambda: not chardev.connected)

    run(scenario, "socket", path=path, server=True, wait=False)
    assert not os.path.exists(path)


def test_hang_up_is_seen_while_input_is_held_back(tmp_path):
    path = str(tmp_path / "s")

    async def scenario(chardev, frontend):
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        client.send(b"abcdef")
        await until(lambda: frontend.data == b"ab")
        client.close()
        await until(lambda: CharEvent.CLOSED in frontend.events)
        frontend.room = 10
        chardev.accept_input()
        await until(lambda: frontend.data == b"abcdef")

    run(scenario, "socket", room=2, path=path, server=True, wait=False)


def test_pty_open_close_open(tmp_path):
    async def scenario(chardev, frontend):
        for turn in (b"1", b"2"):
            slave = os.open(chardev.slave_path, os.O_RDWR | os.O_NOCTTY)
            os.write(slave, b"in" + turn)
            await until(lambda turn=turn: frontend.data.endswith(b"in" + turn))
            chardev.write(b"out" + turn)
            await asyncio.sleep(0.02)
            assert os.read(slave, 100).endswith(b"out" + turn)
            os.close(slave)
            await until(lambda: not chardev.connected)
        before = time.process_time()
        await asyncio.sleep(0.2)
        assert time.process_time() - before < 0.05  # an abandoned terminal does not spin

    run(scenario, "pty")


def test_full_pipe_is_written_on_when_it_is_read(tmp_path):
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    async def scenario(chardev, frontend):
        chardev.write(b"z" * 300_000)
        got = b""

        def drained():
            nonlocal got
            try:
                got += os.read(reader, 65536)
            except BlockingIOError:
                pass
            return len(got) == 300_006

        await until(drained)
        assert got == b"early " + b"z" * 300_000

    run(scenario, "file", path=fifo)
    os.close(reader)


def test_flood_from_a_guest_thread_costs_the_loop_few_rounds(tmp_path):
    path = tmp_path / "f"

    async def scenario(chardev, frontend):
        flushes = []
        real = chardev._emit
        chardev._emit = lambda chunk: (flushes.append(len(chunk)), real(chunk))[1]

        def guest():
            end = time.monotonic() + 0.2
            while time.monotonic() < end:
                chardev.write(b"x")

        thread = threading.Thread(target=guest)
        thread.start()
        await until(lambda: not thread.is_alive())
        await asyncio.sleep(0.01)
        assert len(flushes) < 300
        assert sum(flushes) > 1000

    run(scenario, "file", path=str(path))
    assert path.read_bytes().startswith(b"early x")


def test_peer_that_hangs_up_without_reading_is_noticed(tmp_path):
    """The socket then has an error beside the input, of which uvloop tells a reader once and never again."""
    path = str(tmp_path / "s")

    async def scenario(chardev, frontend):
        for turn in (b"1", b"2"):
            client = socket.socket(socket.AF_UNIX)
            client.connect(path)
            await until(lambda: chardev.connected)
            chardev.write(b"not read")
            await asyncio.sleep(0.01)  # so that it is in the client's queue
            client.send(b"last words" + turn)
            client.close()
            await until(lambda: not chardev.connected)
            assert frontend.data.endswith(b"last words" + turn)

    run(scenario, "socket", path=path, server=True, wait=False)
