# SPDX-License-Identifier: Apache-2.0
"""Vm: one virtual machine, its run state, and the operations that change it (stop, cont, reset, shutdown).

Every operation runs on the loop, one at a time (``_Turnstile``). Stop, reset and quit are the same quiesce with
different endings: vCPUs leave the guest and finish half-done I/O, virtual time stands still, devices drain what is
in flight; then the new state is entered and its event is sent (architecture §10).
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from vmmd.core.address_space import AddressSpace
from vmmd.core.clock import VirtualClock
from vmmd.core.device import ResetKind, ShutdownCause
from vmmd.core.event_ring import EventRing
from vmmd.core.events import (
    GuestPanickedEvent,
    PowerdownEvent,
    ResetEvent,
    ResumeEvent,
    ShutdownEvent,
    StopEvent,
    WatchdogEvent,
)
from vmmd.core.fdsets import FdSets
from vmmd.core.input import InputRouter
from vmmd.core.lock import DeviceLock
from vmmd.core.memory import GuestMemory
from vmmd.core.trace_events import (
    QDEV_RESET,
    QEMU_SYSTEM_POWERDOWN_REQUEST,
    QEMU_SYSTEM_SHUTDOWN_REQUEST,
    RUNSTATE_SET,
    VM_STATE_NOTIFY,
)
from vmmd.core.tree import Folder, Node, ObjectTree
from vmmd.errors import StateError, VmmdError
from vmmd.log import get_logger
from vmmd.machine.chardevs import Chardevs
from vmmd.machine.objects.store import ObjectStore
from vmmd.machine.requests import Requests
from vmmd.runstate import RunState, RunStateMachine
from vmmd.units import NS_PER_S

if TYPE_CHECKING:
    import threading
    from collections.abc import AsyncIterator, Callable

    from vmmd.block.graph import BlockGraph
    from vmmd.core.backend import CharBackend
    from vmmd.core.balloon import BalloonSlot
    from vmmd.core.clock import MachineClock
    from vmmd.core.device import Device
    from vmmd.core.events import EventSink
    from vmmd.core.irq import Chips, GsiFanIn
    from vmmd.core.jobs import Job
    from vmmd.core.notify import Cancellable, LoopPort, Promise
    from vmmd.devices.pci.bus import PciBus
    from vmmd.kvm.cpu_query import CpuModels
    from vmmd.machine.cpus import VcpuManager
    from vmmd.machine.hotplug import Plugger
    from vmmd.machine.memory_map import MemoryMap
    from vmmd.machine.requests import Pending
    from vmmd.machine.still_cpus import StillCpus
    from vmmd.net.network import Network
    from vmmd.options.models import Config

log = get_logger("vmmd.machine")

#: how long a reset waits for the requests of a device that is to be unplugged
RESET_PATIENCE_NS = 5 * NS_PER_S


def _give_back(closer: Callable[[], None]) -> None:
    """One of many: what fails is logged, and the others follow."""
    try:
        closer()
    except Exception:
        log.exception("at the end of the machine")


def _log_failure(error: Exception | None) -> None:
    if error is not None:
        log.error("a watchdog could not interrupt the vCPUs: %s", error)


class EventRelay:
    """Events go to the monitor server once there is one; before, nobody can be listening."""

    def __init__(self) -> None:
        self.sink: EventSink | None = None

    def emit(self, instance: tuple[object, ...]) -> None:
        if self.sink is not None:
            self.sink.emit(instance)


def _report_state(old: RunState, new: RunState) -> None:
    """The run state has changed."""
    if RUNSTATE_SET.on:
        RUNSTATE_SET(old.value, new.value)
    if VM_STATE_NOTIFY.on and RunState.RUNNING in (old, new):
        VM_STATE_NOTIFY(int(new is RunState.RUNNING), new.value)


class _Turnstile:
    """Lets one operation through at a time, in order."""

    def __init__(self, loop: LoopPort) -> None:
        self._loop = loop
        self._busy = False
        self._waiting: list[Promise] = []

    async def __aenter__(self) -> None:
        if self._busy:
            turn = self._loop.create_future()
            self._waiting.append(turn)
            await turn
        self._busy = True

    async def __aexit__(self, *exc: object) -> None:
        if self._waiting:
            self._waiting.pop(0).set_result(None)  # stays busy: the turn is handed over
        else:
            self._busy = False


class Vm:
    """The machine as monitors and the daemon see it. Attributes are filled by ``machine.build``."""

    def __init__(self, config: Config, loop: LoopPort) -> None:
        self.config = config
        self.loop = loop
        self.lock: threading.Lock = DeviceLock()
        self.runstate = RunStateMachine()
        self.runstate.observe(_report_state)
        self.events = EventRelay()
        self.event_ring = EventRing()  # filled by the monitor server with what it sends
        #: an accelerator under which time does not pass by itself puts another in its place before devices are made
        self.clock: MachineClock = VirtualClock(loop, self.lock)
        self.inputs = InputRouter(lambda: self.clock, lambda: self.runstate.running)
        self.memory = GuestMemory()
        self.pio = AddressSpace("io", 1 << 16)
        self.mmio = AddressSpace("memory", 1 << 52)
        self.requests = Requests(self._wake_for_requests)
        self.clock.on_failure = self.requests.request_internal_error
        self.qom = ObjectTree()
        self.objects = ObjectStore(self.qom, config)
        self.memory_map: MemoryMap | None = None
        self.cpus: VcpuManager | StillCpus | None = None
        self.pci: PciBus | None = None
        self.balloon: BalloonSlot | None = None  # None: machine none
        self.devices: list[Device] = []
        #: interrupt controllers in the kernel, and the lines of devices that lead to them
        self.chips: Chips | None = None
        self.irqs: GsiFanIn | None = None
        self.fdsets = FdSets()
        self.chardevs = Chardevs(loop, self.lock, self.fdsets)
        self.qom.root.add(
            "chardevs", Folder(lambda: self.chardevs, lambda each: Node(f"chardev-{each.config.backend}"))
        )
        self.block: BlockGraph | None = None
        self.net: Network | None = None
        #: plugs and unplugs devices; None where there is no bus (-machine none)
        self.plugger: Plugger | None = None
        self.accelerator: str | None = None  # name of the one in use
        self.cpu_models: CpuModels  # from the moment that KVM is open, or known not to be there
        self.jobs: dict[str, Job] = {}
        #: LIMIT: migrations, which would send events then, come later
        self.migration_events = False
        self.preconfig = False  # the machine is not built yet (-preconfig)
        self._deferred_build: Callable[[], None] | None = None
        self.press_power_button: Callable[[], None] | None = None
        #: brings memory and vCPUs to power-on state after the devices; set by the board
        self.reset_board: Callable[[], None] | None = None
        #: called once with the exit status when the process shall end
        self.on_end: Callable[[int], None] | None = None
        self.end_cause = ShutdownCause.NONE
        self._turn = _Turnstile(loop)
        self._closers: list[Callable[[], None]] = []
        self._ended = False
        self._serving = False
        self._starting = False  # running by its state; the vCPUs start in the loop's next turn

    def put_off(self, build: Callable[[], None]) -> None:
        """``build`` makes the machine when ``exit_preconfig`` says so."""
        self._deferred_build = build
        self.preconfig = True

    def exit_preconfig(self) -> None:
        """Build the machine, and run it unless -S says otherwise. Raises VmmdError; the process can only end then."""
        build, self._deferred_build = self._deferred_build, None
        self.preconfig = False
        if build is not None:
            build()

    @property
    def kvm_enabled(self) -> bool:
        """KVM runs the guest."""
        return self.accelerator == "kvm"

    @property
    def name(self) -> str | None:
        """``-name guest=``."""
        return self.config.name.guest

    @property
    def uuid(self) -> str | None:
        """``-uuid``."""
        return self.config.uuid

    @property
    def ram_bytes(self) -> int:
        """RAM of the guest; machine ``none`` has some only if it is asked for."""
        config = self.config
        if config.machine.type == "none" and not (config.memory.given or config.machine.memory_backend):
            return 0
        return config.memory.size_bytes

    # --- operations -----------------------------------------------------------------------------------------

    async def stop(self, state: RunState = RunState.PAUSED) -> None:
        """Stop the vCPUs; a VM that does not run stays as it is. When it returns, nothing is in flight."""
        async with self._turn:
            await self._stop(state)

    async def cont(self) -> None:
        """Run. Raises StateError when only a reset helps."""
        async with self._turn:
            if self.runstate.needs_reset:
                # QEMU-COMPAT: libvirt shows this sentence to users
                raise StateError("Resetting the Virtual Machine is required")
            self._start()

    async def system_reset(self, cause: ShutdownCause = ShutdownCause.HOST_QMP_SYSTEM_RESET) -> None:
        """Reset the machine; with -no-reboot it is a shutdown instead."""
        async with self._turn:
            await self._reset(cause)

    def system_powerdown(self) -> None:
        """Press the ACPI power button."""
        if QEMU_SYSTEM_POWERDOWN_REQUEST.on:
            QEMU_SYSTEM_POWERDOWN_REQUEST()
        self.events.emit(PowerdownEvent())
        if self.press_power_button is not None:
            with self.lock:
                self.press_power_button()

    def set_action(self, name: str, action: str) -> None:
        """What happens from now on when the guest does ``name`` (reboot, shutdown, panic, watchdog); as ``-action``."""
        setattr(self.config.action, name, action)

    def forget_lost_ticks(self) -> None:
        """No clock makes up for the ticks that it could not deliver so far (lost_tick_policy=slew)."""
        with self.lock:
            for device in self.devices:
                device.forget_lost_ticks()

    async def quit(self, cause: ShutdownCause = ShutdownCause.HOST_QMP_QUIT) -> None:
        """End the process with status 0, whatever -no-shutdown says."""
        async with self._turn:
            await self._end(cause, 0)

    @asynccontextmanager
    async def at_rest(self) -> AsyncIterator[None]:
        """Inside, no vCPU runs, nothing is in flight, and no other operation begins; the guest is not told."""
        async with self._turn:
            was_running = self.runstate.running
            if was_running:
                await self._quiesce()
            try:
                yield
            finally:
                if was_running:
                    self._unquiesce()

    def block_graph(self) -> BlockGraph:
        """The disks; made when there was none."""
        if self.block is None:
            from vmmd.block.graph import BlockGraph

            self.block = BlockGraph(self.loop, self.fdsets)
            self.on_close(self.block.close)
        return self.block

    def network(self) -> Network:
        """Netdevs and NICs; made when there was none."""
        if self.net is None:
            from vmmd.net.network import Network

            self.net = Network(self.loop, self.lock, self.events, self._find_chardev)
            self.on_close(self.net.close)
        return self.net

    def _find_chardev(self, id_: str) -> CharBackend:
        """For a netdev. Raises UsageError."""
        from vmmd.chardev.listen import ListenSocket
        from vmmd.net.network import no_chardev

        found = self.chardevs.get(id_)
        return no_chardev(id_) if found is None or isinstance(found, ListenSocket) else found

    def on_close(self, closer: Callable[[], None]) -> None:
        """Remember how to give a host resource back; ``close`` runs the last one first."""
        self._closers.append(closer)

    def close(self) -> None:
        """End vCPU threads, unplug every device, give everything back. Also for a half-built machine. Idempotent."""
        if self.cpus is not None:
            self.cpus.stop()
        with self.lock:
            while self.devices:
                _give_back(self.devices.pop().unrealize)
        while self._closers:
            _give_back(self._closers.pop())

    # --- requests of devices and vCPUs ----------------------------------------------------------------------

    def _wake_for_requests(self) -> None:
        """Any thread: park the vCPUs before their next guest instruction and let the loop serve the request."""
        if self.cpus is not None:
            self.cpus.hold()
        self.loop.post(self._serve_soon)

    def _serve_soon(self) -> None:
        if not self._serving:
            self._serving = True
            self.loop.spawn(self._serve_requests(), "machine requests")

    async def _serve_requests(self) -> None:
        async with self._turn:
            self._serving = False
            try:
                await self._serve(self.requests.take())
            except VmmdError as error:
                log.error("what the guest asked for failed: %s", error)
            finally:
                if self.cpus is not None:
                    # a request that came meanwhile is served next; its vCPU runs no guest instruction before
                    self.cpus.release(unless=lambda: self.requests.any_pending)

    async def _serve(self, pending: Pending) -> None:
        """Do the most severe thing that was asked for (turn held); of a panic and a watchdog everybody is told."""
        if pending.watchdog:
            await self._watchdog_fired()
        if pending.panic:
            await self._panicked()
        if pending.exit_code is not None:
            await self._end(ShutdownCause.GUEST_SHUTDOWN, pending.exit_code)
        elif pending.shutdown is not None:
            await self._shutdown(pending.shutdown)
        elif pending.internal_error is not None:
            await self._stop(RunState.INTERNAL_ERROR)
        elif pending.reset is not None:
            await self._reset(pending.reset)
        elif pending.io_error:
            await self._stop(RunState.IO_ERROR)

    # --- the steps (turn held; behind the end they do nothing) ------------------------------------------------

    async def _stop(self, state: RunState) -> None:
        if self._ended or not self.runstate.running:
            return
        await self._quiesce()
        await self._flush_disks()
        self._stopped(state)

    async def _flush_disks(self) -> None:
        """What the guest has written is durable when the VM is stopped: its image may be copied then."""
        if self.block is None:
            return
        flushed = self.loop.create_future()

        def done(error: int) -> None:
            if error:
                log.warning("a disk could not be flushed: %s", os.strerror(error))
            flushed.set_result(None)

        self.block.flush_all(done)
        await flushed

    def _stopped(self, state: RunState) -> None:
        self.runstate.set(state)
        self.events.emit(StopEvent())

    def _start(self) -> None:
        if self._ended or self.runstate.running:
            return
        self.runstate.set(RunState.RUNNING)
        self.events.emit(ResumeEvent())
        # ORDERING: the reply of ``cont`` goes out before the vCPUs compete for the interpreter and the processors
        self._starting = True
        self.loop.post(self._go)

    def _go(self) -> None:
        """The second half of ``_start``, unless the VM was stopped again before."""
        if self._starting:
            self._starting = False
            self._unquiesce()

    async def _quiesce(self) -> None:
        """vCPUs out of the guest, virtual time frozen, devices drained."""
        if self._starting:
            self._starting = False  # all of it is at rest still
            return
        await self._pause_vcpus()
        with self.lock:
            self.clock.freeze()
        drained = self.loop.create_future()
        self.requests.quiesce(partial(drained.set_result, None))
        await drained

    async def _pause_vcpus(self) -> None:
        if self.cpus is not None and not self.cpus.pause_now():
            paused = self.loop.create_future()
            self.cpus.pause(lambda: None if paused.done() else paused.set_result(None))
            await paused

    def _unquiesce(self) -> None:
        with self.lock:
            self.clock.thaw()
        for callback in list(self.requests.resume_callbacks):
            callback()
        if self.cpus is not None:
            self.cpus.resume()

    async def _reset(self, cause: ShutdownCause) -> None:
        if self._ended:
            return
        if self.config.no_reboot:
            await self._shutdown(cause)
            return
        was_running = self.runstate.running
        if was_running:
            await self._quiesce_for_reset()
        try:
            if self.plugger is not None:
                await self.plugger.serve_requests()
            with self.lock:
                self._reset_devices()
        except Exception:
            if was_running:  # half reset: it must not run on
                self._stopped(RunState.INTERNAL_ERROR)
            raise
        self.events.emit(ResetEvent(cause.by_guest, cause.value))
        if was_running:
            self._unquiesce()
        else:
            self.runstate.set(RunState.PRELAUNCH)

    async def _quiesce_for_reset(self) -> None:
        """A device that is on its way out, and does not come to rest, holds up a reset for a while only; also one that
        is asked for only now, by somebody who sees that the reset does not end."""

        timer: Cancellable

        def look() -> None:
            nonlocal timer
            timer = self.loop.call_later(RESET_PATIENCE_NS, look)
            if self.plugger is not None and self.plugger.is_pending:
                self.loop.spawn(self.plugger.serve_requests(), "unplug what holds up a reset")

        timer = self.loop.call_later(RESET_PATIENCE_NS, look)
        try:
            await self._quiesce()
        finally:
            timer.cancel()

    def _reset_devices(self) -> None:
        for device in self.devices:
            if QDEV_RESET.on:
                QDEV_RESET(device.name, device.type_name)
            device.reset(ResetKind.COLD)
        if self.reset_board is not None:
            self.reset_board()

    async def _panicked(self) -> None:
        """``-action panic=``."""
        if self._ended:
            return
        action = self.config.action.panic
        if action == "none":
            self.events.emit(GuestPanickedEvent("run"))
        elif action == "pause" or (action == "shutdown" and self.config.no_shutdown):
            self.events.emit(GuestPanickedEvent("pause"))
            await self._stop(RunState.GUEST_PANICKED)
        else:
            self.events.emit(GuestPanickedEvent("poweroff"))
            await self._stop(RunState.GUEST_PANICKED)
            if self.config.no_shutdown:
                self._announce_shutdown(ShutdownCause.GUEST_PANIC)
            else:
                await self._end(ShutdownCause.GUEST_PANIC, 1 if action == "exit-failure" else 0)

    async def _watchdog_fired(self) -> None:
        """``-action watchdog=``."""
        if self._ended:
            return
        action = self.config.action.watchdog
        self.events.emit(WatchdogEvent(action))
        if action == "reset":
            await self._reset(ShutdownCause.GUEST_RESET)
        elif action == "shutdown":
            self.system_powerdown()
        elif action == "poweroff":
            await self._end(ShutdownCause.GUEST_SHUTDOWN, 0)
        elif action == "pause":
            await self._stop(RunState.WATCHDOG)
        elif action == "debug":
            log.warning("watchdog: timer fired")
        elif action == "inject-nmi" and self.cpus is not None:
            self.cpus.inject_nmi(_log_failure)

    def _announce_shutdown(self, cause: ShutdownCause) -> None:
        if QEMU_SYSTEM_SHUTDOWN_REQUEST.on:
            QEMU_SYSTEM_SHUTDOWN_REQUEST(cause.value)
        self.events.emit(ShutdownEvent(cause.by_guest, cause.value))

    async def _shutdown(self, cause: ShutdownCause) -> None:
        if not self.config.no_shutdown:
            await self._end(cause, 0)
            return
        self._announce_shutdown(cause)
        # QEMU-COMPAT: a VM that does not run keeps its state (-S -no-reboot -no-shutdown, system_reset: prelaunch)
        await self._stop(RunState.SHUTDOWN)

    async def _end(self, cause: ShutdownCause, status: int) -> None:
        """Announce the end, bring everything to rest, and tell the daemon."""
        if self._ended:
            return
        self._ended = True
        self.end_cause = cause
        self._announce_shutdown(cause)
        try:
            if self.runstate.running:
                await self._quiesce()
        finally:
            if self.on_end is not None:
                self.on_end(status)
