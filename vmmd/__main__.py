# SPDX-License-Identifier: Apache-2.0
"""Entry: command line → Config → daemon. Exit codes are decided here and nowhere else."""

from __future__ import annotations

import enum
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmmd.options.draft import HelpRequested


class ExitCode(enum.IntEnum):
    OK = 0
    ERROR = 1  # the command line, or what it names, is wrong; or the machine could not be built


def main(argv: list[str] | None = None) -> int:
    """Run vmmd with the arguments of the process. Returns the exit status."""
    from vmmd.core.ending import EndRequested, early_end

    early_end.install()
    arguments = sys.argv[1:] if argv is None else argv
    from vmmd.errors import VmmdError
    from vmmd.messages import messages
    from vmmd.options import availability, cmdline

    try:
        config = cmdline.parse(arguments)
        messages.timestamp = config.msg_timestamp
        availability.check(config)
        for notice in config.notices:
            messages.notice(notice)
        from vmmd.daemon import Daemon

        Daemon(config).run()
    except cmdline.HelpRequested as request:
        return _help(request)
    except EndRequested:
        return ExitCode.OK
    except VmmdError as error:
        messages.timestamp = cmdline.wants_timestamp(arguments)
        messages.error(str(error))
        return ExitCode.ERROR


def _help(request: HelpRequested) -> int:
    """Print the text that was asked for."""
    from vmmd.errors import UsageError
    from vmmd.messages import messages
    from vmmd.options import help as help_texts

    def cpu_text() -> str:
        from vmmd.kvm.cpu_help import help_text

        return help_text()

    try:
        sys.stdout.write(help_texts.render(request, cpu_text=cpu_text))
    except UsageError as error:
        messages.error(str(error))
        return ExitCode.ERROR
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
