"""One per hypervisor host: moves memory and disk, and lets nothing else through."""
