"""The holder's signed word about a prefix."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from shared.prefix_authorisation import Authorisation, BadAuthorisation, SignedAuthorisation, read_signed, sign
from tests.support.prefix_samples import HOLDER, STRANGER, authorisation

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def document(**changes: Any) -> bytes:
    """A signed document, changed afterwards."""
    signed = sign(authorisation(), HOLDER.private)
    return signed.model_copy(update=changes).model_dump_json().encode()


def test_a_signed_document_is_read_back() -> None:
    """With the key of its holder it is proven, with another one it is not."""
    signed = read_signed(document())
    assert signed.authorisation == authorisation()
    assert signed.is_signed_by(HOLDER.public)
    assert not signed.is_signed_by(STRANGER.public)


def test_a_changed_document_is_not_signed() -> None:
    """Not one character may differ, nor may the signature be garbage."""
    text = authorisation(recipient_as=65_099).model_dump_json()
    assert not read_signed(document(text=text)).is_signed_by(HOLDER.public)
    spaced = json.dumps(json.loads(authorisation().model_dump_json()), indent=1)
    assert not read_signed(document(text=spaced)).is_signed_by(HOLDER.public)
    for signature in ("", "AAAA", "not base64!", "ü"):
        assert not SignedAuthorisation(text=text, signature=signature).is_signed_by(HOLDER.public)


def test_when_it_is_in_force() -> None:
    """From the first instant to just before the last."""
    told = authorisation(not_before=NOW, not_after=NOW + timedelta(days=1))
    instants = [NOW - timedelta(seconds=1), NOW, NOW + timedelta(days=1, seconds=-1), NOW + timedelta(days=1)]
    assert [told.is_in_force(each) for each in instants] == [False, True, True, False]


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"{}", b"\xff", b'{"text": "{}", "signature": ""}', b'{"text": 5, "signature": ""}'),
        *(b"x" * 20_000, b"[" * 10_000, document(text="[" * 10_000)),
    ],
)
def test_what_is_no_document_ends_in_one_error(content: bytes) -> None:
    """Whatever a file contains."""
    with pytest.raises(BadAuthorisation):
        read_signed(content)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prefix": "198.51.100.1/24"},
        {"prefix": "everything"},
        {"holder": ""},
        {"donor_as": 0},
        {"recipient_as": 2**32},
        {"not_after": NOW - timedelta(days=900)},
    ],
)
def test_an_authorisation_without_sense(wrong: dict[str, Any]) -> None:
    """It is refused when it is made."""
    with pytest.raises(ValidationError):
        Authorisation.model_validate(dict(authorisation()) | wrong)


def test_other_keys_are_refused_by_name() -> None:
    """A key of another kind, or no key at all."""
    other = ec.generate_private_key(ec.SECP256R1())
    pem = other.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    public = other.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for key in (pem, "", HOLDER.public):
        with pytest.raises(BadAuthorisation):
            sign(authorisation(), key)
    for key in (public.decode(), "", HOLDER.private):
        with pytest.raises(BadAuthorisation):
            read_signed(document()).is_signed_by(key)
