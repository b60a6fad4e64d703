# SPDX-License-Identifier: Apache-2.0
"""The vCPUs of a machine: their threads, starting and stopping them together, and looking at their state.

States of the set: *paused* (as made, and after ``pause``), *held* (a request of a device is about to be served: nobody
enters the guest, ``release`` lets them go on), *running*. Both flags are independent; vCPUs run when neither is set.

Pausing: ``immediate_exit`` is set and the thread is signalled; KVM_RUN completes a half-done access and returns; the
last vCPU to leave posts the waiting callbacks to the loop. Nothing on the loop waits for a vCPU, except that a pause
looks at them for a moment, as they usually leave at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from time import monotonic_ns
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vmmd.core.affinity import register_vcpu_thread
from vmmd.core.trace import CPU_RESET
from vmmd.core.trace_events import GUEST_CPU_RESET, KVM_INIT_VCPU, KVM_RUN_EXIT, VCPU_KICK
from vmmd.errors import BackendError, StateError
from vmmd.kvm import abi, cpustate
from vmmd.kvm.ioctl import KICK_SIGNAL, install_kick_handler, set_thread_name
from vmmd.kvm.runloop import REASONS, Dispatch, RunLoop
from vmmd.log import get_logger
from vmmd.machine.exit_meter import ExitMeter

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.address_space import AddressSpace
    from vmmd.core.bootstate import BootState
    from vmmd.core.device import SystemRequests
    from vmmd.core.notify import LoopPort
    from vmmd.kvm.cpuid import Topology
    from vmmd.kvm.cpuid_entry import CpuidEntry
    from vmmd.kvm.runloop import HiddenMemory
    from vmmd.kvm.stats import Statistic
    from vmmd.kvm.vcpu import Vcpu
    from vmmd.kvm.vm import KvmVm
    from vmmd.machine.user_chips import RunLoops

log = get_logger("vmmd.cpus")

_IMMEDIATE_EXIT = abi.RUN_OFFSETS["RUN_IMMEDIATE_EXIT"][1]
_STOP_TIMEOUT_S = 10.0
#: how long the loop looks whether kicked vCPUs have parked, before it does something else
_LOOK_NS = 500_000
#: what a vCPU thread takes: the kick, and what its own instructions raise
_OWN_SIGNALS = frozenset(
    (KICK_SIGNAL, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGABRT)
)

#: local vector table of a local APIC
_LVT_LINT1 = 0x360
_LVT_MASKED, _LVT_MODE, _LVT_MODE_NMI = 1 << 16, 7 << 8, 4 << 8

#: names of exit reasons, for ``exit_counts``
EXIT_NAMES = {
    value: name.removeprefix("KVM_EXIT_").lower() for name, value in vars(abi).items() if name.startswith("KVM_EXIT_")
}


class CpuConfig(Protocol):
    """What kind of CPUs these are (``kvm.cpuid.CpuConfig``)."""

    @property
    def model(self) -> str: ...

    @property
    def topology(self) -> Topology: ...

    @property
    def kvmclock(self) -> bool: ...

    @property
    def signature(self) -> int: ...

    @property
    def machine_check(self) -> bool: ...

    def apic_id(self, index: int) -> int: ...

    def topology_ids(self, index: int) -> tuple[int, int, int, int]: ...

    def cpuid(self, index: int, tsc_khz: int) -> tuple[CpuidEntry, ...]: ...

    def msrs(self) -> dict[int, int]: ...


def _inject_nmi(vcpu: Vcpu) -> None:
    """A pulse on LINT1 (SDM vol. 3 §11.5.1). Its own thread."""
    if vcpu.local_apic is not None:
        vcpu.local_apic.pulse_lint1()
        return
    lvt = int.from_bytes(bytes(vcpu.lapic().regs[_LVT_LINT1 : _LVT_LINT1 + 4]), "little")
    if not lvt & _LVT_MASKED and lvt & _LVT_MODE == _LVT_MODE_NMI:
        vcpu.inject_nmi()


class VcpuInfo(NamedTuple):
    """What query-cpus-fast tells of one vCPU."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody wants here
    thread_id: int  # of the host's kernel
    qom_path: str
    halted: bool
    node_id: int | None  # None: the machine has no NUMA nodes
    socket_id: int
    die_id: int | None  # None: sockets of one die
    core_id: int
    core_thread_id: int


class _VcpuThread:
    """One vCPU and its thread."""

    def __init__(self, manager: VcpuManager, index: int, vcpu: Vcpu, run_loop: RunLoop) -> None:
        self.manager = manager
        self.index = index
        self.vcpu = vcpu
        self.run_loop = run_loop
        self.lapic = vcpu.lapic() if vcpu.local_apic is None else None
        #: True from the moment it is told to run until it has parked; guarded by the manager's lock
        self.active = False
        self.commands: deque[Callable[[], None]] = deque()
        self._gate = threading.Lock()
        self._gate.acquire()
        self.thread = threading.Thread(target=self._main, name=f"CPU {index}/KVM", daemon=True)

    def wake(self) -> None:
        """Let a parked thread look at its flags and commands. Any thread."""
        try:
            self._gate.release()
        except RuntimeError:  # it was told to look already
            pass

    def kick(self) -> None:
        """Get the thread out of the guest. Any thread, also its own."""
        if VCPU_KICK.on:
            VCPU_KICK(self.index)
        # ORDERING: the flag first, so a signal that comes before KVM_RUN is not lost; bytecode stores are in order
        self.vcpu.bytes_[_IMMEDIATE_EXIT] = 1
        self.run_loop.kicked()
        ident = self.thread.ident
        if ident is not None and ident != threading.get_ident():
            signal.pthread_kill(ident, KICK_SIGNAL)

    def _main(self) -> None:
        """The thread: parked until told to run, until told to end."""
        self._prepare()
        manager, flags = self.manager, self.vcpu.bytes_
        while True:
            self._gate.acquire()
            self._serve_commands()
            if manager.stopping:
                return
            if self.active and manager.kvmclock_stopped:
                self._try(self.vcpu.kvmclock_paused)
            while self.active:
                # ORDERING: clear before looking; a kick that comes between the two makes KVM_RUN return at once
                flags[_IMMEDIATE_EXIT] = 0
                self._serve_commands()
                if manager.run_allowed:
                    self.run_loop.run()
                else:
                    manager.parked(self)

    def _prepare(self) -> None:
        register_vcpu_thread(self.index)
        if self.manager.debug_threads:
            set_thread_name(self.thread.name)
        # no signal but the kick may cut KVM_RUN short, and the process's signals belong to the main thread
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals() - _OWN_SIGNALS)

    def _serve_commands(self) -> None:
        while self.commands:
            self._try(self.commands.popleft())

    def _try(self, function: Callable[[], None]) -> None:
        try:
            function()
        except Exception:
            log.exception("vCPU %d: a command failed", self.index)


def _nothing() -> None:
    """Nothing is watched."""


class VcpuManager:
    """All vCPUs. Methods are for the loop thread unless they say «any thread»."""

    def __init__(  # noqa: PLR0913  # the machine's seams, by name
        self,
        vm: KvmVm,
        *,
        count: int,
        pio: AddressSpace,
        mmio: AddressSpace,
        lock: threading.Lock,
        requests: SystemRequests,
        loop: LoopPort,
        cpu_config: CpuConfig,
        debug_threads: bool,
        hidden: HiddenMemory,
        node_id: int | None = None,
        loops: RunLoops | None = None,
    ) -> None:
        """``loops``: unless all interrupt controllers are in the kernel."""
        self.vm = vm
        self.count = count
        self.cpu_config = cpu_config
        self._node_id = node_id
        self._loops = loops
        self.debug_threads = debug_threads
        self._loop = loop
        self._dispatch = Dispatch(pio, mmio, lock, requests, self.hold, hidden)
        self._boot: BootState | None = None
        self._cpus: tuple[_VcpuThread, ...] = ()
        self._state = threading.Lock()  # a leaf: only the loop's ``post`` is called with it held
        self._paused = True
        self._held = False
        self._running = 0  # vCPUs with ``active`` set
        self._waiters: list[Callable[[], None]] = []
        self._clock_ns: int | None = None
        self.run_allowed = False
        self.stopping = False
        self.exit_meter = ExitMeter(())
        self._unwatch: Callable[[], None] = _nothing

    # --- life ---
    def start(self) -> None:
        """Make the vCPUs, in power-on state, and their threads, paused. Raises KvmError."""
        install_kick_handler()
        cpus: list[_VcpuThread] = []
        for index in range(self.count):
            vcpu = self.vm.create_vcpu(self.cpu_config.apic_id(index))
            vcpu.set_cpuid(self.cpu_config.cpuid(index, vcpu.tsc_khz()))
            if self.cpu_config.machine_check:
                vcpu.setup_mce()
            refused = vcpu.set_msrs(self.cpu_config.msrs())
            if refused and not index:
                log.warning("KVM does not take the CPU model's MSR %s", ", ".join(f"{msr:#x}" for msr in refused))
            vcpu.open_stats(like=cpus[0].vcpu if cpus else None)
            if KVM_INIT_VCPU.on:
                KVM_INIT_VCPU(index, vcpu.apic_id)
            cpus.append(_VcpuThread(self, index, vcpu, self._run_loop(index, vcpu)))
        self._cpus = tuple(cpus)
        self.exit_meter = ExitMeter([cpu.run_loop.exit_counts for cpu in cpus])
        self.reset()
        self._unwatch = KVM_RUN_EXIT.watch(self._exits_switched)
        if KVM_RUN_EXIT.on:
            self._exits_switched()
        for cpu in cpus:
            cpu.thread.start()

    def _run_loop(self, index: int, vcpu: Vcpu) -> RunLoop:
        if self._loops is None:
            return RunLoop(vcpu, self._dispatch)

        def kick() -> None:
            cpu = self._cpus[index]
            if cpu.active:
                cpu.kick()

        return self._loops.make(vcpu, self._dispatch, kick, signature=self.cpu_config.signature)

    def stop(self) -> None:
        """End all threads and wait for them. Idempotent."""
        self.stopping = True
        self._unwatch()
        self._unwatch = _nothing
        with self._state:
            self._paused = True
            self.run_allowed = False
            active = [cpu for cpu in self._cpus if cpu.active]
        for cpu in active:
            cpu.kick()
        for cpu in self._cpus:
            cpu.wake()
        for cpu in self._cpus:
            if cpu.thread.ident is not None:
                cpu.thread.join(_STOP_TIMEOUT_S)
            if cpu.thread.is_alive():
                log.error("vCPU %d does not end", cpu.index)

    def _exits_switched(self) -> None:
        """Have the run loops report their exits, or no longer: from their next entry on, which is now."""
        for cpu in self._cpus:
            cpu.run_loop.report_exits(cpu.index if KVM_RUN_EXIT.is_on(cpu.index) else None)
            if cpu.active:
                cpu.kick()

    # --- running and pausing ---
    def pause_now(self) -> bool:
        """Stop all vCPUs; True when they have left the guest within 0.5 ms, about what being woken for it would take.
        Otherwise they are on their way: call ``pause``. Idempotent."""
        with self._state:
            self._paused = True
            self.run_allowed = False
            active = [cpu for cpu in self._cpus if cpu.active]
        if not active:
            return True
        for cpu in active:
            cpu.kick()
        deadline_ns = monotonic_ns() + _LOOK_NS
        give_way = os.sched_yield  # of the processor and of the GIL
        while self._running:
            give_way()
            if monotonic_ns() > deadline_ns:
                return False
        return True

    def pause(self, done: Callable[[], None]) -> None:
        """Stop all vCPUs; ``done`` is posted to the loop when the last one has left the guest. Idempotent."""
        with self._state:
            self._paused = True
            self.run_allowed = False
            at_rest = self._running == 0
            if not at_rest:
                self._waiters.append(done)
            active = [cpu for cpu in self._cpus if cpu.active]
        if at_rest:
            self._loop.post(done)
        for cpu in active:
            cpu.kick()

    def resume(self) -> None:
        """Run, once a pause under way is complete and nothing is held. Idempotent."""
        with self._state:
            self._paused = False
            woken = self._start_if_allowed()
        for cpu in woken:
            cpu.wake()

    def hold(self) -> None:
        """Keep every vCPU out of the guest until ``release``. Any thread, also a vCPU's own; never blocks."""
        with self._state:
            self._held = True
            self.run_allowed = False
            active = [cpu for cpu in self._cpus if cpu.active]
        for cpu in active:
            cpu.kick()

    def release(self, unless: Callable[[], bool] | None = None) -> None:
        """Undo ``hold``: vCPUs run on unless they are paused. Nothing if ``unless()``, asked with the set's lock held:
        who notes a request and then holds is either seen here, or holds again after this. Idempotent."""
        with self._state:
            if unless is not None and unless():
                return
            self._held = False
            woken = self._start_if_allowed()
        for cpu in woken:
            cpu.wake()

    def _start_if_allowed(self) -> list[_VcpuThread]:
        """State lock held. The vCPUs to wake."""
        if self._paused or self._held or self._waiters or self.stopping:
            return []
        if self._running == 0:
            self._restart_clock()
        self.run_allowed = True
        woken = [cpu for cpu in self._cpus if not cpu.active]
        for cpu in woken:
            cpu.active = True
        self._running += len(woken)
        return woken

    def parked(self, cpu: _VcpuThread) -> None:
        """A vCPU is out of the guest and stays out. Its own thread."""
        woken: list[_VcpuThread] = []
        with self._state:
            if self.run_allowed:  # it was let go on in the meantime
                return
            cpu.active = False
            self._running -= 1
            if self._running == 0:
                # ORDERING: wake the loop first, it has a client waiting; what it may do then takes this lock
                for done in self._waiters:
                    self._loop.post(done)
                self._waiters.clear()
                self._stop_clock()
                woken = self._start_if_allowed()
        for other in woken:
            other.wake()

    @property
    def kvmclock_stopped(self) -> bool:
        """True when guests with kvmclock were stopped at least once."""
        return self._clock_ns is not None

    def _stop_clock(self) -> None:
        if self.cpu_config.kvmclock:
            try:
                self._clock_ns = self.vm.clock_ns()
            except BackendError as error:  # a VM that KVM has given up: the thread must live to be told to end
                log.error("%s", error)

    def _restart_clock(self) -> None:
        # the guest's kvmclock goes on where it was stopped
        if self._clock_ns is not None:
            try:
                self.vm.set_clock_ns(self._clock_ns)
            except BackendError as error:
                log.error("%s", error)

    @property
    def all_parked(self) -> bool:
        """True when no vCPU is in or about to enter the guest. Any thread."""
        return self._running == 0

    # --- reset ---
    def set_boot_state(self, state: BootState | None) -> None:
        """Where the boot CPU starts after the next ``reset``; None: at the reset vector."""
        self._boot = state

    def reset(self) -> None:
        """Power-on state for all vCPUs, which are parked. Raises KvmError."""
        for cpu in self._cpus:
            self._at_rest(cpu)
            if GUEST_CPU_RESET.on:
                GUEST_CPU_RESET(cpu.index)
            if CPU_RESET.on:
                CPU_RESET(f"CPU Reset (CPU {cpu.index})\n{cpustate.registers_text(cpu.vcpu)}".rstrip("\n"))
            cpustate.reset(
                cpu.vcpu, cpu.lapic, signature=self.cpu_config.signature, is_bsp=cpu.index == 0, boot=self._boot
            )
            cpu.run_loop.reset()
        if self._loops is not None:
            self._loops.reset(self._boot)

    def inject_nmi(self, done: Callable[[Exception | None], None]) -> None:
        """A non-maskable interrupt for every vCPU whose local APIC lets it through LINT1. By the vCPUs' own threads:
        KVM_NMI waits while the vCPU is in the guest. ``done(first error)`` is called on the loop when all have it."""
        left, first = len(self._cpus), None

        def one_done(_result: object, error: Exception | None) -> None:
            nonlocal left, first
            left -= 1
            first = first or error
            if not left:
                done(first)

        for cpu in self._cpus:
            self.run_on_vcpu(cpu.index, _inject_nmi, one_done)

    # --- looking at vCPUs ---
    def run_on_vcpu(
        self, index: int, function: Callable[[Vcpu], object], done: Callable[[object, Exception | None], None]
    ) -> None:
        """Run ``function(vcpu)`` on the vCPU's thread, between two entries of the guest; ``done(result, error)`` is
        posted to the loop. Works for running and parked vCPUs. Any thread."""
        cpu = self._cpus[index]

        def command() -> None:
            try:
                result = function(cpu.vcpu)
            except Exception as error:
                self._loop.post(done, None, error)
            else:
                self._loop.post(done, result, None)

        cpu.commands.append(command)
        if cpu.active:
            cpu.kick()
        cpu.wake()

    def _at_rest(self, cpu: _VcpuThread) -> Vcpu:
        if cpu.active:
            raise StateError(f"vCPU {cpu.index} is running", "stop the VM first")
        return cpu.vcpu

    def registers(self, index: int) -> dict[str, int]:
        """Registers by name. Raises StateError while the vCPU runs: use ``run_on_vcpu``."""
        return cpustate.registers(self._at_rest(self._cpus[index]))

    def registers_text(self, index: int) -> str:
        """``info registers`` of a parked vCPU. Raises StateError while it runs."""
        return cpustate.registers_text(self._at_rest(self._cpus[index]))

    def control_registers(self, index: int) -> abi.Sregs:
        """Segment and control registers of a parked vCPU. Raises StateError while it runs."""
        return self._at_rest(self._cpus[index]).sregs()

    def translate(self, index: int, gva: int) -> int | None:
        """Guest-physical address of a linear address, by KVM. Raises StateError while the vCPU runs."""
        return self._at_rest(self._cpus[index]).translate(gva)

    @property
    def typename(self) -> str:
        """QOM type of the vCPUs."""
        return f"{self.cpu_config.model}-x86_64-cpu"

    def exit_counts(self, index: int) -> dict[str, int]:
        """How often the vCPU left the guest, by reason; zeroes left out. Any thread."""
        counts = self._cpus[index].run_loop.exit_counts
        return {EXIT_NAMES.get(reason, str(reason)): counts[reason] for reason in range(REASONS) if counts[reason]}

    def statistics(self, index: int) -> list[Statistic]:
        """KVM's statistics of a vCPU; none on kernels without. Any thread, never waits for the vCPU."""
        return self._cpus[index].vcpu.stats()

    def vm_statistics(self) -> list[Statistic]:
        """KVM's statistics of the machine. Any thread, never waits for a vCPU."""
        return self.vm.stats()

    @property
    def infos(self) -> tuple[VcpuInfo, ...]:
        """What monitors show. ``halted`` is known for parked vCPUs only. Any thread."""
        found = []
        for cpu in self._cpus:
            halted = not cpu.active and cpu.vcpu.is_halted()
            config = self.cpu_config
            socket, die, core, thread = config.topology_ids(cpu.index)
            native = cpu.thread.native_id or 0
            path = f"/machine/unattached/device[{cpu.index}]"
            shown_die = die if config.topology.dies > 1 else None
            found.append(VcpuInfo(cpu.index, native, path, halted, self._node_id, socket, shown_die, core, thread))
        return tuple(found)
