"""The tenant's side: an SDK over the bus (`sdk`) and the ``vmport`` command line over the SDK (`cli`)."""
