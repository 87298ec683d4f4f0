"""``objnet.inspect.to_dot``: what flows between modules."""

import shutil

import jax
import jax.numpy as jnp
import pytest

from objnet import nn
from objnet.inspect import to_dot


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Dropout(0.5))
        self.skip = nn.Linear(3, 4)

    def forward(self, x):
        return (self.body(x) + self.skip(x)).reshape(-1)


def labelled(graph):
    name = {node: label.split("\n")[0] for node, label in graph.nodes.items()}
    return {(name[a], name[b]) for a, b in graph.edges}


def test_edges_follow_the_data():
    graph = to_dot(Net(), jax.ShapeDtypeStruct((2, 3), jnp.float32))
    assert labelled(graph) == {
        ("input", "body.0 (Linear)"),
        ("body.0 (Linear)", "body.1 (Dropout)"),
        ("body.1 (Dropout)", "body.2 (Dropout)"),
        ("input", "skip (Linear)"),
        ("body.2 (Dropout)", "add"),
        ("skip (Linear)", "add"),
        ("add", "output"),
    }
    assert set(graph.edges.values()) == {"float32[2,3]", "float32[2,4]", "float32[8]"}


def test_text_has_frames_for_modules_that_call_others():
    text = str(to_dot(Net(), jnp.ones((2, 3))))
    assert text.startswith('digraph "Net" {') and text.endswith("}") and text.count("{") == text.count("}")
    assert 'label="body (Sequential)"' in text and text.count("subgraph") == 2
    assert "body.0 (Linear)\\nfloat32[2,4]" in text


def test_functions_loops_and_branches():
    layer = nn.Linear(3, 3)

    def function(x, flag):
        x = layer(x)
        x, _ = jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, length=3)
        return jax.lax.cond(flag > 0, jnp.cos, jnp.exp, x)

    graph = to_dot(function, jnp.ones((2, 3)), jnp.ones(()))
    edges = labelled(graph)
    assert graph.name == "function"
    assert {("Linear", "sin"), ("sin", "cos"), ("sin", "exp"), ("cos", "output"), ("exp", "output")} <= edges


def test_drawing(tmp_path, monkeypatch):
    graph = to_dot(nn.Linear(3, 4), jnp.ones((2, 3)))
    if shutil.which("dot"):
        assert "<svg" in graph.to_svg(tmp_path / "graph.svg") and (tmp_path / "graph.svg").exists()
        assert graph.to_png().startswith(b"\x89PNG") and graph._repr_html_().startswith("<svg")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert graph._repr_html_() is None
    for draw in (graph.to_svg, graph.to_png):
        with pytest.raises(ImportError, match="apt install graphviz"):
            draw()
