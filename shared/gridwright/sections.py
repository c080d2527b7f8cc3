"""What the parts of the settings are made of."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """A part of the settings: unknown keys are errors, and the docstring of a field is its reference."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class OneOf(Section):
    """A choice, written as a mapping with a single key that says of what kind it is: ``{memory: {…}}``.

    Each field of a subclass is one kind, and None unless it was chosen.
    """

    #: Fields that are no kinds, and stand beside the one that is chosen.
    beside: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def kinds(cls) -> tuple[str, ...]:
        """Return the keys to choose from."""
        return tuple(key for key in cls.model_fields if key not in cls.beside)

    @property
    def kind(self) -> str:
        """The key that was chosen."""
        return next(key for key in self.kinds() if getattr(self, key) is not None)

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [key for key in self.kinds() if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"write exactly one of {', '.join(self.kinds())}; given: {', '.join(given) or 'none'}")
        return self
