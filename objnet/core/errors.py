"""Every error objnet raises by name.

A message says what happened, where (module path, attribute, the user's line) and the one-line fix.  :func:`where` finds the
user's line; the callers supply the rest.
"""

from __future__ import annotations

import os
import sys

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class ObjnetError(Exception):
    """Base of all objnet errors."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        cls.__module__ = "objnet.errors"  # where users import it from


class TransformError(ObjnetError, RuntimeError):
    """A model was touched under a plain jax transform in a way that would give a wrong result without a word."""


class ReadInTransformError(TransformError):
    """A Variable was read while a plain ``jax.jit``, ``lax.scan``, ... was tracing: its value would be baked in."""


class WriteInTransformError(TransformError):
    """A Variable was written or created under a plain jax transform: the value would be lost, or a tracer would leak."""


class RngInTransformError(TransformError):
    """A random key was drawn under a plain jax transform: every row or call would share it."""


class LeakedTracerError(TransformError):
    """A traced value was used outside the transform it belongs to."""


class DetachedLossError(ObjnetError, RuntimeError):
    """The loss to differentiate depends on no parameter that requires grad, so that nothing would be trained."""


class NonEmptyStateError(ObjnetError, ValueError):
    """State was met by a transform that carries none."""


class StructureMismatchError(ObjnetError, ValueError):
    """Entries of ``params`` or ``state`` are missing, unknown, or have another shape or dtype; all are listed."""


class StaticAttributeError(ObjnetError, RuntimeError):
    """A Python attribute was changed inside a compiled function, where the change would happen once, not at every call."""


class ParameterAssignmentError(ObjnetError, TypeError):
    """A bare array was assigned to the name of a Parameter."""


class ModuleAsArrayError(ObjnetError, TypeError):
    """A Module was handed to a plain jax function, which passes arrays."""


class UnregisteredModulesError(ObjnetError, TypeError):
    """A plain list, tuple or dict of Modules was assigned to a Module: its parameters would go unseen."""


class GradientDroppedError(ObjnetError, RuntimeError):
    """``p.grad`` was read although a compiled step consumed it and did not keep it."""


class BackwardError(ObjnetError, AttributeError):
    """``loss.backward()`` was called on a jax array."""


class NoGradError(ObjnetError, RuntimeError):
    """``with no_grad():`` was entered inside a gradient, where it cannot stop raw ``jnp`` operations."""


class UnsetVariableError(ObjnetError, RuntimeError):
    """A Variable has no value here: its trace ended, or the values were never loaded."""


class UninitializedError(UnsetVariableError, ValueError):
    """A lazy parameter or buffer was used before it had a shape, or would get it inside a transform it is older than."""


class IntegerRangeError(ObjnetError, IndexError, OverflowError):
    """64-bit integers that jax, without its 64-bit mode, would wrap into another number; indices, mostly."""


class TorchOnlyError(ObjnetError, NotImplementedError):
    """A name of torch's that has no meaning in JAX was used."""


class MissingRngError(UnsetVariableError, ValueError):
    """A random key is needed and the pure function was given ``rng=None``."""


class OutsideTransformError(ObjnetError, RuntimeError):
    """Something that belongs inside a pure function (``objnet.transform``) was used outside of one."""


class CreationError(ObjnetError, ValueError):
    """A custom creator asked a module's own initialiser for a shape it was not written for."""


class PolicyError(ObjnetError, RuntimeError):
    """A precision policy was set where it could not hold, or would not be taken back."""


class LiftError(ObjnetError, ValueError):
    """A lifted function reused names or modules of the function around it, or its state was updated not exactly once."""


class TracedLengthsError(ObjnetError, RuntimeError):
    """The layout of a packed sequence was asked for where its lengths are traced, so that its size is not known."""


class StateStructureError(TransformError):
    """A loop or branch created a Variable, or gave one another structure, shape or dtype, which no program can carry."""


class SharedStateError(TransformError):
    """What all rows of a vmap, or all devices, share was given a different value in each."""


class CompiledCallError(ObjnetError, RuntimeError):
    """A compiled function did something that cannot be repeated by its compiled program."""


class ExportError(ObjnetError, ValueError):
    """A function cannot be exported as asked: it writes state or draws keys, and its weights are to be inside."""


class CheckpointError(ObjnetError, ValueError):
    """A checkpoint is damaged, of an unknown format, or being written by another."""


class DamagedCheckpointError(CheckpointError):
    """Some of a checkpoint is missing or not what was written."""


class SafetensorError(ObjnetError, ValueError):
    """A file that is damaged, cut short or hostile, or content that the format cannot express."""


class TorchFileError(SafetensorError):
    """A file of ``torch.save`` that is damaged, hostile or holds more than tensors and plain values; or is no safetensors file."""


class FolderError(SafetensorError):
    """A folder of weights whose files are missing, damaged, or do not hold what its index says; it lists all faults."""


class ImmutableArrayError(ObjnetError, TypeError):
    """A function that writes to its argument in torch was given a bare array, where the write would be lost."""


class NonFiniteError(ObjnetError, FloatingPointError):
    """A NaN (or an infinity) appeared while ``objnet.debug.nans`` was watching."""


class RetracingWarning(UserWarning):
    """A compiled function is traced again and again for the same arguments."""


def leftover_backward() -> BackwardError:
    """The error of a leftover ``loss.backward()``."""
    return BackwardError(
        f"loss.backward() was called on a jax array{where()}: arrays record no graph. Put the forward pass in a closure: "
        "loss = objnet.backward(lambda: criterion(model(x), y)) fills p.grad, or "
        "loss = optimizer.step(lambda: criterion(model(x), y)) does it all."
    )


def torch_tensor() -> TypeError:
    """The error of a torch tensor, a ``DataLoader``'s mostly, where arrays are wanted."""
    return TypeError(
        f"got a torch.Tensor where a jax array is wanted{where()}: pass jax.numpy.asarray(tensor.detach().numpy()). A DataLoader gives "
        "numpy arrays with collate_fn=objnet.data.numpy_collate, and through objnet.data.prefetch(loader) jax arrays."
    )


def detached() -> DetachedLossError:
    return DetachedLossError(
        f"the loss depends on no parameter that requires grad{where()} (torch: element 0 of tensors does not require grad and does "
        "not have a grad_fn). Only what runs inside the function is differentiated: objnet.backward(lambda: criterion(model(x), y)), "
        "not loss = criterion(model(x), y) before it, which is a constant by then. Otherwise all parameters are frozen "
        "(requires_grad_(False)), or the result was cut off (.detach(), stop_gradient, rounding)."
    )


def where() -> str:
    """`` (at file.py:12)`` for the innermost line that belongs neither to objnet nor to a library, or the empty string."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not is_library(name):
            return f" (at {name}:{frame.f_lineno})"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def is_library(file: str) -> bool:
    """Whether a source file belongs to objnet, to an installed package or to Python itself."""
    return file.startswith((_PACKAGE, "<frozen")) or f"{os.sep}site-packages{os.sep}" in file or "/lib/python3" in file
