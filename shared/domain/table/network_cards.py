"""Rows of the table: network cards."""

ROWS = """
devices/interface            abi      -
devices/interface@type       host     =bridge|network|user|ethernet|vhostuser  what the recipient's network map gives
devices/interface@type=direct    refused any   the card is bound to a card of the host (macvtap)
devices/interface@type=hostdev   refused any   a network card of the host is passed through
devices/interface@type=vdpa      refused any   a network card of the host is passed through (vDPA)
devices/interface@type=mcast|server|client|udp refused any the card is joined to other VMs by a socket of the host
devices/interface@type=internal|null|vds refused any not a network that a recipient can give
devices/interface@managed    refused  any      a network card of the host is passed through
devices/interface@trustGuestRxFilters host any not kept: the recipient's network has its own filters
devices/interface/mac                abi      -
devices/interface/mac@address        abi      mac
devices/interface/mac@type           lasting  =generated|static
devices/interface/mac@check          lasting  =yes|no
devices/interface/mac@currentAddress live     mac      what the guest has set at this moment
devices/interface/model              abi      -
devices/interface/model@type         abi      =virtio|virtio-transitional|virtio-non-transitional|virtio-net-pci
devices/interface/model@type=e1000*|i825*|i82801|igb|ne2k*|pcnet|rtl8139|tulip|usb-net|vmxnet3 abi word
devices/interface/mtu                abi      -
devices/interface/mtu@size           abi      number
devices/interface/boot               abi      -
devices/interface/boot@order         abi      number
# A cable may be drawn while the guest runs; it stays so.
devices/interface/link               lasting  -
devices/interface/link@state         lasting  =up|down
devices/interface/coalesce           lasting  -
devices/interface/coalesce/rx        lasting  -
devices/interface/coalesce/rx/frames lasting  -
devices/interface/coalesce/rx/frames@max lasting number
devices/interface/tune               lasting  -
devices/interface/tune/sndbuf        lasting  number
devices/interface/teaming            abi      -
devices/interface/teaming@type       abi      =persistent|transient
devices/interface/teaming@persistent abi      alias
devices/interface/rom                abi      -
devices/interface/rom@bar            abi      =on|off
devices/interface/rom@enabled        abi      =yes|no
devices/interface/rom@file           refused  path     the card's boot ROM is in a file of the host
# An empty name is one way to say that a card has no ROM.
devices/interface/rom@file=          abi      empty

devices/interface/driver                   abi      -
devices/interface/driver@name              lasting  =vhost|qemu
devices/interface/driver@name=kvm|vfio|xen refused  any      a network card of the host is passed through
devices/interface/driver@model             refused  any      a network card of the host is passed through
devices/interface/driver@txmode            lasting  =iothread|timer
devices/interface/driver@ioeventfd         lasting  =on|off
devices/interface/driver@event_idx         abi      =on|off
devices/interface/driver@queues            abi      number
devices/interface/driver@rx_queue_size     abi      number
devices/interface/driver@tx_queue_size     abi      number
devices/interface/driver@rss               abi      =on|off
devices/interface/driver@rss_hash_report   abi      =on|off
devices/interface/driver/host              abi      -
devices/interface/driver/host@csum         abi      =on|off
devices/interface/driver/host@gso          abi      =on|off
devices/interface/driver/host@tso4         abi      =on|off
devices/interface/driver/host@tso6         abi      =on|off
devices/interface/driver/host@ecn          abi      =on|off
devices/interface/driver/host@ufo          abi      =on|off
devices/interface/driver/host@mrg_rxbuf    abi      =on|off
devices/interface/driver/guest             abi      -
devices/interface/driver/guest@csum        abi      =on|off
devices/interface/driver/guest@tso4        abi      =on|off
devices/interface/driver/guest@tso6        abi      =on|off
devices/interface/driver/guest@ecn         abi      =on|off
devices/interface/driver/guest@ufo         abi      =on|off

devices/interface/source                   host     -        what the recipient's network map gives
devices/interface/source@bridge            host     word     what the recipient's network map gives
devices/interface/source@network           host     any      what the recipient's network map gives
devices/interface/source@dev               host     path     what the recipient's network map gives
devices/interface/source@portgroup         host     any      not kept: the recipient's network has its own port groups
devices/interface/source@macTableManager   host     any      the recipient's bridge has its own setting
devices/interface/source@portid            live     any      libvirt's number of the running port
devices/interface/source@mode              host     any      what the recipient's network map gives
devices/interface/source@type              refused  any      the card is served by a program of the host
devices/interface/source@missing           refused  any      a network card of the host is passed through
devices/interface/source@path              refused  path     the card is served by a program of the host
devices/interface/source@address           refused  any      the card is joined to other VMs by a socket of the host
devices/interface/source@port              refused  any      the card is joined to other VMs by a socket of the host
devices/interface/source@name              refused  any      the card is joined to other VMs by a program of the host
devices/interface/source@connectionid      refused  any      a port of a VMware switch
devices/interface/source@portgroupid       refused  any      a port of a VMware switch
devices/interface/source@switchid          refused  any      a port of a VMware switch
devices/interface/source/address/**        refused  any      a network card of the host is passed through
devices/interface/source/vendor/**         refused  any      a network card of the host is passed through
devices/interface/source/product/**        refused  any      a network card of the host is passed through
devices/interface/source/local/**          refused  any      the card is joined to other VMs by a socket of the host
devices/interface/source/reconnect/**      refused  any      the card is served by a program of the host
devices/interface/source/ip/**             host     any      not kept: an address of the host's side
devices/interface/source/route/**          host     any      not kept: an address of the host's side
devices/interface/target                   host     -        the recipient's libvirt names the tap device
devices/interface/target@dev               host     word     the recipient's libvirt names the tap device
devices/interface/target@dev=vnet*         live     any      libvirt's name of the running device
devices/interface/target@managed           host     any      the recipient's libvirt makes the tap device
devices/interface/backend                  host     -        what the recipient's network map gives
devices/interface/backend@type             host     any      what the recipient's network map gives
devices/interface/backend@logFile          host     path     not kept: the recipient has its own log
devices/interface/backend@tap              host     path     not kept: a device file of the host
devices/interface/backend@vhost            host     path     not kept: a device file of the host
devices/interface/bandwidth/**             host     any      not kept: the recipient's network has its own limits
devices/interface/vlan/**                  host     any      the tags that the recipient's network map gives
devices/interface/virtualport/**           host     any      the port that the recipient's switch makes
devices/interface/filterref/**             host     any      not kept: the recipient's network has its own filters
devices/interface/port                     host     -        as the recipient's network map says
devices/interface/port@isolated            host     any      as the recipient's network map says
devices/interface/ip/**                    host     any      not kept: the recipient's network gives the addresses
devices/interface/route/**                 host     any      not kept: the recipient's network gives the routes
devices/interface/portForward/**           host     any      not kept: ports of the donor's host that lead to the guest
devices/interface/script                   host     -        not kept: a program of the donor's host
devices/interface/script@path              host     path     not kept: a program of the donor's host
devices/interface/downscript               host     -        not kept: a program of the donor's host
devices/interface/downscript@path          host     path     not kept: a program of the donor's host
devices/interface/guest/**                 refused  any      a card of a container; this is not a VM of QEMU
devices/interface/backenddomain/**         refused  any      not a VM of QEMU, but of Xen
"""
