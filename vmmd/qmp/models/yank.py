# SPDX-License-Identifier: Apache-2.0
"""QAPI types of recovery from a backend that hangs."""
