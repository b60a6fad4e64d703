# SPDX-License-Identifier: Apache-2.0
"""The block layer on real files, with a loop turned by hand; faults come from an engine that injects them."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from functools import partial
from types import SimpleNamespace

import pytest

from tests.unit.select_loop import SelectLoop
from vmmd.block.base import NodeConfig, skip
from vmmd.block.file import FileNode
from vmmd.block.gate import WriteGate
from vmmd.block.graph import BlockGraph
from vmmd.block.raw import probe_format
from vmmd.core.fdsets import FdSets
from vmmd.errors import BackendError, UsageError
from vmmd.options import read_backends

MIB = 1 << 20


@pytest.fixture
def loop():
    return SelectLoop()


@pytest.fixture
def graph(loop):
    made = BlockGraph(loop)
    yield made
    made.close()


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(range(256)) * (4 * MIB // 256))
    return path


def blockdev(driver, name="node0", **given):
    return SimpleNamespace(driver=driver, node_name=name, **given)


def drive_options(path, **given):
    return SimpleNamespace(**{"id": "disk0", "file": str(path), "format": "raw", **given})


class Call:
    """Waits for one request."""

    def __init__(self, loop, start, *args):
        self.error = None
        self.loop = loop
        start(*args, self)

    def __call__(self, error):
        assert self.error is None, "done was called twice"
        self.error = error

    def result(self):
        self.loop.until(lambda: self.error is not None, 10)
        return self.error


def read(loop, node, offset, *lengths):
    area = mmap.mmap(-1, max(4096, sum(lengths)))
    view = memoryview(area)
    buffers, at = [], 0
    for length in lengths:
        view[at : at + length] = b"\xee" * length
        buffers.append(view[at : at + length])
        at += length
    assert Call(loop, node.readv, offset, buffers).result() == 0
    return bytes(view[:at])


def write(loop, node, offset, *parts):
    return Call(loop, node.writev, offset, [memoryview(bytearray(each)) for each in parts]).result()


ENGINES = [
    (None, "none"),
    ("threads", "writeback"),
    ("threads", "none"),
    ("io_uring", "writeback"),
    ("io_uring", "none"),
]


@pytest.fixture(params=ENGINES, ids=[f"{aio}-{cache}" for aio, cache in ENGINES])
def disk(request, graph, image):
    aio, cache = request.param
    if aio == "io_uring":
        pytest.importorskip("liburing")
    try:
        graph.add_drive(drive_options(image, aio=aio, cache=cache, discard="unmap"))
    except BackendError as error:
        if "O_DIRECT" not in str(error):
            raise
        pytest.skip("no O_DIRECT on the file system of the test directory")
    return graph.claim("disk0", "test").backend


# --- reads and writes on every engine ---------------------------------------------------------------------------------


def test_data_arrives_in_all_segments(disk, loop, image):
    assert read(loop, disk, 512, 512, 1024, 4096) == image.read_bytes()[512 : 512 + 5632]
    assert write(loop, disk, 4096, b"A" * 512, b"B" * 1536) == 0
    assert Call(loop, disk.flush).result() == 0
    assert image.read_bytes()[4096 : 4096 + 2048] == b"A" * 512 + b"B" * 1536


def test_many_requests_in_flight_all_end_once(disk, loop):
    area = memoryview(mmap.mmap(-1, 256 * 4096))
    calls = [Call(loop, disk.writev, n * 4096, [memoryview(bytearray(bytes([n]) * 4096))]) for n in range(256)]
    assert [each.result() for each in calls] == [0] * 256
    calls = [Call(loop, disk.readv, n * 4096, [area[n * 4096 : (n + 1) * 4096]]) for n in range(256)]
    assert [each.result() for each in calls] == [0] * 256
    assert bytes(area) == b"".join(bytes([n]) * 4096 for n in range(256))


def test_misaligned_guest_memory_is_bounced(disk, loop, image):
    area = memoryview(mmap.mmap(-1, 8192))
    buffer = area[1:1025]
    assert Call(loop, disk.readv, 1024, [buffer]).result() == 0
    assert bytes(buffer) == image.read_bytes()[1024:2048]
    buffer[:] = b"x" * 1024
    assert Call(loop, disk.writev, 2048, [buffer]).result() == 0
    assert image.read_bytes()[2048:3072] == b"x" * 1024


def test_more_segments_than_the_kernel_takes(disk, loop, image):
    assert read(loop, disk, 0, *[512] * 1500) == image.read_bytes()[: 512 * 1500]
    assert write(loop, disk, 0, *[bytes([n & 0xFF]) * 512 for n in range(1500)]) == 0
    assert image.read_bytes()[: 512 * 1500] == b"".join(bytes([n & 0xFF]) * 512 for n in range(1500))


def test_discard_and_write_zeroes(disk, loop, image):
    before = os.stat(image).st_blocks
    assert Call(loop, disk.discard, MIB, MIB).result() == 0
    assert os.stat(image).st_blocks < before
    assert Call(loop, disk.write_zeroes, 2 * MIB, 65536, False).result() == 0
    assert Call(loop, disk.write_zeroes, 3 * MIB, 65536, True).result() == 0
    data = image.read_bytes()
    assert len(data) == 4 * MIB
    assert not any(data[MIB : 2 * MIB])
    assert not any(data[2 * MIB : 2 * MIB + 65536])
    assert not any(data[3 * MIB : 3 * MIB + 65536])
    assert data[2 * MIB + 65536] == 0
    assert data[2 * MIB + 65537] == 1


def test_odd_file_size_reads_as_zeroes_behind_the_end(graph, loop, tmp_path):
    path = tmp_path / "odd"
    path.write_bytes(b"z" * 1000)
    for cache in ("writeback", "none"):
        drive = graph.add_drive(drive_options(path, id=f"d{cache}", cache=cache, read_only=True))
        assert drive.virtual_size == 1024
        assert read(loop, drive.backend, 0, 1024) == b"z" * 1000 + bytes(24)
        assert read(loop, drive.backend, 512, 512) == b"z" * 488 + bytes(24)


def test_file_that_shrinks_under_us_reads_as_zeroes(graph, loop, image):
    graph.add_drive(drive_options(image))
    node = graph.claim("disk0", "t").backend
    os.truncate(image, MIB)
    assert read(loop, node, MIB - 512, 1024)[512:] == bytes(512)
    assert read(loop, node, 2 * MIB, 4096) == bytes(4096)


def test_memory_file_system_answers_at_once(loop):
    if not os.path.isdir("/dev/shm"):
        pytest.skip("no tmpfs here")
    path = f"/dev/shm/vmmd-test-{os.getpid()}"
    with open(path, "wb") as file:
        file.write(b"q" * 65536)
    graph = BlockGraph(loop)
    try:
        node = graph.add_drive(drive_options(path)).backend
        ended = []
        buffer = memoryview(bytearray(4096))
        node.readv(0, [buffer], ended.append)
        assert ended == [0]
        node.writev(4096, [memoryview(b"w" * 512)], ended.append)
        assert ended == [0, 0]
        assert bytes(buffer) == b"q" * 4096
    finally:
        graph.close()
        os.unlink(path)


# --- faults -----------------------------------------------------------------------------------------------------------


class FaultEngine:
    name = "faults"

    """Answers from a list of results: an int is given back, "ok" does the transfer, ("short", n) a part of it."""

    def __init__(self, *script):
        self.script = list(script)
        self.log = []

    def _next(self):
        return self.script.pop(0) if self.script else "ok"

    def readv(self, fd, buffers, offset, finish):
        self.log.append(("read", offset, sum(map(len, buffers))))
        step = self._next()
        if isinstance(step, int):
            finish(step)
        elif step == "ok":
            finish(os.preadv(fd, buffers, offset))
        else:
            part = bytearray(step[1])
            finish(os.preadv(fd, [part], offset))
            at = 0
            for buffer in buffers:
                take = min(len(buffer), len(part) - at)
                buffer[:take] = part[at : at + take]
                at += take

    def writev(self, fd, buffers, offset, flags, finish):
        self.log.append(("write", offset, sum(map(len, buffers)), flags))
        step = self._next()
        if isinstance(step, int):
            finish(step)
        elif step == "ok":
            finish(os.pwritev(fd, buffers, offset, flags))
        else:
            data = b"".join(map(bytes, buffers))[: step[1]]
            finish(os.pwritev(fd, [data], offset))

    def fsync(self, fd, finish):
        self.log.append(("fsync",))
        step = self._next()
        finish(step if isinstance(step, int) else 0)


@pytest.fixture
def faulty(graph, image):
    def make(*script, **settings):
        config = NodeConfig("faulty")
        for name, value in settings.items():
            setattr(config, name, value)
        node = FileNode(config, str(image), graph.threads())
        node.engine = FaultEngine(*script)
        node.open()
        node._inline = None
        graph.nodes["faulty"] = node
        return node

    return make


def test_short_reads_and_interruptions_are_continued(faulty, loop, image):
    node = faulty(("short", 700), -errno.EINTR, ("short", 1), -errno.EAGAIN, "ok")
    assert read(loop, node, 512, 1024, 1024) == image.read_bytes()[512:2560]
    assert [each[1:] for each in node.engine.log] == [
        (512, 2048),
        (1212, 1348),
        (1212, 1348),
        (1213, 1347),
        (1213, 1347),
    ]


def test_short_writes_and_interruptions_are_continued(faulty, loop, image):
    node = faulty(("short", 100), -errno.EINTR, ("short", 600), "ok")
    assert write(loop, node, 1024, b"a" * 512, b"b" * 512) == 0
    assert image.read_bytes()[1024:2048] == b"a" * 512 + b"b" * 512


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EINVAL])
def test_errors_are_reported(faulty, loop, code):
    node = faulty(-code, -code)
    assert Call(loop, node.readv, 0, [memoryview(bytearray(512))]).result() == code
    assert write(loop, node, 0, b"a" * 512) == code


def test_no_space_after_a_partial_write_is_reported(faulty, loop):
    node = faulty(("short", 512), -errno.ENOSPC)
    assert write(loop, node, 0, b"a" * 1024) == errno.ENOSPC


def test_write_that_moves_nothing_is_an_error_not_a_loop(faulty, loop):
    node = faulty(0)
    assert write(loop, node, 0, b"a" * 512) == errno.EIO


def test_failed_flush_is_never_forgotten(faulty, loop):
    node = faulty(-errno.EIO)
    assert Call(loop, node.flush).result() == errno.EIO
    assert Call(loop, node.flush).result() == errno.EIO
    assert node.engine.log == [("fsync",)]


def test_flushes_that_wait_together_share_one_call(faulty, loop):
    node = faulty("ok", "ok", "ok")
    finishes = []
    node.engine.fsync = lambda fd, finish: finishes.append(finish)
    ended = []
    for number in range(4):
        node.flush(lambda error, number=number: ended.append((number, error)))
    assert len(finishes) == 1  # the other three may belong to writes that this one does not cover
    finishes[0](0)
    assert ended == [(0, 0)]
    assert len(finishes) == 2
    node.flush(lambda error: ended.append((4, error)))
    finishes[1](-errno.EINTR)  # is tried again
    finishes[2](0)
    assert ended[1:] == [(1, 0), (2, 0), (3, 0)]
    finishes[3](-errno.EIO)
    assert ended[4:] == [(4, errno.EIO)]
    assert len(finishes) == 4


def test_flush_that_fails_fails_those_behind_it(faulty, loop):
    node = faulty("ok")
    finishes = []
    node.engine.fsync = lambda fd, finish: finishes.append(finish)
    ended = []
    node.flush(ended.append)
    node.flush(ended.append)
    finishes[0](-errno.EIO)
    assert ended == [errno.EIO, errno.EIO]
    assert len(finishes) == 1


def test_no_flush_ignores_flushes(faulty, loop):
    node = faulty(-errno.EIO, cache_no_flush=True)
    assert Call(loop, node.flush).result() == 0
    assert node.engine.log == []


def test_writethrough_writes_are_durable(faulty, loop):
    node = faulty(writes_through=True)
    assert write(loop, node, 0, b"a" * 512) == 0
    assert node.engine.log == [("write", 0, 512, os.RWF_DSYNC)]


def test_read_only_node_refuses_every_change(faulty, loop, image):
    before = image.read_bytes()
    node = faulty(read_only=True, discard=True)
    assert write(loop, node, 0, b"a" * 512) == errno.EPERM
    assert Call(loop, node.discard, 0, 4096).result() == errno.EPERM
    assert Call(loop, node.write_zeroes, 0, 4096, True).result() == errno.EPERM
    assert image.read_bytes() == before


def test_partial_sectors_are_read_modified_and_written_one_after_another(faulty, loop, image):
    node = faulty()
    node._gate = WriteGate(4096)
    calls = [Call(loop, node.writev, n * 512, [memoryview(bytes([n]) * 512)]) for n in range(16)]
    assert [each.result() for each in calls] == [0] * 16
    assert image.read_bytes()[:8192] == b"".join(bytes([n]) * 512 for n in range(16))
    assert read(loop, node, 512, 512) == b"\x01" * 512
    assert all(each[1] % 4096 == 0 and each[2] % 4096 == 0 for each in node.engine.log)


def test_partial_sector_write_is_given_up_when_reading_fails(faulty, loop, image):
    before = image.read_bytes()
    node = faulty(-errno.EIO)
    node._gate = WriteGate(4096)
    assert write(loop, node, 512, b"a" * 512) == errno.EIO
    assert image.read_bytes() == before
    assert write(loop, node, 512, b"a" * 512) == 0


class HoldEngine(FaultEngine):
    """Refuses memory of the guest (EINVAL, as O_DIRECT does), and holds what comes in copies until told."""

    def __init__(self):
        super().__init__()
        self.held = []

    def _take(self, buffers, finish, count):
        if isinstance(buffers[0].obj, mmap.mmap):
            self.held.append((count, finish))
        else:
            finish(-errno.EINVAL)

    def readv(self, fd, buffers, offset, finish):
        self._take(buffers, finish, os.preadv(fd, buffers, offset))

    def writev(self, fd, buffers, offset, flags, finish):
        self._take(buffers, finish, sum(map(len, buffers)))


@pytest.mark.parametrize("operation", ["readv", "writev"])
def test_copies_for_direct_io_take_bounded_memory(faulty, loop, monkeypatch, operation):
    monkeypatch.setattr("vmmd.block.file.COPY_BYTES", MIB)
    node = faulty()
    node.engine, node.cache_direct = HoldEngine(), True
    memory = memoryview(bytearray(2 * MIB))
    sizes = [65536] * 100 + [2 * MIB] + [65536] * 20  # one larger than the bound goes alone
    calls = [Call(loop, getattr(node, operation), 0, [memory[:size]]) for size in sizes]
    ended = 0
    while node.engine.held:
        assert sum(count for count, _ in node.engine.held) <= (MIB if len(node.engine.held) > 1 else 2 * MIB)
        count, finish = node.engine.held.pop(0)
        finish(count)
        ended += 1
    assert [each.error for each in calls] == [0] * len(sizes)
    assert ended == len(sizes)


@pytest.mark.parametrize("read_only", [True, False])
def test_fifo_as_image_does_not_hold_up_the_start(graph, tmp_path, read_only):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(BackendError, match="to be a regular file"):
        graph.add_drive(drive_options(fifo, read_only=read_only))
    assert not graph.nodes


def test_zeroes_are_written_where_the_host_knows_no_holes(faulty, loop, image, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, "")

    monkeypatch.setattr("vmmd.block.syscalls.fallocate", refuse)
    node = faulty(discard=True)
    assert Call(loop, node.write_zeroes, 512, 3 * MIB, True).result() == 0
    data = image.read_bytes()
    assert not any(data[512 : 512 + 3 * MIB])
    assert data[513 + 3 * MIB] == 1
    assert Call(loop, node.discard, 0, 512).result() == 0


def test_skip_drops_whole_and_partial_buffers():
    buffers = [memoryview(b"abc"), memoryview(b"defg"), memoryview(b"h")]
    assert [bytes(each) for each in skip(buffers, 0)] == [b"abc", b"defg", b"h"]
    assert [bytes(each) for each in skip(buffers, 3)] == [b"defg", b"h"]
    assert [bytes(each) for each in skip(buffers, 5)] == [b"fg", b"h"]
    assert skip(buffers, 8) == []


# --- raw, null --------------------------------------------------------------------------------------------------------


def test_raw_window_moves_every_request(graph, loop, image):
    inner = SimpleNamespace(driver="file", filename=str(image), node_name=None, discard="unmap")
    node = graph.add(blockdev("raw", file=inner, offset=MIB, size=MIB, discard="unmap"))
    assert node.size_bytes == MIB
    assert read(loop, node, 512, 512) == image.read_bytes()[MIB + 512 : MIB + 1024]
    assert write(loop, node, 0, b"w" * 512) == 0
    assert Call(loop, node.write_zeroes, 4096, 4096, False).result() == 0
    assert Call(loop, node.discard, 8192, 4096).result() == 0
    data = image.read_bytes()
    assert data[MIB : MIB + 512] == b"w" * 512
    assert not any(data[MIB + 4096 : MIB + 12288 : 1][:4096])
    assert data[MIB + 8192 : MIB + 12288] == bytes(4096)
    assert data[:MIB] == bytes(range(256)) * (MIB // 256)


def test_node_defined_inside_another_takes_over_what_it_does_not_say(graph, image):
    """(QEMU) measured with query-named-block-nodes."""
    inner = SimpleNamespace(driver="file", filename=str(image))
    node = graph.add(
        blockdev("raw", file=inner, cache_direct=True, cache_no_flush=True, read_only=True, discard="unmap")
    )
    below = node.file
    assert (below.cache_direct, below.cache_no_flush, below.read_only) == (True, True, True)
    assert node.supports_discard
    own = SimpleNamespace(driver="file", filename=str(image), cache_no_flush=False, discard="ignore")
    node = graph.add(blockdev("raw", "other", file=own, cache_no_flush=True, discard="unmap"))
    assert not node.file.cache_no_flush
    assert not node.supports_discard


def test_named_node_below_takes_nothing_over_and_may_make_the_disk_read_only(graph, image):
    graph.add(blockdev("file", "f", filename=str(image), read_only=True))
    with pytest.raises(BackendError, match="Block node 'f' is read-only"):
        graph.add(blockdev("raw", "r", file="f", cache_direct=True))
    node = graph.add(blockdev("raw", "r", file="f", auto_read_only=True))
    assert node.read_only
    assert not node.file.cache_direct


def test_aio_of_the_protocol_is_honoured(graph, image):
    drive = graph.add_drive(drive_options(image, file_options=[("aio", "threads")]))
    assert drive.node.file.engine is graph.threads()


@pytest.mark.parametrize("cache", ["none", "writeback"])
def test_cache_mode_of_an_image_from_a_descriptor_set(loop, image, cache):
    fdsets = FdSets()
    fdsets.add(3, os.open(image, os.O_RDWR | (0 if cache == "none" else os.O_DIRECT)))
    graph = BlockGraph(loop, fdsets)
    drive = graph.add_drive(drive_options("/dev/fdset/3", cache=cache))
    flags = fcntl.fcntl(drive.node.file._fd, fcntl.F_GETFL)
    assert bool(flags & os.O_DIRECT) == (cache == "none")
    graph.close()
    fdsets.remove(3)


def test_raw_window_behind_the_end_is_refused(graph, image):
    inner = SimpleNamespace(driver="file", filename=str(image), node_name=None)
    with pytest.raises(UsageError, match="has to be smaller or equal"):
        graph.add(blockdev("raw", file=inner, offset=MIB, size=4 * MIB))
    assert graph.nodes == {}


@pytest.mark.parametrize("magic", [b"QFI\xfb", b"KDMV", b"conectix", b"LUKS\xba\xbe", b"vhdxfile"])
def test_probed_raw_image_refuses_headers_of_other_formats(graph, loop, image, magic, capsys):
    graph.add_drive(drive_options(image, format=None))
    assert f"Image format was not specified for '{image}' and probing guessed raw" in capsys.readouterr().err
    node = graph.claim("disk0", "t").backend
    before = image.read_bytes()
    assert write(loop, node, 0, magic.ljust(512, b"\0")) == errno.EPERM
    assert write(loop, node, 0, magic[:2], magic[2:].ljust(510, b"\0"), b"x" * 512) == errno.EPERM
    assert image.read_bytes() == before
    assert write(loop, node, 0, b"\xeb\x63".ljust(512, b"\x90"), b"y" * 512) == 0
    assert write(loop, node, 512, magic.ljust(512, b"\0")) == 0
    assert image.read_bytes()[:1024] == b"\xeb\x63".ljust(512, b"\x90") + magic.ljust(512, b"\0")


def test_explicit_raw_lets_any_header_through(graph, loop, image):
    graph.add_drive(drive_options(image))
    assert write(loop, graph.claim("disk0", "t").backend, 0, b"QFI\xfb".ljust(512, b"\0")) == 0
    assert probe_format(image.read_bytes()[:512]) == "qcow2"


def test_image_of_another_format_is_not_guessed_raw(graph, tmp_path):
    path = tmp_path / "q"
    path.write_bytes(b"QFI\xfb".ljust(4096, b"\0"))
    with pytest.raises(UsageError, match="looks like qcow2, which is not available"):
        graph.add_drive(drive_options(path, format=None))
    assert graph.nodes == {}


def test_null_reads_zeroes_or_leaves_the_buffer(graph, loop):
    plain = graph.add(blockdev("null-co", "n0", size=MIB))
    zero = graph.add(blockdev("null-aio", "n1", read_zeroes=True))
    assert read(loop, plain, 0, 512) == b"\xee" * 512
    assert read(loop, zero, 0, 512, 512) == bytes(1024)
    assert (plain.size_bytes, zero.size_bytes) == (MIB, 1 << 30)
    assert write(loop, plain, 0, b"a") == 0


@pytest.mark.parametrize("text", ["null-co:", "null-co://x", "null-aio:/"])
def test_null_drive_has_no_name(graph, text):
    with pytest.raises(UsageError, match=r"The only allowed filename for this driver is 'null-\w+://'"):
        graph.add_drive(read_backends.drive_options("-drive", f"id=d,if=none,format=raw,file={text}"))


def test_null_drive_takes_the_keys_of_its_node(graph, loop):
    drive = graph.add_drive(
        read_backends.drive_options("-drive", "id=d,if=none,format=raw,file=null-co://,file.read-zeroes=on")
    )
    assert read(loop, drive.backend, 0, 512) == bytes(512)
    with pytest.raises(UsageError, match="zeroes"):
        read_backends.drive_options("-drive", "id=e,if=none,format=raw,file=null-co://,file.read-zero=on")


def test_null_latency_delays_the_end(graph, loop):
    node = graph.add(blockdev("null-co", latency_ns=20_000_000))
    call = Call(loop, node.readv, 0, [memoryview(bytearray(512))])
    assert call.error is None
    assert call.result() == 0


# --- graph, drives ----------------------------------------------------------------------------------------------------


def test_libvirts_pair_of_nodes(graph, loop, image):
    graph.add(blockdev("file", "st", filename=str(image), cache_direct=True, auto_read_only=True, discard="unmap"))
    graph.add(blockdev("raw", "fm", file="st", cache_direct=True))
    drive = graph.claim("fm", "virtio-blk-device")
    assert (drive.name, drive.node_name, drive.driver, drive.node.file.driver) == ("", "fm", "raw", "file")
    assert (drive.node.file.node_name, drive.filename, drive.virtual_size) == ("st", str(image), 4 * MIB)
    assert drive.cache_direct
    assert graph.query() == [drive]
    with pytest.raises(UsageError, match="Drive 'fm' is already in use by another device"):
        graph.claim("fm", "x")
    with pytest.raises(UsageError, match="'st' is already in use"):
        graph.claim("st", "x")
    graph.release(drive)
    graph.release(drive)
    assert graph.query() == []
    graph.release(graph.claim("fm", "x"))


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        ("none", (True, True, False)),
        ("writeback", (True, False, False)),
        ("writethrough", (False, False, False)),
        ("directsync", (False, True, False)),
        ("unsafe", (True, False, True)),
        (None, (True, False, False)),
    ],
)
def test_cache_modes(graph, image, cache, expected):
    drive = graph.add_drive(drive_options(image, cache=cache))
    assert (drive.cache_writeback, drive.cache_direct, drive.cache_no_flush) == expected
    assert drive.backend.writes_through is not expected[0]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"file": "/nonexistent"}, "Could not open '/nonexistent': No such file or directory"),
        ({"file": "/etc"}, "Could not open '/etc': Is a directory"),
        ({"file": "/dev/zero"}, "'file' driver requires '/dev/zero' to be a regular file"),
        ({"format": "bogus"}, "Unknown driver 'bogus'"),
        ({"file_options": [("size", "1M")]}, "file.size= is not available in this version"),
        ({"file": "what:ever"}, "Unknown protocol 'what'"),
        ({"force_share": True}, "force-share=on can only be used with read-only images"),
        ({"node_name": "#x"}, "Invalid node-name: '#x'; at most 31 letters"),
    ],
)
def test_wrong_drives_are_named_and_leave_nothing(graph, image, given, text):
    with pytest.raises((UsageError, BackendError), match=text):
        graph.add_drive(drive_options(image, **given) if "file" not in given else drive_options("", **given))
    assert (graph.nodes, graph.drives) == ({}, {})


def test_wrong_nodes_are_named(graph, image):
    graph.add(blockdev("null-co", "n0"))
    with pytest.raises(UsageError, match="Duplicate nodes with node-name='n0'"):
        graph.add(blockdev("null-co", "n0"))
    with pytest.raises(UsageError, match="'node-name' must be specified"):
        graph.add(blockdev("null-co", None))
    with pytest.raises(UsageError, match="Cannot find device='no' nor node-name='no'"):
        graph.add(blockdev("raw", "r", file="no"))
    with pytest.raises(UsageError, match=r"Property 'virtio-blk-device.drive' can't find value 'no'"):
        graph.claim("no", "virtio-blk-device")
    graph.add_drive(SimpleNamespace(id="empty"))
    with pytest.raises(UsageError, match="Device needs media, but drive is empty"):
        graph.claim("empty", "virtio-blk-device")
    with pytest.raises(UsageError, match="Duplicate ID 'empty' for drive"):
        graph.add_drive(SimpleNamespace(id="empty"))


def test_read_only_image_falls_back_only_with_auto_read_only(graph, image, monkeypatch):
    real = os.open

    def read_only_file_system(path, flags, *rest):
        if str(path) == str(image) and flags & os.O_RDWR:
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", read_only_file_system)
    with pytest.raises(BackendError, match="Read-only file system"):
        graph.add(blockdev("file", filename=str(image)))
    node = graph.add(blockdev("file", filename=str(image), auto_read_only=True))
    assert node.read_only
    with pytest.raises(BackendError, match="is read-only"):
        graph.add(blockdev("raw", "fm", file="node0"))
    assert graph.add(blockdev("raw", "fm", file="node0", read_only=True)).read_only


def test_io_uring_without_the_package_is_refused_and_threads_work(graph, loop, image, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "liburing", None)
    with pytest.raises(BackendError, match="aio=io_uring needs the Python package 'liburing'"):
        graph.add_drive(drive_options(image, aio="io_uring"))
    assert graph.nodes == {}
    graph.add_drive(drive_options(image, aio="threads", cache="none"))
    assert write(loop, graph.claim("disk0", "t").backend, 0, b"n" * 512) == 0


@pytest.mark.parametrize("aio", ["threads", "io_uring"])
def test_close_waits_with_more_than_1024_descriptors_open(loop, image, aio):
    if aio == "io_uring":
        pytest.importorskip("liburing")
    low = os.dup(0)
    many = [fcntl.fcntl(low, fcntl.F_DUPFD, 1030)]
    many += [os.dup(low) for _ in range(1030 - len(os.listdir("/proc/self/fd")))]
    graph = BlockGraph(loop)
    try:
        drive = graph.add_drive(drive_options(image, aio=aio, cache="writeback"))
        drive.node.file._inline = None
        ended = []
        drive.node.readv(0, [memoryview(bytearray(512))], ended.append)
        engine = graph._uring or graph._pool
        assert engine._event > 1023
        graph.close()
        assert ended == [0]
    finally:
        for fd in (low, *many):
            os.close(fd)


def test_close_waits_for_what_is_in_flight_and_syncs(loop, image, monkeypatch):
    synced = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd)))
    graph = BlockGraph(loop)
    graph.add_drive(drive_options(image))
    node = graph.claim("disk0", "t").backend
    ended = []
    for n in range(50):
        node.writev(n * 65536, [memoryview(bytes([n]) * 65536)], partial(ended.append))
    graph.close()
    graph.close()
    assert ended == [0] * 50
    assert synced == [str(image)]
    assert image.read_bytes()[49 * 65536 : 50 * 65536] == b"\x31" * 65536


def test_resize_is_told_through_the_graph(graph, image):
    graph.add_drive(drive_options(image))
    drive = graph.claim("disk0", "t")
    told = []
    drive.backend.on_resize(lambda: told.append(drive.backend.size_bytes))
    os.truncate(image, 8 * MIB)
    drive.backend.file.refresh_size()
    assert told == [8 * MIB]


def test_release_forgets_the_device_and_flush_all_reaches_writable_disks(graph, loop, image, tmp_path):
    other = tmp_path / "ro"
    other.write_bytes(bytes(4096))
    graph.add_drive(drive_options(image))
    graph.add_drive(drive_options(other, id="disk1", read_only=True))
    drive = graph.claim("disk0", "t")
    told = []
    drive.backend.on_resize(lambda: told.append(1))
    flushed = []
    drive.backend.file.engine = FaultEngine(-errno.EIO)
    drive.backend.flush = drive.backend.file.flush
    graph.flush_all(flushed.append)
    assert flushed == [errno.EIO]
    graph.release(drive)
    os.truncate(image, 8 * MIB)
    drive.backend.file.refresh_size()
    assert told == []
    graph.claim("disk0", "again")


def test_flush_all_without_disks_ends_at_once(graph):
    flushed = []
    graph.flush_all(flushed.append)
    assert flushed == [0]


@pytest.mark.parametrize("available", [True, False])
def test_busy_disk_moves_from_threads_to_io_uring_where_it_can(graph, loop, image, monkeypatch, available):
    import sys

    from vmmd.block import auto

    if available:
        pytest.importorskip("liburing")
    else:
        monkeypatch.setitem(sys.modules, "liburing", None)
    monkeypatch.setattr(auto, "SWITCH_AFTER", 10)
    graph.add_drive(drive_options(image, cache="none"))
    node = graph.claim("disk0", "t").backend
    expected = image.read_bytes()
    engine = node.file.engine
    assert engine.name == "threads"
    for n in range(10):
        assert read(loop, node, n * 512, 512) == expected[n * 512 : n * 512 + 512]
    loop.until(lambda: "readv" in vars(engine))
    assert engine.name == ("io_uring" if available else "threads")
    for n in range(10):
        assert write(loop, node, n * 512, bytes([n]) * 512) == 0
    assert Call(loop, node.flush).result() == 0
    assert image.read_bytes()[:5120] == b"".join(bytes([n]) * 512 for n in range(10))


@pytest.mark.parametrize(("aio", "cache", "gated"), [("threads", "none", True), ("io_uring", "none", False)])
def test_random_requests_in_flight_leave_what_a_model_says(graph, loop, image, aio, cache, gated):
    import random

    if aio == "io_uring":
        pytest.importorskip("liburing")
    graph.add_drive(drive_options(image, aio=aio, cache=cache, discard="unmap"))
    node = graph.claim("disk0", "t").backend
    if gated:
        node.file._gate = WriteGate(4096)
    model = bytearray(image.read_bytes())
    rnd = random.Random(7)
    for _ in range(60):
        calls, at = [], rnd.randrange(64) * 512
        while at < len(model) - 70000 and len(calls) < 32:  # disjoint ranges, all in flight at once
            length = rnd.randrange(1, 24) * 512
            kind = rnd.randrange(4)
            if kind == 0:
                data = rnd.randbytes(length)
                cut = rnd.randrange(length // 512) * 512
                parts = [memoryview(bytearray(each)) for each in (data[:cut], data[cut:]) if each]
                calls.append((Call(loop, node.writev, at, parts), None, None))
                model[at : at + length] = data
            elif kind == 1:
                buffer = memoryview(bytearray(length))
                calls.append((Call(loop, node.readv, at, [buffer]), buffer, bytes(model[at : at + length])))
            elif kind == 2:
                calls.append((Call(loop, node.write_zeroes, at, length, rnd.random() < 0.5), None, None))
                model[at : at + length] = bytes(length)
            else:
                calls.append((Call(loop, node.flush), None, None))
            at += length + rnd.randrange(4) * 512
        for call, buffer, expected in calls:
            assert call.result() == 0
            assert buffer is None or bytes(buffer) == expected
    graph.close()
    assert image.read_bytes() == model


def test_image_from_a_descriptor_set(loop, image):
    sets = FdSets()
    sets.add(2, os.open(image, os.O_RDONLY))
    graph = BlockGraph(loop, sets)
    with pytest.raises(BackendError, match="Could not open '/dev/fdset/2': Permission denied"):
        graph.add(blockdev("file", filename="/dev/fdset/2"))
    sets.add(2, os.open(image, os.O_RDWR))
    node = graph.add(blockdev("file", filename="/dev/fdset/2"))
    assert write(loop, node, 0, b"s" * 512) == 0
    graph.close()
    assert image.read_bytes()[:512] == b"s" * 512
    assert sets.remove(2)


def test_zeroes_in_parts_of_large_sectors_leave_the_rest_alone(faulty, loop, image, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EINVAL, "")

    monkeypatch.setattr("vmmd.block.syscalls.fallocate", refuse)
    node = faulty(discard=True)
    node._gate = WriteGate(4096)
    model = bytearray(image.read_bytes())
    for offset, length in ((512, 1024), (8192, 512), (12288, 8192), (20992, 2 * MIB + 1536), (3 * MIB + 3584, 512)):
        assert Call(loop, node.write_zeroes, offset, length, False).result() == 0
        model[offset : offset + length] = bytes(length)
    assert image.read_bytes() == model
    assert Call(loop, node.discard, 512, 512).result() == 0
    assert image.read_bytes() == model
