"""What more than one vmport process needs: messages, bus, topology, settings, logs, metrics, errors. Imports no service."""
