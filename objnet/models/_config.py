"""Configurations: frozen dataclasses with the field names and defaults of transformers' own.

A model takes its dataclass, a transformers configuration object, or a dict (the content of a ``config.json``).  Fields of
the last two that the dataclass lacks describe the checkpoint or the trainer and are passed over, unless they ask for
something the model cannot do: ``supported`` lists the values such fields may have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

__all__ = ["Config"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Base class of the configurations."""

    model_type: ClassVar[str]
    aliases: ClassVar[Mapping[str, str]] = {}  # other name: field
    supported: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """``config`` as this class.

        Args:
            config: an instance, a mapping, or an object with the fields as attributes (transformers' configuration).

        Raises:
            TypeError: it is none of these.
            ValueError: it is for another architecture, or asks for what the model does not have.
        """
        if isinstance(config, cls):
            return config
        values = cls._values(config)
        if values.get("model_type", cls.model_type) != cls.model_type:
            raise ValueError(f"{cls.__name__} needs model_type={cls.model_type!r}, got {values['model_type']!r}")
        for name, allowed in cls.supported.items():
            if name in values and values[name] not in allowed:
                raise ValueError(f"{cls.__name__}: {name}={values[name]!r} is not supported, only {allowed[0]!r} is")
        for name, field in cls.aliases.items():
            if name in values:
                values.setdefault(field, values[name])
        fields = {field.name for field in dataclasses.fields(cls) if field.init}
        return cls(**{name: value for name, value in values.items() if name in fields})

    @classmethod
    def _values(cls, config: Any) -> dict[str, Any]:
        """The fields of a foreign configuration; override to read older ones."""
        if isinstance(config, Mapping):
            values = dict(config)
        elif hasattr(config, "to_dict"):
            values = dict(config.to_dict())
        else:
            raise TypeError(
                f"config must be a {cls.__name__}, a dict or a transformers configuration, got {type(config).__name__}"
            )
        if "num_labels" not in values and values.get("id2label"):
            values["num_labels"] = len(values["id2label"])  # how a config.json holds it
        return values


def check_heads(hidden_size: int, heads: int) -> None:
    """Refuse heads that do not divide the hidden size.

    Raises:
        ValueError: they do not.
    """
    if hidden_size % heads:
        raise ValueError(f"The hidden size ({hidden_size}) is not a multiple of the number of attention heads ({heads})")
