# SPDX-License-Identifier: Apache-2.0
"""QAPI types of groups of actions that happen together or not at all."""
