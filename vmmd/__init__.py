# SPDX-License-Identifier: Apache-2.0
"""vmmd: a virtual machine monitor in Python that speaks QEMU's command line and QMP."""

__version__ = "0.1.0"

#: The QEMU release whose interfaces vmmd offers; what ``query-version`` and ``-version`` claim.
QEMU_COMPAT_VERSION = (7, 2, 0)
