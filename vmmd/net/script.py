# SPDX-License-Identifier: Apache-2.0
"""Programs around a tap: scripts that set it up and take it down (``SCRIPT IFNAME``), and the helper that makes one as
a port of a bridge. Of vmmd's descriptors they get 1, 2, and what they are told of."""

from __future__ import annotations

import shlex
import socket
import subprocess
from typing import TYPE_CHECKING

from vmmd.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: a script that takes longer is killed
PATIENCE_S = 60.0

#: those that make a netdev, on threads: what they would make is of no use once vmmd ends
_making: set[subprocess.Popen[bytes]] = set()


def end_making() -> None:
    """vmmd ends. Programs that are to make netdevs do so too, by SIGTERM, which sudo hands on. Any thread."""
    for process in list(_making):
        process.terminate()


def _run(command: list[str], fds: Sequence[int] = (), *, making: bool) -> int:
    """Its status. Raises OSError, and TimeoutExpired when it was killed."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=fds, restore_signals=True)
    if making:
        _making.add(process)
    try:
        return process.wait(PATIENCE_S)
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        _making.discard(process)


def run_script(path: str, ifname: str, *, making: bool) -> None:
    """Wait for its end. ``making``: it sets the interface up. Raises BackendError when it cannot be started or does not
    end with status 0. Blocks."""
    try:
        status = _run([path, ifname], making=making)
    except OSError as error:
        # QEMU-COMPAT: the phrase
        raise BackendError.from_os(f"could not launch network script {path}", error) from error
    except subprocess.TimeoutExpired as error:
        raise BackendError(f"network script {path} took longer than {PATIENCE_S:.0f} s", "it was killed") from error
    if status:
        # QEMU-COMPAT: the phrase
        raise BackendError(f"network script {path} failed with status {status}", f"it was given {ifname}")


def ask_helper(helper: str, bridge: str) -> int:
    """A descriptor of a new tap that is a port of ``bridge``, from a bridge helper; the caller's from now on. The
    helper's interface: ``HELPER --use-vnet --fd=N --br=BRIDGE``, N is a socket that the descriptor is sent through.
    Raises BackendError. Blocks."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        ours.settimeout(PATIENCE_S)
        status = _run_helper(_helper_command(helper, bridge, theirs.fileno()), theirs.fileno())
        theirs.close()
        if status:
            # QEMU-COMPAT: the phrase
            raise BackendError("bridge helper failed", f"{helper} ended with status {status}")
        try:
            _, fds, _, _ = socket.recv_fds(ours, 1, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise BackendError.from_os("bridge helper failed", error) from error
    if not fds:
        raise BackendError("bridge helper failed", f"{helper} sent no descriptor")
    return fds[0]


def _helper_command(helper: str, bridge: str, fd: int) -> list[str]:
    """QEMU-COMPAT: a helper with blanks is a line for the shell, and may have its own --br."""
    if " " not in helper and "\t" not in helper:
        return [helper, "--use-vnet", f"--fd={fd}", f"--br={bridge}"]
    own = "" if "--br=" in helper else f" --br={shlex.quote(bridge)}"
    return ["/bin/sh", "-c", f"{helper} --use-vnet --fd={fd}{own}"]


def _run_helper(command: list[str], fd: int) -> int:
    try:
        return _run(command, [fd], making=True)
    except OSError as error:
        raise BackendError.from_os(f"bridge helper failed: {command[0]}", error) from error
    except subprocess.TimeoutExpired as error:
        raise BackendError("bridge helper failed", f"it was killed after {PATIENCE_S:.0f} s") from error
