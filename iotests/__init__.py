# SPDX-License-Identifier: GPL-2.0-or-later
"""Golden-output tests that run against qmpfleece-qemu and against the real QEMU."""
