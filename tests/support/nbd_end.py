"""The end of an NBD connection, judged from a scanner's state: tests want to know that nothing was cut off."""

from __future__ import annotations

from services.node_agent.page_codec.disk.nbd_stream import ReplyScanner, RequestScanner


def check_end(scanner: RequestScanner | ReplyScanner) -> None:
    """Raises NbdError where the bytes so far end within a header or a payload."""
    if not scanner.opaque and (scanner._head or scanner._payload_left):
        part = "payload" if scanner._payload_left else "header"
        raise scanner._error(f"the connection ended within a {part}")
