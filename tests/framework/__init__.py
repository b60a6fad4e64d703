# SPDX-License-Identifier: Apache-2.0
"""Test framework: emulator processes, QMP, guest artefacts and guest scenarios (standard library only)."""
