"""Ctrl-C at any moment of a training loop leaves the model whole."""

import signal
import threading

import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import nn


class Chain(nn.Module):
    def __init__(self, depth=8):
        super().__init__()
        for i in range(depth):
            self.register_parameter(f"w{i}", nn.Parameter(jnp.eye(4)))
        self.register_buffer("steps", jnp.zeros((), jnp.int32))

    def forward(self, x):
        for p in self._parameters.values():
            x = jnp.matmul(x, p._read())
        self.steps = self.steps + 1
        return x.sum()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals need the main thread")
def test_interrupts_lose_nothing():
    model = Chain()

    @objnet.jit
    def step(x):
        loss, grads = objnet.value_and_grad(lambda: model(x), wrt=model)()
        for name, p in model.named_parameters():
            p.data.add_(grads[name], alpha=-1e-6)
        return loss

    x = jnp.ones((1, 4))
    step(x)
    step(x)
    rng = np.random.default_rng(0)

    armed = [False]

    def interrupt(*_):
        if armed[0]:
            armed[0] = False
            raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    hits = 0
    try:
        for _ in range(400):
            before = int(model.steps)
            done = 0
            try:
                armed[0] = True
                signal.setitimer(signal.ITIMER_REAL, float(rng.uniform(5e-5, 2e-3)))
                while armed[0]:  # an interrupt that falls into a weakref callback is swallowed by Python
                    step(x)
                    done += 1
            except (KeyboardInterrupt, ValueError) as error:  # jax turns one that falls into a cache key's __eq__ into ValueError
                assert "KeyboardInterrupt" in repr(error) or "KeyboardInterrupt" in str(error)
                hits += 1
            finally:
                armed[0] = False
                signal.setitimer(signal.ITIMER_REAL, 0)
            values = [np.asarray(p.data) for p in model.parameters()]  # a donated value would raise here
            assert all(np.isfinite(v).all() for v in values)
            assert int(model.steps) - before in (done, done + 1)  # the step in progress ended, or never began
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert hits > 300
    step(x)
