"""Research figures and ablations: commands behind numbers in docs/log."""
