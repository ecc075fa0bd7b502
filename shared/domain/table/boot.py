"""Rows of the table: machine, firmware, boot order, direct boot of a kernel, and what the firmware tells the guest."""

ROWS = """
os                           abi      -
os/type                      abi      =hvm
os/type=exe|linux|xen|xenpvh refused  any      not a whole machine that QEMU runs
os/type@arch                 abi      =x86_64|i686
os/type@arch=aarch64|alpha|arm*|cris|ia64|lm32|loong*|m68k|micro*|mips* refused any not a machine of x86
os/type@arch=openrisc|parisc*|ppc*|riscv*|s390*|sh4*|sparc*|unicore32|xtensa* refused any not a machine of x86
os/type@machine              abi      word
os/type@machine=xenfv|xenpv|xenpvh refused any not a VM of QEMU, but of Xen

# Firmware is chosen by what it is, never by its file.
os@firmware                  lasting  =bios|efi
os/firmware                  lasting  -
os/firmware/feature          lasting  -
os/firmware/feature@name     lasting  =enrolled-keys|secure-boot
os/firmware/feature@enabled  lasting  =yes|no
os/loader                    host     path     the recipient's own firmware of the same kind, secure boot and size
os/loader@type               abi      =pflash|rom
os/loader@secure             abi      =yes|no
os/loader@stateless          abi      =yes|no
os/loader@readonly           lasting  =yes
os/loader@readonly=no        refused  any      the guest writes into the firmware's own file
os/loader@format             host     word     the format of the recipient's own firmware
os/nvram                     host     path     the contents come along, into a file of the recipient
os/nvram@format              host     word     the format of the recipient's own firmware
os/nvram@type                host     any      the contents come along, into a file of the recipient
os/nvram@type=block|dir|network|nvme|vhostuser|vhostvdpa|volume refused any the UEFI variables are not in a file
os/nvram@template            host     path     the contents come along, into a file of the recipient
os/nvram@templateFormat      host     word     the contents come along, into a file of the recipient
os/nvram/source              host     -        the contents come along, into a file of the recipient
os/nvram/source@file         host     path     the contents come along, into a file of the recipient
os/nvram/source@index        live     number   libvirt's number of the running file
os/nvram/source/seclabel/**  host     any      the recipient's libvirt makes its own labels
os/nvram/source/privateData/** live   any      libvirt's note of the running VM
os/nvram/source/**           refused  any      the UEFI variables are not in a plain file

os/boot                      abi      -
os/boot@dev                  abi      =hd|cdrom|fd|network
os/bootmenu                  abi      -
os/bootmenu@enable           abi      =yes|no
os/bootmenu@timeout          abi      number
os/bios                      abi      -
os/bios@useserial            abi      =yes|no
os/bios@rebootTimeout        abi      signed
os/smbios                    abi      -
os/smbios@mode               abi      =emulate|sysinfo
os/smbios@mode=host          refused  any      the guest reads the serial numbers of this host
os/kernel                    host     path     the same file in the boot folder of the recipient
os/initrd                    host     path     the same file in the boot folder of the recipient
os/cmdline                   abi      line
os/shim                      refused  path     a boot loader in a file of the host, which the recipient may not have
os/dtb                       refused  path     a device tree in a file of the host; not a machine of x86
os/root                      refused  path     a disk of the host that Xen boots from
os/acpi/**                   refused  any      an ACPI table in a file of the host, such as its licence of Windows
os/init                      refused  path     a program that a container starts; this is not a VM of QEMU
os/initarg                   refused  any      a program that a container starts; this is not a VM of QEMU
os/initdir                   refused  path     a program that a container starts; this is not a VM of QEMU
os/initenv                   refused  any      a program that a container starts; this is not a VM of QEMU
os/initenv@name              refused  any      a program that a container starts; this is not a VM of QEMU
os/initgroup                 refused  any      a program that a container starts; this is not a VM of QEMU
os/inituser                  refused  any      a program that a container starts; this is not a VM of QEMU

sysinfo                      abi      -
sysinfo@type                 abi      =smbios|fwcfg
sysinfo/bios                 abi      -
sysinfo/bios/entry           abi      line
sysinfo/bios/entry@name      abi      =vendor|version|date|release
sysinfo/system               abi      -
sysinfo/system/entry         abi      line
sysinfo/system/entry@name    abi      =manufacturer|product|version|serial|uuid|sku|family
sysinfo/baseBoard            abi      -
sysinfo/baseBoard/entry      abi      line
sysinfo/baseBoard/entry@name abi      =manufacturer|product|version|serial|asset|location
sysinfo/chassis              abi      -
sysinfo/chassis/entry        abi      line
sysinfo/chassis/entry@name   abi      =manufacturer|version|serial|asset|sku
sysinfo/oemStrings           abi      -
sysinfo/oemStrings/entry     abi      line
sysinfo/entry                abi      line
sysinfo/entry@name           abi      blob
sysinfo/entry@file           refused  path     the guest's firmware configuration is in a file of the host
"""
