# SPDX-License-Identifier: Apache-2.0
"""Image locks: between two graphs, and against a real QEMU in both directions."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from types import SimpleNamespace

import pytest

from tests.unit.qmp_support import ManualLoop, run_to_end
from vmmd.block.graph import BlockGraph
from vmmd.errors import BackendError

QEMU = shutil.which("qemu-system-x86_64")
WRITE = 'Failed to get "write" lock'
SHARED = 'Failed to get shared "write" lock'


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(1 << 20))
    return path


@pytest.fixture
def graphs():
    made = [BlockGraph(ManualLoop()) for _ in range(2)]
    yield made
    for each in made:
        each.close()


def open_disk(graph, image, *, share_rw=False, **given):
    graph.add_drive(SimpleNamespace(**{"id": "d", "file": str(image), "format": "raw", **given}))
    return graph.claim("d", "virtio-blk-device", share_rw=share_rw)


def give_back(graph, drive):
    graph.release(drive)
    run_to_end(graph.unlock_later(), graph.loop)


def locked_bytes(image):
    """First and last byte of every OFD lock on the image."""
    inode = image.stat().st_ino
    found = set()
    with open("/proc/locks") as file:
        for line in file:
            match = re.search(r"OFDLCK +\S+ +READ +\S+ +[0-9a-f]+:[0-9a-f]+:(\d+) +(\d+) +(\d+)", line)
            if match and int(match[1]) == inode:
                found |= set(range(int(match[2]), int(match[3]) + 1))
    return found


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {100, 101, 201}),
        ({"share_rw": True}, {100, 101}),
        ({"read_only": True}, {100, 201}),
        ({"file_options": [("locking", "off")]}, set()),
    ],
)
def test_locked_bytes_are_those_of_qemu(graphs, image, given, expected):
    drive = open_disk(graphs[0], image, **given)
    assert locked_bytes(image) == expected
    give_back(graphs[0], drive)
    assert locked_bytes(image) == expected & {100}
    graphs[0].close()
    assert locked_bytes(image) == set()


def test_second_writer_is_refused_with_the_holder_named(graphs, image):
    open_disk(graphs[0], image)
    with pytest.raises(BackendError) as caught:
        open_disk(graphs[1], image)
    text = str(caught.value)
    assert text.startswith(f"{WRITE}; Is another process using the image [{image}]? It is locked by ")
    assert f"pid {os.getpid()} (" in text
    assert locked_bytes(image) == {100, 101, 201}  # the one refused kept nothing but its idle lock


def test_reader_beside_a_writer_is_refused_and_readers_share(graphs, image):
    open_disk(graphs[0], image)
    with pytest.raises(BackendError, match=SHARED):
        open_disk(graphs[1], image, read_only=True)
    graphs[0].close()
    graphs[1].close()
    open_disk(graphs[0], image, read_only=True)
    open_disk(graphs[1], image, read_only=True)


def test_share_rw_lets_two_writers_in(graphs, image):
    open_disk(graphs[0], image, share_rw=True)
    open_disk(graphs[1], image, share_rw=True)


def test_lock_is_given_up_at_release(graphs, image):
    drive = open_disk(graphs[0], image)
    give_back(graphs[0], drive)
    open_disk(graphs[1], image)


@pytest.fixture
def qemu(image):
    """Starts QEMU on the image; returns its process once the monitor answers or it has ended."""
    processes = []

    def start(*drive_flags):
        drive = ",".join([f"file={image},if=none,format=raw,id=a", *drive_flags])
        command = [QEMU, "-nodefaults", "-display", "none", "-S", "-accel", "tcg", "-monitor", "stdio"]
        process = subprocess.Popen(
            [*command, "-drive", drive, "-device", "virtio-blk-pci,drive=a"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def wait_until_plugged(process):
    """The monitor answers commands only when all devices are there."""
    process.stdin.write("info status\n")
    process.stdin.flush()
    while "VM status" not in process.stdout.readline():
        pass


@pytest.mark.qemu
@pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not installed")
def test_qemu_refuses_an_image_that_vmmd_writes(graphs, image, qemu):
    open_disk(graphs[0], image)
    process = qemu()
    assert WRITE in process.communicate(timeout=20)[1]
    assert process.returncode == 1
    assert SHARED in qemu("readonly=on").communicate(timeout=20)[1]


@pytest.mark.qemu
@pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not installed")
def test_vmmd_refuses_an_image_that_qemu_writes(graphs, image, qemu):
    process = qemu()
    wait_until_plugged(process)
    with pytest.raises(BackendError) as caught:
        open_disk(graphs[0], image)
    assert str(caught.value).startswith(WRITE)
    assert f"pid {process.pid} (qemu-system" in str(caught.value)
    with pytest.raises(BackendError, match=SHARED):
        open_disk(graphs[1], image, read_only=True)


@pytest.mark.qemu
@pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not installed")
def test_vmmd_and_qemu_read_one_image(graphs, image, qemu):
    process = qemu("readonly=on")
    wait_until_plugged(process)
    open_disk(graphs[0], image, read_only=True)
    with pytest.raises(BackendError, match=WRITE):
        open_disk(graphs[1], image)
