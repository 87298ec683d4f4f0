"""``objnet.inspect.summary``: parameters, operations and shapes equal to what a hand or torch counts; nothing changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import nn
from objnet.inspect import summary

ids = jax.ShapeDtypeStruct((2, 5), jnp.int32)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        return x + self.drop(jnp.tanh(self.fc(self.norm(x))))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(11, 8)
        self.layers = nn.ModuleList([Block(8), Block(8)])
        self.bn = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, ids):
        x = self.emb(ids)
        for layer in [*self.layers, self.layers[0]]:
            x = layer(x)
        return self.head(self.bn(x.transpose(0, 2, 1)).transpose(0, 2, 1))


def row(table, path):
    return next(row for row in table.rows if row.path == path)


def test_rows_follow_the_tree_with_shapes_and_calls():
    model = Model()
    table = summary(model, ids)
    assert [r.path for r in table.rows] == [path for path, _ in model.named_modules()]
    assert row(table, "").input == "int32[2,5]" and row(table, "").output == "float32[2,5,11]"
    assert row(table, "layers").calls == 0 and row(table, "layers").output == ""
    assert row(table, "layers.0.fc").calls == 2 and row(table, "layers.1.fc").calls == 1
    assert row(table, "bn").input == "float32[2,8,5]" and row(table, "bn").kind == "BatchNorm1d"


def test_operations_equal_those_counted_by_hand():
    table = summary(Model(), ids)
    assert row(table, "layers.1.fc").flops == 2 * 10 * 8 * 8 + 10 * 8
    assert row(table, "layers.0.fc").flops == 2 * row(table, "layers.1.fc").flops
    assert row(table, "head").flops == 2 * 10 * 8 * 11
    below = sum(row(table, f"layers.1.{name}").flops for name in ("norm", "fc", "drop"))
    assert row(table, "layers.1").flops == below + 80 + 80  # tanh and the residual
    assert table.flops == row(table, "").flops
    conv = summary(nn.Conv2d(4, 6, 3, groups=2, bias=False), jax.ShapeDtypeStruct((2, 4, 10, 10), jnp.float32))
    assert conv.flops == 2 * (2 * 6 * 8 * 8) * (2 * 3 * 3)


def test_operations_come_close_to_xla():
    model = nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 32)).eval()
    x = jnp.ones((16, 64))
    assert summary(model, x).flops == pytest.approx(objnet.jit(model).lower(x).cost_analysis()["flops"], rel=0.02)


def test_a_loop_counts_every_turn_and_a_branch_its_dearest_side():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(jnp.ones((3, 3)))

        def forward(self, x):
            w = self.w
            x, _ = jax.lax.scan(lambda c, _: (c @ w, None), x, length=7)
            return jax.lax.cond(x.sum() > 0, lambda x: x @ w @ w, lambda x: x, x)

    flops = summary(Loop(), jnp.ones((3, 3))).flops
    assert flops == 9 * 2 * 27 + 8  # nine products and the sum of nine


def test_parameters_frozen_and_tied():
    model = Model()
    model.layers[1].norm.requires_grad_(False)
    model.layers[1].fc.bias.requires_grad_(False)
    table = summary(model, ids)
    assert table.parameters == sum(p.numel() for p in model.parameters()) == 280
    assert table.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad) == 280 - 16 - 8
    assert row(table, "layers.1.norm").frozen and not row(table, "layers.1.fc").frozen
    assert row(table, "emb").tied == ("weight = head.weight",) and row(table, "head").tied == ("weight = emb.weight",)
    assert row(table, "emb").parameters == 88 and row(table, "head").parameters == 0
    assert table.buffers == 17 and table.parameter_bytes == 4 * 280
    text = str(table)
    assert "frozen" in text and "partly frozen" in text and "tied: weight = emb.weight" in text and "x2" in text
    assert "Parameters: 280" in text


def test_nothing_is_computed_drawn_or_changed():
    model = Model()
    before = {k: np.asarray(v) for k, v in model.state_dict().items()}
    key = objnet.get_rng_state()["key"].copy()
    first = str(summary(model, ids))
    assert str(summary(model, jnp.zeros((2, 5), jnp.int32))) == first
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    np.testing.assert_array_equal(objnet.get_rng_state()["key"], key)
    assert not nn.hooks.GLOBAL_RUNNING


def test_symbolic_shapes_and_keyword_arguments():
    (n,) = jax.export.symbolic_shape("n")
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    table = summary(model, jax.ShapeDtypeStruct((n, 3), jnp.float32))
    assert table.flops == 46 * n and row(table, "1").output == "float32[n,2]"

    class Keyword(nn.Module):
        def forward(self, x, *, scale):
            return x * scale

    table = summary(Keyword(), jnp.ones(3), scale=jnp.ones(3))
    assert table.rows[0].input == "float32[3], float32[3]" and table.flops == 3


def test_a_nested_scan_over_a_module_is_seen_once():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(3, 4)

        def forward(self, x):
            return self.rnn(x)[0]

    table = summary(Recurrent(), jnp.ones((6, 2, 3)))
    assert row(table, "rnn").calls == 1
    assert table.flops > 6 * 2 * 2 * (3 + 4) * 16  # the products of six steps


def test_html_and_what_is_no_module():
    table = summary(Model(), ids)
    page = table._repr_html_()
    assert page.count("<tr>") == len(table.rows) + 1 and "float32[2,5,11]" in page
    with pytest.raises(TypeError, match="summary takes a module"):
        summary(lambda x: x, jnp.ones(3))
    layer = nn.Linear(3, 3)
    with pytest.raises(objnet.errors.CompiledCallError, match="inside a transform"):
        jax.jit(lambda x: (summary(layer, x), x)[1])(jnp.ones(3))


def test_an_error_in_a_forward_leaves_no_hook_behind():
    with pytest.raises(Exception, match="in 0"):
        summary(nn.Sequential(nn.Linear(3, 4)), jnp.ones((2, 5)))
    assert not nn.hooks.GLOBAL_RUNNING


def test_parameters_equal_torch():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.TransformerEncoderLayer(8, 2, 16)
    ours = summary(nn.TransformerEncoderLayer(8, 2, 16), jnp.ones((5, 2, 8)))
    assert ours.parameters == sum(p.numel() for p in theirs.parameters())
