"""Rows of the table: what stands in a namespace of a hypervisor, past what libvirt checks."""

ROWS = """
{http://libvirt.org/schemas/domain/qemu/1.0}commandline/**   refused any  raw QEMU options cannot be checked
{http://libvirt.org/schemas/domain/qemu/1.0}capabilities/**  refused any  raw QEMU options cannot be checked
{http://libvirt.org/schemas/domain/qemu/1.0}override/**      refused any  raw QEMU options cannot be checked
{http://libvirt.org/schemas/domain/qemu/1.0}deprecation/**   host    any  not kept: only for tests of libvirt
{http://libvirt.org/schemas/domain/xen/1.0}commandline/**    refused any  not a VM of QEMU, but of Xen
{http://libvirt.org/schemas/domain/lxc/1.0}namespace/**      refused any  a container, not a VM of QEMU
{http://libvirt.org/schemas/domain/bhyve/1.0}commandline/**  refused any  not a VM of QEMU, but of bhyve
{http://libvirt.org/schemas/domain/vmware/1.0}datacenterpath refused any  not a VM of QEMU, but of VMware
"""
