"""Rows of the table: serial ports, consoles, channels, smart cards and USB redirection; the host's end, the guest's."""

# What the host's end is, stays; where it leads is the recipient's own.
_HOST_END = """
DEVICE@type=dev              refused  any      leads to a device of the host
DEVICE@type=pipe             refused  any      leads to a pipe of the host
DEVICE@type=tcp|udp          refused  any      leads to a network socket of the host
DEVICE@type=nmdm             refused  any      a device of another operating system
DEVICE@type=dbus             refused  any      leads to a message bus of the host
DEVICE/source             lasting  -
DEVICE/source@path        host     path     a file, terminal or socket that the recipient's libvirt makes
DEVICE/source@append      host     any      not kept: the recipient has its own log
DEVICE/source@mode        host     any      a socket that the recipient's libvirt makes
DEVICE/source@mode=connect refused any      leads to a socket of another program of the host
DEVICE/source@channel     lasting  word
DEVICE/source@host        refused  any      leads to a network socket of the host
DEVICE/source@service     refused  any      leads to a network socket of the host
DEVICE/source@tls         refused  any      leads to a network socket of the host
DEVICE/source@master      refused  any      a device of another operating system
DEVICE/source@slave       refused  any      a device of another operating system
DEVICE/source/clipboard            lasting  -
DEVICE/source/clipboard@copypaste  lasting  =yes|no
DEVICE/source/mouse                lasting  -
DEVICE/source/mouse@mode           lasting  =client|server
DEVICE/source/reconnect/**         host     any      a socket that the recipient's libvirt makes
DEVICE/source/seclabel/**          host     any      the recipient's libvirt makes its own labels
DEVICE/protocol                    host     -        a socket that the recipient's libvirt makes
DEVICE/protocol@type               host     =raw     a socket that the recipient's libvirt makes
DEVICE/protocol@type=telnet|telnets|tls refused any  leads to a network socket of the host
DEVICE/log                         host     -        a log of the recipient, where it keeps one
DEVICE/log@file                    host     path     a log of the recipient, where it keeps one
DEVICE/log@append                  host     any      a log of the recipient, where it keeps one
"""

_PORT_TYPES = """
DEVICE@type                  lasting  =pty|null|vc|spicevmc|spiceport|qemu-vdagent
DEVICE@type=file|stdio       host     any      a file, terminal or socket that the recipient's libvirt makes
"""

# What a port writes to a socket of its own goes to a terminal; a channel's socket is made where its host keeps them.
_SOCKETS = """
DEVICE@type=unix             host     any      a file, terminal or socket that the recipient's libvirt makes
"""

_CHANNEL_SOCKET = """
devices/channel@type=unix    lasting  =unix
"""

_TTY = """
DEVICE@tty                   live     any      the host's end at this moment
"""

_GUEST_END = """
devices/serial               abi      -
devices/serial/target        abi      -
devices/serial/target@port   abi      number
devices/serial/target@type   abi      =isa-serial|usb-serial|pci-serial|isa-debug
devices/serial/target/model  abi      -
devices/serial/target/model@name abi  =isa-serial|usb-serial|pci-serial|isa-debugcon
devices/parallel             abi      -
devices/parallel/target      abi      -
devices/parallel/target@port abi      number
devices/parallel/target@type refused  any      a parallel port has no type
devices/parallel/target/model/** refused any   a parallel port has no model
devices/console              abi      -
devices/console/target       abi      -
devices/console/target@port  abi      number
devices/console/target@type  abi      =serial|virtio
devices/console/target@type=isa-serial|usb-serial|pci-serial|isa-debug refused any only a serial port has this type
devices/console/target/model/** refused any    only a serial port has a model
devices/channel              abi      -
devices/channel/target       abi      -
devices/channel/target@type  abi      =virtio
devices/channel/target@type=guestfwd refused any packets of the guest are led to a socket of the host
devices/channel/target@type=xen refused any    not a VM of QEMU, but of Xen
devices/channel/target@name  abi      word
devices/channel/target@state live     any      whether the guest has it open at this moment
devices/channel/target@port  refused  any      packets of the guest are led to a socket of the host
devices/channel/target@address refused any     packets of the guest are led to a socket of the host
devices/serial/target@type=serial|virtio refused any only a console has this type
devices/serial/target@type=lxc|openvz|uml|xen refused any not a device of QEMU
devices/serial/target@type=sclp|sclp-serial|sclplm|spapr-vio-serial|system-serial refused any not a machine of x86
devices/serial/target/model@name=pl011|sclpconsole|sclplmconsole|spapr-vty|16550a refused any not a machine of x86
devices/console/target@type=lxc|openvz|uml|xen refused any not a device of QEMU
devices/console/target@type=sclp|sclp-serial|sclplm|spapr-vio-serial|system-serial refused any not a machine of x86

devices/redirdev             abi      -
devices/redirdev@bus         abi      =usb
devices/redirdev@type        lasting  =spicevmc
devices/redirdev@type=null|vc|pty|file|stdio|unix|spiceport|qemu-vdagent refused any USB devices of another program
devices/redirdev/boot        abi      -
devices/redirdev/boot@order  abi      number
devices/redirfilter          abi      -
devices/redirfilter/usbdev   abi      -
devices/redirfilter/usbdev@class    abi  usb
devices/redirfilter/usbdev@vendor   abi  usb
devices/redirfilter/usbdev@product  abi  usb
devices/redirfilter/usbdev@version  abi  version
devices/redirfilter/usbdev@allow    abi  =yes|no
devices/smartcard            abi      -
devices/smartcard@mode       abi      =passthrough
devices/smartcard@mode=host|host-certificates refused any a smart card of the host, or its certificates
devices/smartcard@type       lasting  =spicevmc
devices/smartcard@type=null|vc|pty|file|stdio|unix|spiceport|qemu-vdagent refused any the card of another program
devices/smartcard/certificate refused any      a smart card of the host, or its certificates
devices/smartcard/target/**  refused  any      a smart card reader has no target
devices/smartcard/database   refused  path     a smart card of the host, or its certificates
"""

_PORTS = ("devices/serial", "devices/parallel", "devices/console")


def _of_each(template: str, *devices: str) -> str:
    return "".join(template.replace("DEVICE", device) for device in devices)


ROWS = (
    _GUEST_END
    + _of_each(_PORT_TYPES, *_PORTS, "devices/channel")
    + _of_each(_SOCKETS, *_PORTS)
    + _CHANNEL_SOCKET
    + _of_each(_TTY, *_PORTS)
    + _of_each(_HOST_END, *_PORTS, "devices/channel", "devices/redirdev", "devices/smartcard")
)
