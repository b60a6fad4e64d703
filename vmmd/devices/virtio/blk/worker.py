# SPDX-License-Identifier: Apache-2.0
"""virtio-blk: the loop's side of one active queue, from doorbell to interrupt (architecture §6).

Everything here runs on the event loop without the DeviceLock. A request in flight is a tuple in ``_slots`` at the index
of its head descriptor: a driver may not reuse a head before it got it back, so there are never more than the
queue's size. The common request, three buffers with header, data and status in one RAM region, takes the short way in
``_submit``; everything else goes through ``request.parse``. Neighbouring requests of one batch become one call of
the backend (request-merging).
"""

from __future__ import annotations

import errno
import os
from functools import partial
from time import monotonic_ns
from typing import TYPE_CHECKING

from vmmd.core.events import BlockIoErrorEvent
from vmmd.core.memory import GuestAddressError
from vmmd.core.trace import GUEST_ERRORS, UNIMP
from vmmd.core.trace_events import VIRTIO_QUEUE_NOTIFY
from vmmd.devices.virtio.blk.request import DATA_BYTES_MAX, HEADER_BYTES, Answer, BadRequest, BlkRequest, Kind, parse
from vmmd.devices.virtio.chain import resolve
from vmmd.devices.virtio.queue import RingError, VirtQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.backend import BlockBackend, IoDone
    from vmmd.devices.virtio.blk.device import VirtioBlk
    from vmmd.devices.virtio.chain import Chain

#: chains taken from the ring at once (safety.md P5)
BATCH = 64
#: after a batch that ends later than this, others on the loop have their turn
TURN_NS = 100_000
#: looks at the ring after the last batch before notifications are enabled again: adaptive between the two
POLL_MIN, POLL_MAX = 2, 128
#: every so many doorbells the longest look is tried, to find out whether it would pay off
POLL_TRIAL = 16
#: bounds of a merged transfer
MERGE_BUFFERS_MAX = 512

_IN, _OUT = int(Kind.IN), int(Kind.OUT)
_KIND_MASK = 0x7FFF_FFFF

#: kind of a request that is answered without the backend; its status byte is stored already
_ANSWERED = -1

#: (head, used length, kind, view holding the status byte, its index there, offset, buffers, length in bytes, start ns,
#: may_unmap)
Slot = tuple[int, int, int, memoryview, int, int, "list[memoryview]", int, int, bool]


class BlkWorker:
    """Handler of one active virtio-blk queue."""

    __slots__ = (
        "_batching", "_blk", "_completed", "_counters", "_dones", "_flush_posted", "_home", "_index", "_kicks",
        "_memory", "_pinned", "_poll_limit", "_scheduled", "_slots", "_stop_done", "closed", "in_flight", "parked",
        "ring", "stale",
    )  # fmt: skip

    def __init__(self, blk: VirtioBlk, index: int, ring: VirtQueue) -> None:
        self._blk = blk
        self._index = index
        self._counters = blk.counters[index]
        self.ring = ring
        self._memory = blk.transport.dma
        #: the RAM region that the short way serves: first the largest, then where the last other request lay
        self._home = max(self._memory.regions, key=lambda region: region.size_bytes)
        self._slots: list[Slot | None] = [None] * ring.size
        self._dones: list[IoDone | None] = [None] * ring.size
        self._completed: list[Slot] = []  # to be published
        self._batching = False
        self._scheduled = False
        self._flush_posted = False
        self._poll_limit = POLL_MIN
        self._kicks = 0
        self._stop_done: Callable[[], None] | None = None
        self._pinned: BlockBackend | None = None  # whose requests are in flight though nobody waits for them
        self.in_flight = 0  # requests that the backend works on
        self.parked: list[int] = []  # heads of failed requests that wait for the VM to run again
        self.closed = False  # takes no more chains: stopped, or its ring is broken
        self.stale = False  # the machine was reset: completions are dropped

    # -- from the ring -------------------------------------------------------------------------------------

    def kick(self) -> None:
        if VIRTIO_QUEUE_NOTIFY.on:
            VIRTIO_QUEUE_NOTIFY(self._blk.transport.name, self._index)
        self._counters.notifications += 1
        self.look()

    def look(self) -> None:
        """Take and start everything the driver made available, a bounded amount a turn."""
        self._scheduled = False
        if self.closed or self._blk.paused:
            return
        self._kicks += 1
        if not self._kicks % POLL_TRIAL:
            self._poll_limit = POLL_MAX
        self._batching = True
        try:
            self._drain_ring()
        except RingError as error:
            self.closed = True
            self._blk.worker_failed(self, f"queue {self._index}: {error}")
        except Exception:  # a bug: this device is broken, the loop and the others go on (safety.md P7)
            self._blk.log_defect("queue %d: a request could not be started", self._index)
            self.closed = True
            self._blk.worker_failed(self, f"queue {self._index}: the device has failed, see the log")
        finally:
            self._batching = False
            if self._completed:
                self.flush()

    def _drain_ring(self) -> None:
        ring = self.ring
        end_ns = monotonic_ns() + TURN_NS
        ring.disable_notify()
        while True:
            chains = ring.pop_batch(BATCH)
            if chains:
                self._submit(chains)
                if self._completed:
                    self.flush()
                if monotonic_ns() > end_ns:  # others on the loop have their turn; notifications stay off
                    self._schedule()
                    return
            elif not self._poll():
                if not ring.enable_notify():
                    return
                ring.disable_notify()

    def _poll(self) -> bool:
        """Look again for a moment; longer where that paid off lately (bench/FLOOR.md: what follows, 4)."""
        has_work = self.ring.has_work
        for _ in range(self._poll_limit):
            if has_work():
                self._poll_limit = min(2 * self._poll_limit, POLL_MAX)
                return True
        self._poll_limit = max(self._poll_limit >> 1, POLL_MIN)
        return False

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._blk.ctx.loop.post(self.look)

    def _submit(self, chains: list[Chain]) -> None:
        """Start a batch. The hot loop, one level on purpose: the short way calls nothing but the backend."""
        blk, slots, home = self._blk, self._slots, self._home
        base, end, data, qwords = home.gpa, home.end, home.bytes_, home.qwords
        mask, disk_end, merge, writable = blk.block_mask, blk.size_bytes, blk.options.merge, not blk.options.read_only
        dones, starts, now = self._dones, (blk.backend.readv, blk.backend.writev), monotonic_ns()
        long_kind = _OUT if blk.flush_after_write else -1  # what only _transfer can start
        run: list[int] = []  # heads of a transfer not started yet
        run_kind, run_offset, run_end = -1, 0, -1
        buffers: list[memoryview] = []
        for chain in chains:
            if len(chain) == 8:
                head, readable, gpa0, length0, gpa1, length1, gpa2, length2 = chain
                if (
                    length0 == HEADER_BYTES and length2 == 1 and not gpa0 & 7
                    and base <= gpa0 and gpa0 + HEADER_BYTES <= end
                    and base <= gpa1 and gpa1 + length1 <= end and base <= gpa2 < end
                ):  # fmt: skip
                    at = (gpa0 - base) >> 3
                    kind = qwords[at] & _KIND_MASK
                    offset = qwords[at + 1] << 9
                    if (
                        kind == readable - 1 and (kind == _IN or (kind == _OUT and writable))
                        and not (offset | length1) & mask and offset + length1 <= disk_end
                        and length1 <= DATA_BYTES_MAX and slots[head] is None
                    ):  # fmt: skip
                        view = data[gpa1 - base : gpa1 - base + length1]
                        used = 1 if kind else length1 + 1
                        if merge and kind == run_kind and offset == run_end and len(buffers) < MERGE_BUFFERS_MAX:
                            run.append(head)
                            buffers.append(view)
                            run_end += length1
                            slots[head] = (head, used, kind, data, gpa2 - base, offset, [view], length1, now, False)
                            continue
                        if len(run) == 1 and run_kind != long_kind:  # _transfer, without the call
                            first = run[0]
                            self.in_flight += 1
                            starts[run_kind](run_offset, buffers, dones[first] or self._make_done(first))
                        elif run:
                            self._transfer(run_kind, run_offset, buffers, run)
                        run, run_kind, run_offset, run_end, buffers = [head], kind, offset, offset + length1, [view]
                        slots[head] = (head, used, kind, data, gpa2 - base, offset, buffers, length1, now, False)
                        continue
            if run:
                self._transfer(run_kind, run_offset, buffers, run)
                run, run_kind, run_end = [], -1, -1
            self._submit_any(chain, now)
            home = self._home
            base, end, data, qwords = home.gpa, home.end, home.bytes_, home.qwords
        if run:
            self._transfer(run_kind, run_offset, buffers, run)

    def _transfer(self, kind: int, offset: int, buffers: list[memoryview], heads: list[int]) -> None:
        """Hand one transfer to the backend for the requests ``heads``, whose ranges follow each other."""
        blk = self._blk
        self.in_flight += len(heads)
        done: IoDone | None
        if len(heads) > 1:
            # the first slot's list became the whole transfer's; a retry is of single requests
            first = self._slots[heads[0]]
            if first is not None:
                self._slots[heads[0]] = (*first[:6], buffers[:1], *first[7:])
            done = partial(self._run_done, heads)
            if kind == _IN:
                blk.stats.rd_merged += len(heads) - 1
            else:
                blk.stats.wr_merged += len(heads) - 1
        else:
            done = self._dones[heads[0]] or self._make_done(heads[0])
        if kind == _IN:
            blk.backend.readv(offset, buffers, done)
        else:
            if blk.flush_after_write:
                done = partial(self._write_done, heads)
            blk.backend.writev(offset, buffers, done)

    def _make_done(self, head: int) -> IoDone:
        done = self._dones[head] = partial(self._complete, head)
        return done

    def _submit_any(self, chain: Chain, now: int) -> None:
        """The long way: any shape, any kind."""
        head = chain[0]
        if self._slots[head] is not None:
            raise RingError(f"descriptor {head} is made available again while in flight")
        request = parse(chain, self._memory)
        home = self._home = self._memory.find(request.status_gpa, 1)
        view, at = home.bytes_, request.status_gpa - home.gpa
        try:
            plan = self._plan(request)
            if plan is None:
                view[at] = Answer.OK
        except BadRequest as bad:
            self._count_invalid(request.kind)
            self._report_bad(request, bad.answer)
            view[at] = bad.answer
            plan = None
        if plan is None:
            self._completed.append((head, request.written, _ANSWERED, view, at, 0, [], 0, now, False))
            return
        offset, buffers, length, may_unmap = plan
        slot = (head, request.written, request.kind, view, at, offset, buffers, length, now, may_unmap)
        self._slots[head] = slot
        self._start(slot)

    def _report_bad(self, request: BlkRequest, answer: Answer) -> None:
        """A request that the driver should not have made."""
        item = UNIMP if answer is Answer.UNSUPP else GUEST_ERRORS
        if item.on:
            what = f"request of type {request.kind} at sector {request.sector}: {answer.name}"
            item(f"{self._blk.transport.name}: queue {self._index}: {what}")

    def _plan(self, request: BlkRequest) -> tuple[int, list[memoryview], int, bool] | None:
        """What to ask of the backend: (offset, buffers, length, may_unmap); None: nothing, it is well. Raises
        BadRequest."""
        kind, limits, memory = request.kind, self._blk.limits, self._memory
        if kind in (_IN, _OUT):
            offset, length, buffers = limits.transfer(request, memory)
            if kind == _OUT and self._blk.options.read_only:
                raise BadRequest(Answer.IOERR)
            if length:
                return offset, buffers, length, False
        elif kind == Kind.FLUSH:
            return 0, [], 0, False
        elif kind in (Kind.DISCARD, Kind.WRITE_ZEROES):
            segment = limits.segment(request, memory)
            if self._blk.options.read_only:
                raise BadRequest(Answer.IOERR)
            if segment.length and (kind == Kind.WRITE_ZEROES or self._blk.backend.supports_discard):
                return segment.offset, [], segment.length, segment.may_unmap
        elif kind == Kind.GET_ID:
            self._write_id(request)
        else:
            raise BadRequest(Answer.UNSUPP)
        return None

    def _write_id(self, request: BlkRequest) -> None:
        """The serial number, padded with zeroes (§5.2.6)."""
        try:
            views = resolve(self._memory, request.writable, writable=True)
        except GuestAddressError:
            raise BadRequest(Answer.IOERR) from None
        rest = self._blk.serial
        for view in views:
            part = rest[: len(view)]
            view[: len(part)] = part
            rest = rest[len(part) :]

    def _start(self, slot: Slot) -> None:
        """Hand one request to the backend, first time or again."""
        head, _, kind, _, _, offset, buffers, length, _, may_unmap = slot
        if kind in (_IN, _OUT):
            self._transfer(kind, offset, buffers, [head])
            return
        self.in_flight += 1
        backend = self._blk.backend
        done = self._dones[head] or self._make_done(head)
        if kind == Kind.FLUSH:
            backend.flush(done)
        elif kind == Kind.DISCARD:
            backend.discard(offset, length, done)
        else:
            if self._blk.flush_after_write:
                done = partial(self._write_done, [head])
            backend.write_zeroes(offset, length, may_unmap, done)

    # -- from the backend ----------------------------------------------------------------------------------

    def _complete(self, head: int, error: int) -> None:
        """One request has ended: 0 or an errno."""
        self.in_flight -= 1
        slot = self._slots[head]
        if slot is None or self.stale:
            self._unpin()
            return
        if not error or self._ignored(slot, error):
            self._slots[head] = None
            self._completed.append(slot)
        if not self._batching:
            self._settle()

    def _run_done(self, heads: list[int], error: int) -> None:
        """A merged transfer has ended; its error is everyone's."""
        batching, self._batching = self._batching, True
        for head in heads:
            self._complete(head, error)
        self._batching = batching
        if not batching:
            self._settle()

    def _write_done(self, heads: list[int], error: int) -> None:
        """A write whose data must be durable before the driver is told (no write cache)."""
        if error or self.stale:
            self._run_done(heads, error)
        else:
            self._blk.backend.flush(partial(self._run_done, heads))

    def _settle(self) -> None:
        """After completions outside a batch: publish them now when nothing else is on its way, else soon, together."""
        if self._batching:
            return
        if not self.in_flight:
            self.flush()
            if self._stop_done is not None:
                self._stopped()
            self._blk.check_idle()
        elif self._completed and not self._flush_posted:
            self._flush_posted = True
            self._blk.ctx.loop.post(self.flush)

    def flush(self) -> None:
        """Publish what has completed, and interrupt if the driver wants it."""
        self._flush_posted = False
        completed = self._completed
        if completed and not self.stale:
            self._completed = []
            self._answer(completed)
            ring = self.ring
            ring.push_batch(completed)
            self._counters.requests += len(completed)
            if ring.publish():
                self._counters.interrupts += 1
                self._blk.transport.interrupt_queue(self._index)

    def _answer(self, completed: list[Slot]) -> None:
        """Store the status bytes and account, in one pass."""
        now = monotonic_ns()
        stats = self._blk.stats
        reads = read_bytes = read_ns = writes = write_bytes = write_ns = 0
        highest = stats.wr_highest_offset
        for slot in completed:
            _, _, kind, view, at, offset, _, length, start, _ = slot
            if kind == _IN:
                view[at] = 0
                reads += 1
                read_bytes += length
                read_ns += now - start
            elif kind == _OUT:
                view[at] = 0
                writes += 1
                write_bytes += length
                write_ns += now - start
                if offset + length > highest:
                    highest = offset + length
            elif kind != _ANSWERED:
                view[at] = 0
                self._account_other(slot, now)
        if reads:
            stats.rd_ops += reads
            stats.rd_bytes += read_bytes
            stats.rd_ns += read_ns
        if writes:
            stats.wr_ops += writes
            stats.wr_bytes += write_bytes
            stats.wr_ns += write_ns
            stats.wr_highest_offset = highest

    def _ignored(self, slot: Slot, error: int) -> bool:
        """Apply rerror/werror to a failed request; True when it is to be reported as a success."""
        blk, head, kind = self._blk, slot[0], slot[2]
        reading = kind == _IN
        self._count_failed(kind)
        policy = blk.rerror if reading else blk.werror
        if policy == "enospc":
            policy = "stop" if error == errno.ENOSPC else "report"
        blk.ctx.events.emit(
            BlockIoErrorEvent(
                device=blk.drive.name,
                node_name=blk.drive.node_name,
                operation="read" if reading else "write",
                action=policy,
                nospace=None if blk.drive.io_status is None else error == errno.ENOSPC,
                reason=os.strerror(error),
            )
        )
        if policy == "ignore":
            return True
        if policy == "stop":
            self.parked.append(head)
            blk.drive.io_status = "nospace" if error == errno.ENOSPC else "failed"
            blk.ctx.requests.request_io_error_stop()
        else:
            self._slots[head] = None
            slot[3][slot[4]] = Answer.IOERR
            self._completed.append((*slot[:2], _ANSWERED, *slot[3:]))
        return False

    # -- life ----------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """The VM runs again: retry what failed, take what waits."""
        parked, self.parked = self.parked, []
        for head in parked:
            slot = self._slots[head]
            if slot is not None and not self.closed:
                self._start(slot)
        self.look()

    def stop(self, done: Callable[[], None]) -> None:
        self.closed = True
        self.parked.clear()
        self.flush()
        self._stop_done = done
        if not self.in_flight:
            self._stopped()

    def _stopped(self) -> None:
        done, self._stop_done = self._stop_done, None
        if self in self._blk.live:
            self._blk.live.remove(self)
        if done is not None:
            done()

    def abandon(self) -> None:
        self.closed = self.stale = True

    def pin(self, backend: BlockBackend) -> None:
        """Abandoned with requests in flight: the image must not be closed under them."""
        if self.in_flight and self._pinned is None:
            self._pinned = backend
            backend.pin()

    def _unpin(self) -> None:
        if self._pinned is not None and not self.in_flight:
            self._pinned.unpin()
            self._pinned = None

    # -- statistics ----------------------------------------------------------------------------------------

    def _account_other(self, slot: Slot, now: int) -> None:
        stats, kind, length = self._blk.stats, slot[2], slot[7]
        elapsed = now - slot[8]
        if kind == Kind.FLUSH:
            stats.flush_ops += 1
            stats.flush_ns += elapsed
        elif kind == Kind.DISCARD:
            stats.unmap_ops += 1
            stats.unmap_bytes += length
            stats.unmap_ns += elapsed
        else:
            stats.wr_ops += 1
            stats.wr_bytes += length
            stats.wr_ns += elapsed

    def _count_failed(self, kind: int) -> None:
        stats = self._blk.stats
        if kind == _IN:
            stats.failed_rd += 1
        elif kind == Kind.FLUSH:
            stats.failed_flush += 1
        elif kind == Kind.DISCARD:
            stats.failed_unmap += 1
        else:
            stats.failed_wr += 1

    def _count_invalid(self, kind: int) -> None:
        stats = self._blk.stats
        if kind == _IN:
            stats.invalid_rd += 1
        elif kind == Kind.DISCARD:
            stats.invalid_unmap += 1
        elif kind in (_OUT, Kind.WRITE_ZEROES):
            stats.invalid_wr += 1
