# SPDX-License-Identifier: Apache-2.0
"""Commands about groups of actions that happen together or not at all."""
