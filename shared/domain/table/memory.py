"""Rows of the table: memory, its backing, and memory devices."""

ROWS = """
memory                       abi      number
memory@unit                  abi      unit
memory@dumpCore              lasting  =on|off
maxMemory                    abi      number
maxMemory@unit               abi      unit
maxMemory@slots              abi      number
currentMemory                lasting  number
currentMemory@unit           lasting  unit

memoryBacking                          lasting  -
memoryBacking/hugepages                lasting  -
memoryBacking/hugepages/page           lasting  -
memoryBacking/hugepages/page@size      lasting  number
memoryBacking/hugepages/page@unit      lasting  unit
# Nodes of the guest, not of the host.
memoryBacking/hugepages/page@nodeset   lasting  cpus
memoryBacking/nosharepages             lasting  -
memoryBacking/locked                   lasting  -
memoryBacking/discard                  lasting  -
memoryBacking/access                   lasting  -
memoryBacking/access@mode              lasting  =private|shared
memoryBacking/allocation               lasting  -
memoryBacking/allocation@mode          lasting  =immediate|ondemand
memoryBacking/allocation@threads       lasting  number
memoryBacking/source                   lasting  -
memoryBacking/source@type              lasting  =anonymous|memfd
memoryBacking/source@type=file         host     any      memory as the recipient's libvirt makes it

devices/memory                         abi      -
devices/memory@model                   abi      =dimm|virtio-mem|nvdimm
devices/memory@model=virtio-pmem       refused  any      QEMU does not migrate the state of this device
devices/memory@model=sgx-epc           refused  any      an enclave's memory is sealed to the CPU of this host
devices/memory@access                  lasting  =private|shared
devices/memory@discard                 lasting  =yes|no
devices/memory/source                  lasting  -
devices/memory/source/pagesize         lasting  number
devices/memory/source/pagesize@unit    lasting  unit
devices/memory/source/nodemask         host     cpus     not kept: the recipient places memory on its own NUMA nodes
# What the guest has in it comes in QEMU's stream, as its other memory does.
devices/memory/source/path             host     path     its contents come along, into a file that the guest writes
devices/memory/source/alignsize        abi      number
devices/memory/source/alignsize@unit   abi      unit
devices/memory/source/pmem             refused  -        the memory is a persistent memory module of the host
devices/memory/target                  abi      -
devices/memory/target@dynamicMemslots  abi      =yes|no
devices/memory/target/size             abi      number
devices/memory/target/size@unit        abi      unit
devices/memory/target/node             abi      number
devices/memory/target/block            abi      number
devices/memory/target/block@unit       abi      unit
devices/memory/target/requested        abi      number
devices/memory/target/requested@unit   abi      unit
devices/memory/target/current          live     number   what the guest uses of it at this moment
devices/memory/target/current@unit     live     unit     what the guest uses of it at this moment
devices/memory/target/address          abi      -
devices/memory/target/address@base     abi      hex
devices/memory/target/label            abi      -
devices/memory/target/label/size       abi      number
devices/memory/target/label/size@unit  abi      unit
devices/memory/target/readonly         refused  -        its contents are in a file of the host, which is not copied
devices/memory/uuid                    abi      uuid
"""
