"""Reports of a run: its record for machines, tables and pages for people."""
