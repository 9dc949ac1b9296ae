"""Allocator settings that keep freed memory in the process, set once where a process of the kit begins."""

from __future__ import annotations

import ctypes
import sys

# glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD = 32 << 20
"""The most that glibc takes."""
KEPT = 256 << 20
"""Bytes at the heap's end that stay with the process when they are freed."""


def mallopt(setting: int, value: int) -> bool:
    """Set an option of glibc's malloc; returns whether it was set, which it is not on macOS, Windows and musl."""
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    return hasattr(library, "gnu_get_libc_version") and bool(library.mallopt(setting, value))


def keep_freed_memory() -> bool:
    """Let freed activations be used again instead of going back to the system after every layer; whether it was set.

    By default glibc takes each large block from the system and gives it back, and every page of the next one is then a
    page fault. It is for processes of our own, not for `import negmerge_kit`: the allocator of somebody's program is
    theirs to set.
    """
    # Both: setting either one turns off that glibc adapts them by itself.
    return mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD) and mallopt(M_TRIM_THRESHOLD, KEPT)
