"""What is wrong with a domain XML."""

from __future__ import annotations

from shared.errors import VmportError


class DomainXmlError(VmportError):
    """A domain XML that cannot be read, or cannot be rewritten as asked."""

    code = "domain_xml"

    def __init__(self, problem: str, *, element: str = "domain") -> None:
        self.problem = problem
        self.element = element
        """The element that the problem is in, as a path below ``<domain>``."""
        super().__init__(f"domain XML, <{element}>: {problem}")
