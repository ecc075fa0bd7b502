"""The hypervisor as a port (`interface`), libvirt behind it (`libvirt_adapter`), and what belongs to one host."""
