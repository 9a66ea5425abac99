"""Kills at every change of files, and disks of a few kilobytes: those of the harness of faults."""

from tools.faults.operations import killed_at
from tools.faults.small_disk import can_mount, small_disk

__all__ = ["can_mount", "killed_at", "small_disk"]
