# SPDX-License-Identifier: Apache-2.0
"""Scripts that set a tap up and take it down: ``SCRIPT IFNAME``, with nothing of vmmd's descriptors but 0 to 2."""

from __future__ import annotations

import subprocess

from vmmd.errors import BackendError

#: a script that takes longer is killed
PATIENCE_S = 60.0


def run_script(path: str, ifname: str) -> None:
    """Wait for its end. Raises BackendError when it cannot be started or does not end with status 0. Blocks."""
    try:
        done = subprocess.run(
            [path, ifname], stdin=subprocess.DEVNULL, timeout=PATIENCE_S, check=False, restore_signals=True
        )
    except OSError as error:
        # QEMU-COMPAT: the phrase
        raise BackendError.from_os(f"could not launch network script {path}", error) from error
    except subprocess.TimeoutExpired as error:
        raise BackendError(f"network script {path} took longer than {PATIENCE_S:.0f} s", "it was killed") from error
    if done.returncode:
        # QEMU-COMPAT: the phrase
        raise BackendError(f"network script {path} failed with status {done.returncode}", f"it was given {ifname}")
