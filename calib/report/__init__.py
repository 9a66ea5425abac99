"""What a run did: its record, read by machines, and reports of it for people."""
