"""libvirt's RPC on the wire: frames, the eight procedures that a migration needs as typed calls, keepalive, errors.

Pure and incremental: bytes in, frames out; every buffer is bounded. What may pass is decided in `gate`, not here.
Frame (src/rpc/virnetprotocol.x): u32 length with itself, then program, version, procedure, type, serial, status, and an
XDR payload. Procedures: src/remote/remote_protocol.x. Seen with libvirt 9.0 and 11.3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from services.node_agent.libvirt_rpc.xdr import XdrError, XdrReader, XdrWriter
from shared.errors import VmportError

REMOTE_PROGRAM = 0x20008086
KEEPALIVE_PROGRAM = 0x6B656570
PROGRAM_VERSION = 1
HEADER_BYTES = 28
MAX_FRAME_BYTES = 8 * 1024 * 1024
"""A Prepare call holds a domain XML and a cookie: some 5 KB, and never near this."""
MAX_PARAMS = 64
MAX_FIELD_BYTES = 80
"""VIR_TYPED_PARAM_FIELD_LENGTH."""

_HEADER = struct.Struct(">7I")


class RpcError(VmportError):
    """Bytes that are not libvirt's RPC, or a payload that its procedure does not have."""

    code = "rpc_unreadable"


class Procedure(IntEnum):
    """The procedures of a peer-to-peer migration's driver connection."""

    CONNECT_OPEN = 1
    CONNECT_CLOSE = 2
    CONNECT_SUPPORTS_FEATURE = 60
    AUTH_LIST = 66
    MIGRATE_PREPARE3_PARAMS = 303
    MIGRATE_FINISH3_PARAMS = 306
    REGISTER_CLOSE_CALLBACK = 360
    UNREGISTER_CLOSE_CALLBACK = 361


class FrameType(IntEnum):
    """virNetMessageType, without streams and file descriptors, which no migration through the gate uses."""

    CALL = 0
    REPLY = 1
    MESSAGE = 2


class Status(IntEnum):
    """virNetMessageStatus."""

    OK = 0
    ERROR = 1
    CONTINUE = 2


PING, PONG = 1, 2  # src/rpc/virkeepaliveprotocol.x


@dataclass(frozen=True, slots=True)
class Frame:
    """One RPC message; `type` and `status` are raw numbers, since the other side may send any."""

    program: int
    procedure: int
    type: int
    serial: int
    status: int
    payload: bytes
    version: int = PROGRAM_VERSION

    def to_bytes(self) -> bytes:
        """The frame on the wire."""
        header = _HEADER.pack(
            HEADER_BYTES + len(self.payload),
            self.program,
            self.version,
            self.procedure,
            self.type,
            self.serial,
            self.status,
        )
        return header + self.payload

    @property
    def is_ping(self) -> bool:
        """Whether this asks for a sign of life."""
        return self.program == KEEPALIVE_PROGRAM and self.procedure == PING

    @property
    def is_keepalive(self) -> bool:
        """Whether this is of the keepalive program at all."""
        return self.program == KEEPALIVE_PROGRAM


PONG_FRAME = Frame(KEEPALIVE_PROGRAM, PONG, FrameType.MESSAGE, 0, Status.OK, b"")


class FrameParser:
    """Cuts a byte stream into frames."""

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._buffer = bytearray()
        self._max = max_frame_bytes

    def receive_data(self, data: bytes) -> list[Frame]:
        """Return the frames that `data` completes. Raises `RpcError` for an impossible length, before buffering it."""
        self._buffer += data
        frames: list[Frame] = []
        while len(self._buffer) >= 4:
            length = int.from_bytes(self._buffer[:4], "big")
            if not HEADER_BYTES <= length <= self._max:
                raise RpcError(f"a frame of {length} bytes; {HEADER_BYTES} to {self._max} are possible")
            if len(self._buffer) < length:
                break
            raw = bytes(self._buffer[:length])
            del self._buffer[:length]
            _, program, version, procedure, kind, serial, status = _HEADER.unpack_from(raw)
            frames.append(Frame(program, procedure, kind, serial, status, raw[HEADER_BYTES:], version))
        return frames


class ParamType(IntEnum):
    """virTypedParameterType."""

    INT = 1
    UINT = 2
    LLONG = 3
    ULLONG = 4
    DOUBLE = 5
    BOOLEAN = 6
    STRING = 7


@dataclass(frozen=True, slots=True)
class TypedParam:
    """One virTypedParameter; a field may occur more than once."""

    field: str
    type: ParamType
    value: int | float | str


@dataclass(frozen=True, slots=True)
class OpenCall:
    """CONNECT_OPEN."""

    name: str | None
    flags: int


@dataclass(frozen=True, slots=True)
class FeatureCall:
    """CONNECT_SUPPORTS_FEATURE: a number of VIR_DRV_FEATURE_*."""

    feature: int


@dataclass(frozen=True, slots=True)
class PrepareCall:
    """DOMAIN_MIGRATE_PREPARE3_PARAMS."""

    params: tuple[TypedParam, ...]
    cookie: bytes
    flags: int


@dataclass(frozen=True, slots=True)
class FinishCall:
    """DOMAIN_MIGRATE_FINISH3_PARAMS; `cancelled` false asks to run the guest."""

    params: tuple[TypedParam, ...]
    cookie: bytes
    flags: int
    cancelled: bool


@dataclass(frozen=True, slots=True)
class PlainCall:
    """A procedure without arguments."""

    procedure: Procedure


Call = OpenCall | FeatureCall | PrepareCall | FinishCall | PlainCall


@dataclass(frozen=True, slots=True)
class RemoteError:
    """libvirt's error in a reply, as far as a person needs it."""

    code: int
    domain: int
    message: str


ERR_OPERATION_DENIED = 29
FROM_RPC = 7
LEVEL_ERROR = 2


def decode_call(frame: Frame) -> Call:
    """Return the typed call in a frame of the remote program. Raises `RpcError` for what is not known here."""
    try:
        procedure = Procedure(frame.procedure)
    except ValueError:
        raise RpcError(f"procedure {frame.procedure} is not one of a migration's") from None
    reader = XdrReader(frame.payload)
    try:
        call = _decode(procedure, reader)
        reader.end()
    except XdrError as error:
        raise RpcError(f"{procedure.name}: {error}") from error
    return call


def _decode(procedure: Procedure, reader: XdrReader) -> Call:
    match procedure:
        case Procedure.CONNECT_OPEN:
            return OpenCall(reader.optional_string(4096), reader.uint32())
        case Procedure.CONNECT_SUPPORTS_FEATURE:
            return FeatureCall(reader.int32())
        case Procedure.MIGRATE_PREPARE3_PARAMS:
            return PrepareCall(_read_params(reader), reader.opaque(), reader.uint32())
        case Procedure.MIGRATE_FINISH3_PARAMS:
            return FinishCall(_read_params(reader), reader.opaque(), reader.uint32(), reader.int32() != 0)
        case _:
            return PlainCall(procedure)


def encode_call(call: Call, serial: int) -> Frame:
    """Return the frame of a call."""
    writer = XdrWriter()
    match call:
        case OpenCall(name, flags):
            procedure = Procedure.CONNECT_OPEN
            writer.optional_string(name).uint32(flags)
        case FeatureCall(feature):
            procedure = Procedure.CONNECT_SUPPORTS_FEATURE
            writer.int32(feature)
        case PrepareCall(params, cookie, flags):
            procedure = Procedure.MIGRATE_PREPARE3_PARAMS
            _write_params(writer, params)
            writer.opaque(cookie).uint32(flags)
        case FinishCall(params, cookie, flags, cancelled):
            procedure = Procedure.MIGRATE_FINISH3_PARAMS
            _write_params(writer, params)
            writer.opaque(cookie).uint32(flags).int32(int(cancelled))
        case PlainCall(procedure):
            pass
    return Frame(REMOTE_PROGRAM, procedure, FrameType.CALL, serial, Status.OK, bytes(writer))


def _read_params(reader: XdrReader) -> tuple[TypedParam, ...]:
    count = reader.uint32()
    if count > MAX_PARAMS:
        raise XdrError(f"{count} parameters; at most {MAX_PARAMS} are read")
    return tuple(_read_param(reader) for _ in range(count))


def _read_param(reader: XdrReader) -> TypedParam:
    field, number = reader.string(MAX_FIELD_BYTES), reader.int32()
    try:
        kind = ParamType(number)
    except ValueError:
        raise XdrError(f"parameter {field!r} has the unknown type {number}") from None
    value: int | float | str
    match kind:
        case ParamType.INT:
            value = reader.int32()
        case ParamType.UINT:
            value = reader.uint32()
        case ParamType.LLONG:
            value = reader.hyper()
        case ParamType.ULLONG:
            value = reader.uhyper()
        case ParamType.DOUBLE:
            value = reader.double()
        case ParamType.BOOLEAN:  # libvirt sends it as an int
            value = reader.int32()
        case ParamType.STRING:
            value = reader.string()
    return TypedParam(field, kind, value)


def _write_params(writer: XdrWriter, params: tuple[TypedParam, ...]) -> None:
    writer.uint32(len(params))
    for param in params:
        writer.string(param.field).int32(param.type)
        match param.type:
            case ParamType.INT | ParamType.BOOLEAN:
                writer.int32(int(param.value))
            case ParamType.UINT:
                writer.uint32(int(param.value))
            case ParamType.LLONG:
                writer.hyper(int(param.value))
            case ParamType.ULLONG:
                writer.uhyper(int(param.value))
            case ParamType.DOUBLE:
                writer.double(float(param.value))
            case ParamType.STRING:
                writer.string(str(param.value))


def encode_error(frame: Frame, message: str, code: int = ERR_OPERATION_DENIED) -> Frame:
    """Return the reply that tells the caller of `frame` a libvirt error, which its libvirtd shows to people."""
    # virNetMessageError (src/rpc/virnetprotocol.x), field by field; str1 repeats the message.
    writer = XdrWriter().int32(code).int32(FROM_RPC).optional_string(message).int32(LEVEL_ERROR)
    writer.boolean(value=False)  # no domain
    writer.optional_string(message).optional_string(None).optional_string(None)
    writer.int32(0).int32(0).boolean(value=False)  # int1, int2, no network
    return Frame(frame.program, frame.procedure, FrameType.REPLY, frame.serial, Status.ERROR, bytes(writer))


def decode_error(frame: Frame) -> RemoteError:
    """Return the error of a reply whose status is ERROR. Raises `RpcError` where it has none."""
    reader = XdrReader(frame.payload)
    try:
        code, domain, message = reader.int32(), reader.int32(), reader.optional_string()
    except XdrError as error:
        raise RpcError(f"an error reply cannot be read: {error}") from error
    return RemoteError(code, domain, message or "no message")


def encode_feature_reply(frame: Frame, *, supported: bool) -> Frame:
    """Return the answer to CONNECT_SUPPORTS_FEATURE."""
    payload = bytes(XdrWriter().int32(int(supported)))
    return Frame(frame.program, frame.procedure, FrameType.REPLY, frame.serial, Status.OK, payload)


def encode_finish_reply(call_serial: int, name: str, uuid: bytes, domain_id: int = -1, cookie: bytes = b"") -> Frame:
    """Return a successful answer to Finish: the guest runs at the other side."""
    writer = XdrWriter().string(name).fixed(uuid).int32(domain_id).opaque(cookie)
    procedure = Procedure.MIGRATE_FINISH3_PARAMS
    return Frame(REMOTE_PROGRAM, procedure, FrameType.REPLY, call_serial, Status.OK, bytes(writer))


def decode_finish_reply(frame: Frame) -> tuple[str, bytes]:
    """Return name and UUID bytes of the domain that runs now. Raises `RpcError`."""
    reader = XdrReader(frame.payload)
    try:
        name, uuid, _ = reader.string(4096), reader.fixed(16), reader.int32()
        reader.opaque()
        reader.end()
    except XdrError as error:
        raise RpcError(f"a Finish reply cannot be read: {error}") from error
    return name, uuid
