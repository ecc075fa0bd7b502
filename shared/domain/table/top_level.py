"""Rows of the table: what the VM is called, its life cycle, its vCPUs and the resources that its host gives it."""

ROWS = """
.@type                       abi      =kvm|qemu
.@type=bhyve|hvf|hyperv|kqemu|lxc|openvz|phyp|test|uml|vbox|vmware|vz|xen refused any not a VM of QEMU
.@id                         live     number   libvirt's number of the running VM
name                         abi      name
uuid                         abi      uuid
genid                        abi      uuid
title                        lasting  text
description                  lasting  text
metadata/**                  lasting  text     data of management software, up to a size limit

on_poweroff                  lasting  =destroy|restart|preserve|rename-restart
on_reboot                    lasting  =destroy|restart|preserve|rename-restart
on_crash                     lasting  =destroy|restart|preserve|rename-restart|coredump-destroy|coredump-restart
on_lockfailure               host     any      not kept: the recipient's own locks guard its disks
pm                           abi      -
pm/suspend-to-disk           abi      -
pm/suspend-to-disk@enabled   abi      =yes|no
pm/suspend-to-mem            abi      -
pm/suspend-to-mem@enabled    abi      =yes|no

vcpu                         abi      number
vcpu@current                 abi      number
vcpu@cpuset                  host     cpus     not kept: the recipient chooses the CPUs of its host
vcpu@placement               host     any      not kept: the recipient chooses the CPUs of its host
vcpu@placement=static        live     any      what libvirt writes for every VM
vcpus                        abi      -
vcpus/vcpu                   abi      -
vcpus/vcpu@id                abi      number
vcpus/vcpu@enabled           abi      =yes|no
vcpus/vcpu@hotpluggable      abi      =yes|no
vcpus/vcpu@order             abi      number

# I/O threads change while the guest runs, and the guest does not see them.
iothreads                                  lasting  number
iothreadids                                lasting  -
iothreadids/iothread                       lasting  -
iothreadids/iothread@id                    lasting  number
iothreadids/iothread@thread_pool_min       lasting  signed
iothreadids/iothread@thread_pool_max       lasting  signed
iothreadids/iothread/poll                  lasting  -
iothreadids/iothread/poll@max              lasting  number
iothreadids/iothread/poll@grow             lasting  number
iothreadids/iothread/poll@shrink           lasting  number
defaultiothread                            lasting  -
defaultiothread@thread_pool_min            lasting  signed
defaultiothread@thread_pool_max            lasting  signed

cputune                      live     -        only the frame of what is in it
cputune/vcpupin/**           host     any      not kept: the recipient chooses the CPUs of its host
cputune/emulatorpin/**       host     any      not kept: the recipient chooses the CPUs of its host
cputune/iothreadpin/**       host     any      not kept: the recipient chooses the CPUs of its host
cputune/**                   host     any      not kept: shares and quotas are the recipient's own
numatune/**                  host     any      not kept: the recipient places memory on its own NUMA nodes
blkiotune                    live     -        only the frame of what is in it
blkiotune/weight             host     any      not kept: shares of disk time are the recipient's own
blkiotune/device             live     -        only the frame of what is in it
blkiotune/device/path        live     path     only the name of what is limited
blkiotune/device/weight      host     any      not kept: shares of disk time are the recipient's own
blkiotune/device/*           host     any      not kept: limits of disks are the recipient's own
throttlegroups/**            host     any      not kept: limits of disks are the recipient's own
memtune/**                   host     any      not kept: limits of memory are the recipient's own
resource                     live     -        what libvirt writes for every running VM
resource/partition           host     path     not kept: the recipient has its own partitions
resource/partition=/machine  live     path     what libvirt writes for every running VM
resource/fibrechannel/**     host     any      not kept: a number of the host's storage network
perf/**                      host     any      not kept: the counters are those of the host's CPUs
# Of each running VM libvirt notes the label that it made.
seclabel                     live     -        libvirt's label of the running VM
seclabel@type                live     any      libvirt's label of the running VM
seclabel@type=static         host     any      the recipient's libvirt makes its own labels
seclabel@type=none           host     any      not kept: the recipient's libvirt confines its VMs by its own rules
seclabel@model               live     any      libvirt's label of the running VM
seclabel@relabel             live     any      libvirt's label of the running VM
seclabel/label               live     any      libvirt's label of the running VM
seclabel/baselabel           live     any      libvirt's label of the running VM
seclabel/imagelabel          live     any      libvirt's label of the running VM

bootloader                   refused  path     a boot loader of the host starts the VM; that is Xen's, not QEMU's
bootloader_args              refused  any      a boot loader of the host starts the VM; that is Xen's, not QEMU's
idmap/**                     host     any      not kept: users are mapped for containers only; QEMU does not look at it
keywrap/**                   refused  any      keys are wrapped by the host's CPU (s390)
launchSecurity/**            refused  any      memory is sealed to the CPU of this host
"""
