"""Rows of the table: disks and drives."""

ROWS = """
devices/disk                 abi      -
# Where the contents are is said by the source; an empty drive has none.
devices/disk@type            host     any      a file of the recipient
devices/disk@device          abi      =disk|cdrom|floppy
devices/disk@device=lun      refused  any      a SCSI device of the host is passed through
devices/disk@model           abi      =virtio|virtio-transitional|virtio-non-transitional
devices/disk@snapshot        lasting  =no|internal|external|manual
devices/disk@rawio           lasting  =no
devices/disk@rawio=yes       refused  any      the guest gives raw commands to a device of the host
devices/disk@sgio            lasting  =filtered
devices/disk@sgio=unfiltered refused  any      the guest gives raw commands to a device of the host

devices/disk/target                abi      -
devices/disk/target@dev            abi      word
devices/disk/target@bus            abi      =ide|fdc|scsi|virtio|usb|sata|sd
devices/disk/target@bus=uml|xen    refused  any      not a bus of QEMU
devices/disk/target@removable      abi      =on|off
devices/disk/target@rotation_rate  abi      number
devices/disk/target@tray           live     any      whether the tray is open at this moment
devices/disk/serial                abi      line
devices/disk/wwn                   abi      wwn
devices/disk/vendor                abi      line
devices/disk/product               abi      line
devices/disk/readonly              abi      -
devices/disk/shareable             refused  -        the disk is shared with other VMs
devices/disk/transient             refused  -        what the guest wrote would be lost
devices/disk/transient@shareBacking refused any      what the guest wrote would be lost
devices/disk/boot                  abi      -
devices/disk/boot@order            abi      number
devices/disk/blockio                       abi  -
devices/disk/blockio@logical_block_size    abi  number
devices/disk/blockio@physical_block_size   abi  number
devices/disk/blockio@discard_granularity   abi  number
devices/disk/geometry              abi      -
devices/disk/geometry@cyls         abi      number
devices/disk/geometry@heads        abi      number
devices/disk/geometry@secs         abi      number
devices/disk/geometry@trans        abi      =auto|none|lba

devices/disk/driver                        lasting  -
devices/disk/driver@name                   lasting  =qemu
devices/disk/driver@type                   host     any      a file of the recipient
devices/disk/driver@cache                  lasting  =default|none|writethrough|writeback|directsync|unsafe
devices/disk/driver@io                     lasting  =threads|native|io_uring
devices/disk/driver@error_policy           lasting  =stop|report|ignore|enospace
devices/disk/driver@rerror_policy          lasting  =stop|report|ignore
devices/disk/driver@discard                lasting  =ignore|unmap
devices/disk/driver@discard_no_unref       host     any      not kept: a setting of the donor's format of the image
devices/disk/driver@detect_zeroes          lasting  =off|on|unmap
devices/disk/driver@copy_on_read           lasting  =on|off
devices/disk/driver@ioeventfd              lasting  =on|off
devices/disk/driver@iothread               lasting  number
devices/disk/driver@event_idx              abi      =on|off
devices/disk/driver@queues                 abi      number
devices/disk/driver@queue_size             abi      number
devices/disk/driver/iothreads                    lasting -
devices/disk/driver/iothreads/iothread           lasting -
devices/disk/driver/iothreads/iothread@id        lasting number
devices/disk/driver/iothreads/iothread/queue     lasting -
devices/disk/driver/iothreads/iothread/queue@id  lasting number
devices/disk/driver/metadata_cache/**      host     any      not kept: a setting of the donor's format of the image
devices/disk/iotune/**             host     any      not kept: limits of disks are the recipient's own
devices/disk/throttlefilters/**    host     any      not kept: limits of disks are the recipient's own

devices/disk/source                lasting  -
devices/disk/source@file           host     path     a file of the recipient
devices/disk/source@startupPolicy  lasting  =mandatory|requisite|optional
devices/disk/source@index          live     number   libvirt's number of the running image
devices/disk/source/seclabel/**    host     any      the recipient's libvirt makes its own labels
devices/disk/source/privateData/** live     any      libvirt's note of the running VM
devices/disk/source@dev            refused  path     the contents are on a block device of the host
devices/disk/source@dir            refused  path     the contents are a folder of the host
devices/disk/source@protocol       refused  any      the contents are on a server in the network
devices/disk/source@pool           refused  any      the contents are a volume in a storage pool of the host
devices/disk/source@volume         refused  any      the contents are a volume in a storage pool of the host
devices/disk/source@fdgroup        refused  any      the disk was opened by a program of the host
devices/disk/source@path           refused  path     the contents are in a program of the host
devices/disk/source@type           refused  any      the contents are in a device or a program of the host
devices/disk/source/dataStore/**   refused  any      the contents are in an external data file
devices/disk/source/slices/**      refused  any      the disk is a part of a file
devices/disk/source/reservations/** refused any      reservations of a SCSI device of the host
devices/disk/source/**             refused  any      the contents are not in a plain file
devices/disk/auth/**               refused  any      opened with a secret of this host
devices/disk/mirror/**             refused  any      a block job runs on this disk; wait until it ends
devices/disk/backenddomain/**      refused  any      not a VM of QEMU, but of Xen
devices/disk/privateData/**        live     any      libvirt's note of the running VM

# libvirt reads it in either place. What is encrypted stays so; the key travels from node to node only.
devices/disk/source/encryption              abi      -
devices/disk/source/encryption@format       abi      =luks
devices/disk/source/encryption@format=default|qcow|luks2|luks-any refused any not carried; LUKS is
devices/disk/source/encryption@engine       lasting  =qemu
devices/disk/source/encryption@engine=librbd refused  any    encrypted by a server in the network
devices/disk/source/encryption/secret/**    host     any    the same key, in a secret of the recipient's own
devices/disk/source/encryption/cipher/**    live     any    libvirt's note of how the image was made; the image says it
devices/disk/source/encryption/ivgen/**     live     any    libvirt's note of how the image was made; the image says it
devices/disk/encryption                     abi      -
devices/disk/encryption@format              abi      =luks
devices/disk/encryption@format=default|qcow|luks2|luks-any refused any not carried; LUKS is
devices/disk/encryption@engine              lasting  =qemu
devices/disk/encryption@engine=librbd       refused  any    encrypted by a server in the network
devices/disk/encryption/secret/**           host     any    the same key, in a secret of the recipient's own
devices/disk/encryption/cipher/**           live     any    libvirt's note of how the image was made; the image says it
devices/disk/encryption/ivgen/**            live     any    libvirt's note of how the image was made; the image says it

devices/disk/backingStore                      host     -        a file of the recipient
devices/disk/backingStore@type                 host     any      a file of the recipient
devices/disk/backingStore@index                live     number   libvirt's number of the running image
devices/disk/backingStore/format               host     -        a file of the recipient
devices/disk/backingStore/format@type          host     word     a file of the recipient
devices/disk/backingStore/format/metadata_cache/** host any      not kept: the recipient's own
devices/disk/backingStore/source               host     -        a file of the recipient
devices/disk/backingStore/source@file          host     path     a file of the recipient
devices/disk/backingStore/source@startupPolicy host     any      not kept: the contents come along
devices/disk/backingStore/source@index         live     number   libvirt's number of the running image
devices/disk/backingStore/source/seclabel/**   host     any      the recipient's libvirt makes its own labels
devices/disk/backingStore/source/privateData/** live    any      libvirt's note of the running VM
devices/disk/backingStore/source@dev           refused  path     a layer of the disk is on a block device of the host
devices/disk/backingStore/source@protocol      refused  any      a layer of the disk is on a server in the network
devices/disk/backingStore/source/dataStore/**  refused  any      a layer of the disk is in an external data file
devices/disk/backingStore/source/encryption/** refused  any      a layer is encrypted with a secret of this host
devices/disk/backingStore/source/**            refused  any      a layer of the disk is not in a plain file
"""
