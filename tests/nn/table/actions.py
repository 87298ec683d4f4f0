"""The rows of what is neither a layer nor a functional: the same lines run in both worlds, and give the same or raise the same."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from objnet import errors
from tests.nn import module_parity
from tests.nn.table.columns import Result, attempt, described, quiet
from tests.nn.two_worlds import OURS, THEIRS, Raised, outcome

Action = Callable[[Any], Any]


def row(name: str, ours: Any, theirs: Any) -> dict[str, Result]:
    """The signature, and what the actions give."""
    results: dict[str, Result] = {"signature": attempt(lambda: check_signature(ours, theirs))}
    for action in ACTIONS[name]:
        column = "refusals" if isinstance(expected := quiet(outcome, THEIRS, action), Raised) else "forward"
        found = attempt(lambda action=action, expected=expected: check_same(quiet(outcome, OURS, action), expected))
        if results.get(column) is None:
            results[column] = found
    return results


def check_signature(ours: Any, theirs: Any) -> None:
    """The same parameters with the same defaults."""
    if callable(theirs) and not isinstance(theirs, type):
        expected, found = module_parity.parameters_of(theirs), module_parity.parameters_of(ours)
        if any(kind == kind.VAR_POSITIONAL for _, kind, _ in expected):
            return  # a deprecated alias of torch's
        assert found == expected, f"{found}, torch {expected}"


def check_same(ours: Any, theirs: Any) -> None:
    """Equal structures, numbers to float32 rounding; errors of one class."""
    if isinstance(theirs, Raised):
        assert isinstance(ours, Raised), f"torch raises {theirs}, objnet gives {ours}"
        assert issubclass(ours[0], theirs[0]), f"torch raises {theirs}, objnet {ours}"
    elif isinstance(theirs, float) and isinstance(ours, float):
        near = math.isclose(ours, theirs, rel_tol=1e-5, abs_tol=1e-6) or (math.isnan(ours) and math.isnan(theirs))
        assert near, f"{ours}, torch {theirs}"
    elif isinstance(theirs, (list, tuple)):
        assert isinstance(ours, (list, tuple)) and len(ours) == len(theirs), f"{ours}, torch {theirs}"
        for one, other in zip(ours, theirs, strict=True):
            check_same(one, other)
    elif isinstance(theirs, Mapping):
        assert list(ours) == list(theirs), f"{list(ours)}, torch {list(theirs)}"
        check_same(list(ours.values()), list(theirs.values()))
    else:
        assert ours == theirs, f"{ours!r}, torch {theirs!r}"


def refusal(ours: Any) -> Result:
    """A name without a meaning in JAX raises one error that says what to use instead."""
    required = [
        p for p in inspect.signature(ours).parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    try:
        ours(*[OURS.ones(2, 2)] * len(required))
    except errors.TorchOnlyError as error:
        return None if "instead" in str(error) else f"says no way out: {error}"
    except Exception as error:
        return described(error)
    return "gives a result"


# -- nn.init -----------------------------------------------------------------------------------------------------------


def _filled(name: str, shape: tuple[int, ...], *args: Any, **kwargs: Any) -> Action:
    def action(world: Any) -> Any:
        parameter = world.nn.Parameter(world.zeros(*shape))
        return getattr(world.nn.init, name)(parameter, *args, **kwargs)

    return action


_SHAPES = ((3, 4), (7,), (), (2, 3, 4), (0, 3), (20, 20))
_INITIALISERS: dict[str, list[dict[str, Any]]] = {
    "uniform": [{}, {"a": -2.0, "b": 3.0}, {"a": 1.0, "b": 0.0}],
    "normal": [{}, {"mean": 1.0, "std": 0.1}, {"std": -1.0}],
    "constant": [{"val": 0.3}],
    "eye": [{}],
    "dirac": [{}, {"groups": 2}],
    "xavier_uniform": [{}, {"gain": 2.0}],
    "xavier_normal": [{}, {"gain": 2.0}],
    "kaiming_uniform": [{}, {"a": 0.2, "mode": "fan_out"}, {"nonlinearity": "relu"}, {"mode": "fan"}],
    "kaiming_normal": [{}, {"a": 0.2, "mode": "fan_out"}, {"nonlinearity": "relu"}, {"nonlinearity": "unknown"}],
    "orthogonal": [{}, {"gain": 2}],
    "sparse": [{"sparsity": 0.3}, {"sparsity": 0.5, "std": 1.0}],
}
_ONLY_IN_PLACE: dict[str, list[dict[str, Any]]] = {
    "ones_": [{}],
    "zeros_": [{}],
    "trunc_normal_": [{}, {"mean": 0.5, "std": 2.0, "a": -1.0, "b": 1.0}, {"a": 2.0, "b": 1.0}],
}


def _initialisers() -> dict[str, list[Action]]:
    names = {**_INITIALISERS, **{f"{n}_": o for n, o in _INITIALISERS.items()}, **_ONLY_IN_PLACE}
    found = {
        f"nn.init.{name}": [_filled(name, shape, **kwargs) for shape in _SHAPES for kwargs in options]
        for name, options in names.items()
    }
    found["nn.init.calculate_gain"] = [
        lambda w: [w.nn.init.calculate_gain(n) for n in ("linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu")],
        lambda w: w.nn.init.calculate_gain("leaky_relu", 0.2),
        lambda w: w.nn.init.calculate_gain("leaky_relu", "steep"),
        lambda w: w.nn.init.calculate_gain("unknown"),
    ]
    return found


# -- nn.utils ----------------------------------------------------------------------------------------------------------


def _with_gradients(world: Any) -> list[Any]:
    parameters = [world.nn.Parameter(world.tensor([[1.0, 2.0], [3.0, 4.0]])), world.nn.Parameter(world.tensor([5.0]))]
    parameters[0].grad = world.tensor([[1.0, -2.0], [0.5, 4.0]])
    parameters[1].grad = world.tensor([-3.0])
    return parameters


def _after(call: Callable[[Any, list[Any]], Any]) -> Action:
    """What the call returns, and the gradients it leaves."""

    def action(world: Any) -> Any:
        parameters = _with_gradients(world)
        return call(world, parameters), [p.grad for p in parameters]

    return action


def _layers(world: Any, dims: int | None = 2) -> tuple[Any, Any]:
    first = world.nn.Linear(3, 4) if dims is None else getattr(world.nn, f"Conv{dims}d")(3, 4, 2)
    norm = getattr(world.nn, f"BatchNorm{dims or 1}d")(4)
    norm.running_mean = world.tensor([0.1, 0.2, 0.3, 0.4])
    norm.running_var = world.tensor([1.0, 2.0, 0.5, 0.7])
    return first.eval(), norm.eval()


def _state(module: Any) -> Any:
    return [(k, tuple(v.shape), v) for k, v in module.state_dict().items()], repr(module)


def _reparametrised(function: str, /, **kwargs: Any) -> Action:
    """A layer with an old-style or new-style parametrisation: keys, values, output before and after training calls."""
    space, _, short = function.rpartition(".")

    def action(world: Any) -> Any:
        layer = world.nn.Linear(3, 4)
        utils = world.nn.utils.parametrizations if space else world.nn.utils
        layer = getattr(utils, short)(layer, **kwargs)
        x = world.tensor([[1.0, 2.0, -1.0]])
        first = layer(x)
        layer.eval()
        return first, layer(x), _state(layer)

    return action


def _pruned(name: str, *args: Any) -> Action:
    def action(world: Any) -> Any:
        layer = world.nn.Linear(4, 3)
        getattr(world.nn.utils.prune, name)(layer, *args)
        return _state(layer), layer.weight, world.nn.utils.prune.is_pruned(layer)

    return action


def _method(name: str, *args: Any) -> Action:
    def action(world: Any) -> Any:
        prune = world.nn.utils.prune
        method = getattr(prune, name)(*args)
        layer = world.nn.Linear(4, 3)
        getattr(prune, name).apply(layer, "weight", *args)
        return method.PRUNING_TYPE, _state(layer)

    return action


def _sequences(world: Any) -> list[Any]:
    return [
        world.tensor([[1.0, 2.0]]),
        world.tensor([[3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]),
        world.tensor([[9.0, 0.0], [1.0, 1.0]]),
    ]


def _padded(world: Any) -> Any:
    return world.nn.utils.rnn.pad_sequence(_sequences(world))


def _packed(world: Any, **options: Any) -> Any:
    return world.nn.utils.rnn.pack_padded_sequence(
        _padded(world), world.integers([1, 3, 2]), **{"enforce_sorted": False, **options}
    )


def _doubled(world: Any) -> Any:
    class Double(world.nn.Module):
        def forward(self, weight: Any) -> Any:
            return weight * 2.0

        def right_inverse(self, weight: Any) -> Any:
            return weight / 2.0

    return Double()


def _parametrised(world: Any) -> Any:
    layer = world.nn.Linear(2, 3)
    world.nn.utils.parametrize.register_parametrization(layer, "weight", _doubled(world))
    return layer


def _cached(world: Any) -> Any:
    layer = _parametrised(world)
    with world.nn.utils.parametrize.cached():
        return layer(world.tensor([[1.0, 2.0]]))


def _removed(leave: bool) -> Action:
    def action(world: Any) -> Any:
        layer = world.nn.utils.parametrize.remove_parametrizations(_parametrised(world), "weight", leave_parametrized=leave)
        return _state(layer), type(layer).__name__

    return action


def _transferred(world: Any) -> Any:
    other = world.nn.Linear(2, 3)
    world.nn.utils.parametrize.transfer_parametrizations_and_params(_parametrised(world), other)
    return _state(other), type(other).__name__


def _globally(world: Any) -> Any:
    layers = [world.nn.Linear(4, 3), world.nn.Linear(3, 2)]
    prune = world.nn.utils.prune
    prune.global_unstructured([(layer, "weight") for layer in layers], pruning_method=prune.L1Unstructured, amount=0.4)
    return list(map(_state, layers))


def _container(world: Any) -> Any:
    prune, layer = world.nn.utils.prune, world.nn.Linear(4, 3)
    prune.l1_unstructured(layer, "weight", 0.3)
    prune.ln_structured(layer, "weight", 0.5, 2, 1)
    (hook,) = layer._forward_pre_hooks.values()
    return _state(layer), len(hook if hasattr(hook, "__len__") and not isinstance(hook, tuple) else hook[0])


def _own_method(world: Any) -> Any:
    prune = world.nn.utils.prune

    class Half(prune.BasePruningMethod):
        PRUNING_TYPE = "unstructured"

        def compute_mask(self, t: Any, default_mask: Any) -> Any:
            return default_mask * world.tensor([[0.0, 1.0], [1.0, 0.0]])

    layer = world.nn.Linear(2, 2)
    Half.apply(layer, "weight")
    return _state(layer), layer.weight


def _after_remove(world: Any) -> Any:
    layer = world.nn.Linear(4, 3)
    world.nn.utils.prune.l1_unstructured(layer, "weight", 0.3)
    world.nn.utils.prune.remove(layer, "weight")
    return _state(layer)


def _functional_call(world: Any) -> Any:
    layer = world.nn.Linear(2, 1)
    values = {"weight": world.tensor([[2.0, 3.0]]), "bias": world.tensor([1.0])}
    return world.nn.utils.stateless.functional_call(layer, values, (world.tensor([[1.0, 1.0]]),)), layer.weight


def _linear(world: Any) -> Any:
    return world.nn.Linear(4, 3)


ACTIONS: dict[str, list[Action]] = {
    **_initialisers(),
    "nn.Parameter": [
        lambda w: w.nn.Parameter(w.tensor([1.0, 2.0])),
        lambda w: w.nn.Parameter(w.tensor([1.0]), requires_grad=False),
        lambda w: w.nn.Parameter(w.integers([1]), requires_grad=False),
    ],
    "nn.Buffer": [lambda w: list(w.nn.Buffer(w.tensor([1.0, 2.0])).shape), lambda w: w.nn.Buffer(w.tensor([1.0]), persistent=False).persistent],
    "nn.UninitializedParameter": [
        lambda w: repr(w.nn.UninitializedParameter()),
        lambda w: w.nn.UninitializedParameter().shape,
        lambda w: w.nn.UninitializedParameter(requires_grad=False).requires_grad,
    ],
    "nn.UninitializedBuffer": [lambda w: w.nn.UninitializedBuffer().shape],
    "nn.LinearCrossEntropyOptions": [lambda w: repr(w.nn.LinearCrossEntropyOptions())],
    "nn.factory_kwargs": [
        lambda w: w.nn.factory_kwargs({}),
        lambda w: w.nn.factory_kwargs({"factory_kwargs": {"device": "cpu"}}),
        lambda w: w.nn.factory_kwargs({"unknown": 1}),
        lambda w: w.nn.factory_kwargs({"device": "cpu", "factory_kwargs": {"device": "cpu"}}),
    ],
    "nn.Container": [lambda w: repr(w.nn.Container(a=w.nn.Linear(1, 2)))],
    "nn.Module": [lambda w: repr(w.nn.Module()), lambda w: w.nn.Module()(1)],
    "nn.ModuleDict": [lambda w: w.nn.ModuleDict({"a": w.nn.Linear(1, 2), "b": w.nn.ReLU()}), lambda w: w.nn.ModuleDict({"": w.nn.ReLU()})],
    "nn.ModuleList": [lambda w: w.nn.ModuleList([w.nn.Linear(1, 2), w.nn.ReLU()] * 2), lambda w: w.nn.ModuleList([1])],
    "nn.Sequential": [
        lambda w: w.nn.Sequential(w.nn.Linear(2, 3), w.nn.ReLU()),
        lambda w: w.nn.Sequential(w.nn.Linear(2, 3), w.nn.ReLU())(w.ones(1, 2)),
        lambda w: w.nn.Sequential(1),
    ],
    "nn.ParameterList": [lambda w: repr(w.nn.ParameterList([w.nn.Parameter(w.ones(2))])).splitlines()[0]],
    "nn.ParameterDict": [lambda w: list(w.nn.ParameterDict({"a": w.nn.Parameter(w.ones(2))}).items())],
    "nn.RNNBase": [lambda w, m=m: _state(w.nn.RNNBase(m, 3, 4)) for m in ("LSTM", "GRU", "RNN_TANH", "RNN_RELU", "unknown")],
    "nn.RNNCellBase": [lambda w: _state(w.nn.RNNCellBase(3, 4, True, 4)), lambda w: _state(w.nn.RNNCellBase(3, 5, False, 3))],
    "nn.SyncBatchNorm": [
        lambda w: _state(w.nn.SyncBatchNorm(3)),
        lambda w: _state(w.nn.SyncBatchNorm(3, 1e-3, None, False)),
        lambda w: _state(w.nn.SyncBatchNorm.convert_sync_batchnorm(w.nn.Sequential(w.nn.BatchNorm1d(2), w.nn.BatchNorm2d(3)))),
        lambda w: w.nn.SyncBatchNorm(3)(w.ones(4)),
    ],
    "nn.utils.clip_grad_norm_": [
        _after(lambda w, p: w.nn.utils.clip_grad_norm_(p, 1.0)),
        _after(lambda w, p: w.nn.utils.clip_grad_norm_(p, 2.0, float("inf"))),
    ],
    "nn.utils.clip_grad_norm": [_after(lambda w, p: w.nn.utils.clip_grad_norm(p, 1.0))],
    "nn.utils.clip_grad_value_": [_after(lambda w, p: w.nn.utils.clip_grad_value_(p, 0.7))],
    "nn.utils.get_total_norm": [_after(lambda w, p: w.nn.utils.get_total_norm([q.grad for q in p], n)) for n in (2.0, 1.0, float("inf"))],
    "nn.utils.clip_grads_with_norm_": [_after(lambda w, p: w.nn.utils.clip_grads_with_norm_(p, 1.0, w.tensor(4.0)))],
    "nn.utils.fuse_conv_bn_eval": [lambda w, d=d: _state(w.nn.utils.fuse_conv_bn_eval(*_layers(w, d))) for d in (1, 2, 3)],
    "nn.utils.fuse_linear_bn_eval": [lambda w: _state(w.nn.utils.fuse_linear_bn_eval(*_layers(w, None)))],
    "nn.utils.fuse_conv_bn_weights": [
        lambda w: w.nn.utils.fuse_conv_bn_weights(
            _layers(w)[0].weight, None, w.ones(4), w.ones(4), 1e-5, w.tensor([1.0, 2.0, 3.0, 4.0]), w.ones(4)
        )
    ],
    "nn.utils.fuse_linear_bn_weights": [
        lambda w: w.nn.utils.fuse_linear_bn_weights(
            _layers(w, None)[0].weight, _layers(w, None)[0].bias, w.ones(4), w.ones(4), 1e-5, w.tensor([1.0, 2.0, 3.0, 4.0]), w.ones(4)
        )
    ],
    "nn.utils.parameters_to_vector": [
        lambda w: w.nn.utils.parameters_to_vector(w.nn.Linear(2, 3).parameters()),
        lambda w: w.nn.utils.parameters_to_vector([]),
    ],
    "nn.utils.vector_to_parameters": [
        lambda w: (p := [w.nn.Parameter(w.zeros(2, 2)), w.nn.Parameter(w.zeros(1))])
        and (w.nn.utils.vector_to_parameters(w.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), p), p),
        lambda w: w.nn.utils.vector_to_parameters([1.0], []),
    ],
    "nn.utils.skip_init": [
        lambda w: [(k, tuple(v.shape)) for k, v in w.nn.utils.skip_init(w.nn.Linear, 3, 4).state_dict().items()],
        lambda w: w.nn.utils.skip_init(int, 3),
    ],
    "nn.utils.weight_norm": [_reparametrised("weight_norm"), _reparametrised("weight_norm", dim=None), _reparametrised("weight_norm", name="bias")],
    "nn.utils.spectral_norm": [_reparametrised("spectral_norm"), _reparametrised("spectral_norm", n_power_iterations=3, dim=1)],
    "nn.utils.remove_weight_norm": [
        lambda w: _state(w.nn.utils.remove_weight_norm(w.nn.utils.weight_norm(_linear(w)))),
        lambda w: w.nn.utils.remove_weight_norm(_linear(w)),
    ],
    "nn.utils.remove_spectral_norm": [
        lambda w: _state(w.nn.utils.remove_spectral_norm(w.nn.utils.spectral_norm(_linear(w)))),
        lambda w: w.nn.utils.remove_spectral_norm(_linear(w)),
    ],
    "nn.utils.parametrizations.weight_norm": [_reparametrised("p.weight_norm"), _reparametrised("p.weight_norm", dim=1)],
    "nn.utils.parametrizations.spectral_norm": [_reparametrised("p.spectral_norm"), _reparametrised("p.spectral_norm", dim=1, eps=1e-3)],
    "nn.utils.parametrizations.orthogonal": [
        _reparametrised("p.orthogonal", orthogonal_map=m, use_trivialization=t)
        for m in (None, "matrix_exp", "cayley", "householder")
        for t in (True, False)
    ],
    "nn.utils.rnn.PackedSequence": [
        lambda w: w.nn.utils.rnn.PackedSequence(w.tensor([[1.0], [2.0]]), w.integers([1, 1])),
        lambda w: list(w.nn.utils.rnn.PackedSequence._fields),
    ],
    "nn.utils.rnn.invert_permutation": [lambda w: w.nn.utils.rnn.invert_permutation(w.integers([2, 0, 1])), lambda w: w.nn.utils.rnn.invert_permutation(None)],
    "nn.utils.rnn.pack_padded_sequence": [
        lambda w: list(_packed(w)),
        lambda w: _packed(w, enforce_sorted=True),
        lambda w: w.nn.utils.rnn.pack_padded_sequence(_padded(w), [3, 2, 1])[:2],
        lambda w: w.nn.utils.rnn.pack_padded_sequence(_padded(w), [3, 0, 1], enforce_sorted=False),
    ],
    "nn.utils.rnn.pack_sequence": [
        lambda w: list(w.nn.utils.rnn.pack_sequence(_sequences(w), enforce_sorted=False)),
        lambda w: w.nn.utils.rnn.pack_sequence(_sequences(w)),
    ],
    "nn.utils.rnn.pad_packed_sequence": [
        lambda w: w.nn.utils.rnn.pad_packed_sequence(_packed(w)),
        lambda w: w.nn.utils.rnn.pad_packed_sequence(_packed(w), True, -1.0, 5),
        lambda w: w.nn.utils.rnn.pad_packed_sequence(_packed(w), total_length=2),
    ],
    "nn.utils.rnn.pad_sequence": [
        lambda w: w.nn.utils.rnn.pad_sequence(_sequences(w)),
        lambda w: w.nn.utils.rnn.pad_sequence(_sequences(w), True, 0.5, "left"),
        lambda w: w.nn.utils.rnn.pad_sequence(_sequences(w), padding_side="middle"),
    ],
    "nn.utils.rnn.unpad_sequence": [lambda w: w.nn.utils.rnn.unpad_sequence(_padded(w), w.integers([1, 3, 2]))],
    "nn.utils.rnn.unpack_sequence": [lambda w: w.nn.utils.rnn.unpack_sequence(_packed(w))],
    "nn.utils.parametrize.register_parametrization": [
        lambda w: (_state(_parametrised(w)), _parametrised(w).weight, type(_parametrised(w)).__name__),
        lambda w: w.nn.utils.parametrize.register_parametrization(_linear(w), "nothing", _doubled(w)),
    ],
    "nn.utils.parametrize.ParametrizationList": [
        lambda w: _state(w.nn.utils.parametrize.ParametrizationList([_doubled(w)], w.nn.Parameter(w.ones(2))))
    ],
    "nn.utils.parametrize.cached": [_cached],
    "nn.utils.parametrize.is_parametrized": [
        lambda w: [w.nn.utils.parametrize.is_parametrized(m) for m in (_linear(w), _parametrised(w))],
        lambda w: [w.nn.utils.parametrize.is_parametrized(_parametrised(w), n) for n in ("weight", "bias")],
    ],
    "nn.utils.parametrize.remove_parametrizations": [_removed(True), _removed(False)],
    "nn.utils.parametrize.transfer_parametrizations_and_params": [_transferred],
    "nn.utils.parametrize.type_before_parametrizations": [lambda w: w.nn.utils.parametrize.type_before_parametrizations(_parametrised(w)).__name__],
    "nn.utils.stateless.functional_call": [_functional_call],
    "nn.utils.prune.BasePruningMethod": [_own_method],
    "nn.utils.prune.PruningContainer": [_container],
    "nn.utils.prune.Identity": [lambda w: w.nn.utils.prune.Identity.apply(_linear(w), "weight").PRUNING_TYPE],
    "nn.utils.prune.RandomUnstructured": [_method("RandomUnstructured", 0.4), _method("RandomUnstructured", 2.4)],
    "nn.utils.prune.L1Unstructured": [_method("L1Unstructured", 0.4), _method("L1Unstructured", 5)],
    "nn.utils.prune.RandomStructured": [_method("RandomStructured", 0.4, 1)],
    "nn.utils.prune.LnStructured": [_method("LnStructured", 0.4, 1, 0)],
    "nn.utils.prune.CustomFromMask": [lambda w: _state(w.nn.utils.prune.custom_from_mask(w.nn.Linear(2, 1), "weight", w.tensor([[1.0, 0.0]])))],
    "nn.utils.prune.custom_from_mask": [lambda w: _state(w.nn.utils.prune.custom_from_mask(w.nn.Linear(2, 1), "weight", w.tensor([[1.0, 0.0]])))],
    "nn.utils.prune.global_unstructured": [_globally],
    "nn.utils.prune.identity": [_pruned("identity", "weight")],
    "nn.utils.prune.random_unstructured": [_pruned("random_unstructured", "weight", 0.4), _pruned("random_unstructured", "weight", 3)],
    "nn.utils.prune.l1_unstructured": [_pruned("l1_unstructured", "weight", 0.4), _pruned("l1_unstructured", "weight", -1)],
    "nn.utils.prune.random_structured": [_pruned("random_structured", "weight", 0.4, 0)],
    "nn.utils.prune.ln_structured": [_pruned("ln_structured", "weight", 0.4, 2, 1), _pruned("ln_structured", "weight", 0.4, 2, 7)],
    "nn.utils.prune.is_pruned": [lambda w: w.nn.utils.prune.is_pruned(_linear(w))],
    "nn.utils.prune.remove": [_after_remove, lambda w: w.nn.utils.prune.remove(_linear(w), "weight")],
}  # fmt: skip
