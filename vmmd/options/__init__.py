# SPDX-License-Identifier: Apache-2.0
"""The command line: grammar, typed models, checks and help. Entry: ``cmdline.parse``."""
