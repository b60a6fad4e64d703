# SPDX-License-Identifier: Apache-2.0
"""The qtest accelerator: no guest runs; a client reads and writes ports, memory and time over a socket."""
