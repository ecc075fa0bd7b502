"""Rows of the table: controllers, and where a device sits in the guest."""

ROWS = """
devices                            abi      -
devices/emulator                   host     path     the recipient's own QEMU

# Where the guest finds a device. All numbers are of the guest's buses, none of the host's.
devices/*/address                  abi      -
devices/*/address@type             abi      =pci|usb|drive|virtio-serial|ccid|isa|dimm
devices/*/address@type=ccw|spapr-vio|virtio-mmio refused any not a machine of x86
devices/*/address@type=unassigned  refused  any      a device of the host is kept from it, and from the guest
devices/*/address@domain           abi      hex
devices/*/address@bus              abi      hex
devices/*/address@slot             abi      hex
devices/*/address@function         abi      hex
devices/*/address@multifunction    abi      =on|off
devices/*/address@controller       abi      number
devices/*/address@target           abi      number
devices/*/address@unit             abi      number
devices/*/address@port             abi      port
devices/*/address@iobase           abi      hex
devices/*/address@irq              abi      hex
devices/*/address@base             abi      hex
devices/*/address@cssid            refused  any      not a machine of x86
devices/*/address@ssid             refused  any      not a machine of x86
devices/*/address@devno            refused  any      not a machine of x86
devices/*/address@reg              refused  any      not a machine of x86
devices/*/address/zpci/**          refused  any      not a machine of x86
devices/*/acpi                     abi      -
devices/*/acpi@index               abi      number
devices/*/boot@loadparm            refused  any      not a machine of x86
# QEMU names memory in its stream by the alias, so that an owner's own alias is kept.
devices/*/alias                    lasting  -
devices/*/alias@name               live     any      libvirt's name of the running device
devices/*/alias@name=ua-*          lasting  alias
devices/*/driver                   abi      -
devices/*/driver@iommu             abi      =on|off
devices/*/driver@ats               abi      =on|off
devices/*/driver@packed            abi      =on|off
devices/*/driver@page_per_vq       abi      =on|off

devices/controller                 abi      -
devices/controller@type            abi      =ide|fdc|scsi|sata|usb|ccid|virtio-serial|pci|isa
devices/controller@type=xenbus     refused  any      not a bus of QEMU
devices/controller@index           abi      number
devices/controller@model           abi      word
devices/controller@ports           abi      number
devices/controller@vectors         abi      number
devices/controller@maxEventChannels refused any      not a VM of QEMU, but of Xen
devices/controller@maxGrantFrames  refused  any      not a VM of QEMU, but of Xen
devices/controller/model           abi      -
devices/controller/model@name      abi      word
devices/controller/target          abi      -
devices/controller/target@chassisNr abi     hex
devices/controller/target@chassis  abi      hex
devices/controller/target@port     abi      hex
devices/controller/target@busNr    abi      hex
devices/controller/target@index    abi      hex
devices/controller/target@hotplug  abi      =on|off
devices/controller/target@memReserve abi    number
devices/controller/target/node     abi      number
devices/controller/pcihole64       abi      number
devices/controller/pcihole64@unit  abi      unit
devices/controller/master          abi      -
devices/controller/master@startport abi     number
devices/controller/driver@queues       abi      number
devices/controller/driver@cmd_per_lun  abi      number
devices/controller/driver@max_sectors  abi      number
devices/controller/driver@ioeventfd    lasting  =on|off
devices/controller/driver@iothread     lasting  number
devices/controller/driver/iothreads                    lasting -
devices/controller/driver/iothreads/iothread           lasting -
devices/controller/driver/iothreads/iothread@id        lasting number
devices/controller/driver/iothreads/iothread/queue     lasting -
devices/controller/driver/iothreads/iothread/queue@id  lasting number
"""
