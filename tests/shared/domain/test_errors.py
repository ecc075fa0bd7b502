"""What is wrong with a domain XML, as text and as a code."""

from __future__ import annotations

from shared.domain import DomainXmlError
from shared.errors import VmportError


def test_an_error_names_the_element_and_has_a_code() -> None:
    """The code goes into messages, the sentence to people."""
    error = DomainXmlError("missing or empty", element="os/type")
    assert isinstance(error, VmportError)
    assert (error.code, str(error)) == ("domain_xml", "domain XML, <os/type>: missing or empty")
