# SPDX-License-Identifier: Apache-2.0
"""QAPI types of what is vmmd's own: names begin with ``__org.vmmd_``."""
