# SPDX-License-Identifier: Apache-2.0
"""Composition root: builds machine, character devices and monitors from a Config, runs the loop, and ends cleanly.

Order at start: everything that can be wrong about the command line is found first, then images and KVM are opened,
the machine is built, sockets are bound, and last the loop runs. Whatever fails on the way, what was created is removed.
Order at the end (safety.md P13): vCPUs, disks, backends, sockets, pid file.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn, TypeGuard

from vmmd.core import trace
from vmmd.core.device import ShutdownCause
from vmmd.core.ending import SIGNALS, early_end
from vmmd.core.fdsets import is_inherited
from vmmd.core.trace_output import log_output
from vmmd.core.trace_output import output as trace_output
from vmmd.errors import UsageError, named
from vmmd.eventloop import EventLoopPort
from vmmd.log import get_logger
from vmmd.machine.vm import Vm
from vmmd.messages import messages
from vmmd.options.netdevs import NetdevVhostUser
from vmmd.process import Daemonizer, PidFile, set_process_name

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from vmmd.chardev.base import Chardev
    from vmmd.chardev.listen import ListenSocket
    from vmmd.machine.accelerator import Accelerator
    from vmmd.machine.build import Builder
    from vmmd.options.backends import ChardevOptions, ChardevSocket
    from vmmd.options.models import AccelOptions, Config, MonitorOptions
    from vmmd.qmp.server import QmpServer
    from vmmd.service import ServiceManager

log = get_logger("vmmd.daemon")

#: How long a thread may hold the GIL while another waits (docs/performance.md): exits wait at most this long
SWITCH_INTERVAL_S = 0.00005
#: Scheduler slice of the loop's thread: it wakes often, works for some 10 µs, and somebody waits for it
SLICE_NS = 100_000
#: After this long, what the first commands need is imported
SETTLE_S = 0.05


class Daemon:
    """One vmmd process."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.port = EventLoopPort()
        self.vm = Vm(config, self.port)
        self.daemonizer = Daemonizer()
        self.pidfile: PidFile | None = None
        self.chardevs: list[Chardev] = []
        self.monitor_sockets: list[tuple[MonitorOptions, ListenSocket]] = []
        self.monitor_devices: list[tuple[MonitorOptions, Chardev]] = []  # QMP with one peer at a time
        self.server: QmpServer | None = None
        self.service: ServiceManager | None = None
        self.status = 0
        self._ended: asyncio.Future[None] | None = None

    def run(self) -> NoReturn:
        """Build, serve, end with the exit status. Raises VmmdError when it could not start, EndRequested when a signal
        came first: nothing is left then."""
        from vmmd.machine.build import Builder
        from vmmd.machine.plan import MachinePlan

        gc.disable()  # until all is there: nearly everything made at the start stays
        plan = MachinePlan(self.config)
        plan.check()
        self._plan_chardevs()
        builder = Builder(self.vm, plan, find_accelerator)
        builder.plan_netdevs()
        early_end.check()
        if self.config.daemonize:
            self.daemonizer.fork(in_parent=early_end.uninstall)
        try:
            early_end.check()
            self._start_log()
            self._open_monitors()
            self._open(builder)
            loop = self._make_loop()
        except BaseException:
            self._close()
            for made in self.chardevs:
                made.remove_created()
            raise
        self._serve(loop)

    # --- start ------------------------------------------------------------------------------------------------

    def _plan_chardevs(self) -> None:
        from vmmd import chardev

        fdsets = self.vm.fdsets
        for added in self.config.add_fds:
            if not is_inherited(added.fd):
                # QEMU-COMPAT: the phrase
                where = f"-add-fd fd={added.fd},set={added.set}"
                raise UsageError(f"{where}: fd is not valid or already in use", "it takes an inherited descriptor")
            fdsets.add(added.set, added.fd, added.opaque)
        monitors = {monitor.chardev: monitor for monitor in self.config.monitors if monitor.mode == "control"}
        for options in self.config.chardevs.values():
            monitor = monitors.get(options.id)
            if monitor is not None and _serves_clients(options):
                listener = chardev.listen_socket(options)
                listener.frontend_open = True
                self.monitor_sockets.append((monitor, listener))
                self.vm.chardevs[options.id] = listener
            else:
                made = chardev.create(options, self.port, self.vm.lock, fdsets)
                self.chardevs.append(made)
                self.vm.chardevs[options.id] = made
                if monitor is not None:
                    self.monitor_devices.append((monitor, made))
        self._plan_readline_monitors({made.label: made for made in self.chardevs})

    def _plan_readline_monitors(self, chardevs: dict[str, Chardev]) -> None:
        for monitor in self.config.monitors:
            if monitor.mode == "readline":
                from vmmd.qmp.hmp.readline import ReadlineMonitor

                ReadlineMonitor(self.vm, self.port, chardevs[monitor.chardev]).attach(self.vm.lock)

    def _start_log(self) -> None:
        """-D, -d, -trace: before anything that they may tell of."""
        config = self.config
        if config.log_file is not None:
            with named(config.log_file_option):
                trace_output.set_file(config.log_file)
        warnings = [] if config.log_items is None else config.log_items.apply()
        for wanted in config.traces:
            if wanted.enable is not None:
                warnings += trace.enable(wanted.enable)
            if wanted.events is not None:
                warnings += trace.enable_from_file(wanted.events)
        trace_output.allow()
        log_output.allow()
        for warning in warnings:
            messages.warning(warning)

    @staticmethod
    def _end_log() -> None:
        """Write what waits; later lines go to stderr directly."""
        messages.later = None
        trace_output.close()
        log_output.close()

    def _open_monitors(self) -> None:
        """Listen and greet. Commands wait until the loop runs; if the rest of the start fails, clients see the end."""
        from vmmd.qmp.server import QmpServer

        server = self.server = QmpServer(self.vm, self.port)
        self.vm.events.sink = server
        for monitor, device in self.monitor_devices:
            server.attach(device, self.vm.lock, pretty=monitor.pretty)
        for monitor, listener in self.monitor_sockets:
            early_end.check()
            with named(self._option_of(listener.label)):
                listener.open()
                connection = None if listener.is_server else listener.connect()
            if connection is not None:
                listener.joined(connection)
                server.connect_client(connection, pretty=monitor.pretty)
                continue
            assert listener.sock is not None
            first = listener.wait() if listener.waits else None
            serving = server.listen(listener.sock, pretty=monitor.pretty, observer=listener)
            if first is not None:
                serving.adopt(first)
            serving.accept()

    def _open(self, builder: Builder) -> None:
        """KVM, images, machine; then what leaves traces: character devices, pid file. A vhost-user back end, which its
        NIC has to know, is waited for before."""
        if self.config.mem_lock:
            from vmmd.machine.ram import lock_memory

            lock_memory()
        if builder.plan.direct_boot is not None:
            self.vm.on_close(builder.plan.direct_boot.close)
        build = self._put_off(builder) if self.config.preconfig else builder.build
        early = {each.chardev for each in self.config.netdevs if isinstance(each, NetdevVhostUser)}
        steps = (builder.make_objects, builder.open_accelerator, lambda: self._open_chardevs(early), build)
        for step in steps:
            early_end.check()
            step()
        if self.config.qtest is not None:
            self._start_qtest(self.config.qtest)
        self._open_chardevs({made.label for made in self.chardevs} - early)
        if self.config.pidfile:
            self.pidfile = PidFile(self.config.pidfile)
        if self.config.name.process:
            set_process_name(self.config.name.process)
        for warning in builder.warnings:
            messages.warning(warning)

    def _open_chardevs(self, labels: set[str]) -> None:
        for made in self.chardevs:
            if made.label in labels:
                early_end.check()
                with named(self._option_of(made.label)):
                    made.open()

    def _start_qtest(self, chardev: str) -> None:
        from vmmd.qtest.log import TrafficLog
        from vmmd.qtest.server import QtestServer

        traffic = None
        if self.config.qtest_log != "none":
            traffic = TrafficLog(self.config.qtest_log or "/dev/fd/2")
            with named("-qtest-log"):
                traffic.open()
            self.vm.on_close(traffic.close)
        backend = next(made for made in self.chardevs if made.label == chardev)
        with self.vm.lock:
            QtestServer(self.vm, self.port, backend, traffic).attach()

    def _option_of(self, label: str) -> str:
        """The option that a character device was made from, for errors."""
        return self.config.chardevs[label].option

    def _put_off(self, builder: Builder) -> Callable[[], None]:
        """A step that builds nothing but remembers how to (-preconfig)."""

        def build() -> None:
            known = len(builder.warnings)
            builder.build()
            for warning in builder.warnings[known:]:
                messages.warning(warning)
            self._let_run()

        return lambda: self.vm.put_off(build)

    def _let_run(self) -> None:
        if not (self.config.paused or self.vm.preconfig):
            self.port.spawn(self.vm.cont(), "start")

    def _make_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop, with everything registered early, and signals. Monitors were greeted before asyncio is
        imported. Raises BackendError when the parent of -daemonize has gone."""
        import asyncio

        import uvloop

        from vmmd.core.scheduling import ask_for_short_slices

        sys.setswitchinterval(SWITCH_INTERVAL_S)
        ask_for_short_slices(SLICE_NS)
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        self._ended = loop.create_future()
        self.vm.on_end = self._end
        for number in SIGNALS:
            loop.add_signal_handler(number, self._signalled)
        loop.add_signal_handler(signal.SIGCONT, self._continued)
        self.port.bind(loop)
        # ORDERING: after the loop has taken over the signals: from here on one that comes is served by the loop
        early_end.check()
        self.daemonizer.ready()
        self._tell_service_manager()
        return loop

    def _tell_service_manager(self) -> None:
        if "NOTIFY_SOCKET" not in os.environ:
            return
        from vmmd.service import ServiceManager

        manager = self.service = ServiceManager.from_environment(self.port)
        if manager is not None:
            manager.ready(self.vm.runstate.state.value)
            self.vm.runstate.observe(lambda _old, new: manager.status(new.value))

    def _serve(self, loop: asyncio.AbstractEventLoop) -> NoReturn:
        """Run the loop to the end, and leave."""
        messages.later = log_output.put_line
        self._let_run()
        loop.call_later(SETTLE_S, self._settle)
        assert self._ended is not None  # _make_loop came first
        loop.run_until_complete(self._ended)
        self._close()
        sys.stdout.flush()
        sys.stderr.flush()
        # the process holds nothing any more: do not spend 20 ms on taking the interpreter apart
        os._exit(self.status)

    def _settle(self) -> None:
        """Just after the start: load what the first commands need, and keep the collector off what stays for ever.

        On a thread of its own: the loop and the vCPUs go on meanwhile. pydantic is left to the first command that has
        arguments: 0.1 s and 10 MiB.
        """
        import threading

        from vmmd.qmp.server import warm_up

        def settle() -> None:
            warm_up()
            # without a collection, which would hold everybody up for 20 ms: a start leaves no garbage worth that
            gc.freeze()
            gc.enable()

        threading.Thread(target=settle, name="settle", daemon=True).start()

    # --- end --------------------------------------------------------------------------------------------------

    def _continued(self) -> None:
        """Back from Ctrl-Z: the shell has given the terminal its own mode meanwhile."""
        from vmmd.chardev.stdio import StdioChardev

        for device in self.vm.chardevs.values():
            if isinstance(device, StdioChardev):
                device.continued()

    def _signalled(self) -> None:
        self.port.spawn(self.vm.quit(ShutdownCause.HOST_SIGNAL), "quit on signal")

    def _end(self, status: int) -> None:
        self.status = status
        if self.service is not None:
            self.service.stopping(f"ended: {self.vm.end_cause}, status {status}")
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _close(self) -> None:
        """Give everything back; also after a start that failed half-way. Monitors see the end when the images are
        free for the next user. What fails does not keep the rest from being given back."""
        steps = [self.daemonizer.return_home, self.vm.close, self.vm.chardevs.close]
        if self.server is not None:
            steps.append(self.server.close)
        steps += [listener.close for _, listener in self.monitor_sockets]
        if self.pidfile is not None:
            steps.append(self.pidfile.remove)
            self.pidfile = None
        steps.append(self._end_log)
        for step in steps:
            try:
                step()
            except Exception:
                log.exception("at the end")


def find_accelerator(name: str) -> Callable[[Vm, AccelOptions], Accelerator] | None:
    """What opens the accelerator of that name; None: there is none."""
    if name == "kvm":
        from vmmd.machine.kvm_accelerator import KvmAccelerator

        return KvmAccelerator.open
    if name == "qtest":
        from vmmd.qtest.accelerator import QtestAccelerator

        return QtestAccelerator.open
    return None


def _serves_clients(options: ChardevOptions) -> TypeGuard[ChardevSocket]:
    """A QMP monitor on it greets early and passes descriptors; on anything else it is the front end of the device."""
    from vmmd.options.backends import ChardevSocket

    return isinstance(options, ChardevSocket) and (options.server or not (options.reconnect or options.logfile))
