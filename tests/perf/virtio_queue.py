# SPDX-License-Identifier: Apache-2.0
"""Python time of one virtio-blk request, doorbell to published used index, with a backend that does nothing.

    python -m tests.perf.virtio_queue [--profile]

The driver's own work is outside the measurement. Best of several rounds, because the machine is shared.
"""

from __future__ import annotations

import argparse
import cProfile
import random
import struct
import time
from typing import TYPE_CHECKING

from tests.framework.virtqueue_driver import F_INDIRECT, Buffer
from tests.unit.virtio_rig import FULL, HEADERS, INDIRECT, Rig
from vmmd.devices.virtio.blk import worker as worker_module

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.framework.virtqueue_driver import DriverQueue

DEPTH, ROUNDS, BATCHES = 32, 7, 100


class NullDisk:
    """Answers at once."""

    name, read_only, request_alignment, writes_through, supports_discard = "null", False, 1, False, True
    size_bytes = 1 << 30

    def readv(self, offset: int, buffers: Sequence[memoryview], done: Callable[[int], None]) -> None:
        done(0)

    writev = readv

    def flush(self, done: Callable[[int], None]) -> None:
        done(0)


def fill(rig: Rig, ring: DriverQueue, *, sequential: bool, indirect: bool) -> None:
    """Make ``DEPTH`` 4 KiB reads available."""
    for slot in range(DEPTH):
        header = HEADERS + 32 * slot
        sector = 8 * slot if sequential else 8 * random.randrange(1000)
        rig.memory.write(header, struct.pack("<IIQ", 0, 0, sector))
        ring.add(
            [Buffer(header, 16)],
            [Buffer(0x60000 + 4096 * slot, 4096), Buffer(HEADERS + 0x8000 + slot, 1)],
            INDIRECT + 1024 * slot if indirect else None,
        )


def measure(rig: Rig, *, sequential: bool, indirect: bool) -> float:
    """Nanoseconds a request, best round."""
    driver = rig.driver(features=FULL if indirect else FULL & ~F_INDIRECT, msix=True)
    ring = driver.queues[0]
    worker = rig.device.virtio.workers[0]
    worker._blk.backend = NullDisk()
    worker._blk.size_bytes = 1 << 30
    worker_module.TURN_NS = 1 << 62  # the kicks are ours: none may be posted to the rig's loop
    best = float("inf")
    for _ in range(ROUNDS):
        spent = 0
        for _ in range(BATCHES):
            fill(rig, ring, sequential=sequential, indirect=indirect)
            start = time.perf_counter_ns()
            worker.kick()
            spent += time.perf_counter_ns() - start
            assert len(ring.collect()) == DEPTH
        best = min(best, spent / (BATCHES * DEPTH))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    rig = Rig()
    rig.plug()
    profile = cProfile.Profile()
    if options.profile:
        profile.enable()
    for sequential in (False, True):
        for indirect in (False, True):
            cost = measure(rig, sequential=sequential, indirect=indirect)
            print(
                f"4 KiB read, depth {DEPTH}, {'sequential' if sequential else 'random'},"
                f" {'indirect' if indirect else 'direct'}: {cost:.0f} ns a request"
            )
    if options.profile:
        profile.disable()
        profile.print_stats("tottime")
    rig.close()


if __name__ == "__main__":
    main()
