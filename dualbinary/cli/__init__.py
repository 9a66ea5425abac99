"""The parts that all commands share: options, errors, exit codes, the version."""
