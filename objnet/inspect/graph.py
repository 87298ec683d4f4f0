"""``to_dot``: the dataflow between modules as a graph in graphviz's language."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from objnet.inspect.record import Recording, inner_jaxprs, mark
from objnet.inspect.summary import _text

# Operations that only move or convert: what they give comes from where their inputs come from.
_PLUMBING = frozenset(
    [
        "broadcast_in_dim",
        "convert_element_type",
        "reshape",
        "squeeze",
        "transpose",
        "expand_dims",
        "copy",
        "copy_p",
        "stop_gradient",
        "name",
        "slice",
        "dynamic_slice",
        "pjit_sharding_constraint",
        "sharding_constraint",
        "optimization_barrier",
        "rev",
        "iota",
        "split",
    ]
)
_ROOT = -1


class Graph:
    """What :func:`to_dot` returns: ``str()`` of it is the DOT text; notebooks draw it if graphviz is installed.

    Attributes:
        nodes: label by node name: ``input_0``, ``module_3`` (a call of a module that calls no other), ``op_7``, ``output``.
        edges: (from, to) to the shape that flows.
    """

    def __init__(self, name: str, nodes: dict[str, str], edges: dict[tuple[str, str], str], clusters: Any):
        self.name = name
        self.nodes = nodes
        self.edges = edges
        self._clusters = clusters

    def __str__(self) -> str:
        lines = [
            f"digraph {_quote(self.name)} {{",
            "  rankdir=TB;",
            '  node [shape=box, style="rounded,filled", fillcolor=white];',
        ]
        lines += self._cluster(_ROOT, "  ")
        lines += [f"  {a} -> {b} [label={_quote(label)}];" for (a, b), label in self.edges.items()]
        return "\n".join([*lines, "}"])

    def _cluster(self, number: int, indent: str) -> list[str]:
        label, members, below = self._clusters[number]
        inner = indent if number == _ROOT else indent + "  "
        lines = [f"{inner}{node} [label={_quote(self.nodes[node])}{_style(node)}];" for node in members]
        for child in below:
            lines += self._cluster(child, inner)
        if number == _ROOT or not lines:
            return lines
        return [f"{indent}subgraph cluster_{number} {{", f"{inner}label={_quote(label)};", *lines, f"{indent}}}"]

    def to_svg(self, path: str | os.PathLike[str] | None = None) -> str:
        """The drawing as SVG text, written to ``path`` if one is given; see :meth:`to_png`."""
        return self._draw("svg", path).decode()

    def to_png(self, path: str | os.PathLike[str] | None = None) -> bytes:
        """The drawing as PNG bytes, written to ``path`` if one is given.

        Raises:
            ImportError: graphviz's program ``dot`` is not installed.
        """
        return self._draw("png", path)

    def _draw(self, form: str, path: Any) -> bytes:
        program = shutil.which("dot")
        if program is None:
            raise ImportError(
                "drawing a graph needs graphviz's program 'dot' on the PATH (apt install graphviz, brew install graphviz); "
                "str(graph) is the DOT text, which any viewer of graphviz files takes"
            )
        drawn = subprocess.run([program, f"-T{form}"], input=str(self).encode(), capture_output=True, check=True).stdout
        if path is not None:
            with open(path, "wb") as file:
                file.write(drawn)
        return drawn

    def _repr_html_(self) -> str | None:
        if shutil.which("dot") is None:
            return None
        svg = self.to_svg()
        return svg[svg.index("<svg") :]


def to_dot(function: Any, *inputs: Any, **kwargs: Any) -> Graph:
    """The graph of what flows between the modules of ``function``, evaluated abstractly (Haiku's ``experimental.to_dot``).

    Modules that call no other are nodes, the others frames around them; operations in no such module are nodes of their own.

    Args:
        function: a module, or a function that calls modules.
        inputs, kwargs: as for a call; ``jax.ShapeDtypeStruct`` may stand for arrays.
    """
    recording = Recording(function, inputs, kwargs)
    return _Builder(recording).build(getattr(function, "__name__", type(function).__name__))


class _Builder:
    """Follows every variable of a jaxpr to the nodes it comes from."""

    def __init__(self, recording: Recording):
        self._recording = recording
        self._leaves = _leaves(recording.jaxpr.jaxpr)
        self._nodes: dict[str, str] = {}
        self._edges: dict[tuple[str, str], str] = {}
        self._clusters: dict[int, tuple[str, list[str], list[int]]] = {_ROOT: ("", [], [])}

    def build(self, name: str) -> Graph:
        jaxpr = self._recording.jaxpr.jaxpr
        env: dict[Any, dict[str, None]] = {}
        count = self._recording.arguments
        for i, variable in enumerate(jaxpr.invars[len(jaxpr.invars) - count :] if count else ()):
            env[variable] = {self._node(f"input_{i}", f"input\n{_shape(variable)}", _ROOT): None}
        self._run(jaxpr, env, [_ROOT])
        self._node("output", "output", _ROOT)
        for variable in jaxpr.outvars[len(jaxpr.outvars) - self._recording.results :] if self._recording.results else ():
            self._connect(_sources(env, variable), "output", variable)
        return Graph(name, self._nodes, self._edges, self._clusters)

    def _node(self, node: str, label: str, cluster: int) -> str:
        if node not in self._nodes:
            self._nodes[node] = label
            self._clusters[cluster][1].append(node)
        return node

    def _connect(self, sources: dict[str, None], node: str, variable: Any) -> None:
        for source in sources:
            if source != node and not _is_key(variable.aval):
                self._edges.setdefault((source, node), _shape(variable))

    def _run(self, jaxpr: Any, env: dict[Any, dict[str, None]], stack: list[int]) -> None:
        for equation in jaxpr.eqns:
            marked = mark(equation)
            if marked is not None:
                self._mark(*marked, stack)
                continue
            leaf = stack[-1] if stack[-1] in self._leaves else None
            if leaf is None and self._enter(equation, env, stack):
                continue
            sources = {s: None for variable in equation.invars for s in _sources(env, variable)}
            if leaf is not None:
                node = f"module_{leaf}"
            elif equation.primitive.name in _PLUMBING or not sources:
                env.update(dict.fromkeys(equation.outvars, sources))
                continue
            else:
                node = self._node(f"op_{len(self._nodes)}", equation.primitive.name, stack[-1])
            for variable in equation.invars:
                self._connect(_sources(env, variable), node, variable)
            env.update({variable: {node: None} for variable in equation.outvars})

    def _mark(self, begins: bool, number: int, stack: list[int]) -> None:
        if not begins:
            if number in stack:
                del stack[stack.index(number) :]
            return
        call = self._recording.calls[number]
        label = f"{call.path} ({type(call.module).__name__})" if call.path else type(call.module).__name__
        if number in self._leaves:
            self._node(f"module_{number}", f"{label}\n{_text(call.outputs)}", stack[-1])
        elif number not in self._clusters:
            self._clusters[number] = (label, [], [])
            self._clusters[stack[-1]][2].append(number)
        stack.append(number)

    def _enter(self, equation: Any, env: dict[Any, dict[str, None]], stack: list[int]) -> bool:
        """Follow a call, loop or branch inside; False for a plain operation."""
        inner = list(inner_jaxprs(equation))
        if not inner:
            return False
        name = equation.primitive.name
        given = equation.invars
        if name == "cond":
            given = given[1:]
        elif name == "while":
            given, inner = given[equation.params["cond_nconsts"] :], [equation.params["body_jaxpr"].jaxpr]
        if any(len(j.invars) != len(given) or len(j.outvars) != len(equation.outvars) for j in inner):
            return False
        for variable in equation.outvars:
            env[variable] = {}
        for jaxpr in inner:
            below = {i: _sources(env, v) for i, v in zip(jaxpr.invars, given, strict=True)}
            self._run(jaxpr, below, list(stack))
            for outer, variable in zip(equation.outvars, jaxpr.outvars, strict=True):
                env[outer] = {**env[outer], **_sources(below, variable)}
        return True


def _leaves(jaxpr: Any) -> set[int]:
    """The calls that call no module."""
    found: set[int] = set()
    callers: set[int] = set()

    def walk(jaxpr: Any, stack: list[int]) -> None:
        for equation in jaxpr.eqns:
            marked = mark(equation)
            if marked is None:
                for inner in inner_jaxprs(equation):
                    walk(inner, list(stack))
            elif marked[0]:
                callers.update(stack[-1:])
                found.add(marked[1])
                stack.append(marked[1])
            elif marked[1] in stack:
                del stack[stack.index(marked[1]) :]

    walk(jaxpr, [])
    return found - callers


def _sources(env: dict[Any, dict[str, None]], variable: Any) -> dict[str, None]:
    return {} if isinstance(variable, Literal) else env.get(variable, {})


def _is_key(kind: Any) -> bool:
    """Whether this is a random key, which goes from draw to draw and carries no data."""
    return jnp.issubdtype(kind.dtype, jax.dtypes.prng_key) or (kind.dtype == jnp.uint32 and kind.shape == (2,))


def _shape(variable: Any) -> str:
    kind = variable.aval
    return f"{kind.dtype}[{','.join(map(str, kind.shape))}]"


def _style(node: str) -> str:
    if node.startswith("op_"):
        return ", shape=ellipse, style=solid"
    return ', fillcolor="#eeeeee"' if node.startswith(("input", "output")) else ""


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
