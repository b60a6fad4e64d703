# SPDX-License-Identifier: Apache-2.0
"""Commands about recovery from a backend that hangs."""
