# SPDX-License-Identifier: Apache-2.0
"""Tests of vmmd; a package so that `tests.framework` is importable from every test."""
