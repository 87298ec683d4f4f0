"""``ScanSequential``: a chain of equal blocks, compiled in the time of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core import frame
from objnet.core.foreign import to_host_or_jax
from objnet.nn.module import Module, _indent
from objnet.nn.stacking import run_layers, stack_modules, unstack_modules

__all__ = ["ScanSequential"]


class ScanSequential(Module):
    """Equal blocks one after the other, as ``nn.Sequential``, run as one ``lax.scan`` over their stacked parameters.

    Tracing and compiling cost what one block costs. The state dict has torch's keys, ``0.weight``, ``1.weight``, ..., as a
    ``Sequential`` or ``ModuleList`` of the blocks has, so that checkpoints pass in both directions. ``parameters()`` yields the stacked
    parameters, ``(number of blocks, *shape)`` each.

    Input: what the blocks take and give, one structure, shape and dtype; further arguments go to every block. Random numbers differ
    from block to block, and so do buffers.

    Args:
        blocks: modules that differ in nothing but their arrays, or one iterable of them. They are copied.
        remat: whether each block's intermediate values are computed again in the backward pass.
        policy: which values to keep all the same, one of ``jax.checkpoint_policies``.
        unroll: how many blocks the program spells out at a time.

    Raises:
        RuntimeError: no blocks, or blocks that differ. TypeError: a block is no module.
    """

    def __init__(
        self,
        *blocks: Module | Iterable[Module],
        remat: bool = False,
        policy: Callable[..., bool] | None = None,
        unroll: int = 1,
    ) -> None:
        super().__init__()
        given: list[Any] = list(blocks)
        gone = [block for block in given if isinstance(block, Module)]
        if len(given) == 1 and not (isinstance(given[0], Module) and not hasattr(given[0], "__iter__")):
            given = list(given[0].values()) if hasattr(given[0], "values") else list(given[0])
        for block in given:
            if not isinstance(block, Module):
                raise TypeError(f"ScanSequential takes modules, got {type(block).__name__}")
        self.remat = remat
        self.policy = policy
        self.unroll = unroll
        self.length = len(given)
        self.stack_axis = 0  # of the arrays of ``block``; more when this was stacked itself
        self.block = stack_modules(given)
        inner = frame.current()
        if inner is not None:  # a pure function names none of those that the stack has replaced
            for block in dict.fromkeys([*gone, *given]):
                inner.note_link(self, "_modules", "block", block, None)
        if any(type(m).get_extra_state is not Module.get_extra_state for m in self.block.modules()):
            raise RuntimeError("ScanSequential: the blocks keep extra state (get_extra_state), which cannot be stacked")
        self._register_state_dict_hook(_keys_of_blocks)

    def forward(self, input: Any, *args: Any, **kwargs: Any) -> Any:
        return self._through(input, args, kwargs, False)[0]

    def with_outputs(self, input: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """The result, and the results of all blocks stacked along axis 0."""
        return self._through(input, args, kwargs, True)

    def _through(self, input: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: bool) -> tuple[Any, Any]:
        options = {"remat": self.remat, "policy": self.policy, "unroll": self.unroll, "length": self.length}
        return run_layers(self.block, input, args, kwargs, outputs=outputs, **options)  # type: ignore[arg-type]

    def unrolled(self) -> list[Module]:
        """Copies of the blocks, each with its own row of the parameters.

        Raises:
            RuntimeError: this is a row of a stack itself, which is to be taken apart first.
        """
        if self.stack_axis:
            raise RuntimeError("this ScanSequential was stacked with others: take those apart first, by unstack_modules")
        return unstack_modules(self.block)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        return iter(self)

    def __iter__(self) -> Any:
        raise TypeError(
            "a ScanSequential is not indexed or iterated over: call it, x = blocks(x), which runs all of them; blocks.unrolled() gives copies"
        )

    # -- torch's keys --------------------------------------------------------------------------------------------------

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        own = self.block.state_dict()
        for name, held in own.items():
            shape = self._row(held, 0).shape
            rows = []
            for i in range(self.length):
                key = f"{prefix}{i}.{name}"
                if key not in state_dict:
                    missing_keys.append(key)
                    rows.append(self._row(held, i))
                    continue
                value = state_dict.pop(key)
                try:
                    value = to_host_or_jax(value)
                except TypeError:
                    error_msgs.append(f'While copying the parameter named "{key}", expected an array but received {type(value)}')
                    value = self._row(held, i)
                if tuple(value.shape) != tuple(shape):
                    error_msgs.append(
                        f"size mismatch for {key}: copying a param with shape torch.Size({list(value.shape)}) from checkpoint, "
                        f"the shape in current model is torch.Size({list(shape)})."
                    )
                    value = self._row(held, i)
                rows.append(value)
            if any(isinstance(row, jax.ShapeDtypeStruct) for row in rows):
                continue  # without values before, and misfits are listed
            host = all(isinstance(row, np.ndarray) for row in rows)
            together = np.stack if host else (lambda rows, axis: jnp.stack([*map(jnp.asarray, rows)], axis))
            state_dict[f"{prefix}block.{name}"] = together(rows, self.stack_axis)
        known = {f"{prefix}block.{name}" for name in own}
        unknown = [key for key in state_dict if key.startswith(prefix) and key not in known]
        unexpected_keys += unknown
        for key in unknown:
            del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)

    def _row(self, value: Any, i: int) -> Any:
        """One block's part of an array, or of the shape and dtype of one."""
        if isinstance(value, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct((*value.shape[: self.stack_axis], *value.shape[self.stack_axis + 1 :]), value.dtype)
        return value[(slice(None),) * self.stack_axis + (i,)]

    def extra_repr(self) -> str:
        return ", ".join(f"{n}={v}" for n, v in (("remat", self.remat), ("unroll", self.unroll)) if v not in (False, 1))

    def __repr__(self) -> str:
        extra = self.extra_repr()
        name = f"(0-{self.length - 1}): {self.length} x" if self.length > 1 else "(0):"
        lines = [*([extra] if extra else []), f"{name} {_indent(repr(self.block))}"]
        return f"{self._get_name()}(\n  " + "\n  ".join(lines) + "\n)"


def _keys_of_blocks(scanned: Any, state_dict: Any, prefix: str, local_metadata: Any) -> None:
    """In a state dict: the entries of separate blocks in place of the stacked ones."""
    head = f"{prefix}block."
    stacked = {key: state_dict.pop(key) for key in list(state_dict) if key.startswith(head)}
    metadata = getattr(state_dict, "_metadata", {})
    facts = {path: metadata.pop(path) for path in list(metadata) if f"{path}.".startswith(head)}
    for i in range(scanned.length):
        metadata.update((f"{prefix}{i}{path[len(head) - 1 :]}", fact) for path, fact in facts.items())
        state_dict.update((f"{prefix}{i}.{key[len(head) :]}", scanned._row(value, i)) for key, value in stacked.items())
