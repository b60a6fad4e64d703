# SPDX-License-Identifier: Apache-2.0
"""Character devices over real descriptors, with a loop turned by hand."""

from __future__ import annotations

import errno
import os
import socket
import stat
import termios
import threading

import pytest

from tests.unit.chardev_rig import Frontend, chardev_options, chardevs
from tests.unit.select_loop import SelectLoop
from vmmd.chardev import base, listen_socket
from vmmd.core.backend import CharEvent
from vmmd.core.fdsets import FdSets
from vmmd.errors import BackendError, UsageError


@pytest.fixture
def loop():
    return SelectLoop()


@pytest.fixture
def make(loop):
    with chardevs(loop) as build:
        yield build


def plug(loop, chardev, room=1 << 20):
    frontend = Frontend(room)
    chardev.attach(frontend)
    loop.settle(3)
    return frontend


# --- file, log --------------------------------------------------------------------------------------------------------


def test_file_truncates_by_default_and_appends_with_append(make, loop, tmp_path):
    path = tmp_path / "console.log"
    path.write_bytes(b"old ")
    chardev = make("file", path=str(path), append=True)
    assert chardev.write(b"new") == 3
    loop.settle(3)
    assert path.read_bytes() == b"old new"
    make("file", path=str(path))
    assert path.read_bytes() == b""
    assert chardev.filename == "file"


def test_file_truncated_by_rotation_gets_no_hole(make, loop, tmp_path):
    path = tmp_path / "console.log"
    chardev = make("file", path=str(path))
    chardev.write(b"x" * 100)
    loop.settle(5)
    os.truncate(path, 0)
    chardev.write(b"after")
    loop.settle(5)
    assert path.read_bytes() == b"after"


def test_file_that_is_full_loses_bytes_but_lives(make, loop):
    chardev = make("file", path="/dev/full")
    chardev.write(b"12345")
    loop.settle(5)
    assert chardev.dropped_bytes == 5
    assert chardev.connected
    chardev.write(b"67")
    loop.settle(5)
    assert chardev.dropped_bytes == 7


def test_full_disk_does_not_fill_the_log(make, loop, capfd, caplog):
    chardev = make("file", path="/dev/full")
    for _ in range(20):
        chardev.write(b"12345")
        loop.settle(5)
    assert chardev.dropped_bytes == 100
    assert capfd.readouterr().err.count("output is lost") + len(caplog.records) <= 2


def test_file_in_missing_directory_is_named(make):
    with pytest.raises(BackendError, match=r"Could not open '/nonexistent/x': No such file or directory"):
        make("file", path="/nonexistent/x")


def test_fdset_pipe_keeps_its_flags(make, loop):
    reader, writer = os.pipe()
    sets = FdSets()
    sets.add(0, writer, "serial0-source")
    chardev = make("file", path="/dev/fdset/0", append=True, fdsets=sets)
    chardev.write(b"hello")
    loop.settle(3)
    assert os.read(reader, 100) == b"hello"
    assert os.get_blocking(writer)
    chardev.write(b"z" * 200_000)  # more than a pipe holds: must neither block nor get lost
    got = b""
    while len(got) < 200_000:
        loop.settle(2)
        got += os.read(reader, 65536)
    assert got == b"z" * 200_000
    sets.remove(0)
    os.close(reader)


def test_fdset_unknown_is_an_error(make):
    with pytest.raises(BackendError, match="/dev/fdset/7"):
        make("file", path="/dev/fdset/7", fdsets=FdSets())


def test_logfile_gets_everything_without_a_peer(make, loop, tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"previous boot\n")
    path = tmp_path / "s"
    chardev = make("socket", path=str(path), server=True, wait=False, logfile=str(log), logappend=True)
    chardev.write(b"nobody listens")
    loop.settle(5)
    assert log.read_bytes() == b"previous boot\nnobody listens"


def test_logfile_is_truncated_without_logappend(make, tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"old")
    make("null", logfile=str(log))
    assert log.read_bytes() == b""


def test_logfile_full_is_counted(make, loop):
    chardev = make("null", logfile="/dev/full")
    chardev.write(b"abc")
    loop.settle(5)
    assert chardev.log.lost_bytes == 3


def test_logfile_reopen_starts_a_new_file(make, loop, tmp_path):
    log = tmp_path / "log"
    chardev = make("null", logfile=str(log))
    chardev.write(b"one")
    loop.settle(5)
    log.rename(tmp_path / "log.1")
    chardev.log.reopen()
    chardev.write(b"two")
    loop.settle(5)
    assert (tmp_path / "log.1").read_bytes() == b"one"
    assert log.read_bytes() == b"two"


def test_close_writes_what_is_still_buffered(make, tmp_path):
    path = tmp_path / "f"
    chardev = make("file", path=str(path))
    chardev.write(b"last words")
    chardev.close()
    assert path.read_bytes() == b"last words"


def test_close_waits_a_moment_for_a_slow_reader(make, loop):
    here, there = socket.socketpair()
    chardev = make("socket", fd=str(here.detach()))
    chardev.write(b"z" * 900_000)
    got = bytearray()

    def reader():
        while data := there.recv(65536):
            got.extend(data)

    thread = threading.Thread(target=reader)
    thread.start()
    chardev.close()
    thread.join(5)
    assert len(got) == 900_000
    there.close()


def test_close_does_not_wait_for_ever(make, loop, monkeypatch):
    monkeypatch.setattr(base, "LAST_WORDS_NS", 20_000_000)
    here, there = socket.socketpair()
    chardev = make("socket", fd=str(here.detach()))
    chardev.write(b"z" * 900_000)
    chardev.close()
    assert 0 < chardev.dropped_bytes < 900_000
    there.close()


# --- flow control -----------------------------------------------------------------------------------------------------


def test_burst_of_bytes_wakes_the_loop_once(make, loop, tmp_path):
    chardev = make("file", path=str(tmp_path / "f"))
    before = loop.posts
    for _ in range(1000):
        chardev.write(b"x")
    assert loop.posts == before + 1


def test_stuck_reader_fills_the_buffer_then_write_ready_comes(make, loop):
    here, there = socket.socketpair()
    chardev = make("socket", fd=str(here.detach()))
    frontend = plug(loop, chardev)
    taken = 0
    for _ in range(200):
        taken += chardev.write(b"y" * 65536)
        loop.settle(1)
    assert base.BUFFER_BYTES <= taken < base.BUFFER_BYTES + (1 << 20)
    assert chardev.write(b"one more") == 0
    assert frontend.ready == 0
    loop.settle(20)
    assert loop.settle(50) == 0  # nothing turns while nobody reads
    there.setblocking(False)

    def drain():
        try:
            there.recv(65536)
        except BlockingIOError:
            pass
        return frontend.ready

    loop.until(drain)
    assert chardev.write(b"one more") == 8
    there.close()


def test_input_waits_for_room_without_a_busy_loop(make, loop):
    here, there = socket.socketpair()
    chardev = make("socket", fd=str(here.detach()))
    frontend = plug(loop, chardev, room=4)
    there.send(b"abcdefgh")
    loop.until(lambda: frontend.data == b"abcd")
    loop.settle(5)
    assert loop.settle(30) == 0
    frontend.room = 16
    chardev.accept_input()
    loop.until(lambda: frontend.data == b"abcdefgh")
    there.close()


def test_accept_input_is_coalesced(make, loop):
    here, there = socket.socketpair()
    chardev = make("socket", fd=str(here.detach()))
    plug(loop, chardev, room=0)
    there.send(b"abc")
    loop.settle(5)
    before = loop.posts
    for _ in range(10):
        chardev.accept_input()
    assert loop.posts == before + 1
    there.close()


def test_peer_that_left_while_input_was_held_back_loses_nothing(make, loop, tmp_path):
    path = str(tmp_path / "s")
    chardev = make("socket", path=path, server=True, wait=False)
    frontend = plug(loop, chardev, room=2)
    first = socket.socket(socket.AF_UNIX)
    first.connect(path)
    first.send(b"reboot\n")
    loop.until(lambda: frontend.data == b"re")
    first.close()
    loop.until(lambda: CharEvent.CLOSED in frontend.events)
    second = socket.socket(socket.AF_UNIX)  # a new client is served although the guest reads nothing
    second.connect(path)
    loop.until(lambda: chardev.connected)
    chardev.write(b"hi")
    loop.settle(5)
    second.settimeout(5)
    assert second.recv(10) == b"hi"
    frontend.room = 100
    chardev.accept_input()
    loop.until(lambda: frontend.data == b"reboot\n")
    second.send(b"!")
    loop.until(lambda: frontend.data == b"reboot\n!")
    second.close()


def test_write_from_another_thread_arrives_in_order(make, loop):
    here, there = socket.socketpair()
    chardev = make("socket", fd=str(here.detach()))
    plug(loop, chardev)
    expected = b"".join(b"%d," % n for n in range(20000))

    def guest():
        for n in range(20000):
            assert chardev.write(b"%d," % n)

    thread = threading.Thread(target=guest)
    thread.start()
    there.setblocking(False)
    got = bytearray()

    def drained():
        try:
            got.extend(there.recv(65536))
        except BlockingIOError:
            pass
        return len(got) >= len(expected)

    loop.until(drained, 20)
    thread.join()
    assert bytes(got) == expected
    there.close()


# --- sockets ----------------------------------------------------------------------------------------------------------


def test_unix_server_texts_and_one_client_at_a_time(make, loop, tmp_path):
    path = str(tmp_path / "s")
    chardev = make("socket", path=path, server=True, wait=False)
    frontend = plug(loop, chardev)
    assert chardev.filename == f"disconnected:unix:{path},server=on"
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    loop.until(lambda: chardev.connected)
    assert chardev.filename == f"unix:{path},server=on"
    assert frontend.events == [CharEvent.OPENED]
    client.close()
    loop.until(lambda: not chardev.connected)
    assert frontend.events == [CharEvent.OPENED, CharEvent.CLOSED]
    assert chardev.filename == f"disconnected:unix:{path},server=on"
    chardev.write(b"lost")
    loop.settle(5)
    assert chardev.dropped_bytes == 4
    chardev.close()
    assert not os.path.exists(path)


def test_a_server_pauses_while_there_are_no_descriptors(make, loop, tmp_path, monkeypatch):
    def no_room(_sock):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    path = str(tmp_path / "s")
    chardev = make("socket", path=path, server=True, wait=False)
    loop.until(loop.selector.get_map)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        with monkeypatch.context() as patched:
            patched.setattr(socket.socket, "accept", no_room)
            loop.until(lambda: not loop.selector.get_map())
        (pause,) = loop.timers
        assert not chardev.connected
        pause.due = 0
        loop.until(lambda: chardev.connected)


def test_waiting_for_the_first_client_ends_when_there_are_no_descriptors(tmp_path, monkeypatch):
    def no_room(_sock):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    path = str(tmp_path / "s")
    waiting = listen_socket(chardev_options("socket", path=path, server=True, wait=True))
    waiting.open()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        monkeypatch.setattr(socket.socket, "accept", no_room)
        with pytest.raises(BackendError, match="chardev 'c0': cannot accept a connection: Too many open files"):
            waiting.wait()
    waiting.close()


def test_unix_server_leaves_a_socket_that_is_not_its_own(make, tmp_path):
    path = str(tmp_path / "s")
    chardev = make("socket", path=path, server=True, wait=False)
    os.unlink(path)
    other = socket.socket(socket.AF_UNIX)
    other.bind(path)
    chardev.close()
    assert os.path.exists(path)
    other.close()


def test_unix_server_replaces_a_stale_socket_but_not_a_live_one_or_a_file(make, tmp_path):
    path = str(tmp_path / "s")
    old = socket.socket(socket.AF_UNIX)
    old.bind(path)
    old.listen()
    with pytest.raises(BackendError, match=f"Failed to bind socket to {path}: Address already in use"):
        make("socket", path=path, server=True, wait=False)
    old.close()
    make("socket", path=path, server=True, wait=False).close()
    file = tmp_path / "f"
    file.write_text("precious")
    with pytest.raises(BackendError, match="Address already in use"):
        make("socket", path=str(file), server=True, wait=False)
    assert file.read_text() == "precious"


def test_tcp_server_texts(make, loop):
    chardev = make("socket", host="127.0.0.1", port="0", server=True, wait=False, nodelay=True)
    port = chardev.listen_socket.sock.getsockname()[1]
    assert chardev.filename == f"disconnected:tcp:127.0.0.1:{port},server=on"
    client = socket.create_connection(("127.0.0.1", port))
    loop.until(lambda: chardev.connected)
    own = client.getsockname()[1]
    assert chardev.filename == f"tcp:127.0.0.1:{port},server=on <-> 127.0.0.1:{own}"
    client.close()


def test_tcp_server_takes_the_next_free_port_up_to_to(make):
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]
    chardev = make("socket", host="127.0.0.1", port=str(port), to=min(port + 20, 65535), server=True, wait=False)
    assert port < chardev.listen_socket.sock.getsockname()[1] <= port + 20
    with pytest.raises(BackendError, match=r"Failed to find an available port.*: Address already in use"):
        make("socket", host="127.0.0.1", port=str(port), server=True, wait=False)
    taken.close()


def test_client_connects_at_open_and_reports_failure(make, loop, tmp_path):
    path = str(tmp_path / "s")
    with pytest.raises(BackendError, match=f"Failed to connect to '{path}': No such file or directory"):
        make("socket", path=path)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    chardev = make("socket", path=path)
    assert chardev.filename == "unix:"
    peer, _ = server.accept()
    frontend = plug(loop, chardev)
    assert frontend.events == [CharEvent.OPENED]
    peer.send(b"data")
    loop.until(lambda: frontend.data == b"data")
    peer.close()
    server.close()


def test_client_with_reconnect_comes_back(make, loop, tmp_path):
    path = str(tmp_path / "s")
    chardev = make("socket", path=path, reconnect=1)
    assert chardev.filename == f"disconnected:unix:{path}"
    loop.settle(3)
    for _ in range(2):
        server = socket.socket(socket.AF_UNIX)
        server.bind(path)
        server.listen()
        loop.until(lambda: chardev.connected)
        peer, _ = server.accept()
        server.close()
        os.unlink(path)
        peer.close()
        loop.until(lambda: not chardev.connected)


def test_listening_fd_is_served_and_its_path_not_removed(make, loop, tmp_path):
    path = str(tmp_path / "s")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    chardev = make("socket", fd=str(listener.detach()), server=True, wait=False)
    assert chardev.filename == f"disconnected:unix:{path},server=on"
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    loop.until(lambda: chardev.connected)
    client.close()
    chardev.close()
    assert os.path.exists(path)


@pytest.mark.parametrize(("server", "text"), [(True, "is not a socket"), (False, "is not a socket")])
def test_fd_that_is_no_socket_is_refused(make, tmp_path, server, text):
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(UsageError, match=f"File descriptor '{fd}' {text}"):
        make("socket", fd=str(fd), server=server)
    os.close(fd)


def test_abstract_socket(make, loop):
    name = f"vmmd-test-{os.getpid()}"
    chardev = make("socket", path=name, abstract=True, server=True, wait=False)
    assert chardev.filename == f"disconnected:unix:{name},abstract=on,tight=on,server=on"
    client = socket.socket(socket.AF_UNIX)
    client.connect("\0" + name)
    loop.until(lambda: chardev.connected)
    assert chardev.filename == "unix:,server=on"
    client.close()


def test_wait_on_blocks_until_a_client_is_there(make, loop, tmp_path, capfd):
    path = str(tmp_path / "s")
    client = socket.socket(socket.AF_UNIX)

    def connect_later():
        while True:
            try:
                client.connect(path)
                return
            except OSError:
                continue  # not there yet

    thread = threading.Thread(target=connect_later)
    thread.start()
    chardev = make("socket", path=path, server=True)
    thread.join()
    assert chardev.connected
    assert f"waiting for connection on: disconnected:unix:{path},server=on" in capfd.readouterr().err
    frontend = plug(loop, chardev)
    client.send(b"hello")
    loop.until(lambda: frontend.data == b"hello")
    client.close()


def test_monitor_listen_socket_follows_its_clients(tmp_path):
    path = str(tmp_path / "m")
    listener = listen_socket(chardev_options("socket", "charmonitor", path=path, server=True, wait=False))
    listener.open()
    clients = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    served = []
    for client in clients:
        client.connect(path)
        served.append(listener.accept())
        listener.joined(served[-1])
    assert listener.accept() is None
    assert (listener.label, listener.filename) == ("charmonitor", f"unix:{path},server=on")
    for each in served:
        listener.left(each)
    assert listener.filename == f"disconnected:unix:{path},server=on"
    listener.close()
    assert not os.path.exists(path)
    for each in clients + served:
        each.close()


# --- pty, stdio, null, ringbuf ----------------------------------------------------------------------------------------


def test_pty_talks_both_ways_and_survives_close_and_reopen(make, loop, capfd):
    chardev = make("pty")
    path = chardev.filename.removeprefix("pty:")
    assert capfd.readouterr().out == f"char device redirected to {path} (label c0)\n"
    frontend = plug(loop, chardev)
    chardev.write(b"nobody")
    loop.settle(5)
    assert chardev.dropped_bytes == 6
    for turn in (b"1", b"2"):
        slave = os.open(path, os.O_RDWR | os.O_NOCTTY)
        os.write(slave, b"in" + turn)
        loop.until(lambda turn=turn: frontend.data.endswith(b"in" + turn))
        chardev.write(b"out" + turn)
        loop.settle(5)
        assert os.read(slave, 100) == b"out" + turn
        os.close(slave)
        loop.until(lambda: not chardev.connected)
    loop.settle(5)
    assert loop.settle(30) == 0  # the hang-up state does not spin
    assert frontend.events == [CharEvent.OPENED, CharEvent.CLOSED] * 2


def test_pty_sees_a_silent_reader_at_the_next_output(make, loop):
    chardev = make("pty")
    plug(loop, chardev)
    slave = os.open(chardev.slave_path, os.O_RDWR | os.O_NOCTTY)
    assert not termios.tcgetattr(slave)[3] & (termios.ECHO | termios.ICANON)
    chardev.write(b"boot text")
    loop.settle(5)
    assert os.read(slave, 100) == b"boot text"
    os.close(slave)


def test_ringbuf_keeps_the_last_bytes(make):
    chardev = make("ringbuf", size=8)
    chardev.write(b"0123456789")
    assert chardev.read(3) == b"234"
    chardev.put(b"AB")
    assert chardev.read(100) == b"56789AB"
    assert chardev.read(100) == b""
    assert chardev.filename == "ringbuf"


def test_null_takes_everything_at_once(make, loop):
    chardev = make("null")
    before = loop.posts
    assert chardev.write(b"x" * (4 << 20)) == 4 << 20
    assert loop.posts == before


def test_second_frontend_is_refused(make):
    chardev = make("null")
    chardev.attach(Frontend())
    with pytest.raises(UsageError, match="Device 'c0' is in use"):
        chardev.attach(Frontend())
    chardev.detach()
    chardev.attach(Frontend())


def stdio_pipes():
    """fds 0 and 1 replaced by pipes; returns (to write to our stdin, to read our stdout, undo)."""
    saved = os.dup(0), os.dup(1)
    stdin, feed = os.pipe()
    result, stdout = os.pipe()
    os.dup2(stdin, 0)
    os.dup2(stdout, 1)
    os.close(stdin)
    os.close(stdout)

    def undo():
        os.dup2(saved[0], 0)
        os.dup2(saved[1], 1)
        for fd in (*saved, result):
            os.close(fd)

    return feed, result, undo


def test_stdio_reads_writes_and_leaves_flags_alone(make, loop, capfd):
    with capfd.disabled():
        feed, result, undo = stdio_pipes()
        try:
            chardev = make("stdio")
            assert chardev.filename == "stdio"
            with pytest.raises(UsageError, match="cannot use stdio by multiple character devices"):
                make("stdio")
            frontend = plug(loop, chardev)
            os.write(feed, b"typed")
            loop.until(lambda: frontend.data == b"typed")
            chardev.write(b"z" * 200_000)
            got = 0
            while got < 200_000:
                loop.settle(2)
                got += len(os.read(result, 65536))
            assert os.get_blocking(0)
            assert os.get_blocking(1)
            os.close(feed)
            loop.until(lambda: CharEvent.CLOSED in frontend.events)
            chardev.write(b"still out")
            loop.settle(5)
            assert os.read(result, 100) == b"still out"
            chardev.close()
        finally:
            undo()


def test_stdio_with_stdin_from_dev_null(make, loop, capfd):
    with capfd.disabled():
        saved = os.dup(0)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        try:
            chardev = make("stdio")
            frontend = plug(loop, chardev)
            loop.until(lambda: CharEvent.CLOSED in frontend.events)
            loop.settle(3)
            assert loop.settle(20) == 0
            chardev.close()
        finally:
            os.dup2(saved, 0)
            os.close(saved)
            os.close(null)


# --- endings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "value"), [("logfile", "/tmp/x"), ("replay", 4096), ("stale_input", "drop")])
def test_what_a_monitors_socket_lacks_is_refused_by_name(key, value):
    with pytest.raises(UsageError, match=f"{key.replace('_', '-')}= of a QMP server is not available"):
        listen_socket(chardev_options("socket", path="/x", server=True, wait=False, **{key: value}))


def test_files_made_by_a_start_that_fails_are_taken_away(make, tmp_path):
    old, new, log = tmp_path / "old", tmp_path / "new", tmp_path / "log"
    old.write_bytes(b"kept")
    chardevs = [make("file", path=str(old), append=True), make("file", path=str(new), logfile=str(log))]
    assert log.exists()
    for each in chardevs:
        each.close()
        each.remove_created()
    assert old.read_bytes() == b"kept"
    assert sorted(tmp_path.iterdir()) == [old]


def test_file_of_the_same_name_made_by_somebody_else_is_left(make, tmp_path):
    path = tmp_path / "f"
    chardev = make("file", path=str(path))
    other = tmp_path / "other"
    other.write_bytes(b"theirs")
    other.rename(path)
    chardev.close()
    chardev.remove_created()
    assert path.read_bytes() == b"theirs"


def test_open_that_fails_leaves_no_socket_behind(make, tmp_path):
    path = tmp_path / "s"
    with pytest.raises(BackendError, match="Could not create"):
        make("socket", path=str(path), server=True, wait=False, logfile="/nonexistent/log")
    assert not path.exists()


def test_unix_socket_file_is_a_socket(make, tmp_path):
    path = tmp_path / "s"
    make("socket", path=str(path), server=True, wait=False)
    assert stat.S_ISSOCK(path.stat().st_mode)


@pytest.mark.parametrize("signal", [True, False])
def test_stdio_terminal_is_raw_while_open_and_restored_after(make, capfd, signal):
    with capfd.disabled():
        saved = os.dup(0)
        master, slave = os.openpty()
        os.dup2(slave, 0)
        try:
            before = termios.tcgetattr(slave)
            chardev = make("stdio", signal=signal)
            during = termios.tcgetattr(slave)
            assert not during[3] & (termios.ECHO | termios.ICANON)
            assert bool(during[3] & termios.ISIG) is signal
            assert os.get_blocking(0)
            chardev.close()
            assert termios.tcgetattr(slave) == before
        finally:
            os.dup2(saved, 0)
            for fd in (saved, master, slave):
                os.close(fd)


def test_serial_port_with_a_stuck_reader_holds_the_guest_back_and_loses_nothing(make, loop, monkeypatch):
    from tests.unit.fakes import make_context, props
    from vmmd.devices.isa.serial import IsaSerial

    monkeypatch.setattr(base, "BUFFER_BYTES", 32768)
    here, there = socket.socketpair()
    chardev = make("socket", fd=str(here.detach()))
    machine = make_context()
    machine.backends.chardevs["c0"] = chardev
    IsaSerial(props(IsaSerial, chardev="c0"), machine.ctx).plug()
    machine.pio.write(0x3FA, 1, 0x01)
    sent = bytearray()

    def guest_prints(most):
        for _ in range(most):
            if not machine.pio.read(0x3FD, 1) & 0x20:
                return
            machine.pio.write(0x3F8, 1, len(sent) * 7 & 0xFF)
            sent.append(len(sent) * 7 & 0xFF)

    for _ in range(40):
        guest_prints(65536)
        loop.settle(2)
    assert not machine.pio.read(0x3FD, 1) & 0x20
    assert 32768 < len(sent) < 40 * 65536
    got = bytearray()
    there.setblocking(False)

    def drained():
        guest_prints(5000)
        try:
            got.extend(there.recv(65536))
        except BlockingIOError:
            pass
        return len(got) > 1 << 20

    loop.until(drained, 20)
    assert got == sent[: len(got)]
    there.close()


def test_output_after_close_is_counted_and_harmless(make, loop, tmp_path):
    chardev = make("file", path=str(tmp_path / "f"), logfile=str(tmp_path / "l"))
    chardev.close()
    chardev.write(b"late")
    loop.settle(5)
    assert (chardev.dropped_bytes, chardev.log.lost_bytes) == (4, 4)
