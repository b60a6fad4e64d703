# SPDX-License-Identifier: Apache-2.0
"""``vmmd-shell [options] SOCKET [COMMAND…]``: the interactive shell, or commands for scripts."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterable

USAGE_STATUS = 64
NO_PACKAGES_STATUS = 69
NO_OUTPUT_STATUS = 74
TIMEOUT_S = 30.0
TIMEOUT_MAX_S = 86400.0
PACKAGES = ("prompt_toolkit", "rich", "qemu")

_EPILOG = """\
Each COMMAND is one line, as at the prompt: 'query-status', 'device_del id=d0', 'hmp info status', 'top --once';
- reads lines from standard input. Without COMMAND a prompt opens.
Exit status: 0 done, 1 the command failed, 2 no connection or no answer, 64 the line is wrong (nothing was sent),
74 standard output cannot be written.
"""


class _Parser(argparse.ArgumentParser):
    """argparse ends with 2, which here means that there is no connection."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE_STATUS, f"{self.prog}: {message}\n")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= TIMEOUT_MAX_S:
        raise argparse.ArgumentTypeError(f"it takes seconds, more than 0, at most {TIMEOUT_MAX_S:g}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vmmd-shell",
        usage="vmmd-shell [options] SOCKET [COMMAND …]",
        description="A shell for the QMP monitor of vmmd or QEMU.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="answers and errors as JSON, one line each")
    parser.add_argument("--hmp", action="store_true", help="each COMMAND is a line for the monitor for people")
    parser.add_argument(
        "--timeout", type=_seconds, default=TIMEOUT_S, metavar="SEC", help="longest wait for an answer (30)"
    )
    parser.add_argument("--no-history", action="store_true", help="keep no history of the prompt")
    parser.add_argument("socket", metavar="SOCKET", nargs="?", help="path of the monitor's UNIX socket, or HOST:PORT")
    parser.add_argument("commands", metavar="COMMAND", nargs=argparse.REMAINDER, help="lines to run")
    return parser


def _options(argv: list[str] | None) -> argparse.Namespace:
    """The command line; a wrong option is named before a missing SOCKET is."""
    parser = _parser()
    options, wrong = parser.parse_known_args(argv)
    if wrong:
        parser.error(f"there is no option '{wrong[0]}'")
    if options.socket is None:
        parser.error("SOCKET is missing")
    return options


def _lines(commands: list[str], hmp: bool) -> Iterable[str]:
    """The lines to run; ``-`` stands for those of standard input. A word of the shell takes all that follows."""
    from vmmd.shell.completion import WORDS

    if commands and commands[0] in WORDS and not hmp:
        commands = [" ".join(commands)]
    for command in commands:
        for line in sys.stdin if command == "-" else (command,):
            yield f"hmp {line}" if hmp and line.strip() else line.rstrip("\n")


def main(argv: list[str] | None = None) -> int:
    """The program; returns the exit status."""
    if sys.stderr is None:  # it was closed
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    options = _options(argv)
    if sys.stdout is None:
        print("vmmd-shell: standard output: it is closed", file=sys.stderr)
        return NO_OUTPUT_STATUS
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        return _run(options)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in PACKAGES:
            raise
        print(f"vmmd-shell: the package {error.name} is missing; install vmmd[shell]", file=sys.stderr)
        return NO_PACKAGES_STATUS
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has gone, and wants to hear no more
        return NO_OUTPUT_STATUS


def _run(options: argparse.Namespace) -> int:
    from vmmd.safe_text import safe
    from vmmd.shell.errors import ConnectionFailed, ShellError
    from vmmd.shell.link import address
    from vmmd.shell.oneshot import Options, Status, run_lines

    try:
        to = address(options.socket)
    except ShellError as error:
        print(f"vmmd-shell: {error}", file=sys.stderr)
        return Status.USAGE
    commands = options.commands
    if not commands and not sys.stdin.isatty():
        commands = ["-"]
    live = commands[:1] in (["watch"], ["top"]) and "--once" not in commands and not options.json
    interactive = not commands or (live and sys.stdout.isatty())
    if not interactive:
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        how = Options(options.json, colour, options.timeout)
        return asyncio.run(run_lines(to, _lines(commands, options.hmp), how))
    from vmmd.shell.repl import interact

    try:
        asyncio.run(interact(to, not options.no_history, options.timeout, " ".join(commands)))
    except ConnectionFailed as error:
        print(f"vmmd-shell: {safe(options.socket)}: {safe(str(error))}", file=sys.stderr)
        return Status.NO_CONNECTION
    return Status.OK


if __name__ == "__main__":
    sys.exit(main())
