"""Every named error: its text says what happened, where (the path in the model, or the user's line), and what to write instead."""

import pickle
import tempfile
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import errors, nn, optim

X = jnp.ones((4, 3))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)
        self.step = 0
        self.total = jnp.zeros(())

    def forward(self, x):
        return self.norm(self.fc(x))


def backward():
    objnet.jit(lambda x: x.sum().backward())(X)


def compiled_call():
    objnet.jit(lambda: objnet.manual_seed(0))()


def damaged():
    with tempfile.TemporaryDirectory() as folder:
        manager = objnet.io.CheckpointManager(folder)
        manager.save(3, {"a": np.ones(2)})
        with open(f"{folder}/step_00000003/arrays-00001-of-00001.safetensors", "ab") as file:
            file.write(b"x")
        manager.restore({}, step=3)


def checkpoint():
    with tempfile.TemporaryDirectory() as folder:
        with objnet.io.CheckpointManager(folder) as manager:
            manager.save(3, {})
            objnet.io.CheckpointManager(folder).save(4, {})


def folder_of_weights():
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/model.safetensors.index.json", "w") as file:
            file.write('{"weight_map": {"weight": "model-00001-of-00001.safetensors"}}')
        objnet.io.open_folder(folder)


def immutable():
    nn.functional.batch_norm(X, jnp.zeros(3), jnp.ones(3), training=True)


def not_safetensors():
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/x.safetensors", "wb") as file:
            file.write(b"no header at all")
        objnet.io.load_file(f"{folder}/x.safetensors")


def not_of_torch():
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(f"{folder}/x.pt", "w") as archive:
            archive.writestr("x/data.pkl", pickle.dumps(Net, 2))
        objnet.load(f"{folder}/x.pt")


def creation():
    with objnet.custom_creator(lambda next_creator, shape, dtype, init, context: next_creator((7, 7), dtype, init)):
        nn.Linear(3, 2)


def exported():
    objnet.export(nn.BatchNorm1d(3), X, weights="in")


def dropped():
    model = Net()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @objnet.jit
    def step(x):
        objnet.backward(lambda: model(x).sum())
        optimizer.step()

    step(X)
    _ = model.fc.weight.grad


def integers():
    nn.Embedding(3, 2)(np.asarray([2**40]))


def leaked():
    model = Net()
    ruled = objnet.custom_vjp(lambda x: model.fc(x))
    ruled.defvjp(lambda x: (model.fc(x), x), lambda x, ct: (x,))
    objnet.grad(lambda x: ruled(x).sum(), wrt=model)(X)


def lifted():

    def twice(x):
        pure, updater = objnet.lift_with_state(objnet.transform_with_state(lambda x: nn.BatchNorm1d(3)(x)).init)
        pure(None, x)
        return x

    objnet.transform_with_state(twice).init(jax.random.key(0), X)


def missing_rng():
    objnet.transform(lambda x: nn.Dropout(0.5)(x)).apply({}, None, X)


def module_as_array():
    jax.jit(lambda m: m)(Net())


def no_grad():
    def loss(x):
        with objnet.no_grad():
            return x.sum()

    objnet.grad(loss)(X)


def non_empty_state():
    objnet.transform(lambda x: nn.BatchNorm1d(3)(x)).init(jax.random.key(0), X)


def non_finite():
    class Logs(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.LogSigmoid()

        def forward(self, x):
            return jnp.log(self.inner(x))

    with objnet.debug.nans():
        nn.Sequential(Logs())(X)


def outside():
    objnet.running_init()


def assignment():
    Net().fc.weight = jnp.ones((2, 3))


def policy():
    policy = objnet.mixed_precision.Policy(jnp.float32, jnp.bfloat16, jnp.float32)
    objnet.jit(lambda: objnet.mixed_precision.set_policy(nn.Linear, policy))()


def read():
    jax.jit(Net())(X)


def draw():
    objnet.vmap(nn.Dropout(0.5))(X)


def shared():
    objnet.vmap(Net())(jnp.stack([X, 2 * X, X]))


def structure():
    model = nn.Sequential(nn.Flatten())
    model[0].seen = jnp.zeros(1)

    def body(carry, x):
        model[0].seen = jnp.concatenate([model[0].seen, x])
        return carry, None

    objnet.scan(body, 0.0, jnp.ones((3, 1)))


def static():
    model = Net()

    def count():
        model.step += 1

    objnet.jit(count)()


def detached():
    model = Net()
    loss = model(X).sum()
    objnet.backward(lambda: loss * 2)


def mismatch():
    net = objnet.transform_with_state(lambda x: Net()(x))
    params, state = net.init(jax.random.key(0), X)
    del params["net.fc"]["weight"]
    net.apply({**params, "other": {"weight": X}}, state, None, X)


def torch_only():
    nn.DataParallel(Net())


def traced_lengths():
    def pack(lengths):
        return nn.utils.rnn.pack_padded_sequence(X[:, :, None], lengths, enforce_sorted=False).data

    objnet.jit(pack)(jnp.asarray([1, 2, 3]))


def uninitialised():
    _ = nn.LazyLinear(2).weight.data + 1


def unregistered():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Linear(3, 3)]

    Holder()


def unset():
    with objnet.abstract():
        model = Net()
    model(X)


def write():
    model = Net()
    jax.vmap(lambda x: setattr(model, "total", x.sum()))(X)


WHERE = r"\(at .*test_errors\.py:\d+\)"
CASES = {
    errors.BackwardError: (backward, ["loss.backward\\(\\) was called on a jax array", WHERE, "objnet.backward\\(lambda"]),
    errors.CheckpointError: (checkpoint, ["being written by|writ"]),
    errors.DamagedCheckpointError: (damaged, ["step_00000003 is damaged", "arrays-00001-of-00001.safetensors has"]),
    errors.CompiledCallError: (compiled_call, ["manual_seed was called inside a transform", WHERE, "seed outside"]),
    errors.CreationError: (creation, ["shape \\(7, 7\\)", WHERE, "keep the shape"]),
    errors.DetachedLossError: (detached, ["does not require grad", WHERE, "objnet.backward\\(lambda: criterion"]),
    errors.ExportError: (exported, ["running_mean", 'weights="out"']),
    errors.FolderError: (folder_of_weights, ["model-00001-of-00001.safetensors"]),
    errors.ImmutableArrayError: (immutable, ["running_mean", WHERE]),
    errors.SafetensorError: (not_safetensors, ["x.safetensors", "header"]),
    errors.TorchFileError: (not_of_torch, ["x.pt", "Net|pickle"]),
    errors.GradientDroppedError: (dropped, ["'fc.weight'", "consumed inside a compiled step", WHERE, "keep_grads=True"]),
    errors.IntegerRangeError: (integers, ["1099511627776", "jax_enable_x64|64-bit"]),
    errors.LeakedTracerError: (leaked, ["used outside the transform it belongs to", WHERE, "pass the parameter as an argument"]),
    errors.LiftError: (lifted, ["neither updated nor left alone", "updater.update"]),
    errors.MissingRngError: (missing_rng, ["a random key is needed", WHERE, "pass a key or an int seed"]),
    errors.ModuleAsArrayError: (module_as_array, ["a Net module was handed to plain jax", WHERE, "transform_with_state"]),
    errors.NoGradError: (no_grad, ["entered inside a gradient", WHERE, "stop_gradient"]),
    errors.NonEmptyStateError: (non_empty_state, ["running_mean", "transform_with_state"]),
    errors.NonFiniteError: (non_finite, ["NaN", "0 \\(Logs"]),
    errors.OutsideTransformError: (outside, ["running_init was used outside of a pure function", WHERE, "objnet.transform"]),
    errors.ParameterAssignmentError: (assignment, ["weight", "nn.Parameter|\\.data"]),
    errors.PolicyError: (policy, ["set inside a transform", WHERE, "push_policy"]),
    errors.ReadInTransformError: (read, ["'fc.weight'|'norm", "baked into the program", "objnet.jit"]),
    errors.RngInTransformError: (draw, ["random key was drawn inside objnet.vmap", WHERE, 'randomness="different"']),
    errors.SharedStateError: (shared, ["'norm.running_mean'", "each row", WHERE, "stack_modules"]),
    errors.StateStructureError: (
        structure,
        ["'0.seen'", "float32\\[\\d\\] before and float32\\[\\d\\] after", WHERE, "final form"],
    ),
    errors.StaticAttributeError: (static, ["step", WHERE, "jnp.asarray"]),
    errors.StructureMismatchError: (
        mismatch,
        ["missing from params: net.fc.weight", "unknown in params: other.weight", "pass what init returned"],
    ),
    errors.TorchOnlyError: (torch_only, ["nn.DataParallel has no meaning in JAX", WHERE, "sharding"]),
    errors.TracedLengthsError: (traced_lengths, ["depends on the lengths", WHERE, "static"]),
    errors.UninitializedError: (uninitialised, ["'weight' is uninitialised", WHERE, "Call the model once"]),
    errors.UnregisteredModulesError: (unregistered, ["layers", "ModuleList"]),
    errors.UnsetVariableError: (unset, ["'fc.weight'|'norm", "has no value", WHERE, "Load a state dict|load"]),
    errors.WriteInTransformError: (write, ["'total'", "under a plain jax transform", WHERE, "objnet"]),
}


def test_every_error_has_a_case():
    bases = {errors.ObjnetError, errors.TransformError}
    assert set(CASES) == {getattr(errors, name) for name in errors.__all__} - bases - {errors.RetracingWarning}
    assert all(issubclass(e, errors.ObjnetError) and e.__module__ == "objnet.errors" for e in CASES)


def test_functions_that_are_traced_at_every_call_warn():
    class Trainer:
        def __init__(self):
            self.model, self.losses = nn.Linear(3, 2), []

        @objnet.jit
        def loss(self, x):
            return self.model(x).sum() * (1 if len(self.losses) < 100 else 2)

    trainer = Trainer()
    with pytest.warns(errors.RetracingWarning, match=r"traced 16 times for the same arguments.*explain=True"):
        for _ in range(20):
            trainer.losses.append(float(trainer.loss(X)))


@pytest.mark.parametrize("error", CASES, ids=lambda e: e.__name__)
def test_text(error):
    act, parts = CASES[error]
    with pytest.raises(error) as caught:
        act()
    assert type(caught.value) is error
    for part in parts:
        caught.match(part)
