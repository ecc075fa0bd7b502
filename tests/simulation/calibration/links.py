"""What stands between two real hypervisors while a situation is recorded: their connections, held and cut at will.

It does what the two node agents do with these bytes (`libvirt_rpc.relay`, `libvirt_rpc.gate`), and decides nothing: a
Finish that would run the guest waits, a cancelled one passes, an answer to Finish waits. Threads, since libvirt's calls
block, too.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from services.node_agent.libvirt_rpc.messages import (
    PONG_FRAME,
    FinishCall,
    Frame,
    FrameParser,
    FrameType,
    Procedure,
    Status,
    decode_call,
    encode_call,
    encode_error,
    encode_finish_reply,
)
from tests.simulation.calibration.guest import NAME, VM_UUID

_CHUNK_BYTES: Final = 65536
_CONNECT_WITHIN_S: Final = 10.0
_PACE_S: Final = 0.05


class Listener:
    """Accepts connections at a socket of alpha's, until closed; each is served in a thread of its own."""

    def __init__(self, path: Path, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def close(self) -> None:
        """No more connections, and an end of those that are."""
        hang_up(self._server, *self._open)


def hang_up(*connections: socket.socket | None) -> None:
    """End connections, whatever state they are in; who reads from one hears it."""
    for connection in connections:
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


def connect(path: Path) -> socket.socket:
    """To a socket that may not be there yet. Raises OSError."""
    until_s = time.monotonic() + _CONNECT_WITHIN_S
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            if time.monotonic() > until_s:
                raise
            time.sleep(0.02)
        else:
            return connection


class ByteLink:
    """Memory or disks: bytes from alpha's QEMU to beta's, and back. `flows` set: they flow, `bytes_per_s` at most."""

    def __init__(self, listen: Path, to: Path) -> None:
        self.flows = threading.Event()
        self.bytes_per_s: float | None = None
        self.waits = threading.Event()
        """Alpha has sent something."""
        self._to = to
        self._ends: dict[str, list[socket.socket]] = {"alpha": [], "beta": []}
        self._listener = Listener(listen, self._serve)

    def _serve(self, alpha: socket.socket) -> None:
        try:
            beta = connect(self._to)
        except OSError:
            hang_up(alpha)
            return
        self._ends["alpha"].append(alpha)
        self._ends["beta"].append(beta)
        threading.Thread(target=self._pump, args=(beta, alpha, False), daemon=True).start()
        self._pump(alpha, beta, True)

    def _pump(self, source: socket.socket, target: socket.socket, is_held: bool) -> None:  # noqa: FBT001  # a thread's
        try:
            while True:
                if is_held:
                    select.select([source], [], [])
                    self.waits.set()
                    self.flows.wait()
                data = source.recv(_CHUNK_BYTES)
                if not data:
                    break
                target.sendall(data)
                if is_held and self.bytes_per_s is not None:
                    time.sleep(len(data) / self.bytes_per_s)
        except (OSError, ValueError):  # closed meanwhile
            pass
        if is_held:
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_WR)
        elif source in self._ends["beta"]:
            hang_up(target)

    def close(self, host: str = "") -> None:
        """End the connections of one host, or of both with the listener."""
        if not host:
            self._listener.close()
        for name in (host,) if host else ("alpha", "beta"):
            hang_up(*self._ends[name])
        if not host:
            self.flows.set()


class DriverLink:
    """The connection of alpha's libvirtd to beta's, frame by frame."""

    def __init__(self, listen: Path, to: Path) -> None:
        self.finish: Frame | None = None
        self.reply: Frame | None = None
        self.beta_gone = False
        self._at_gate = False
        self._to = to
        self._alpha: socket.socket | None = None
        self._beta: socket.socket | None = None
        self._alpha_gone = False
        self._changed = threading.Condition()
        self._listener = Listener(listen, self._serve)

    # ---- what the recorder does with Finish

    def wait_for_finish(self, within_s: float) -> bool:
        """Whether alpha's libvirtd sends it in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self.finish is not None, within_s)

    def to_gate(self) -> None:
        """From now on beta's libvirtd keeps its connection whatever alpha does."""
        self._at_gate = True

    def pass_finish(self, *, cancelled: bool, within_s: float) -> None:
        """Give it to beta's libvirtd, and wait for an answer, or the end of the connection, if it comes in time."""
        call = decode_call(self._finish)
        assert isinstance(call, FinishCall)
        passed = encode_call(FinishCall(call.params, call.cookie, call.flags, cancelled), self._finish.serial)
        self._send(self._beta, passed)
        with self._changed:
            self._changed.wait_for(lambda: self.reply is not None or self.beta_gone, within_s)

    def answer(self) -> None:
        """Give alpha what came back; a failure where nothing did."""
        if self.reply is None:
            self.refuse()
        else:
            self._send(self._alpha, self.reply)

    def runs_there(self) -> None:
        """Tell alpha that the guest runs at beta."""
        if self.reply is not None and self.reply.status == Status.OK:
            self._send(self._alpha, self.reply)
        else:
            self._send(self._alpha, encode_finish_reply(self._finish.serial, NAME, VM_UUID.bytes))

    def refuse(self) -> None:
        """Tell alpha that Finish has failed."""
        self._send(self._alpha, encode_error(self._finish, "the port failed"))

    @property
    def _finish(self) -> Frame:
        assert self.finish is not None, "alpha's libvirtd has not sent a Finish"
        return self.finish

    # ---- bytes

    def _serve(self, alpha: socket.socket) -> None:
        self._alpha = alpha
        try:
            self._beta = connect(self._to)
        except OSError:
            hang_up(alpha)
            return
        threading.Thread(target=self._from_beta, args=(self._beta,), daemon=True).start()
        parser = FrameParser()
        with contextlib.suppress(OSError):
            while data := alpha.recv(_CHUNK_BYTES):
                for frame in parser.receive_data(data):
                    self._on_call(frame)
        self._alpha_gone = True
        if not self._at_gate or self.reply is not None:
            hang_up(self._beta)

    def _on_call(self, frame: Frame) -> None:
        if not frame.is_keepalive and frame.procedure == Procedure.MIGRATE_FINISH3_PARAMS:
            call = decode_call(frame)
            if isinstance(call, FinishCall) and not call.cancelled:
                with self._changed:
                    self.finish = frame
                    self._changed.notify_all()
                return
        if not self.beta_gone:
            self._send(self._beta, frame)
        elif frame.is_ping:
            self._send(self._alpha, PONG_FRAME)
        elif frame.type == FrameType.CALL:
            # Goodbyes: an empty answer is what a libvirtd gives.
            empty = Frame(frame.program, frame.procedure, FrameType.REPLY, frame.serial, Status.OK, b"")
            self._send(self._alpha, empty)

    def _from_beta(self, beta: socket.socket) -> None:
        parser = FrameParser()
        with contextlib.suppress(OSError):
            while data := beta.recv(_CHUNK_BYTES):
                for frame in parser.receive_data(data):
                    self._on_reply(frame)
        with self._changed:
            self.beta_gone = True
            self._changed.notify_all()
        if self.finish is None:
            hang_up(self._alpha)

    def _on_reply(self, frame: Frame) -> None:
        if self.finish is not None and frame.type == FrameType.REPLY and frame.serial == self.finish.serial:
            with self._changed:
                self.reply = frame
                self._changed.notify_all()
            if self._alpha_gone:
                hang_up(self._beta)
            return
        self._send(self._alpha, frame)

    def _send(self, to: socket.socket | None, frame: Frame) -> None:
        if to is not None:
            with contextlib.suppress(OSError):  # the other end is gone, and hears nothing any more
                to.sendall(frame.to_bytes())

    def close(self, host: str = "") -> None:
        """End the connection of one host, or of both with the listener."""
        if not host:
            self._listener.close()
        if host != "beta":
            hang_up(self._alpha)
        if host != "alpha":
            hang_up(self._beta)
