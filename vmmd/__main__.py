# SPDX-License-Identifier: Apache-2.0
"""Entry: command line → Config → daemon. Exit codes are decided here and nowhere else."""

from __future__ import annotations

import enum
import sys


class ExitCode(enum.IntEnum):
    OK = 0
    ERROR = 1  # the command line, or what it names, is wrong; or the machine could not be built


def main(argv: list[str] | None = None) -> int:
    """Run vmmd with the arguments of the process. Returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    from vmmd.errors import VmmdError
    from vmmd.options import availability, cmdline
    from vmmd.options import help as help_
    from vmmd.process import messages

    try:
        text = help_.requested(arguments)
        if text is not None:
            sys.stdout.write(text)
            return ExitCode.OK
        config = cmdline.parse(arguments)
        messages.timestamp = config.msg_timestamp
        availability.check(config)
        from vmmd.daemon import Daemon

        return Daemon(config).run()
    except VmmdError as error:
        messages.error(str(error))
        return ExitCode.ERROR


if __name__ == "__main__":
    sys.exit(main())
