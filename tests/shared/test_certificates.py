"""Certificates for the lanes: who signed what, until when, and for whom."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from shared.certificates import KeyPair, expires_at, issue, make_authority

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def test_certificate_is_signed_by_its_authority() -> None:
    """And names its node; it cannot sign others."""
    authority = make_authority("alpha", now=NOW)
    pair = issue("node.alpha.alpha-1", authority, now=NOW)
    signer, certificate = (
        x509.load_pem_x509_certificate(text.encode()) for text in (authority.certificate, pair.certificate)
    )
    certificate.verify_directly_issued_by(signer)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["node.alpha.alpha-1"]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_validity_begins_before_now() -> None:
    """The clocks of two providers differ."""
    pair = issue("node.alpha.alpha-1", make_authority("alpha", now=NOW), now=NOW, days=10)
    certificate = x509.load_pem_x509_certificate(pair.certificate.encode())
    assert certificate.not_valid_before_utc < NOW
    assert expires_at(pair.certificate) == NOW + timedelta(days=10)


def test_key_is_not_shown() -> None:
    """A log line with a pair in it tells no secret."""
    pair = make_authority("alpha", now=NOW)
    assert "PRIVATE KEY" in pair.key
    assert "PRIVATE KEY" not in repr(pair)


def test_what_is_no_authority_is_refused() -> None:
    """A key of another kind, and a text that is no certificate."""
    key = (
        ed25519.Ed25519PrivateKey.generate()
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode()
    )
    with pytest.raises(ValueError, match="expected an elliptic curve"):
        issue("node.alpha.alpha-1", KeyPair(make_authority("alpha", now=NOW).certificate, key), now=NOW)
    with pytest.raises(ValueError, match="PEM"):
        expires_at("nothing")
