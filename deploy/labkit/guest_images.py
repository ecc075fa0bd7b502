"""Building guest images into the cache: the tiny one (an initramfs) and the Debian one (debootstrap).

Both share Debian's cloud kernel and one initramfs, and are booted directly. An image's folder is named by the digest
of its sources, so a changed source is a new image and never changes one that a guest uses.
"""

import fcntl
import hashlib
import lzma
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.labkit.errors import LabError
from deploy.labkit.plan import LabPlan
from deploy.labkit.processes import run

TINY = "tiny"
DEBIAN = "debian"
MIB = 1 << 20

_DEPLOY = Path(__file__).resolve().parent.parent
_SOURCES = _DEPLOY / "guest"
_MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "virtio_scsi", "sd_mod", "sr_mod", "efivarfs")
# With the kernel and its tools, although the lab boots the guest directly: a disk as an installed system has it.
_DEBIAN_PACKAGES = (
    "systemd-sysv,udev,nginx,redis-server,iproute2,kmod,procps,login,initramfs-tools,linux-image-cloud-amd64"
)
# What would write to the disk or wake up at odd times; the guest is to be quiet but for its workload.
_MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "proc-sys-fs-binfmt_misc.automount",  # the kernel's module for it is not in the guest
    "systemd-random-seed.service",
    "systemd-tmpfiles-clean.timer",
)


@dataclass(frozen=True)
class Layout:
    """Where things are on a guest's disk, in MiB: all of it, its static data, and the blocks that guestd rewrites."""

    disk_mib: int
    static_path: str
    static_mib: int
    blocks_offset_mib: int
    blocks_mib: int

    def cmdline(self) -> str:
        """What tells guestd so."""
        blocks = f"vmport.blocks=/dev/vda:{self.blocks_offset_mib}:{self.blocks_mib}"
        return f"vmport.static={self.static_path}:{self.static_mib} {blocks}"


@dataclass(frozen=True)
class GuestImage:
    """A built image. All paths are the same in every host of every lab."""

    kind: str
    kernel: Path
    initrd: Path
    disk: Path
    cmdline: str
    layout: Layout


_LAYOUTS = {
    TINY: Layout(disk_mib=256, static_path="/dev/vda", static_mib=64, blocks_offset_mib=128, blocks_mib=64),
    # The file system ends before the blocks, so that guestd may write to them past it.
    DEBIAN: Layout(
        disk_mib=2048, static_path="/var/lib/guestd/static.bin", static_mib=64, blocks_offset_mib=1920, blocks_mib=64
    ),
}
_DEBIAN_FILE_SYSTEM_MIB = 1856
# A guest that panics stays dead: a reboot would hide what a migration did to it.
_CMDLINES = {
    TINY: "console=ttyS0 quiet panic=0",
    DEBIAN: "console=ttyS0 quiet panic=0 net.ifnames=0 vmport.root=/dev/vda",
}
_REDIS_CONF = """\
bind 127.0.0.1
port 6379
save ""
appendonly no
supervised systemd
dir /var/lib/redis
"""


def find(plan: LabPlan, kind: str) -> GuestImage:
    """The built image of this kind and of today's sources. Raises `LabError` if it is not built."""
    folder = _folder(plan, kind)
    if not (folder / "disk.raw").exists():
        option = " --debian" if kind == DEBIAN else ""
        raise LabError(f"the {kind} guest image is not built: run `deploy/lab guest build{option}`")
    return GuestImage(
        kind=kind,
        kernel=folder / "vmlinuz",
        initrd=folder / "initrd",
        disk=folder / "disk.raw",
        cmdline=f"{_CMDLINES[kind]} {_LAYOUTS[kind].cmdline()}",
        layout=_LAYOUTS[kind],
    )


def build(plan: LabPlan, kind: str) -> GuestImage:
    """Build the image unless it is built. Takes seconds for the tiny and about two minutes for the Debian one."""
    with _locked(plan):
        folder = _folder(plan, kind)
        if not (folder / "disk.raw").exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".build-") as work:
                _build_into(plan, kind, Path(work))
                shutil.rmtree(folder, ignore_errors=True)
                (Path(work) / "image").rename(folder)
    return find(plan, kind)


def _build_into(plan: LabPlan, kind: str, work: Path) -> None:
    image = work / "image"
    image.mkdir()
    kernel = Path(run([str(_DEPLOY / "fetch-kernel"), str(plan.cache_dir)], timeout_s=300).strip())
    (vmlinuz,) = (kernel / "boot").glob("vmlinuz-*")
    shutil.copyfile(vmlinuz, image / "vmlinuz")
    guestd = work / "guestd"
    sources = sorted(str(source) for source in _SOURCES.glob("*.c"))
    run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-pthread", "-o", str(guestd), *sources])
    _make_initrd(kernel, guestd, work / "initramfs", image / "initrd")
    disk = image / "disk.raw"
    layout = _LAYOUTS[kind]
    with disk.open("wb") as handle:
        handle.truncate(layout.disk_mib * MIB)
    if kind == DEBIAN:
        _fill_debian_disk(work / "root", guestd, disk)
    else:
        with disk.open("r+b") as handle:
            handle.writelines(_static_data(layout.static_mib))


def _make_initrd(kernel: Path, guestd: Path, root: Path, target: Path) -> None:
    """An initramfs with busybox, guestd, and the drivers with what they depend on."""
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    shutil.copy(guestd, root / "guestd")
    for script in ("init", "vmport-address"):
        shutil.copy(_SOURCES / script, root / script)
        (root / script).chmod(0o755)
    (modules,) = (kernel / "lib/modules").iterdir()
    target_modules = root / "lib/modules" / modules.name
    run(["depmod", "-b", str(kernel), modules.name])
    for name in _MODULES:
        shown = run(["modprobe", "-d", str(kernel), "-S", modules.name, "--show-depends", name])
        for line in shown.splitlines():
            verb, _, path = line.partition(" ")
            if verb == "insmod":
                source = Path(path.split()[0]).resolve()
                place = target_modules / source.relative_to(modules.resolve())
                place.parent.mkdir(parents=True, exist_ok=True)
                # Debian 13 compresses modules; busybox may not be able to unpack them.
                if source.suffix == ".xz":
                    place.with_suffix("").write_bytes(lzma.decompress(source.read_bytes()))
                else:
                    shutil.copyfile(source, place)
    for listing in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copyfile(modules / listing, target_modules / listing)
    (root / "usr").mkdir()
    (root / "usr/lib").symlink_to("../lib")  # where newer kmod looks
    run(["depmod", "-b", str(root), modules.name])
    run(["sh", "-c", f"cd {root} && find . | cpio -o -H newc --quiet | gzip -1 > {target}"])


def _static_data(mebibytes: int) -> Iterator[bytes]:
    """Data for a disk: half of it noise, half of it text, the same in every build."""
    noise = random.Random(20240)  # noqa: S311 - not for secrecy: the same bytes each time are wanted
    for number in range(mebibytes):
        if number % 2:
            line = f"line {number:06d} of a file that a tenant might keep, with some text to compress; "
            yield (line.encode() * (MIB // len(line) + 1))[:MIB]
        else:
            yield noise.randbytes(MIB)


def _fill_debian_disk(root: Path, guestd: Path, disk: Path) -> None:
    listing = run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    )
    release = _host_release()
    uris = [line.split()[0] for line in listing.splitlines() if line.split()[1:3] == [release, "main"]]
    if not uris:
        raise LabError(f"apt has no source for {release} main, from which the Debian guest could be made")
    options = ["--variant=minbase", f"--include={_DEBIAN_PACKAGES}"]
    run(["debootstrap", *options, release, str(root), uris[0]], timeout_s=900)
    _configure_debian(root, guestd)
    run(["mke2fs", "-q", "-F", "-t", "ext4", "-L", "vmport", "-d", str(root), str(disk), f"{_DEBIAN_FILE_SYSTEM_MIB}M"])


def _host_release() -> str:
    fields = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text("utf-8").splitlines() if "=" in line)
    return fields["VERSION_CODENAME"].strip('"')


def _configure_debian(root: Path, guestd: Path) -> None:
    """Make the debootstrapped system one that boots quietly, answers, and runs guestd."""
    files = {
        "etc/hostname": "vmport-guest\n",
        "etc/hosts": "127.0.0.1 localhost vmport-guest\n",
        "etc/fstab": "/dev/vda / ext4 rw,noatime 0 0\ntmpfs /tmp tmpfs nosuid,nodev 0 0\n",
        "etc/systemd/journald.conf.d/volatile.conf": "[Journal]\nStorage=volatile\nRuntimeMaxUse=16M\n",
        "etc/nginx/conf.d/quiet.conf": "access_log off;\n",
        "etc/redis/redis.conf": _REDIS_CONF,
        "var/www/html/index.html": "<html><title>vmport</title><body>" + "A page of a lab guest. " * 500 + "</body>\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    shutil.copy(guestd, root / "usr/local/sbin/guestd")
    shutil.copy(_SOURCES / "vmport-address", root / "usr/local/sbin/vmport-address")
    shutil.copy(_SOURCES / "debian/vmport-guestd.service", root / "etc/systemd/system/vmport-guestd.service")
    (root / "var/lib/guestd").mkdir(parents=True)
    with (root / "var/lib/guestd/static.bin").open("wb") as handle:
        handle.writelines(_static_data(_LAYOUTS[DEBIAN].static_mib))
    # The guest's own systemctl: this machine may have none.
    run(["chroot", str(root), "systemctl", "enable", "vmport-guestd.service"])
    run(["chroot", str(root), "systemctl", "mask", *_MASKED])
    run(["chroot", str(root), "passwd", "-d", "root"])
    shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)


def _folder(plan: LabPlan, kind: str) -> Path:
    digest = hashlib.sha256()
    for source in sorted(path for path in _SOURCES.rglob("*") if path.is_file()):
        digest.update(source.relative_to(_SOURCES).as_posix().encode() + b"\0" + source.read_bytes() + b"\0")
    digest.update(Path(__file__).read_bytes())
    return plan.cache_dir / "images" / f"{kind}-{digest.hexdigest()[:16]}"


@contextmanager
def _locked(plan: LabPlan) -> Iterator[None]:
    """One build at a time; a second one waits and then finds the image built."""
    plan.cache_dir.mkdir(parents=True, exist_ok=True)
    with (plan.cache_dir / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
