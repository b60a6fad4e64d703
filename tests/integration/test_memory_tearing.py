# SPDX-License-Identifier: Apache-2.0
"""Stores to guest memory are never seen half done: a native process looks at the same memory while vmmd writes.

The observer is C, so that it looks some 100 million times a second; it shares a memfd with the test. Each store changes
every byte of the value, so a value with two kinds of bytes was torn. That the observer would notice is shown with
bytes that are stored one after the other.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.framework.cache import program, run
from vmmd.core.memory import GuestMemory, make_region
from vmmd.devices.virtio.queue import VirtQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECONDS = 2.0
SIZE = 1 << 20
#: where each width is watched
PLACES = {2: 0x1000, 4: 0x2000, 8: 0x3000}
BYTEWISE = 0x4000

OBSERVER = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
/* observer FD OFFSET WIDTH SECONDS: counts values seen, changes, and values whose bytes differ */
int main(int argc, char **argv)
{
    char *map = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[1]), 0);
    if (map == MAP_FAILED) return 1;
    char *at = map + strtoul(argv[2], 0, 0);
    int width = atoi(argv[3]);
    uint64_t seen = 0, changes = 0, torn = 0, last = 0;
    uint64_t ones = 0x0101010101010101ull, mask = width == 8 ? ~0ull : (1ull << 8 * width) - 1;
    struct timespec now, end;
    puts("ready"); fflush(stdout);
    clock_gettime(CLOCK_MONOTONIC, &end); end.tv_sec += atoi(argv[4]);
    do {
        for (int i = 0; i < 10000; i++) {
            uint64_t value = width == 2 ? *(volatile uint16_t *)at : width == 4 ? *(volatile uint32_t *)at
                                                                             : *(volatile uint64_t *)at;
            seen++;
            if (value != last) { changes++; last = value; }
            if (value != ((value & 0xff) * ones & mask)) torn++;
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec < end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec < end.tv_nsec));
    printf("%llu %llu %llu\n", (unsigned long long)seen, (unsigned long long)changes, (unsigned long long)torn);
    return 0;
}
"""


class Shared:
    """Guest memory over a memfd, and the observer."""

    def __init__(self, directory: Path) -> None:
        self.fd = os.memfd_create("tearing")
        os.ftruncate(self.fd, SIZE)
        self.map = mmap.mmap(self.fd, SIZE)
        self.memory = GuestMemory([make_region(0, memoryview(self.map), 0, "ram")])
        (directory / "observer.c").write_text(OBSERVER)
        self.program = directory / "observer"
        run([program("gcc", "gcc"), "-O2", "-o", self.program, directory / "observer.c"])

    def watch(self, offset: int, width: int, store: Callable[[int], None]) -> tuple[int, int, int]:
        """(values seen, changes seen, torn values seen) while ``store(0 … 255)`` goes round and round."""
        command = [self.program, str(self.fd), str(offset), str(width), str(int(SECONDS))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[self.fd], text=True) as observer:
            assert observer.stdout is not None
            assert observer.stdout.readline() == "ready\n"
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                for byte in range(256):
                    store(byte)
            seen, changes, torn = map(int, observer.stdout.read().split())
        assert observer.returncode == 0
        return seen, changes, torn

    def close(self) -> None:
        os.close(self.fd)


#: on a busy machine one of the two may not run while the other does
ATTEMPTS = 4


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Shared]:
    made = Shared(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("width", PLACES)
def test_guest_memory_stores_are_whole(shared: Shared, width: int) -> None:
    store = {2: shared.memory.store_u16, 4: shared.memory.store_u32, 8: shared.memory.store_u64}[width]
    place, ones = PLACES[width], int.from_bytes(b"\1" * width, "little")
    for _ in range(ATTEMPTS):
        seen, changes, torn = shared.watch(place, width, lambda byte: store(place, byte * ones))
        assert torn == 0
        if seen > 1_000_000 and changes > 10_000:  # it looked while stores were made
            return
    pytest.fail(f"the observer and the stores never ran together: {seen} looks, {changes} changes")


def test_the_used_index_of_a_ring_is_whole(shared: Shared) -> None:
    desc, avail, used = 0x8000, 0x9000, 0xA000
    queue = VirtQueue(shared.memory, 256, (desc, avail, used), event_idx=False, indirect=False)

    def publish(byte: int) -> None:
        queue.used_index = byte * 0x101  # as many chains at once as it takes for both bytes to change
        queue.publish()

    for _ in range(ATTEMPTS):
        _, changes, torn = shared.watch(used + 2, 2, publish)
        assert torn == 0
        if changes > 10_000:
            return
    pytest.fail(f"the observer and the stores never ran together: {changes} changes")


def test_the_observer_sees_torn_stores(shared: Shared) -> None:
    """What must not be used for rings: bytes one after the other."""
    memory = shared.memory

    def store(byte: int) -> None:
        for offset in range(8):
            memory.store_u8(BYTEWISE + offset, byte)

    _, _, torn = shared.watch(BYTEWISE, 8, store)
    assert torn > 0
