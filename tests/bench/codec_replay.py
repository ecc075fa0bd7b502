"""Replays a recorded migration stream of QEMU through the page codec, on one core, without a network.

Record one with QEMU's monitor: `migrate "exec:cat > FILE"` while the guest works. Prints MB/s of raw stream, bytes and
pages by technique, and memory used; checks that both streams make the same guest memory.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import json
import pstats
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from services.node_agent.page_codec.codec import MAX_CHUNK_BYTES
from services.node_agent.page_codec.contents import DEFAULT_KEEP, KEY_BYTES
from services.node_agent.page_codec.hello import ALL, Technique
from services.node_agent.page_codec.memory.decoder import MemoryDecoder
from services.node_agent.page_codec.memory.encoder import MemoryEncoder
from services.node_agent.page_codec.port_codec import PortDecoder, PortEncoder
from services.node_agent.page_codec.store import FileStore
from tests.support.migration_stream import GuestMemory


def chunks(path: Path, size: int) -> Iterator[bytes]:
    """The file in pieces as a socket might give them."""
    with path.open("rb") as file:
        while data := file.read(size):
            yield data


@dataclass(frozen=True, slots=True)
class Replay:
    """What one replay showed. Seconds are of the process's CPU."""

    raw_bytes: int
    wire_bytes: int
    encode_s: float
    decode_s: float
    technique_pages: dict[str, int]
    peak_rss_mib: int
    same: bool | None

    def rows(self) -> Iterator[tuple[str, str]]:
        """For people."""
        yield "raw", f"{self.raw_bytes / 1e6:.1f} MB"
        yield "wire", f"{self.wire_bytes / 1e6:.2f} MB ({self.wire_bytes / max(1, self.raw_bytes):.3f})"
        yield "encode", f"{self.raw_bytes / 1e6 / self.encode_s:.0f} MB/s on one core"
        if self.decode_s:
            yield "decode", f"{self.raw_bytes / 1e6 / self.decode_s:.0f} MB/s on one core"
            yield "same guest", str(self.same)
        for technique, pages in sorted(self.technique_pages.items()):
            yield technique, str(pages)
        yield "peak RSS", f"{self.peak_rss_mib} MiB"


def replay(path: Path, *, level: int, techniques: frozenset[Technique], check: bool, chunk_bytes: int) -> Replay:
    """Encode the file, and with `check` decode it and compare."""
    encoder = MemoryEncoder(PortEncoder(bytes(KEY_BYTES), techniques=techniques), level=level)
    before, after = GuestMemory(), GuestMemory()
    encode_s = decode_s = 0.0
    with tempfile.TemporaryDirectory() as folder, FileStore(Path(folder) / "store", keep=DEFAULT_KEEP) as store:
        decoder = MemoryDecoder(PortDecoder(lambda _: store))

        def take(payloads: list[bytes]) -> None:
            nonlocal decode_s
            if not check:
                return
            began_s = time.process_time()
            out = [bytes(part) for payload in payloads for part in decoder.decode(payload)]
            decode_s += time.process_time() - began_s
            for part in out:
                after.feed(part)

        for chunk in chunks(path, chunk_bytes):
            began_s = time.process_time()
            payloads = encoder.encode(chunk)
            encode_s += time.process_time() - began_s
            take(payloads)
            if check:
                before.feed(chunk)
        take(encoder.flush())
    stats = encoder.stats()
    return Replay(
        raw_bytes=stats.raw_bytes,
        wire_bytes=stats.wire_bytes,
        encode_s=encode_s,
        decode_s=decode_s,
        technique_pages=dict(encoder.tally),
        peak_rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        same=before.digest() == after.digest() if check else None,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 when the guest's memory would differ."""
    parser = argparse.ArgumentParser(prog="tests/bench/replay", description=__doc__, allow_abbrev=False)
    parser.add_argument("stream", type=Path, help="the recorded stream")
    parser.add_argument("--level", type=int, default=1, help="zstd's level; 0: no compression (default: 1)")
    parser.add_argument("--without", default="", help="techniques to switch off: " + ",".join(ALL))
    parser.add_argument("--chunk", type=int, default=MAX_CHUNK_BYTES, help="bytes per read of the socket")
    parser.add_argument("--no-check", action="store_true", help="encode only; the peak memory is then the encoder's")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--profile", action="store_true", help="print where the encoder's time goes")
    args = parser.parse_args(argv)
    without = frozenset(Technique(name) for name in args.without.split(",") if name)
    with cProfile.Profile() if args.profile else contextlib.nullcontext() as profile:
        found = replay(
            args.stream,
            level=args.level,
            techniques=ALL - without - {Technique.ADAPT},
            check=not args.no_check,
            chunk_bytes=args.chunk,
        )
    if profile is not None:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    if args.json:
        sys.stdout.write(json.dumps(asdict(found), indent=2) + "\n")
    else:
        sys.stdout.writelines(f"{name:12} {value}\n" for name, value in found.rows())
    return 1 if found.same is False else 0


if __name__ == "__main__":
    sys.exit(main())
