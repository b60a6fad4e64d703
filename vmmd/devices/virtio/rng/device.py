# SPDX-License-Identifier: Apache-2.0
"""virtio-rng (virtio 1.2 §5.4) on PCI: one queue, in whose buffers the guest gets random bytes; no configuration.

Where they come from: ``rng=`` names an object rng-random or rng-builtin; without it, it is the kernel. Rate limit: no
more than ``max-bytes`` in each ``period`` milliseconds of virtual time, counted from the first request in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.props import U32, U64, prop, ref_type
from vmmd.devices.virtio.device import VirtioDevice
from vmmd.devices.virtio.pci_transport import VirtioPciDevice, variants
from vmmd.devices.virtio.rng.worker import RngWorker
from vmmd.errors import UsageError
from vmmd.units import NS_PER_MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.backend import EntropySource
    from vmmd.core.device import DeviceContext
    from vmmd.devices.virtio.queue import VirtQueue
    from vmmd.log import Logger

RNG = ref_type("rng", "link<rng-backend>")

QUEUE_SIZE = 8
UNLIMITED_BYTES = (1 << 63) - 1
DEFAULT_PERIOD_MS = 1 << 16


class VirtioRng(VirtioDevice):
    """The device behind the transport. ``paused``, ``source`` and the allowance belong to the loop."""

    virtio_id = 4

    def __init__(self, ctx: DeviceContext, log: Logger, source: EntropySource, max_bytes: int, period_ms: int) -> None:
        super().__init__(ctx, log, [QUEUE_SIZE])
        self.source = source
        self._max_bytes = max_bytes
        self._period_ns = period_ms * NS_PER_MS
        self._left_bytes = max_bytes
        self._period = ctx.clock.timer(self._period_over)

    def make_worker(self, index: int, ring: VirtQueue) -> RngWorker:
        return RngWorker(self, index, ring)

    def read_config(self, offset: int, size: int) -> int:
        return (1 << 8 * size) - 1  # there is none

    def reset_device(self) -> None:
        """The allowance is the host's: a reset does not renew it."""

    # -- rate limit ----------------------------------------------------------------------------------------

    def grant(self, count: int) -> int:
        """How many of ``count`` bytes may be asked for now. Loop, without the lock."""
        if self._max_bytes == UNLIMITED_BYTES:
            return count
        with self.ctx.lock:
            if self._period.deadline_ns is None:
                self._left_bytes = self._max_bytes
                self._period.arm(self.ctx.clock.now_ns() + self._period_ns)
            return min(count, self._left_bytes)

    def spend(self, count: int) -> None:
        """So many bytes were given to the guest."""
        self._left_bytes -= count

    def _period_over(self) -> None:
        for index in self.workers:
            self.ctx.loop.post(self._look, index)

    def _look(self, index: int) -> None:
        worker = self.workers.get(index)
        if worker is not None:
            worker.look()

    # -- the VM stops and runs; on the loop, without the lock ----------------------------------------------

    def quiesce(self, done: Callable[[], None]) -> None:
        for worker in list(self.workers.values()):
            assert isinstance(worker, RngWorker)  # made above
            worker.pause()
        super().quiesce(done)

    def detach(self) -> None:
        """The device is unplugged."""
        self._period.cancel()
        self.source.cancel()


class VirtioRngPci(VirtioPciDevice):
    """A source of random bytes on PCI; transitional unless the properties say otherwise."""

    type_name = "virtio-rng-pci"
    description = "virtio source of random bytes"
    category = "misc"
    user_creatable = True
    transitional_id = 0x1005
    global_types = ("virtio-pci", "virtio-device", "virtio-rng-device")
    class_code = 0x00FF00
    inner_type = "virtio-rng-device"
    parent_type = "virtio-rng-pci-base"
    KEPT_AT_RESET = (*VirtioPciDevice.KEPT_AT_RESET, "virtio._left_bytes", "virtio._period")

    class Props(VirtioPciDevice.Props):
        """Names and defaults as QEMU 7.2 shows them."""

        rng = prop(RNG, None, "the id of an rng-random or rng-builtin object; default: the kernel's random bytes")
        max_bytes = prop(U64, UNLIMITED_BYTES, "the most bytes that the guest gets in a period")
        period = prop(U32, DEFAULT_PERIOD_MS, "length of a period in milliseconds")

    props: Props
    virtio: VirtioRng

    virtio_config_bytes = 0

    def make_virtio(self) -> VirtioRng:
        props, ctx = self.props, self.ctx
        # QEMU-COMPAT: the sentences
        if not props.period:
            raise UsageError("'period' parameter expects a positive integer", "it is in milliseconds")
        if props.max_bytes > UNLIMITED_BYTES:
            raise UsageError("'max-bytes' parameter must be non-negative, and less than 2^63")
        source = ctx.backends.entropy(props.rng, self.qom_path)
        self.on_undo(lambda: ctx.backends.release(source))
        virtio = VirtioRng(ctx, self.log, source, props.max_bytes, props.period)
        self.on_undo(virtio.detach)
        virtio.offered, virtio.offered_legacy = self.features(0)
        return virtio


VirtioRngPciTransitional, VirtioRngPciNonTransitional = variants(VirtioRngPci)
