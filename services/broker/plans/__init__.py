"""Plans for many VMs: what is asked, what was found, and the group of ports that carries one out."""
