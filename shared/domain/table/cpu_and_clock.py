"""Rows of the table: the CPU that the guest sees, the features of its platform, and its clock."""

ROWS = """
cpu                          abi      -
cpu@mode                     abi      =custom|host-model|host-passthrough|maximum
cpu@migratable               abi      =on|off
# How strictly libvirt compares the CPU at start is not what the guest sees.
cpu@match                    lasting  =exact|minimum|strict
cpu@check                    lasting  =none|partial|full
cpu@deprecated_features      refused  any      a setting of s390 CPUs
cpu/model                    abi      word
cpu/model@fallback           lasting  =allow|forbid
cpu/model@vendor_id          abi      vendor
cpu/vendor                   abi      word
cpu/topology                 abi      -
cpu/topology@sockets         abi      number
cpu/topology@dies            abi      number
cpu/topology@clusters        abi      number
cpu/topology@cores           abi      number
cpu/topology@threads         abi      number
cpu/cache                    abi      -
cpu/cache@level              abi      =1|2|3
cpu/cache@mode               abi      =emulate|passthrough|disable
cpu/maxphysaddr              abi      -
cpu/maxphysaddr@mode         abi      =emulate|passthrough
cpu/maxphysaddr@bits         abi      number
cpu/maxphysaddr@limit        abi      number
cpu/feature                  abi      -
cpu/feature@name             abi      word
cpu/feature@policy           abi      =force|require|optional|disable|forbid
cpu/numa                     abi      -
cpu/numa/cell                abi      -
cpu/numa/cell@id             abi      number
cpu/numa/cell@cpus           abi      cpus
cpu/numa/cell@memory         abi      number
cpu/numa/cell@unit           abi      unit
cpu/numa/cell@memAccess      lasting  =shared|private
cpu/numa/cell@discard        lasting  =yes|no
cpu/numa/cell/distances                    abi  -
cpu/numa/cell/distances/sibling            abi  -
cpu/numa/cell/distances/sibling@id         abi  number
cpu/numa/cell/distances/sibling@value      abi  number
cpu/numa/cell/cache                        abi  -
cpu/numa/cell/cache@level                  abi  number
cpu/numa/cell/cache@associativity          abi  =none|direct|full
cpu/numa/cell/cache@policy                 abi  =none|writeback|writethrough
cpu/numa/cell/cache/size                   abi  -
cpu/numa/cell/cache/size@value             abi  number
cpu/numa/cell/cache/size@unit              abi  unit
cpu/numa/cell/cache/line                   abi  -
cpu/numa/cell/cache/line@value             abi  number
cpu/numa/cell/cache/line@unit              abi  unit
cpu/numa/interconnects                     abi  -
cpu/numa/interconnects/latency             abi  -
cpu/numa/interconnects/latency@initiator   abi  number
cpu/numa/interconnects/latency@target      abi  number
cpu/numa/interconnects/latency@cache       abi  number
cpu/numa/interconnects/latency@type        abi  =access|read|write
cpu/numa/interconnects/latency@value       abi  number
cpu/numa/interconnects/bandwidth           abi  -
cpu/numa/interconnects/bandwidth@initiator abi  number
cpu/numa/interconnects/bandwidth@target    abi  number
cpu/numa/interconnects/bandwidth@cache     abi  number
cpu/numa/interconnects/bandwidth@type      abi  =access|read|write
cpu/numa/interconnects/bandwidth@value     abi  number
cpu/numa/interconnects/bandwidth@unit      abi  unit

features                     abi      -
features/acpi                abi      -
features/apic                abi      -
features/apic@eoi            abi      =on|off
features/pae                 abi      -
# QEMU knows these three words and does nothing for them; libvirt compares them.
features/hap                 abi      -
features/hap@state           abi      =on|off
features/viridian            abi      -
features/privnet             abi      -
features/hyperv              abi      -
features/hyperv@mode         abi      =custom
features/hyperv@mode=passthrough refused any   QEMU cannot migrate all that this host offers of Hyper-V
features/hyperv/relaxed                   abi  -
features/hyperv/relaxed@state             abi  =on|off
features/hyperv/vapic                     abi  -
features/hyperv/vapic@state               abi  =on|off
features/hyperv/spinlocks                 abi  -
features/hyperv/spinlocks@state           abi  =on|off
features/hyperv/vpindex                   abi  -
features/hyperv/vpindex@state             abi  =on|off
features/hyperv/runtime                   abi  -
features/hyperv/runtime@state             abi  =on|off
features/hyperv/synic                     abi  -
features/hyperv/synic@state               abi  =on|off
features/hyperv/stimer                    abi  -
features/hyperv/stimer@state              abi  =on|off
features/hyperv/reset                     abi  -
features/hyperv/reset@state               abi  =on|off
features/hyperv/vendor_id                 abi  -
features/hyperv/vendor_id@state           abi  =on|off
features/hyperv/frequencies               abi  -
features/hyperv/frequencies@state         abi  =on|off
features/hyperv/reenlightenment           abi  -
features/hyperv/reenlightenment@state     abi  =on|off
features/hyperv/tlbflush                  abi  -
features/hyperv/tlbflush@state            abi  =on|off
features/hyperv/ipi                       abi  -
features/hyperv/ipi@state                 abi  =on|off
features/hyperv/evmcs                     abi  -
features/hyperv/evmcs@state               abi  =on|off
features/hyperv/avic                      abi  -
features/hyperv/avic@state                abi  =on|off
features/hyperv/emsr_bitmap               abi  -
features/hyperv/emsr_bitmap@state         abi  =on|off
features/hyperv/xmm_input                 abi  -
features/hyperv/xmm_input@state           abi  =on|off
features/hyperv/spinlocks@retries          abi  number
features/hyperv/vendor_id@value            abi  vendor
features/hyperv/stimer/direct              abi  -
features/hyperv/stimer/direct@state        abi  =on|off
features/hyperv/tlbflush/direct            abi  -
features/hyperv/tlbflush/direct@state      abi  =on|off
features/hyperv/tlbflush/extended          abi  -
features/hyperv/tlbflush/extended@state    abi  =on|off
features/kvm                 abi      -
features/kvm/hidden                       abi  -
features/kvm/hidden@state                 abi  =on|off
features/kvm/hint-dedicated               abi  -
features/kvm/hint-dedicated@state         abi  =on|off
features/kvm/poll-control                 abi  -
features/kvm/poll-control@state           abi  =on|off
features/kvm/pv-ipi                       abi  -
features/kvm/pv-ipi@state                 abi  =on|off
features/kvm/dirty-ring                   abi  -
features/kvm/dirty-ring@state             abi  =on|off
features/kvm/dirty-ring@size abi      number
features/pvspinlock          abi      -
features/pvspinlock@state    abi      =on|off
features/pmu                 abi      -
features/pmu@state           abi      =on|off
features/ps2                 abi      -
features/ps2@state           abi      =on|off
features/vmport              abi      -
features/vmport@state        abi      =on|off
features/vmcoreinfo          abi      -
features/vmcoreinfo@state    abi      =on|off
features/smm                 abi      -
features/smm@state           abi      =on|off
features/smm/tseg            abi      number
features/smm/tseg@unit       abi      unit
features/ioapic              abi      -
features/ioapic@driver       abi      =kvm|qemu
features/msrs                abi      -
features/msrs@unknown        abi      =ignore|fault
features/tcg                 lasting  -
features/tcg/tb-cache        lasting  number
features/tcg/tb-cache@unit   lasting  unit
features/async-teardown      lasting  -
features/async-teardown@enabled lasting =yes|no
features/xen/**              refused  any      not a VM of QEMU, but of Xen
features/capabilities/**     refused  any      rights of a container; this is not a VM of QEMU
features/aia/**              refused  any      not a machine of x86
features/ccf-assist/**       refused  any      not a machine of x86
features/cfpc/**             refused  any      not a machine of x86
features/gic/**              refused  any      not a machine of x86
features/hpt/**              refused  any      not a machine of x86
features/htm/**              refused  any      not a machine of x86
features/ibs/**              refused  any      not a machine of x86
features/nested-hv/**        refused  any      not a machine of x86
features/ras/**              refused  any      not a machine of x86
features/sbbc/**             refused  any      not a machine of x86

# The guest's running clock is in QEMU's stream. These say what it begins with at the next start.
clock                        lasting  -
clock@offset                 lasting  =utc|localtime|timezone|variable|absolute
clock@timezone               lasting  zone
clock@adjustment             lasting  signed
clock@adjustment=reset       lasting  =reset
clock@basis                  lasting  =utc|localtime
clock@start                  lasting  number
clock/timer                  abi      -
clock/timer@name             abi      =platform|hpet|kvmclock|pit|rtc|tsc|hypervclock
clock/timer@name=armvtimer   refused  any      not a machine of x86
clock/timer@present          abi      =yes|no
clock/timer@mode             abi      =auto|native|emulate|paravirt|smpsafe
clock/timer@frequency        abi      number
clock/timer@tickpolicy       abi      =delay|catchup|merge|discard
clock/timer@track            abi      =boot|guest|wall|realtime
clock/timer/catchup          abi      -
clock/timer/catchup@threshold abi     number
clock/timer/catchup@slew     abi      number
clock/timer/catchup@limit    abi      number
"""
