# SPDX-License-Identifier: Apache-2.0
"""Tests that run real guests; they need /dev/kvm (marker `kvm`)."""
