"""Loss modules against torch's."""

from __future__ import annotations

import inspect
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet import nn  # noqa: E402
from objnet.transforms.autodiff import value_and_grad  # noqa: E402
from objnet.transforms.jit import jit  # noqa: E402
from tests.nn.module_parity import (  # noqa: E402
    Pair,
    build,
    check_attributes,
    check_forward,
    check_module,
    check_refused,
    check_signature,
    converted,
)

A, B = torch.randn(4, 3), torch.randn(4, 3)
P, Q = torch.rand(4, 3) * 0.9 + 0.05, torch.rand(4, 3)
CLASSES = torch.tensor([0, 2, 1, 1])
WEIGHT = torch.tensor([0.5, 2.0, 1.0])
SIGN = torch.where(B > 0, 1.0, -1.0)

CASES = [
    ("L1Loss", {}, (A, B)),
    ("MSELoss", {"reduction": "sum"}, (A, B)),
    ("SmoothL1Loss", {"beta": 0.3}, (A, B)),
    ("HuberLoss", {"delta": 0.4, "reduction": "none"}, (A, B)),
    ("NLLLoss", {"weight": WEIGHT, "ignore_index": 1}, (torch.log_softmax(A, 1), CLASSES)),
    ("CrossEntropyLoss", {}, (A, CLASSES)),
    ("CrossEntropyLoss", {"weight": WEIGHT, "label_smoothing": 0.2}, (A, CLASSES)),
    ("CrossEntropyLoss", {"reduction": "sum"}, (A, torch.softmax(B, 1))),
    ("BCELoss", {"weight": WEIGHT}, (P, Q)),
    ("BCEWithLogitsLoss", {"weight": WEIGHT, "pos_weight": WEIGHT, "reduction": "sum"}, (A, Q)),
    ("BCEWithLogitsLoss", {}, (A, Q)),
    ("KLDivLoss", {"reduction": "batchmean", "log_target": True}, (A, B)),
    ("PoissonNLLLoss", {"full": True, "eps": 0.1}, (A, 4 * Q)),
    ("GaussianNLLLoss", {"full": True, "eps": 0.3}, (A, B, Q)),
    ("HingeEmbeddingLoss", {"margin": 0.5}, (A, SIGN.long())),
    ("MarginRankingLoss", {"margin": 0.2}, (A[:, 0], B[:, 0], SIGN[:, 0].long())),
    ("MultiMarginLoss", {"p": 2, "margin": 0.7, "weight": WEIGHT}, (A, CLASSES)),
    ("MultiLabelMarginLoss", {}, (A, torch.tensor([[0, -1, 2], [2, 1, -1], [-1, 0, 0], [1, 1, -1]]))),
    ("MultiLabelSoftMarginLoss", {"weight": WEIGHT}, (A, Q)),
    ("SoftMarginLoss", {"reduction": "sum"}, (A, SIGN.long())),
    ("CosineEmbeddingLoss", {"margin": 0.1}, (A, B, SIGN[:, 0].long())),
    ("TripletMarginLoss", {"margin": 0.5, "p": 1.5, "swap": True}, (A, B, Q)),
    ("TripletMarginWithDistanceLoss", {"margin": 0.5, "swap": True}, (A, B, Q)),
    ("LinearCrossEntropyLoss", {"in_features": 3, "num_classes": 3, "bias": True, "weight": WEIGHT}, (A, CLASSES)),
    (
        "LinearCrossEntropyLoss",
        {"in_features": 3, "num_classes": 2, "out_features": (2,)},
        (A, CLASSES.view(2, 2).T.repeat(2, 1) % 2),
    ),
]


@pytest.mark.filterwarnings("ignore:reduction:UserWarning")
@pytest.mark.parametrize(("name", "options", "inputs"), CASES)
def test_loss(name, options, inputs):
    check_module(name, inputs=inputs, **options)


@pytest.mark.filterwarnings("ignore:reduction:UserWarning")
@settings(max_examples=10, deadline=None)
@given(st.sampled_from([(n, i) for n, o, i in CASES if "out_features" not in o]), st.sampled_from(["mean", "sum", "none"]))
def test_reductions(case, reduction):
    name, inputs = case
    sizes = {"in_features": 3, "num_classes": 3} if name == "LinearCrossEntropyLoss" else {}
    pair = build(name, reduction=reduction, **sizes)
    check_attributes(pair)
    check_forward(pair, *inputs)


LEGACY = [n for n in sorted({n for n, _, _ in CASES}) if "size_average" in inspect.signature(getattr(torch.nn, n)).parameters]


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from(LEGACY),
    st.sampled_from([None, True, False]),
    st.sampled_from([None, True, False]),
)
def test_deprecated_flags(name, size_average, reduce):
    check_signature(name)
    flags = {"size_average": size_average, "reduce": reduce}
    if size_average is reduce is None:
        check_attributes(build(name, **flags))
        return
    with pytest.warns(UserWarning, match="deprecated"):
        ours = getattr(nn, name)(**flags)
    with pytest.warns(UserWarning):
        theirs = getattr(torch.nn, name)(**flags)
    check_attributes(Pair(ours, theirs))


def test_the_weight_is_a_buffer():
    loss = nn.CrossEntropyLoss(converted(WEIGHT))
    assert list(loss.state_dict()) == ["weight"]
    assert not list(loss.parameters())
    assert nn.Sequential(loss).half()[0].weight.dtype == jnp.float16
    np.testing.assert_array_equal(nn.NLLLoss(WEIGHT.numpy()).weight, WEIGHT.numpy())


def test_refusals():
    check_refused("MSELoss", reduction="median", inputs=(A, B))
    check_refused("HuberLoss", delta="small", match="delta must be a float or int")
    check_refused("CrossEntropyLoss", weight=[1.0, 2.0, 3.0])
    check_refused("CrossEntropyLoss", inputs=(A, torch.tensor([0, 1, 2, 5])))
    check_refused("BCELoss", inputs=(A + 5, Q))
    check_refused("NLLLoss", inputs=(A, CLASSES[:3]))
    check_refused("MultiMarginLoss", p=3)
    check_refused("MultiMarginLoss", weight=torch.ones(3, 1))
    check_refused("TripletMarginLoss", margin=0.0)
    check_refused("TripletMarginWithDistanceLoss", margin=-1.0)
    check_refused("LinearCrossEntropyLoss", 3, 4, weight=WEIGHT)
    check_refused("LinearCrossEntropyLoss", 3, 4, label_smoothing=1.5)
    check_refused("MultiLabelSoftMarginLoss", reduction="median", inputs=(A, Q))


def test_the_old_name_of_nll_loss_warns():
    image, target = torch.randn(2, 3, 2, 2), torch.tensor([[[0, 1], [2, 1]], [[1, 1], [0, 2]]])
    with pytest.warns(FutureWarning, match="use NLLLoss"):
        ours = nn.NLLLoss2d(converted(WEIGHT))
    with pytest.warns(FutureWarning):
        theirs = torch.nn.NLLLoss2d(WEIGHT)
    check_attributes(Pair(ours, theirs))
    check_forward(Pair(ours, theirs), image, target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert type(pickle.loads(pickle.dumps(ours))) is nn.NLLLoss2d


@pytest.mark.parametrize("lengths", [(torch.tensor([4, 3]), torch.tensor([2, 1])), ((4, 3), (2, 1))])
def test_ctc_loss(lengths):
    log_probs, targets = torch.log_softmax(torch.randn(4, 2, 3), 2), torch.tensor([[1, 2], [2, 0]])
    if isinstance(lengths[0], tuple):
        pair = build("CTCLoss", blank=1, reduction="none")
        check_attributes(pair)
        check_forward(pair, log_probs, targets, *lengths)
    else:
        check_module("CTCLoss", zero_infinity=True, inputs=(log_probs, targets, *lengths), vmap=False)


def test_a_distance_of_ones_own():
    taxi = lambda x, y: abs(x - y).sum(-1)
    pair = build("TripletMarginWithDistanceLoss", distance_function=taxi, reduction="none")
    check_forward(pair, A, B, Q)
    assert repr(nn.TripletMarginWithDistanceLoss()) == repr(torch.nn.TripletMarginWithDistanceLoss())


def test_chunks_in_a_compiled_step():
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=2)
    pair = build("LinearCrossEntropyLoss", 3, 3, bias=True, weight=WEIGHT)
    chunked = nn.LinearCrossEntropyLoss(3, 3, bias=True, weight=converted(WEIGHT), options=options)
    chunked.load_state_dict(pair.ours.state_dict())
    assert repr(chunked).split("\n")[1].endswith(f"options={options}")
    x, y = converted((A, CLASSES))
    (loss, grads), (expected, wanted) = (
        jit(value_and_grad(lambda x, y, m=m: m(x, y), wrt=m))(x, y) for m in (chunked, pair.ours)
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), grads, wanted)
