"""libvirt's wire protocol: XDR, messages, the gate that lets eight procedures pass, and the donor's relay. Pure."""
