"""torch's names without a meaning in JAX, and the small ones beside the layers."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from objnet import errors, nn
from objnet.nn import functional as F


@pytest.mark.parametrize(
    "use",
    [
        lambda: nn.DataParallel(nn.Linear(1, 1)),
        lambda: nn.parallel.DistributedDataParallel(nn.Linear(1, 1), device_ids=[0]),
        lambda: F.grouped_mm(jnp.ones((2, 2)), jnp.ones((2, 2))),
        lambda: F.scaled_mm(*[jnp.ones((2, 2))] * 6),
        lambda: F.scaled_grouped_mm(*[jnp.ones((2, 2))] * 6),
        lambda: nn.quantized.Linear,
        lambda: nn.qat.Conv2d,
        lambda: nn.intrinsic.ConvBn2d,
        lambda: nn.quantizable.LSTM,
        lambda: nn.Linear(1, 1).compile(),
        lambda: nn.Linear(1, 1).share_memory(),
        lambda: nn.Linear(1, 1).to_empty(device="cpu"),
        lambda: nn.Linear(1, 1).xpu(),
    ],
)
def test_the_error_says_what_to_use(use):
    with pytest.raises(errors.TorchOnlyError, match=r"has no meaning in JAX \(at .*test_torch_only.py:\d+\): .* instead"):
        use()


def test_ported_checks_of_classes_stay_false():
    assert not isinstance(nn.Linear(1, 1), (nn.DataParallel, nn.parallel.DistributedDataParallel))
    assert not hasattr(nn.quantized, "__wrapped__")


def test_container_warns_and_holds():
    with pytest.warns(FutureWarning, match="subclass nn.Module"):
        box = nn.Container(a=nn.Linear(1, 2), b=nn.ReLU())
    assert [name for name, _ in box.named_children()] == ["a", "b"]


@pytest.mark.parametrize("kind", ["input", "weight"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_gradients_of_convolutions(dims, kind):
    torch = pytest.importorskip("torch")
    x, w = torch.randn(2, 4, *[7] * dims), torch.randn(6, 2, *[3] * dims)
    options = {"stride": 2, "padding": 1, "dilation": 1, "groups": 2}
    out = getattr(torch.nn.functional, f"conv{dims}d")(x, w, None, **options)
    theirs, ours = (getattr(space, f"conv{dims}d_{kind}") for space in (torch.nn.grad, nn.grad))
    given = (x.shape, w, out) if kind == "input" else (x, w.shape, out)
    arrays = [jnp.asarray(g.numpy()) if isinstance(g, torch.Tensor) else tuple(g) for g in given]
    np.testing.assert_allclose(ours(*arrays, **options), theirs(*given, **options).numpy(), rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError, match="gives"):
        ours(*arrays[:2], jnp.ones((1, 6, *[4] * dims)), **options)
