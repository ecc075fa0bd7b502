"""Foreign documents are read safely, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain import Domain, DomainXmlError, parse
from tests.support.domain_samples import DOMAIN


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "<domain>",
        "<network/>",
        "<!DOCTYPE domain [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><domain><name>&x;</name></domain>",
        "<domain>" + " " * (1 << 20) + "</domain>",
        "<domain>\ud800</domain>",
    ],
)
def test_foreign_input_is_rejected(xml: str) -> None:
    """What is not a plain, bounded domain document is refused, entities and DTDs included."""
    with pytest.raises(DomainXmlError):
        parse(xml)


@given(st.binary(max_size=200))
def test_any_bytes_end_in_an_error_or_a_document(raw: bytes) -> None:
    """No input escapes the typed error."""
    try:
        parse(raw)
    except DomainXmlError:
        return


def test_a_domain_that_was_read_is_not_read_again() -> None:
    """It is passed through, so that a step may take text or a value."""
    domain = parse(DOMAIN)
    assert parse(domain) is domain
    assert isinstance(domain, Domain)


def test_a_tree_for_changing_is_a_copy() -> None:
    """The value itself stays as it was read."""
    domain = parse(DOMAIN)
    domain.tree_copy().clear()
    assert domain.root.findtext("name") == "web"
