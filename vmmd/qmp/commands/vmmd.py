# SPDX-License-Identifier: Apache-2.0
"""Commands about what is vmmd's own: names begin with ``__org.vmmd_``."""
