# SPDX-License-Identifier: Apache-2.0
"""Commands that belong nowhere else: names, the monitor for people, passed file descriptors."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

from vmmd.errors import StateError, UsageError, VmmdError
from vmmd.qmp.registry import Context, Example, command

if TYPE_CHECKING:
    from vmmd.core.fdsets import FdInSet
    from vmmd.options.introspect import Parameter
    from vmmd.qmp.models.misc import (
        AddfdInfo,
        CommandLineOptionInfo,
        CommandLineParameterInfo,
        CommandLineParameterType,
        FdsetFdInfo,
        FdsetInfo,
        IOThreadInfo,
        NameInfo,
    )

#: characters of the text that a client may give to a descriptor
MAX_OPAQUE_CHARS = 4096


@command("query-name", since="0.14", preconfig=True)
def query_name(ctx: Context) -> NameInfo:
    """The guest's name (-name)."""
    name = ctx.vm.name
    return {} if name is None else {"name": name}


@command("human-monitor-command", since="0.14", example=Example({"command-line": "info status"}))
async def human_monitor_command(ctx: Context, *, command_line: str, cpu_index: int | None = None) -> str:
    """Run a command of the monitor for people; its text is the reply, even where it says that something failed."""
    from vmmd.qmp.hmp import registry

    cpus = ctx.vm.cpus
    count = 0 if cpus is None else len(cpus.infos)
    if cpu_index is not None and not 0 <= cpu_index < count:
        raise UsageError("Parameter 'cpu-index' expects a CPU number")
    await registry.ready(ctx.vm.loop)
    from vmmd.qmp.hmp.monitor import HumanMonitor

    return await HumanMonitor(ctx.vm, cpu_index or 0, ctx.session).run(command_line)


@command("getfd", since="0.14", example=Example({"fdname": "tap0"}, error="GenericError"))
def getfd(ctx: Context, *, fdname: str) -> dict[str, object]:
    """Give a name to the file descriptor that came with this command (SCM_RIGHTS, UNIX socket monitors). The session
    keeps it until a command takes it by that name, ``closefd``, or the end of the session; a name that exists already
    changes its descriptor and the old one is closed."""
    ctx.session.fds.give_name(fdname)
    return {}


@command("closefd", since="0.14", example=Example({"fdname": "tap0"}, error="GenericError"))
def closefd(ctx: Context, *, fdname: str) -> dict[str, object]:
    """Close a file descriptor of this session that ``getfd`` has named."""
    ctx.session.fds.close_name(fdname)
    return {}


@command("add-fd", since="1.2", example=Example({"fdset-id": 1}, error="GenericError"))
def add_fd(ctx: Context, *, fdset_id: int | None = None, opaque: str | None = None) -> AddfdInfo:
    """Put the file descriptor that came with this command into an fd set, or into a new one; the path
    ``/dev/fdset/N`` then opens it. A set through which nothing is open is closed when the last client of the last
    monitor leaves while the machine runs."""
    fd = ctx.session.fds.take()
    try:
        if fdset_id is not None and fdset_id < 0:
            raise UsageError("Parameter 'fdset-id' expects a non-negative value")
        if len(opaque or "") > MAX_OPAQUE_CHARS:
            raise UsageError(f"Parameter 'opaque' expects at most {MAX_OPAQUE_CHARS} characters")
        return {"fd": fd, "fdset-id": ctx.vm.fdsets.add(fdset_id, fd, opaque)}
    except VmmdError:
        os.close(fd)
        raise


@command("remove-fd", since="1.2", example=Example({"fdset-id": 9}, error="GenericError"))
def remove_fd(ctx: Context, *, fdset_id: int, fd: int | None = None) -> dict[str, object]:
    """Close the file descriptors of an fd set, or one of them. What was opened through the set goes on."""
    if not ctx.vm.fdsets.remove(fdset_id, fd):
        which = f"fdset-id:{fdset_id}" + ("" if fd is None else f", fd:{fd}")
        raise VmmdError(f"File descriptor named '{which}' not found", "query-fdsets lists what is there")
    return {}


@command("query-fdsets", since="1.2")
def query_fdsets(ctx: Context) -> list[FdsetInfo]:
    """The fd sets and their file descriptors."""
    found = ctx.vm.fdsets.query()
    return [{"fdset-id": number, "fds": list(map(_member, found[number]))} for number in sorted(found, reverse=True)]


def _member(member: FdInSet) -> FdsetFdInfo:
    return {"fd": member.fd} if member.opaque is None else {"fd": member.fd, "opaque": member.opaque}


@command("rtc-reset-reinjection", since="2.1")
def rtc_reset_reinjection(ctx: Context) -> dict[str, object]:
    """Forget the periodic interrupts of the real-time clock that are still owed (``lost_tick_policy=slew``): for after
    the guest's time was set."""
    ctx.vm.forget_lost_ticks()
    return {}


@command("query-command-line-options", since="1.5", preconfig=True, example=Example({"option": "memory"}))
def query_command_line_options(ctx: Context, *, option: str | None = None) -> list[CommandLineOptionInfo]:
    """The options of the command line that this version has and their keys, or those of one option. Some have another
    name here, as in QEMU: smp-opts, boot-opts, memory."""
    from vmmd.options.introspect import command_line_options

    options = command_line_options()
    if option is not None and option not in options:
        # QEMU-COMPAT: the sentence
        raise UsageError(f"invalid option name: {option}", "without a name all options are listed")
    return [
        {"option": name, "parameters": list(map(_parameter, options[name]))}
        for name in (options if option is None else (option,))
    ]


def _parameter(found: Parameter) -> CommandLineParameterInfo:
    info: CommandLineParameterInfo = {
        "name": found.name,
        "type": cast("CommandLineParameterType", found.type),
    }
    if found.help is not None:
        info["help"] = found.help
    if found.default is not None:
        info["default"] = found.default
    return info


@command("query-iothreads", since="2.0", preconfig=True)
def query_iothreads(ctx: Context) -> list[IOThreadInfo]:
    """The I/O threads (``-object iothread``) and the host threads that they are."""
    from vmmd.machine.objects.iothread import IoThreadObject

    return [
        {
            "id": each.id,
            "thread-id": each.thread_id,
            "poll-max-ns": each.options.poll_max_ns,
            "poll-grow": each.options.poll_grow,
            "poll-shrink": each.options.poll_shrink,
            "aio-max-batch": each.options.aio_max_batch,
        }
        for each in ctx.vm.objects
        if isinstance(each, IoThreadObject)
    ]


@command("x-exit-preconfig", since="3.0", preconfig=True, features=("unstable",))
def x_exit_preconfig(ctx: Context) -> dict[str, object]:
    """Build the machine that ``-preconfig`` has put off, and run it unless ``-S`` says otherwise. When it cannot be
    built, the process ends with status 1 after the reply."""
    if not ctx.vm.preconfig:
        raise StateError("The command is permitted only before machine initialization")
    try:
        ctx.vm.exit_preconfig()
    except BaseException:  # what is half-built serves nobody
        if ctx.vm.on_end is not None:
            ctx.vm.loop.post(ctx.vm.on_end, 1)
        raise
    return {}
