# SPDX-License-Identifier: Apache-2.0
"""vmmd-shell: the interactive shell for a QMP monitor, of vmmd or of QEMU.

A client program: it knows a monitor only by what the monitor says over its socket (``query-qmp-schema``), and imports
nothing of the machine. One thread, one asyncio loop. Texts, parsing, completion and frames are pure functions;
``link``, ``live``, ``repl`` and ``view`` are where it meets the socket and the terminal.
"""
