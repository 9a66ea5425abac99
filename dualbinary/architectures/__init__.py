"""Which decoders, and which values of their config.json, an export takes: what calib and the exporter must agree on."""
