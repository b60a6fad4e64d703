# SPDX-License-Identifier: Apache-2.0
"""``docs/hmp.md``: the commands for people, from their declarations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.hmp.arguments import MAX_TERMS
from vmmd.qmp.hmp.line_editor import MAX_LINE_CHARACTERS
from vmmd.qmp.hmp.registry import COMMANDS, TOPICS, load

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmmd.qmp.hmp.registry import HmpCommand

_HEAD = f"""\
# The monitor for people

    vmmd … -monitor stdio                                 in the terminal
    vmmd … -monitor unix:/run/vm.hmp,server=on,wait=off   socat -,raw,echo=0 UNIX:/run/vm.hmp, or a script
    vmmd … -monitor pty                                   tells the terminal that it made
    vmmd … -chardev …,id=ID -mon ID                       on any character device

One peer at a time has it; others wait. Over QMP, `human-monitor-command` runs one line. A script reads up to the
prompt `(qemu) `, which comes last; what it typed is echoed as it is. `vmmd-shell` is the richer monitor, over QMP.

**Keys.** Arrows, Home, End, Delete and those of Emacs: Ctrl-A, -E, -B, -F (move), Ctrl-D, -H, -W, -U, -K (erase),
Meta-B, -F, -D (words), Ctrl-P, -N (earlier lines), Ctrl-R (search them), Ctrl-L (clear), Ctrl-C (discard the line),
Tab (complete commands, topics, ids). With `-monitor stdio` Ctrl-C ends vmmd, as it ends QEMU; it discards the line with
`-chardev stdio,id=ID,signal=off -mon ID`.

**Expressions.** `+ - * / % & | ^ ~ ( )`, numbers as in C, `'c'`, registers of the current vCPU (`$rax`, `$eip`,
`$cs.base`, `$pc`: the linear address of the next instruction).

**Formats.** `/COUNT` and a letter of `x d u o c i` and a size of `b h w g`; what is left out is as it was last time
in this monitor. `i` shows instructions of the width that the vCPU executes (it needs the extra
`vmmd[disassembly]`, which `scripts/setup` installs).

**Not as in QEMU.** `info walk` shows the way of an address through each page table, the memory slot and the host's
page. `info jobs` and `info virtqueues` are vmmd's own, too. 64-bit registers have names in expressions. Long texts
are cut, and say so; a line has {MAX_LINE_CHARACTERS} characters at most, an expression {MAX_TERMS} terms. Control
characters and marks of direction in a text, which a guest may have chosen, are shown as `\\u001b`.

**Descriptors.** `chardev-add socket,fd=NAME` takes one that `getfd` has named in the same session, by
`human-monitor-command`. Numbers are for the command line.

"""


def page() -> str:
    """The text of the file."""
    load()
    return (
        _HEAD
        + "## Commands\n\n| command | what it does |\n|---|---|\n"
        + _rows(COMMANDS.values(), "")
        + "\n## Topics of `info`\n\n| command | what it shows |\n|---|---|\n"
        + _rows(TOPICS.values(), "info ")
    )


def _rows(commands: Iterable[HmpCommand], prefix: str) -> str:
    rows = set()
    for command in commands:
        usage = f"{prefix}{'|'.join(command.names)} {command.params}".rstrip().replace("|", "\\|")
        rows.add(f"| `{usage}` | {command.help} |\n")
    return "".join(sorted(rows))
