"""What several vmport processes need: messages, bus, topology, settings, logs, metrics, errors. Imports no service."""
