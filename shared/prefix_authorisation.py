"""The holder's signed word that a provider may announce a prefix: a small JSON document, made and checked.

It says which prefix, whose, from which AS to which, and from when to when. It is signed with Ed25519 over its exact
text. It proves as much as the key that it is checked with: who has that key is for the reader's operator to find out.
"""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Annotated, Self, TypeVar

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, ValidationError, model_validator

from shared.errors import VmportError
from shared.messages.base import Timestamp, Value
from shared.messages.network import IpNetwork, Label

T = TypeVar("T", bound=Value)
LARGEST_BYTES = 16 * 1024
_DOMAIN = b"vmport prefix authorisation 1\n"
"""So that the signature is good for nothing else."""
AsNumber = Annotated[int, Field(ge=1, le=2**32 - 1)]


class BadAuthorisation(VmportError):
    """What should be an authorisation, or a key for one, is none."""

    code = "bad_authorisation"


class Authorisation(Value):
    """What the holder allows."""

    prefix: IpNetwork
    holder: Annotated[Label, Field(min_length=1)]
    donor_as: AsNumber = Field(description="The AS that announces the prefix now.")
    recipient_as: AsNumber = Field(description="The AS that may announce it.")
    not_before: Timestamp
    not_after: Timestamp

    @model_validator(mode="after")
    def _some_time(self) -> Self:
        if self.not_after <= self.not_before:
            raise ValueError("not_after is not after not_before")
        return self

    def is_in_force(self, now: datetime) -> bool:
        """Whether it may be used at this time."""
        return self.not_before <= now < self.not_after


class SignedAuthorisation(Value):
    """The document. `text` is the authorisation as JSON, exactly as it was signed; `signature` is in base64."""

    text: Annotated[str, Field(max_length=LARGEST_BYTES)]
    signature: Annotated[str, Field(max_length=256)]

    @property
    def authorisation(self) -> Authorisation:
        """What is said. Raises `BadAuthorisation`."""
        return _read(Authorisation, self.text.encode())

    def is_signed_by(self, public_key: str) -> bool:
        """Whether this key (PEM) has signed it. Raises `BadAuthorisation` where the key is no such key."""
        try:
            key = serialization.load_pem_public_key(public_key.encode())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise BadAuthorisation("the key is no public key in PEM") from error
        if not isinstance(key, Ed25519PublicKey):
            raise BadAuthorisation("the key is no Ed25519 key")
        try:
            key.verify(base64.b64decode(self.signature, validate=True), _DOMAIN + self.text.encode())
        except (InvalidSignature, binascii.Error, ValueError):
            return False
        return True


def sign(authorisation: Authorisation, private_key: str) -> SignedAuthorisation:
    """Sign with the holder's key (PEM, without a password). Raises `BadAuthorisation`."""
    try:
        key = serialization.load_pem_private_key(private_key.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadAuthorisation("the key is no private key in PEM without a password") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadAuthorisation("the key is no Ed25519 key")
    text = authorisation.model_dump_json()
    signature = base64.b64encode(key.sign(_DOMAIN + text.encode())).decode()
    return SignedAuthorisation(text=text, signature=signature)


def read_signed(content: bytes) -> SignedAuthorisation:
    """A document as it lies in a file. Raises `BadAuthorisation`, also for what is inside it."""
    if len(content) > LARGEST_BYTES:
        raise BadAuthorisation(f"it has {len(content)} bytes, at most {LARGEST_BYTES} are read")
    document = _read(SignedAuthorisation, content)
    _ = document.authorisation
    return document


def _read(kind: type[T], content: bytes) -> T:
    try:
        return kind.model_validate_json(content)
    except (ValidationError, RecursionError) as error:
        found = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "it is nested too deeply"
        raise BadAuthorisation(f"no {kind.__name__}: {found}") from error
