"""What domain capabilities say of devices."""

from __future__ import annotations

from lxml import etree

from services.node_agent.hypervisor.device_offers import offers_of, together

XML = """<domainCapabilities><vcpu max='288'/>
<os supported='yes'><loader supported='yes'>
<enum name='type'><value>rom</value><value>pflash</value></enum></loader></os>
<memoryBacking supported='yes'><enum name='sourceType'><value>memfd</value></enum></memoryBacking>
<devices>
<disk supported='yes'><enum name='bus'><value>scsi</value><value>virtio</value></enum></disk>
<graphics supported='no'/>
<video supported='yes'><enum name='modelType'><value>vga</value><value>none</value></enum></video>
<tpm supported='yes'><enum name='model'><value>tpm-crb</value></enum>
<enum name='backendModel'><value>%s</value></enum><enum name='backendVersion'><value>2.0</value></enum></tpm>
</devices>
<features><genid supported='yes'/><vmcoreinfo supported='no'/>
<hyperv supported='yes'><enum name='features'><value>vapic</value></enum></hyperv></features></domainCapabilities>"""


def offers(backend: str = "emulator") -> dict[str, tuple[str, ...]]:
    """Of the sample."""
    return offers_of(etree.fromstring(XML % backend))


def test_enumerations_become_kinds() -> None:
    """What is not supported has no values; what is not mentioned is not there, so it is not judged."""
    found = offers()

    assert found["disk_bus"] == ("scsi", "virtio")
    assert found["video"] == ("vga", "none")
    assert found["graphics"] == ()
    assert found["hyperv"] == ("vapic",)
    assert found["loader"] == ("rom", "pflash")
    assert found["feature_missing"] == ("vmcoreinfo",)
    assert found["vcpus_max"] == ("288",)
    assert "rng" not in found
    assert "disk_device" not in found


def test_a_tpm_that_is_only_the_hosts_own_is_none() -> None:
    """A guest's TPM moves only where it is emulated."""
    assert offers()["tpm"] == ("tpm-crb",)
    assert offers("passthrough")["tpm"] == offers("passthrough")["tpm_version"] == ()


def test_machines_that_offer_the_same_are_told_together() -> None:
    """A heartbeat is small, and 60 machines of a family differ in nothing."""
    one, other = {"video": ("vga",)}, {"video": ("none",)}

    groups = list(together("kvm", {"q35-2": one, "microvm": other, "q35-1": one}))

    assert [group.machines for group in groups] == [("q35-2", "q35-1"), ("microvm",)]
    assert groups[0].offers == one
    assert {group.accelerator for group in groups} == {"kvm"}
