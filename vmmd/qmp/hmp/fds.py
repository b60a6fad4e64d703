# SPDX-License-Identifier: Apache-2.0
"""Descriptors that came over the monitor's own UNIX socket."""

from __future__ import annotations

from vmmd.qmp.hmp.registry import forward

forward("getfd", words="fdname", help="name the descriptor that came with this command")
forward("closefd", words="fdname", help="close a descriptor that getfd has named")
