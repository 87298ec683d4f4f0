"""Convolutional LSTM cells against Haiku's, and against LSTMCell."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objnet import nn
from objnet.transforms.jit import jit


def converted(weights):
    """Haiku's weights, (*kernel, in, 4 * out), gates i g f o, as ours, (4 * out, in, *kernel), gates i f g o."""
    weights = np.asarray(weights)
    weights = np.moveaxis(weights, (-1, -2), (0, 1)) if weights.ndim > 1 else weights
    i, g, f, o = np.split(weights, 4)
    return np.concatenate([i, f, g, o])


@pytest.mark.parametrize(("dimensions", "kernel"), [(1, 3), (2, (3, 2)), (3, 2)])
def test_haikus(dimensions, kernel):
    hk = pytest.importorskip("haiku")
    sizes, random = (4, 3, 2)[:dimensions], np.random.RandomState(0)
    x, h, c = (jnp.asarray(random.randn(2, *sizes, channels), "float32") for channels in (3, 2, 2))
    theirs = hk.without_apply_rng(
        hk.transform(lambda x, h, c: getattr(hk, f"Conv{dimensions}DLSTM")(sizes, 2, kernel)(x, hk.LSTMState(h, c)))
    )
    shapes = jax.eval_shape(theirs.init, jax.random.key(0), x, h, c)
    params = jax.tree.map(lambda p: jnp.asarray(random.randn(*p.shape), "float32"), shapes)
    (path_ih, of_input), (path_hh, of_state) = sorted(params.items(), reverse=True)
    assert ("input" in path_ih, "hidden_to" in path_hh) == (True, True)
    cell = getattr(nn, f"ConvLSTM{dimensions}dCell")(3, 2, kernel)
    forget = np.asarray([0, 0, 1, 1, 0, 0, 0, 0], np.float32)  # Haiku adds one to it
    cell.load_state_dict(
        {
            "weight_ih": converted(of_input["w"]),
            "weight_hh": converted(of_state["w"]),
            "bias_ih": converted(of_input["b"]) + forget,
            "bias_hh": converted(of_state["b"]),
        }
    )
    arrays = [jnp.asarray(np.moveaxis(np.asarray(a), -1, 1)) for a in (x, h, c)]
    wanted, state = jax.jit(theirs.apply)(params, x, h, c)
    new_h, new_c = jit(cell)(arrays[0], tuple(arrays[1:]))
    np.testing.assert_allclose(np.moveaxis(new_h, 1, -1), wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.moveaxis(new_c, 1, -1), state.cell, rtol=1e-5, atol=1e-5)


def test_one_pixel_is_an_lstm_cell():
    cell, plain = nn.ConvLSTM2dCell(3, 4, 1, bias=False), nn.LSTMCell(3, 4, bias=False)
    plain.load_state_dict({k: v.reshape(v.shape[:2]) for k, v in cell.state_dict().items()})
    x = jnp.arange(3.0)
    for ours, theirs in zip(jit(cell)(x[:, None, None]), jit(plain)(x), strict=True):
        np.testing.assert_allclose(ours[:, 0, 0], theirs, rtol=1e-5, atol=1e-6)
    assert max(abs(v).max() for v in cell.state_dict().values()) <= 0.5
    assert repr(cell) == "ConvLSTM2dCell(3, 4, kernel_size=(1, 1), bias=False)"


def test_refused():
    cell = nn.ConvLSTM1dCell(3, 4, 3)
    with pytest.raises(ValueError, match="Expected input to be 2D or 3D, got 4D"):
        cell(jnp.ones((1, 2, 3, 4)))
    for hx in ((jnp.ones((2, 4, 5)), jnp.ones((2, 4, 6))), (jnp.ones((2, 4, 5), "bfloat16"),) * 2):
        with pytest.raises(RuntimeError, match=r"hx\[[01]\] must be float32 of shape \(2, 4, 5\)"):
            cell(jnp.ones((2, 3, 5)), hx)
    with pytest.raises(RuntimeError):
        cell(jnp.ones((2, 2, 5)))
    for sizes in ((0, 4, 3), (3, 0, 3), (3, 4, 0)):
        with pytest.raises(ValueError, match="must be positive"):
            nn.ConvLSTM1dCell(*sizes)
