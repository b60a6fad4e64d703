# SPDX-License-Identifier: Apache-2.0
"""VirtioDevice: what every virtio device is, whatever it is plugged into: features, status, queues, config space.

The register state lives here under the DeviceLock. When the driver sets DRIVER_OK each enabled queue becomes a
``VirtQueue`` in a *worker*, and both belong to the event loop from then on (architecture §3 L9). ``drain`` takes them
back: doorbells off, the worker is told on the loop to take no more chains, and calls back when nothing is in flight.
A vCPU that resets the device waits for that with the lock released (§3 L7); status reads 0 only then, so no DMA can
land in memory that the driver has taken back (safety.md §3.2 #8).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from vmmd.core.affinity import any_thread, locked, on_loop
from vmmd.core.notify import Handshake
from vmmd.core.trace import GUEST_ERRORS
from vmmd.core.trace_events import (
    VIRTIO_BROKEN,
    VIRTIO_FEATURES,
    VIRTIO_QUEUE_START,
    VIRTIO_QUEUE_STOP,
    VIRTIO_SET_STATUS,
)
from vmmd.devices.virtio.queue import RingError, VirtQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vmmd.core.device import DeviceContext
    from vmmd.core.memory import GuestMemory
    from vmmd.log import Logger


class Status(enum.IntFlag):
    """Device status (virtio 1.2 §2.1)."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    NEEDS_RESET = 64
    FAILED = 128


#: Device-independent feature bits (virtio 1.2 §6, §6.3)
F_NOTIFY_ON_EMPTY = 1 << 24  # legacy
F_ANY_LAYOUT = 1 << 27  # legacy
F_INDIRECT_DESC = 1 << 28
F_EVENT_IDX = 1 << 29
F_VERSION_1 = 1 << 32
F_RING_RESET = 1 << 40

NO_VECTOR = 0xFFFF
#: The most queues a device may have here
QUEUES_MAX = 1024
#: How long a vCPU waits for requests in flight when it resets the device; after that the reset completes by itself
DRAIN_TIMEOUT_S = 5.0

_DRIVER_OK = int(Status.DRIVER_OK)
_FEATURES_OK = int(Status.FEATURES_OK)
_NEEDS_RESET = int(Status.NEEDS_RESET)


class QueueState:
    """The registers of one queue. DeviceLock held."""

    __slots__ = ("avail_gpa", "desc_gpa", "enabled", "position", "size", "size_max", "used_gpa", "vector")

    def __init__(self, size_max: int) -> None:
        self.size_max = size_max
        self.reset()

    def reset(self) -> None:
        self.size = self.size_max
        self.desc_gpa = self.avail_gpa = self.used_gpa = 0
        self.vector = NO_VECTOR
        self.enabled = False
        #: (last_avail, used_index) where a suspended queue goes on
        self.position = (0, 0)


class QueueCounters:
    """What happened on one queue since the device was made; no reset clears it. Written on the loop only."""

    __slots__ = ("interrupts", "notifications", "requests")

    def __init__(self) -> None:
        self.notifications = 0  # of the driver, that woke the loop
        self.requests = 0  # given back to the driver
        self.interrupts = 0  # sent for them


class QueueWorker(Protocol):
    """The loop's side of one active queue. All methods on the loop, without the lock."""

    ring: VirtQueue

    def kick(self) -> None:
        """The driver rang."""

    def look(self) -> None:
        """There may be chains that nobody rang for."""

    def stop(self, done: Callable[[], None]) -> None:
        """Take no more chains, forget parked ones; ``done()`` once nothing is in flight (maybe at once)."""

    def abandon(self) -> None:
        """Forget everything now: later completions write nothing. Any thread, nothing running on the loop."""


@runtime_checkable
class OutsideWorker(QueueWorker, Protocol):
    """A queue whose ring is served outside (vhost): its notifications go there without us."""

    kick_fd: int  # an eventfd

    def interrupt_changed(self) -> None:
        """How the queue interrupts the driver may be another now: vector, mask, MSI-X on or off. Lock held."""


class Transport(Protocol):
    """What carries a virtio device: the PCI function."""

    dma: GuestMemory  # all of RAM, or none while bus mastering is off

    @property
    def name(self) -> str:
        """How messages call the device."""

    def interrupt_queue(self, index: int) -> None:
        """Interrupt for used buffers. Loop, without the lock."""

    def queue_message(self, index: int) -> tuple[int, int] | None:
        """The message (address, data) that is all of queue ``index``'s interrupt now; None while that takes more than
        a message to a local APIC: masked, or no MSI-X. Changes are told to OutsideWorkers. Lock held."""

    def interrupt_config(self) -> None:
        """Interrupt for a configuration change. Lock held."""

    def attach_doorbell(self, index: int, ring: Callable[[], None] | int) -> None:
        """Have the loop call ``ring`` when the driver notifies queue ``index``, or have the kernel write to that
        eventfd. Lock held."""

    def detach_doorbell(self, index: int) -> None:
        """Undo it; a ring not served yet may be lost. Idempotent. Lock held."""

    def reset_registers(self) -> None:
        """Vectors, ISR and selectors to their reset values. Lock held."""


class _Drain:
    """One hand-over back from the loop."""

    __slots__ = ("finish", "finished", "handshake", "late", "left", "workers")

    def __init__(self, workers: list[QueueWorker], finish: Callable[[], None]) -> None:
        self.workers = workers
        self.left = len(workers)
        self.finish = finish
        self.finished = False
        self.late = False
        self.handshake = Handshake()


class VirtioDevice:
    """Base of virtio-blk and its sisters. Attributes are guarded by the DeviceLock unless stated."""

    virtio_id = 0  # virtio 1.2 §5

    def __init__(self, ctx: DeviceContext, log: Logger, queue_sizes: list[int]) -> None:
        self.ctx = ctx
        self.log = log
        self.transport: Transport
        self.queues = [QueueState(size) for size in queue_sizes]
        self.counters = [QueueCounters() for _ in queue_sizes]
        #: active queues by index
        self.workers: dict[int, QueueWorker] = {}
        self.paused = False  # the VM is stopped: no chain is taken. Belongs to the loop
        #: offered through the modern interface, and through the legacy one (32 bits)
        self.offered = F_VERSION_1
        self.offered_legacy = 0
        self._kicked: set[int] = set()  # queues whose kick is posted
        self.driver_features = 0
        self.status = 0
        self.config_generation = 0
        self.broken = False
        self._warned = False
        self._defect_told = False
        #: register writes are ignored while this is set: a vCPU waits for the queues
        self._drain: _Drain | None = None

    # -- hooks of the device type --------------------------------------------------------------------------

    def make_worker(self, index: int, ring: VirtQueue) -> QueueWorker:
        """The loop-side handler of an activated queue. Lock held. Raises RingError."""
        raise NotImplementedError

    def read_config(self, offset: int, size: int) -> int:
        """Device configuration; all-ones behind its end. Lock held."""
        raise NotImplementedError

    def write_config(self, offset: int, size: int, value: int) -> None:
        """A driver's write to device configuration. Lock held."""

    def features_written(self) -> None:
        """The driver has written (a part of) its features; nothing is active. Lock held."""

    def driver_ready(self) -> None:
        """DRIVER_OK is about to take effect. Lock held."""

    def reset_device(self) -> None:
        """Device-specific state back to its reset values. Lock held; no queue is active."""

    # -- status --------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """True while queues are being handed back: register writes have no effect."""
        return self._drain is not None

    @locked
    def set_status(self, value: int) -> None:
        """The driver wrote device status (§2.1, §3.1)."""
        if VIRTIO_SET_STATUS.on:
            VIRTIO_SET_STATUS(self.transport.name, value)
        if self._drain is not None:
            return
        if not value & 0xFF:
            self.reset_by_driver()
            return
        old = self.status
        value = value & 0xFF & ~_NEEDS_RESET | old & _NEEDS_RESET
        if value & ~old & _FEATURES_OK and not self.features_acceptable(self.driver_features):
            value &= ~_FEATURES_OK  # §3.1.1 step 6: the driver reads it back and gives up
        self.status = value
        if value & ~old & _DRIVER_OK:
            if VIRTIO_FEATURES.on:
                VIRTIO_FEATURES(self.transport.name, self.offered | self.offered_legacy, self.driver_features)
            self.driver_ready()
            self.activate()
        elif old & ~value & _DRIVER_OK:
            self.suspend()

    @property
    def accepted_features(self) -> int:
        """What the driver has taken of the offer. (It may write anything, and go on without FEATURES_OK.)"""
        return self.driver_features & (self.offered | self.offered_legacy)

    def features_acceptable(self, features: int) -> bool:
        """§2.2: only offered bits (safety.md §3.2 #19)."""
        return not features & ~self.offered

    @locked
    def reset_by_driver(self) -> None:
        """Status 0 was written: hand back the queues, then everything to its reset value."""
        if self._drain is None:
            self.drain(list(self.workers), self._to_reset_state)

    @locked
    def reset_by_machine(self) -> None:
        """Machine reset: vCPUs are paused, the device was quiesced."""
        for index, worker in self.workers.items():
            self.transport.detach_doorbell(index)
            worker.abandon()
        self.workers = {}
        if self._drain is not None:
            for worker in self._drain.workers:
                worker.abandon()
            self._drain.finished = True  # as far as a vCPU is concerned, which must not wait for what does not come
            self._drain.handshake.done()
            self._drain = None
        self._to_reset_state()
        self.paused = False

    def _to_reset_state(self) -> None:
        self.status = 0
        self.driver_features = 0
        self.broken = False
        for queue in self.queues:
            queue.reset()
        self.transport.reset_registers()
        self.reset_device()

    # -- the VM stops and runs; on the loop, without the lock ----------------------------------------------

    def quiesce(self, done: Callable[[], None]) -> None:
        """Take no more chains, those in hand wait; ``done()`` when nothing is in flight."""
        self.paused = True
        done()

    def resume(self) -> None:
        """Go on; every worker looks what there is to do."""
        self.paused = False
        for worker in list(self.workers.values()):
            worker.look()

    # -- hand-over of queues -------------------------------------------------------------------------------

    @locked
    def activate(self) -> None:
        """Give every enabled queue that has no worker to the loop. Nothing while DMA is not possible."""
        if self.broken or not self.transport.dma.regions:
            return
        for index, queue in enumerate(self.queues):
            if queue.enabled and index not in self.workers:
                try:
                    ring = self._make_ring(queue)
                    worker = self.make_worker(index, ring)
                except RingError as error:
                    self._fail(f"queue {index}: {error}")
                    return
                if VIRTIO_QUEUE_START.on:
                    addresses = queue.desc_gpa, queue.avail_gpa, queue.used_gpa
                    VIRTIO_QUEUE_START(self.transport.name, index, queue.size, *addresses)
                self.workers[index] = worker
                self.attach_doorbell(index, worker)
                self.ctx.loop.post(worker.look)  # chains may be waiting already

    @locked
    def attach_doorbell(self, index: int, worker: QueueWorker) -> None:
        """The driver's notifications of queue ``index`` go to its worker from now on, or to whoever serves the ring
        outside."""
        self.transport.attach_doorbell(index, worker.kick_fd if isinstance(worker, OutsideWorker) else worker.kick)

    def _make_ring(self, queue: QueueState) -> VirtQueue:
        features = self.accepted_features
        ring = VirtQueue(
            self.transport.dma,
            queue.size,
            (queue.desc_gpa, queue.avail_gpa, queue.used_gpa),
            event_idx=bool(features & F_EVENT_IDX),
            indirect=bool(features & F_INDIRECT_DESC),
            notify_on_empty=bool(features & F_NOTIFY_ON_EMPTY) and not features & F_VERSION_1,
        )
        ring.resume_at(*queue.position)
        return ring

    @locked
    def suspend(self) -> None:
        """Take all queues back and remember where they stopped; ``activate`` goes on there."""
        if self._drain is None and self.workers:
            self.drain(list(self.workers), lambda: None)

    @locked
    def reset_queue(self, index: int) -> None:
        """The driver wrote 1 to queue_reset (§2.6.1)."""
        if self._drain is None:
            self.drain([index], self.queues[index].reset)

    @locked
    def drain(self, indices: Iterable[int], finish: Callable[[], None]) -> None:
        """Stop workers, then ``finish()`` with the lock held. A vCPU thread waits, the lock released meanwhile; the
        loop goes on at once."""
        taken = [(index, self.workers.pop(index)) for index in indices if index in self.workers]
        if not taken:
            finish()
            return
        for index, _ in taken:
            if VIRTIO_QUEUE_STOP.on:
                VIRTIO_QUEUE_STOP(self.transport.name, index)
            self.transport.detach_doorbell(index)

        def save_and_finish() -> None:
            for index, worker in taken:
                self.queues[index].position = (worker.ring.last_avail, worker.ring.used_index)
            finish()

        drain = self._drain = _Drain([worker for _, worker in taken], save_and_finish)
        if self.ctx.loop.on_loop_thread():
            drain.late = True
            self.ctx.loop.post(self._stop_workers, drain)
            return
        self.ctx.loop.post(self._stop_workers, drain)
        drain.handshake.wait(self.ctx.lock, DRAIN_TIMEOUT_S)
        drain.late = True  # ORDERING: set before ``finished`` is read; the loop does it the other way round
        if drain.finished:
            self._finish(drain)
        else:
            self.log.warning("requests in flight hold up the reset of %s", type(self).__name__)

    @locked
    def wind_down(self, done: Callable[[], None]) -> None:
        """Take the queues back for good: DMA is off already. ``done()`` when nothing is in flight. On the loop."""
        if self._drain is None:
            self.drain(list(self.workers), done)
            return
        finish = self._drain.finish  # a vCPU resets the device, or a queue of it, and waits as well

        def both() -> None:
            finish()
            self.ctx.loop.post(self._wind_down_rest, done)  # this may be the vCPU's thread

        self._drain.finish = both

    @on_loop
    def _wind_down_rest(self, done: Callable[[], None]) -> None:
        with self.ctx.lock:
            self.wind_down(done)

    @on_loop
    def _stop_workers(self, drain: _Drain) -> None:
        def one_done() -> None:
            drain.left -= 1
            if not drain.left:
                drain.finished = True
                drain.handshake.done()
                if drain.late:
                    with self.ctx.lock:
                        self._finish(drain)

        for worker in drain.workers:
            worker.stop(one_done)

    def _finish(self, drain: _Drain) -> None:
        if self._drain is drain:
            self._drain = None
            drain.finish()
            self._follow_bus_mastering()

    def _follow_bus_mastering(self) -> None:
        """Another vCPU, or the driver after it gave up waiting, may have switched it while queues were handed back."""
        if not self.transport.dma.regions:
            self.suspend()
        elif self.status & _DRIVER_OK:
            self.activate()

    # -- trouble and change --------------------------------------------------------------------------------

    @on_loop
    def worker_failed(self, worker: QueueWorker, reason: str) -> None:
        """A worker met a broken ring: DEVICE_NEEDS_RESET (§2.1.2). Loop, without the lock."""
        with self.ctx.lock:
            if worker in self.workers.values():
                self._fail(reason)

    @on_loop
    def log_defect(self, message: str, *args: object) -> None:
        """An exception that no guest should be able to cause; its traceback is logged."""
        if not self._defect_told:  # LIMIT: one a device, a guest that resets it can have any number
            self._defect_told = True
            self.log.exception(message, *args)

    @locked
    def _fail(self, reason: str) -> None:
        if VIRTIO_BROKEN.on:
            VIRTIO_BROKEN(self.transport.name, reason)
        if GUEST_ERRORS.on:
            GUEST_ERRORS(f"{self.transport.name}: {reason}")
        if not self._warned:  # LIMIT: one line a device, guests can cause any number
            self._warned = True
            self.log.warning("guest error: %s; the device waits for a reset", reason)
        self.broken = True
        if self.driver_features & F_VERSION_1:
            self.status |= _NEEDS_RESET
            if self.status & _DRIVER_OK:
                self.transport.interrupt_config()

    @locked
    def config_changed(self) -> None:
        """Device configuration changed by itself: new generation, interrupt when a driver is there (§2.5)."""
        self.config_generation = (self.config_generation + 1) & 0xFF
        if self.status & _DRIVER_OK:
            self.transport.interrupt_config()

    @any_thread
    def kick_queue(self, index: int) -> None:
        """A notification that came by an exit instead of a doorbell; any number of them is one on the loop. Lock
        held."""
        if index in self.workers and index not in self._kicked:
            self._kicked.add(index)
            self.ctx.loop.post(self._kick, index)

    @on_loop
    def _kick(self, index: int) -> None:
        # ORDERING: forget it first, then look at the ring; the driver makes a chain available, then notifies
        self._kicked.discard(index)
        worker = self.workers.get(index)
        if worker is not None:
            worker.kick()
