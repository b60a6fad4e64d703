# SPDX-License-Identifier: Apache-2.0
"""A queue whose ring is served outside vmmd (vhost): the worker that hands it over and takes it back.

Notifications: the doorbell writes to ``kick_fd``; where the kernel has no doorbell, ``kick`` does. Interrupts: the back
end writes to ``call_fd``, which KVM turns into the queue's MSI-X message (irqfd) as long as that is all there is to it;
while the vector is masked, or the interrupt is a pin, the loop reads it and does what the device would have done.
Neither loses a write when the two change places: it stays in the eventfd, and each looks there first.

A stopped VM (``pause``) has its rings back; ``resume`` gives them away again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vmmd.core.affinity import any_thread, locked, on_loop
from vmmd.core.trace_events import VIRTIO_QUEUE_NOTIFY
from vmmd.core.vhost import VhostRing
from vmmd.devices.virtio.queue import RingError, VirtQueue
from vmmd.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vmmd.core.irq import MsiRoute
    from vmmd.core.vhost import VhostBackend
    from vmmd.devices.virtio.device import VirtioDevice


class CallLine:
    """The eventfd by which a back end interrupts for one queue. Made with the DeviceLock held."""

    def __init__(self, device: VirtioDevice, index: int) -> None:
        self.fd = _eventfd()
        self._device = device
        self._index = index
        self._route: MsiRoute | None = None
        self._watched = False  # by the loop, as it knows
        self._wanted = False  # that it is to be
        self._closed = False
        self.follow()

    @locked
    def follow(self) -> None:
        """Bind to the queue's message of now, or let the loop read."""
        if not self._closed:
            message = self._device.transport.queue_message(self._index)
            if message is None:
                self._unbind()
            elif self._route is not None:
                self._route.update(*message)
            else:
                self._bind(message)
            self._have_it_watched(self._route is None)

    def _bind(self, message: tuple[int, int]) -> None:
        try:
            self._route = self._device.ctx.interrupts.bind_msi(self.fd, *message)
        except BackendError:
            pass  # controllers in user space, or no route left: by the loop

    def _unbind(self) -> None:
        if self._route is not None:
            self._route.close()
            self._route = None

    def _have_it_watched(self, wanted: bool) -> None:
        """Have the loop read while nobody else does. A guest may switch often: only changes are told."""
        if wanted is not self._wanted:
            self._wanted = wanted
            self._device.ctx.loop.post(self._watch)

    @on_loop
    def _watch(self) -> None:
        if self._wanted is not self._watched:
            self._watched = self._wanted
            if self._watched:
                self._device.ctx.loop.add_reader(self.fd, self._called)
            else:
                self._device.ctx.loop.remove_reader(self.fd)

    @on_loop
    def _called(self) -> None:
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return  # it went by irqfd
        if not self._closed:
            self._device.counters[self._index].interrupts += 1
            self._device.transport.interrupt_queue(self._index)

    @locked
    def close(self) -> None:
        """Any thread. Idempotent."""
        if not self._closed:
            self._closed = True
            self._wanted = False
            self._unbind()
            self._device.ctx.loop.post(self._end)

    @on_loop
    def _end(self) -> None:
        self._watch()
        os.close(self.fd)


class VhostWorker:
    """QueueWorker of a ring that ``vhost`` serves. Loop thread, without the lock, unless stated."""

    def __init__(
        self, device: VirtioDevice, index: int, ring: VirtQueue, vhost: VhostBackend, *, paused: bool = False
    ) -> None:
        """Lock held. ``index`` is the back end's too. Raises RingError when the host has no descriptors left."""
        self.ring = ring
        self._device = device
        self._index = index
        self._vhost = vhost
        self._paused = paused
        self._out = False  # the back end has the ring
        self._began = False  # and serves it, as far as it lives
        self._closed = False
        self._waiting: list[Callable[[], None]] = []  # for the ring's return
        queue, memory = device.queues[index], device.transport.dma
        # SAFETY: VirtQueue has checked that the rings lie in RAM, which lives longer than any worker
        self._hva = (
            memory.hva(queue.desc_gpa, 16 * ring.size),
            memory.hva(queue.avail_gpa, 6 + 2 * ring.size),
            memory.hva(queue.used_gpa, 6 + 8 * ring.size),
        )
        try:
            self.kick_fd = _eventfd()
        except OSError as error:
            raise RingError(f"no eventfd for it: {error.strerror}") from None
        try:
            self._call = CallLine(device, index)
        except OSError as error:
            os.close(self.kick_fd)
            raise RingError(f"no eventfd for it: {error.strerror}") from None

    # -- QueueWorker -----------------------------------------------------------------------------------------

    def kick(self) -> None:
        """A notification that came by an exit."""
        if VIRTIO_QUEUE_NOTIFY.on:
            VIRTIO_QUEUE_NOTIFY(self._device.transport.name, self._index)
        self._device.counters[self._index].notifications += 1
        if not self._closed:
            os.eventfd_write(self.kick_fd, 1)

    def look(self) -> None:
        """Give the ring away, unless that has been done."""
        if self._out or self._paused or self._closed:
            return
        # ORDERING: ``activate`` holds the lock until the looks of all its queues are posted, so that the back end is
        # not told that all is set up when it has the first of them only
        with self._device.ctx.lock:
            self._out = True
        self._began = False
        self.ring.hand_over()
        device = self._device
        features = device.driver_features & (device.offered | device.offered_legacy)
        fds = self.kick_fd, self._call.fd
        self._vhost.start_ring(VhostRing(self._index, self.ring.size, *self._hva, *fds, features, self._position))

    def _position(self) -> int:
        if self._began:  # and the back end that did was lost
            self.ring.taken_back(None)
        self._began = True
        # a back end may begin with the first notification; who had the ring before may have taken the driver's
        os.eventfd_write(self.kick_fd, 1)
        return self.ring.last_avail

    def stop(self, done: Callable[[], None]) -> None:
        def end() -> None:
            with self._device.ctx.lock:
                self._close()
            done()

        self._take_back(end)

    @locked
    def abandon(self) -> None:
        if self._out:
            self._out = False
            self._vhost.drop_ring(self._index)
            self.ring.taken_back(None)
        self._close()

    @any_thread
    def interrupt_changed(self) -> None:
        """Lock held."""
        self._call.follow()

    # -- the VM stops and runs -------------------------------------------------------------------------------

    def pause(self, done: Callable[[], None]) -> None:
        """The ring comes back, and stays until ``resume``; ``done()`` then."""
        self._paused = True
        self._take_back(done)

    def resume(self) -> None:
        self._paused = False
        self.look()

    def _take_back(self, done: Callable[[], None]) -> None:
        if not self._out:
            done()
            return
        self._waiting.append(done)
        if len(self._waiting) == 1:
            self._vhost.stop_ring(self._index, self._came_back)

    def _came_back(self, last_avail: int | None) -> None:
        waiting, self._waiting = self._waiting, []
        if self._out:  # else it was abandoned meanwhile
            self._out = False
            self.ring.taken_back(last_avail)
        for done in waiting:
            done()

    @locked
    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._call.close()
            self._device.ctx.loop.post(os.close, self.kick_fd)


def pause_all(workers: Iterable[object], done: Callable[[], None]) -> None:
    """``done()`` when every VhostWorker among ``workers`` has its ring back. Loop thread, without the lock."""
    outside = [each for each in workers if isinstance(each, VhostWorker)]
    left = len(outside)
    if not left:
        done()
        return

    def one_back() -> None:
        nonlocal left
        left -= 1
        if not left:
            done()

    for each in outside:
        each.pause(one_back)


def _eventfd() -> int:
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
