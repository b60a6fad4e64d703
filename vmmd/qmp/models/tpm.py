# SPDX-License-Identifier: Apache-2.0
"""QAPI types of trusted platform modules."""
