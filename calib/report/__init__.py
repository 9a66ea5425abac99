"""Account of a run: its record, read by machines, and reports of it for people."""
