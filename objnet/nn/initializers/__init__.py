"""Initial values as pure functions ``(key, shape, dtype) -> array``, the form of ``jax.nn.initializers``.

    weight = nn.Parameter(nn.initializers.kaiming_normal(nonlinearity="relu")(jax.random.key(0), (64, 32)))

The lower-case names are torch's, without the underscore: :mod:`objnet.nn.init` fills Parameters with these same functions.  The
others are Haiku's.  Layouts are torch's: a weight's shape is (out, in, spatial sizes...).

What an initializer draws from is its first argument: a jax key, of which the array is a pure function under every transform; a
Generator; or None, the stream in force, which gives torch's numbers outside every trace.
"""

from __future__ import annotations

from objnet.nn.initializers.form import Initializer
from objnet.nn.initializers.haiku import (
    Constant,
    Identity,
    Orthogonal,
    RandomNormal,
    RandomUniform,
    TruncatedNormal,
    UniformScaling,
    VarianceScaling,
)
from objnet.nn.initializers.scales import calculate_gain
from objnet.nn.initializers.standard import (
    constant,
    dirac,
    eye,
    kaiming_normal,
    kaiming_uniform,
    normal,
    ones,
    orthogonal,
    sparse,
    trunc_normal,
    uniform,
    xavier_normal,
    xavier_uniform,
    zeros,
)

__all__ = [
    "Constant",
    "Identity",
    "Initializer",
    "Orthogonal",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "UniformScaling",
    "VarianceScaling",
    "calculate_gain",
    "constant",
    "dirac",
    "eye",
    "kaiming_normal",
    "kaiming_uniform",
    "normal",
    "ones",
    "orthogonal",
    "sparse",
    "trunc_normal",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]
