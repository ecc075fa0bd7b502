"""A value that is part of a saga's saved state. Pure."""

from __future__ import annotations

from typing import Any, Self

from shared.messages.base import Value


class Saved(Value):
    """A value that is part of the saved state."""

    def with_(self, **changes: Any) -> Self:
        """The same value with some fields changed; text that is too long is clipped.

        pydantic's ``model_copy`` would not do: it checks nothing, so text above the limit would be saved and then
        refused when the state is read back, and the port could never take another step.
        """
        return type(self).model_validate({**dict(self), **changes})
