"""``GradScaler``: a loss scale for float16 gradients that follows what it finds (torch's ``amp.GradScaler``).

Micikevicius et al. (2018), "Mixed Precision Training". The scale, its count of good steps, and what has been found in each
optimizer's gradients are data, so that one program holds a whole step, and parts of a step may be programs of their own.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core import epoch, errors
from objnet.core.arrays import as_array
from objnet.core.foreign import to_host_or_jax
from objnet.core.tensor import TensorMethods
from objnet.core.variable import Variable
from objnet.optim.cells import outside
from objnet.optim.control import tracing
from objnet.optim.inf_checks import READY, STEPPED, UNSCALED, InfChecks
from objnet.optim.loss_scale import moved, scaled
from objnet.transforms.branches import cond

_NOT_SCALED = "This may indicate your script did not use scaler.scale(loss or outputs) earlier in the iteration."
_STATE = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")


class GradScaler:
    """Scales the loss, unscales the gradients, and leaves out the steps in which they are infinite or NaN.

    ``loss = objnet.backward(lambda: scaler.scale(criterion(model(x), y)))``, ``scaler.unscale_(optimizer)`` if gradients are
    to be clipped, ``scaler.step(optimizer)``, ``scaler.update()``; eagerly, or inside ``objnet.jit``, where nothing waits for the
    device. A step left out changes no parameter, no optimizer state and no count of steps.

    Inside a compiled function calls in a wrong order are noticed only as far as the function makes them itself; one that
    steps and never updates goes on with the same scale.

    Args:
        device: a device type, for torch's sake: nothing depends on it. Or a ``jax.Device`` or Sharding where the scale is to live.
        init_scale: the first scale.
        growth_factor: what the scale is multiplied by after ``growth_interval`` good steps in a row.
        backoff_factor: what it is multiplied by after a step with infinite or NaN gradients.
        growth_interval: a number of steps.
        enabled: whether anything is done; otherwise ``scale`` hands back what it is given and ``step`` steps.

    Raises:
        AssertionError: ``growth_factor`` not above 1 or ``backoff_factor`` not below 1, as torch.
    """

    def __init__(
        self,
        device: Any = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if enabled:
            if growth_factor <= 1.0:
                raise AssertionError("The growth factor must be > 1.0.")
            if backoff_factor >= 1.0:
                raise AssertionError("The backoff factor must be < 1.0.")
        self._enabled = enabled
        self._growth_factor, self._backoff_factor, self._growth_interval = growth_factor, backoff_factor, growth_interval
        self._place = None if isinstance(device, str) else device
        self._scale, self._growth_tracker = self._cell(np.float32(init_scale)), self._cell(np.int32(0))
        self._scaled = False
        self._checks: weakref.WeakKeyDictionary[Any, InfChecks] = weakref.WeakKeyDictionary()

    def _cell(self, value: Any) -> Variable:
        with jax.ensure_compile_time_eval():
            return outside(jax.device_put(value, self._place))

    # -- one iteration -------------------------------------------------------------------------------------------------

    def scale(self, outputs: Any) -> Any:
        """``outputs``, an array or an iterable of them, times the scale.

        A scalar comes out in float32 at least, other arrays keep their floating dtype, as in torch.

        Raises:
            ValueError: anything else.
        """
        if not self._enabled:
            return outputs
        if isinstance(outputs, (jax.Array, np.ndarray, np.generic, TensorMethods)):
            self._scaled = True
            return scaled(as_array(outputs), self._scale._read())
        if isinstance(outputs, Iterable) and not isinstance(outputs, (str, bytes)):
            items = map(self.scale, outputs)
            return type(outputs)(items) if isinstance(outputs, (list, tuple)) else items  # type: ignore[call-arg]
        raise ValueError("outputs must be a Tensor or an iterable of Tensors")

    def unscale_(self, optimizer: Any) -> None:
        """Divide every ``p.grad`` of the optimizer by the scale, and note whether one was infinite or NaN.

        Raises:
            RuntimeError: called twice, or after :meth:`step`. ValueError: float16 gradients, those of float16 parameters.
            AssertionError: nothing has been scaled.
        """
        if not self._enabled:
            return
        self._check_scaled("unscale_")
        checks = self._checks_of(optimizer)
        stage = checks.stage()
        if stage == UNSCALED:
            raise RuntimeError("unscale_() has already been called on this optimizer since the last update().")
        if stage == STEPPED:
            raise RuntimeError("unscale_() is being called after step().")
        checks.unscale(optimizer, self._scale._read(), stage)

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """Unscale the gradients, unless :meth:`unscale_` has, and ``optimizer.step()`` if all were finite.

        Eagerly this waits for the gradients, as in torch; inside a compiled function both cases are part of the program.

        Raises:
            RuntimeError: called twice since :meth:`update`; a closure. TypeError: other arguments: the gradients are ``p.grad``.
            AssertionError: nothing has been scaled, or no parameter has a gradient. As :meth:`unscale_`.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if "closure" in kwargs or (args and callable(args[0])):
            raise RuntimeError("Closure use is not currently supported if GradScaler is enabled.")
        if args or kwargs:
            raise TypeError(
                f"GradScaler.step takes the optimizer alone{errors.where()}: it unscales p.grad. Fill it by "
                "objnet.backward(lambda: scaler.scale(loss))."
            )
        self._check_scaled("step")
        checks = self._checks_of(optimizer)
        stage = checks.stage()
        if stage == STEPPED:
            raise RuntimeError("step() has already been called since the last update().")
        if stage != UNSCALED:
            checks.unscale(optimizer, self._scale._read(), stage)
        if not checks.any:
            raise AssertionError("No inf checks were recorded for this optimizer.")
        found = checks.found_inf._read()
        result = None
        if tracing():

            def take() -> None:
                optimizer.step()

            cond(found, lambda: None, take)
        elif not bool(found):
            result = optimizer.step()
        checks.enter(STEPPED)
        return result

    def update(self, new_scale: Any = None) -> None:
        """Move the scale by what the steps since the last update found, or set it to ``new_scale``; ends an iteration.

        Args:
            new_scale: a float, or an array of one element.

        Raises:
            AssertionError: nothing has been scaled or stepped; ``new_scale`` of more elements.
        """
        if not self._enabled:
            return
        self._check_scaled("update")
        if new_scale is not None:
            value = jnp.asarray(to_host_or_jax(new_scale))
            if value.size != 1:
                raise AssertionError(f"new_scale should be a float or an array of 1 element, got shape {value.shape}")
            self._scale._set(value.reshape(()).astype(jnp.float32))
        else:
            checks = [c for c in self._checks.values() if c.any and c.stage() != READY]
            if not checks:
                raise AssertionError("No inf checks were recorded prior to update.")
            # A program does not know which checks an earlier one has made: those that were not made count for nothing.
            made = [(c.made(), c.found_inf._read()) for c in checks]
            factors = (self._growth_factor, self._backoff_factor, self._growth_interval)
            scale, tracker = moved(factors, self._scale._read(), self._growth_tracker._read(), made)
            self._scale._set(scale)
            self._growth_tracker._set(tracker)
        for c in self._checks.values():
            c.enter(READY)

    def _check_scaled(self, what: str) -> None:
        if not self._scaled:
            raise AssertionError(f"Attempted {what} but _scale is None.  {_NOT_SCALED}")

    def _checks_of(self, optimizer: Any) -> InfChecks:
        if optimizer not in self._checks:
            self._checks[optimizer] = InfChecks(self._cell(np.int32(READY)), self._cell(np.False_))
            epoch.advance()
        return self._checks[optimizer]

    # -- settings and saving -------------------------------------------------------------------------------------------

    def get_scale(self) -> Any:
        """The scale, a float that waits for the device; inside a compiled function a 0-d array; 1.0 if not enabled."""
        if not self._enabled:
            return 1.0
        return self._scale._read() if tracing() else float(self._scale._read())

    def _get_growth_tracker(self) -> Any:
        if not self._enabled:
            return 0
        return self._growth_tracker._read() if tracing() else int(self._growth_tracker._read())

    def get_growth_factor(self) -> float:
        """What the scale grows by."""
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        """Change what the scale grows by; compiled functions are traced anew."""
        self._change("_growth_factor", new_factor)

    def get_backoff_factor(self) -> float:
        """What the scale shrinks by."""
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        """Change what the scale shrinks by; compiled functions are traced anew."""
        self._change("_backoff_factor", new_factor)

    def get_growth_interval(self) -> int:
        """The number of good steps in a row after which the scale grows."""
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        """Change the number of good steps after which the scale grows; compiled functions are traced anew."""
        self._change("_growth_interval", new_interval)

    def is_enabled(self) -> bool:
        """Whether the scaler does anything."""
        return self._enabled

    def _change(self, name: str, value: Any) -> None:
        if tracing():
            raise errors.StaticAttributeError(
                f"GradScaler's {name[1:]} was changed inside a compiled function{errors.where()}: that would happen once, when the "
                "function is traced, and not at every call. Change it outside, between calls."
            )
        setattr(self, name, value)
        epoch.advance()

    def state_dict(self) -> dict[str, Any]:
        """``scale``, ``growth_factor``, ``backoff_factor``, ``growth_interval``, ``_growth_tracker`` as numbers; empty if not enabled."""
        if not self._enabled:
            return {}
        values = (self.get_scale(), self._growth_factor, self._backoff_factor, self._growth_interval, self._get_growth_tracker())
        return dict(zip(_STATE, values, strict=True))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of another scaler, objnet's or torch's; nothing if not enabled.

        Raises:
            RuntimeError: an empty dict, that of a scaler not enabled.
        """
        if not self._enabled:
            return
        if len(state_dict) == 0:
            raise RuntimeError(
                "The source state dict is empty, possibly because it was saved from a disabled instance of GradScaler."
            )
        scale, growth, backoff, interval, tracker = (state_dict[name] for name in _STATE)
        for name, value in (("_growth_factor", growth), ("_backoff_factor", backoff), ("_growth_interval", interval)):
            if value != getattr(self, name):
                self._change(name, value)
        self._scale._set(jax.device_put(np.float32(scale), self._place))
        self._growth_tracker._set(jax.device_put(np.int32(tracker), self._place))

    def __getstate__(self) -> dict[str, Any]:
        if any(c.stage() != READY for c in self._checks.values()):
            raise AssertionError(
                "A GradScaler instance may only be pickled at the beginning of an iteration, or at the end after scaler.update()."
            )
        return {k: v for k, v in self.__dict__.items() if k != "_checks"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _checks=weakref.WeakKeyDictionary())

    # -- for compiled functions ----------------------------------------------------------------------------------------

    def __objnet_prepare__(self) -> None:
        """A compiled function can reach this scaler, and may scale with it without running any Python."""
        self._scaled = True

    def __objnet_capture__(self, visit: Callable[[Any], Any]) -> Any:
        settings = (self._enabled, self._growth_factor, self._backoff_factor, self._growth_interval)
        checks = tuple((visit(o), visit(c.position), visit(c.found_inf)) for o, c in self._checks.items())
        return (tuple(map(visit, settings)), visit(self._scale), visit(self._growth_tracker), checks)
