"""The base class of the models whose keys are those of transformers, and how they read its checkpoints.

A state dict of the same class loads as it is.  A *checkpoint file* may differ from it: a tied weight is stored once, old
versions stored buffers that are constants, and files of a base model lack the prefix that a model with a head puts before
its keys.  ``load_state_dict`` reads all of these; everything else stays as strict as torch is.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Self

from objnet import nn
from objnet.models._config import Config

__all__ = ["PreTrainedModel"]


class PreTrainedModel(nn.Module):
    """A model built from a configuration: an instance of ``config_class``, a dict, or a transformers configuration."""

    config_class: ClassVar[type[Config]]
    base_model_prefix: ClassVar[str]
    tied: ClassVar[dict[str, str]] = {}  # key that a checkpoint may lack: the key with its value
    renamed: ClassVar[tuple[tuple[str, Any], ...]] = ()  # patterns in older keys and their replacements
    config: Any
    constant: ClassVar[str] = "(?!)"  # a pattern of keys that old checkpoints hold and the model computes

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = self.config_class.from_config(config)

    @classmethod
    def from_config(cls, config: Any, **kwargs: Any) -> Self:
        """The same as calling the class; the name that transformers' ``AutoModel`` has."""
        return cls(config, **kwargs)

    def _tied_keys(self) -> dict[str, str]:
        return self.tied if getattr(self.config, "tie_word_embeddings", True) else {}

    def _initialize_weights(self) -> None:
        """Draw transformers' initial values: children before parents, and a base model inside this one not again."""
        for module in self._uninitialized(self):
            self._init_weights(module)

    def _uninitialized(self, module: nn.Module) -> list[nn.Module]:
        found = []
        for child in module.children():
            if not isinstance(child, PreTrainedModel):
                found += self._uninitialized(child)
        return [*found, module]

    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            nn.init.normal_(module.weight, mean=0.0, std=std)
            if isinstance(module, nn.Embedding):
                if module.padding_idx is not None:
                    module.weight[module.padding_idx].fill_(0)
            elif module.bias is not None:
                nn.init.zeros_(module.bias)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        own = {key[len(prefix) :]: key for key in state_dict if key.startswith(prefix)}
        adapted = {self._current_name(name): state_dict.pop(key) for name, key in own.items() if not self._is_constant(name)}
        for key in own.values():
            state_dict.pop(key, None)
        adapted = self._with_prefix(adapted)
        for name, source in self._tied_keys().items():
            for lacking, present in ((name, source), (source, name)):
                if lacking not in adapted and present in adapted:
                    adapted[lacking] = adapted[present]
        state_dict.update({prefix + name: value for name, value in adapted.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _current_name(self, name: str) -> str:
        for pattern, replacement in self.renamed:
            name = re.sub(pattern, replacement, name)
        return name

    def _is_constant(self, name: str) -> bool:
        return re.search(self.constant, name) is not None

    def _with_prefix(self, entries: dict[str, Any]) -> dict[str, Any]:
        """Keys of a base model's file get the prefix of the base model in here; a base model drops it."""
        first = self.base_model_prefix + "."
        prefixed = any(name.startswith(first) for name in entries)
        base = getattr(self, self.base_model_prefix, None)
        if base is None and prefixed:
            return {name.removeprefix(first): value for name, value in entries.items()}
        if base is not None and not prefixed:
            return {(first if name.split(".")[0] in base._modules else "") + name: v for name, v in entries.items()}
        return entries
