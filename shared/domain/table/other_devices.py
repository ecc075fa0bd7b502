"""Rows of the table: TPM, random numbers, balloon, watchdog, panic, IOMMU, vsock, and what is bound to its host."""

ROWS = """
devices/tpm                                  abi      -
devices/tpm@model                            abi      =tpm-tis|tpm-crb
devices/tpm@model=tpm-spapr|spapr-tpm-proxy  refused  any      not a machine of x86
devices/tpm/backend                          abi      -
devices/tpm/backend@type                     abi      =emulator
devices/tpm/backend@type=passthrough         refused  any      the TPM of the host is passed through
devices/tpm/backend@type=external            refused  any      the TPM is in a program of the host
devices/tpm/backend@version                  abi      =1.2|2.0
devices/tpm/backend@persistent_state         lasting  =yes|no
devices/tpm/backend@debug                    host     any      not kept: a log of the host
devices/tpm/backend/active_pcr_banks         abi      -
devices/tpm/backend/active_pcr_banks/sha1    abi      -
devices/tpm/backend/active_pcr_banks/sha256  abi      -
devices/tpm/backend/active_pcr_banks/sha384  abi      -
devices/tpm/backend/active_pcr_banks/sha512  abi      -
devices/tpm/backend/profile                  lasting  -
devices/tpm/backend/profile@name             lasting  profile
devices/tpm/backend/profile@removeDisabled   lasting  =check|fips-host
devices/tpm/backend/profile@source           host     any      not kept: its state, which comes along, has the profile
# That its state is encrypted is carried, so that it stays so. The key travels from node to node only.
devices/tpm/backend/encryption               abi      -
devices/tpm/backend/encryption@secret        host     secret   the same key, in a secret of the recipient's own
devices/tpm/backend/device/**                refused  any      the TPM of the host is passed through
devices/tpm/backend/source/**                host     any      the state comes along, into a folder of the recipient
devices/tpm/backend/source@mode              refused  any      the TPM is in a program of the host

devices/rng                  abi      -
devices/rng@model            abi      =virtio|virtio-transitional|virtio-non-transitional
devices/rng/rate             lasting  -
devices/rng/rate@bytes       lasting  number
devices/rng/rate@period      lasting  number
devices/rng/backend          host     path     the recipient's own source of random numbers
devices/rng/backend@model    lasting  =random|builtin
# One random number is as good as another: where they come from is nothing that the guest sees.
devices/rng/backend@model=egd host    any      the recipient's own source of random numbers
devices/rng/backend@type     host     any      the recipient's own source of random numbers
devices/rng/backend/**       host     any      the recipient's own source of random numbers

devices/memballoon                    abi      -
devices/memballoon@model              abi      =virtio|virtio-transitional|virtio-non-transitional|none
devices/memballoon@model=xen          refused  any      not a VM of QEMU, but of Xen
devices/memballoon@autodeflate        abi      =on|off
devices/memballoon@freePageReporting  abi      =on|off
devices/memballoon/stats              lasting  -
devices/memballoon/stats@period       lasting  number

devices/watchdog             abi      -
devices/watchdog@model       abi      =i6300esb|ib700|itco
devices/watchdog@model=diag288 refused any     not a machine of x86
devices/watchdog@action      lasting  =reset|shutdown|poweroff|pause|none|dump|inject-nmi
devices/panic                abi      -
devices/panic@model          abi      =isa|pvpanic|hyperv
devices/panic@model=pseries|s390 refused any   not a machine of x86
devices/iommu                abi      -
devices/iommu@model          abi      =intel|virtio
devices/iommu@model=smmuv3   refused  any      not a machine of x86
devices/iommu/driver@intremap        abi  =on|off
devices/iommu/driver@caching_mode    abi  =on|off
devices/iommu/driver@eim             abi  =on|off
devices/iommu/driver@iotlb           abi  =on|off
devices/iommu/driver@aw_bits         abi  number
devices/iommu/driver@dma_translation abi  =on|off
devices/vsock                abi      -
devices/vsock@model          abi      =virtio|virtio-transitional|virtio-non-transitional
devices/vsock/cid            host     -        a number that is free at the recipient; the guest is told of it
devices/vsock/cid@auto       host     any      a number that is free at the recipient; the guest is told of it
devices/vsock/cid@address    host     number   a number that is free at the recipient; the guest is told of it

devices/hostdev/**           refused  any      a device of the host is passed through
devices/filesystem/**        refused  any      a folder of the host is shared
devices/shmem/**             refused  any      memory is shared with other programs of the host
devices/crypto/**            refused  any      QEMU cannot migrate this crypto device
devices/lease/**             refused  any      a lock that the host's lock manager keeps
devices/pstore               abi      -
devices/pstore@backend       abi      =acpi-erst
devices/pstore/path          host     path     the contents come along, into a file of the recipient
devices/pstore/size          abi      number
devices/pstore/size@unit     abi      unit
devices/nvram/**             refused  any      not a machine of x86
"""
