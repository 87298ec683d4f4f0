"""What Haiku's public names are called here: one row for each, and the page made of them (``haiku_names.md``).

``python -m objnet.interop.haiku_names > objnet/interop/haiku_names.md`` writes the page.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["HAIKU_NAMES", "Row", "page"]


class Row(NamedTuple):
    """One of Haiku's names.

    Attributes:
        name: ours, dotted from ``objnet``; empty where there is none.
        note: what differs, or why none is needed.
    """

    name: str
    note: str = ""


def _same(names: str, prefix: str = "objnet.") -> dict[str, Row]:
    return {name: Row(prefix + name) for name in names.split()}


_NAMES_ARE_PATHS = "names are attribute paths, whichever method made or called a module"
_NO_STORE = "a value that is not trained or saved is `register_buffer(name, value, persistent=False)`"
_CONV = "the layout of torch: channels first, weights (out, in, sizes...); `padding` as torch's"
_TRANSPOSED = "weights (in, out, sizes...), as torch"
_SIDE_EFFECTS = "side effects under plain jax transforms always work or raise: there is nothing to switch on"

_HAIKU = {
    **_same(
        "GetterContext LiftWithStateUpdater MethodContext MultiTransformed MultiTransformedWithState PRNGSequence Params "
        "SetterContext State Transformed TransformedWithState cond eval_shape current_name custom_creator custom_getter "
        "custom_setter data_structures fori_loop get_current_state get_initial_state get_params get_parameter get_state grad "
        "intercept_methods lift lift_with_state map maybe_get_rng_sequence_state maybe_next_rng_key mixed_precision "
        "multi_transform multi_transform_with_state name_scope next_rng_key next_rng_keys remat replace_rng_sequence_state "
        "reserve_rng_keys running_init scan set_state switch testing transform transform_with_state transparent_lift "
        "transparent_lift_with_state value_and_grad vmap while_loop with_empty_state with_rng without_apply_rng without_state"
    ),
    "custom_creator": Row(
        "objnet.custom_creator", "runs when the outermost constructor is through; `init` gives the value the constructor drew"
    ),
    "custom_getter": Row("objnet.custom_getter", "runs for reads in a forward; names in contexts are torch's keys"),
    "custom_setter": Row("objnet.custom_setter", "runs for writes of buffers and arrays in a forward"),
    "intercept_methods": Row("objnet.intercept_methods", "around calls of modules, as method `forward`"),
    "get_parameter": Row("objnet.get_parameter", "`nn.Parameter` in a constructor says the same"),
    "get_state": Row("objnet.get_state", "`register_buffer`; a value missing from `state` in apply is an error, not made anew"),
    "set_state": Row("objnet.set_state", "`self.name = value`"),
    "transform": Row("objnet.transform", "unknown entries in params are errors, and so are wrong dtypes"),
    "multi_transform": Row("objnet.multi_transform", "each apply may be given entries it has no use for"),
    "lift": Row("objnet.lift", "an init that reaches modules built outside raises, where Haiku copies them"),
    "transparent_lift": Row("objnet.transparent_lift", "names that collide raise in init"),
    "map": Row("objnet.map", "`jax.lax.map`, with modules"),
    "remat": Row("objnet.remat", "also `objnet.checkpoint`"),
    "vmap": Row("objnet.vmap", '`split_rng` is `randomness="different"` or `"same"`'),
    "while_loop": Row("objnet.while_loop", "works in init too"),
    "grad": Row("objnet.grad", "`argnums` as jax's, `wrt=` for modules"),
    "AvgPool": Row("objnet.nn.AvgPool2d", "and 1d, 3d; torch's `count_include_pad` says what Haiku's SAME leaves out"),
    "BatchApply": Row("objnet.nn.BatchApply"),
    "BatchNorm": Row(
        "objnet.nn.BatchNorm2d", "and 1d, 3d; `train()`/`eval()` for is_training; running statistics as torch, not debiased"
    ),
    "Bias": Row("objnet.nn.Bias"),
    "Conv1D": Row("objnet.nn.Conv1d", _CONV),
    "Conv2D": Row("objnet.nn.Conv2d", _CONV),
    "Conv3D": Row("objnet.nn.Conv3d", _CONV),
    "ConvND": Row("objnet.nn.Conv2d", "one class for each number of dimensions, as torch"),
    "Conv1DTranspose": Row("objnet.nn.ConvTranspose1d", _TRANSPOSED),
    "Conv2DTranspose": Row("objnet.nn.ConvTranspose2d", _TRANSPOSED),
    "Conv3DTranspose": Row("objnet.nn.ConvTranspose3d", _TRANSPOSED),
    "ConvNDTranspose": Row("objnet.nn.ConvTranspose2d", "one class for each number of dimensions, as torch"),
    "Conv1DLSTM": Row("objnet.nn.ConvLSTM1dCell"),
    "Conv2DLSTM": Row("objnet.nn.ConvLSTM2dCell"),
    "Conv3DLSTM": Row("objnet.nn.ConvLSTM3dCell"),
    "DeepRNN": Row("objnet.nn.DeepRNNCell"),
    "deep_rnn_with_skip_connections": Row("objnet.nn.DeepRNNCell", "`skip_connections=True`"),
    "Deferred": Row("objnet.nn.Deferred", "the module is the attribute `target`"),
    "DepthwiseConv1D": Row("objnet.nn.DepthwiseConv1d"),
    "DepthwiseConv2D": Row("objnet.nn.DepthwiseConv2d"),
    "DepthwiseConv3D": Row("objnet.nn.DepthwiseConv3d"),
    "SeparableDepthwiseConv2D": Row("objnet.nn.SeparableDepthwiseConv2d"),
    "DO_NOT_STORE": Row("", _NO_STORE),
    "EMAParamsTree": Row("objnet.nn.EMAModel", "averages of a model's parameters"),
    "Embed": Row("objnet.nn.Embedding", "an index out of range raises, or gives NaN in compiled code"),
    "EmbedLookupStyle": Row("", "XLA compiles the lookup; there is no style to choose"),
    "ExponentialMovingAverage": Row("objnet.nn.ExponentialMovingAverage"),
    "Flatten": Row("objnet.nn.Flatten", "torch's `start_dim`, `end_dim`"),
    "GRU": Row("objnet.nn.GRUCell", "torch's: the reset gate acts after the hidden product, so that weights do not carry over"),
    "GroupNorm": Row("objnet.nn.GroupNorm"),
    "IdentityCore": Row("objnet.nn.IdentityCell"),
    "InstanceNorm": Row("objnet.nn.InstanceNorm2d", "and 1d, 3d"),
    "LSTM": Row("objnet.nn.LSTMCell", "gates in torch's order; no 1 is added to the forget gate"),
    "LSTMState": Row("", "a state is the tuple (h, c), as torch's"),
    "LayerNorm": Row("objnet.nn.LayerNorm"),
    "Linear": Row("objnet.nn.Linear", "weight (out, in)"),
    "MaxPool": Row("objnet.nn.MaxPool2d", "and 1d, 3d"),
    "Module": Row("objnet.nn.Module", "`forward` for `__call__`; dataclasses too"),
    "ModuleProtocol": Row("objnet.nn.Module", "one base class"),
    "MultiHeadAttention": Row("objnet.nn.MultiheadAttention"),
    "MutableParams": Row("objnet.Params", "plain dicts"),
    "MutableState": Row("objnet.State", "plain dicts"),
    "RNNCore": Row("objnet.nn.RNNCore"),
    "ResetCore": Row("objnet.nn.ResetCell"),
    "Reshape": Row("objnet.nn.Reshape", "also `nn.Unflatten`"),
    "RMSNorm": Row("objnet.nn.RMSNorm"),
    "SNParamsTree": Row("objnet.nn.utils.parametrizations.spectral_norm", "of each weight"),
    "Sequential": Row("objnet.nn.Sequential", "modules only: `nn.ReLU()` for `jax.nn.relu`"),
    "SpectralNorm": Row("objnet.nn.utils.parametrizations.spectral_norm"),
    "SupportsCall": Row("", "`collections.abc.Callable`"),
    "VanillaRNN": Row("objnet.nn.RNNCell", '`nonlinearity="relu"`'),
    "avg_pool": Row("objnet.nn.functional.avg_pool2d", "and 1d, 3d"),
    "config": Row("", "nothing of it applies: " + _SIDE_EFFECTS),
    "dropout": Row("objnet.nn.functional.dropout", "draws its key itself; `training=`"),
    "dynamic_unroll": Row("objnet.nn.Unroll", "`nn.LSTM` and its kin for torch's layers"),
    "static_unroll": Row("objnet.nn.Unroll", "under jit both are one program"),
    "expand_apply": Row("objnet.nn.expand_apply"),
    "force_name": Row("", f"to share a layer, use the same module; {_NAMES_ARE_PATHS}"),
    "get_channel_index": Row("", "channels are dimension 1, as torch"),
    "initializers": Row("objnet.nn.initializers", "and `nn.init`, which fills in place"),
    "layer_stack": Row(
        "objnet.nn.ScanSequential", "`nn.rolled` does it for a loop over a `ModuleList`; `with_outputs` gives those of all layers"
    ),
    "LayerStackTransparencyMapping": Row("", "the layers keep their own keys"),
    "max_pool": Row("objnet.nn.functional.max_pool2d", "and 1d, 3d"),
    "multinomial": Row("", "deprecated; `jax.random.categorical(objnet.next_rng_key(), logits)`"),
    "name_like": Row("", _NAMES_ARE_PATHS),
    "nets": Row("objnet.models"),
    "one_hot": Row("objnet.nn.functional.one_hot"),
    "pad": Row("objnet.nn.functional.pad", "layers take numbers for `padding`; see haiku.pad below"),
    "to_dot": Row("objnet.inspect.to_dot"),
    "to_module": Row("objnet.nn.to_module"),
    "transparent": Row("", _NAMES_ARE_PATHS),
    "experimental": Row("objnet", "nothing is set apart as experimental"),
    "typing": Row("objnet", "`Params`, `State`"),
}

_EXPERIMENTAL = {
    **{
        name: _HAIKU[name]
        for name in [
            "current_name",
            "custom_creator",
            "custom_getter",
            "DO_NOT_STORE",
            "force_name",
            "intercept_methods",
            "get_current_state",
            "get_initial_state",
            "get_params",
            "layer_stack",
            "LayerStackTransparencyMapping",
            "lift",
            "lift_with_state",
            "LiftWithStateUpdater",
            "maybe_get_rng_sequence_state",
            "MethodContext",
            "name_like",
            "name_scope",
            "GetterContext",
            "replace_rng_sequence_state",
            "to_dot",
            "transparent_lift",
            "transparent_lift_with_state",
        ]
    },
    "ParamContext": Row("objnet.GetterContext"),
    "abstract_to_dot": Row("objnet.inspect.to_dot", "nothing is computed"),
    "ArraySpec": Row("", "`jax.ShapeDtypeStruct`"),
    "eval_summary": Row("objnet.inspect.summary", "its rows"),
    "tabulate": Row("objnet.inspect.summary", "prints as a table"),
    "MethodInvocation": Row("objnet.inspect.Row"),
    "ModuleDetails": Row("objnet.inspect.Row"),
    "check_jax_usage": Row("", _SIDE_EFFECTS),
    "module_auto_repr": Row("", "a module's `repr` is made when it is asked for"),
    "rng_reserve_size": Row("objnet.reserve_rng_keys", "keys are split one at a time unless reserved"),
    "optimize_rng_use": Row("objnet.reserve_rng_keys", "say how many keys are wanted; XLA removes what no one uses"),
    "fast_eval_shape": Row("objnet.eval_shape", "computes nothing anyway"),
    "flax": Row("objnet.interop.flax"),
    "jaxpr_info": Row("objnet.inspect", "see haiku.experimental.jaxpr_info below"),
}

HAIKU_NAMES: dict[str, dict[str, Row]] = {
    "haiku": _HAIKU,
    "haiku.nets": {
        "ResNet": Row("objnet.models.ResNetV2", "`ResNet` is version 1; padding as torchvision"),
        **{f"ResNet{n}": Row(f"objnet.models.resnet{n}", f"and `resnet{n}_v2`") for n in (18, 34, 50, 101, 152, 200)},
        "MLP": Row("objnet.models.MLP"),
        "MobileNetV1": Row("objnet.models.MobileNetV1"),
        "VectorQuantizer": Row("objnet.nn.VectorQuantizer"),
        "VectorQuantizerEMA": Row("objnet.nn.VectorQuantizerEMA"),
    },
    "haiku.initializers": _same(
        "Constant Identity Initializer Orthogonal RandomNormal RandomUniform TruncatedNormal UniformScaling VarianceScaling",
        "objnet.nn.initializers.",
    ),
    "haiku.experimental": _EXPERIMENTAL,
    "haiku.experimental.flax": {
        "flatten_flax_to_haiku": Row("objnet.interop.flax.to_two_level"),
        "Module": Row("objnet.interop.flax.Module"),
        "lift": Row("objnet.interop.flax.lift"),
    },
    "haiku.experimental.jaxpr_info": {
        "make_model_info": Row("objnet.inspect.summary", "operations are counted by module"),
        "Module": Row("objnet.inspect.Row"),
        "Expression": Row("", "the equations of `objnet.make_jaxpr(f)(...)`, with module paths in their names"),
        "format_module": Row("objnet.inspect.Summary", "`str(summary)`"),
        "as_html": Row("objnet.inspect.Summary", "prints as text"),
        "as_html_page": Row("objnet.inspect.Summary", "prints as text"),
        "css": Row("", "summaries are text"),
        "js": Row("", "summaries are text"),
    },
    "haiku.data_structures": {
        **_same(
            "is_subset filter map merge partition partition_n to_mutable_dict traverse tree_bytes tree_size",
            "objnet.data_structures.",
        ),
        "to_haiku_dict": Row("objnet.data_structures.to_mutable_dict"),
        "to_immutable_dict": Row("", "dicts are plain, and no function changes what it was given"),
    },
    "haiku.mixed_precision": {
        name: Row(
            f"objnet.mixed_precision.{name}",
            "classes; `objnet.autocast` as torch" if name == "push_policy" else "classes, and instances",
        )
        for name in ("clear_policy", "get_policy", "push_policy", "set_policy")
    }
    | {"current_policy": Row("objnet.mixed_precision.current_policy")},
    "haiku.pad": {
        "PadFn": Row("", "`padding` is numbers, or a word"),
        "causal": Row("objnet.nn.functional.pad", "`F.pad(x, (k - 1, 0))` before a convolution without padding"),
        "reverse_causal": Row("objnet.nn.functional.pad", "`F.pad(x, (0, k - 1))`"),
        "full": Row("", "`padding=k - 1`"),
        "same": Row("", '`padding="same"`'),
        "valid": Row("", '`padding="valid"`, or 0'),
        "create": Row("", "legacy"),
        "create_from_padfn": Row("", "`padding` is numbers"),
        "create_from_tuple": Row("", "layers take one number, or one for each dimension"),
        "is_padfn": Row("", "`padding` is numbers, or a word"),
    },
    "haiku.testing": _same("transform_and_run", "objnet.testing."),
    "haiku.config": {
        "context": Row("", _SIDE_EFFECTS),
        "set": Row("", _SIDE_EFFECTS),
    },
    "haiku.typing": {
        "Params": Row("objnet.Params"),
        "State": Row("objnet.State"),
        "MutableParams": Row("objnet.Params"),
        "MutableState": Row("objnet.State"),
    },
}


def page() -> str:
    """The table in Markdown."""
    lines = ["# Haiku's names", "", "One row for each public name of Haiku; a row without one of ours says why none is needed."]
    for module, rows in HAIKU_NAMES.items():
        lines += ["", f"## {module}", "", "| Haiku | objnet | |", "|---|---|---|"]
        lines += [f"| `{name}` | {f'`{row.name}`' if row.name else ''} | {row.note} |" for name, row in sorted(rows.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
