"""Faults: commands that are killed, run out of disk or memory, or find their work damaged, again and again."""
