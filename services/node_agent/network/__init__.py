"""A VM's addresses on this host: what is known of them."""
