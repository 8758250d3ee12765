"""The reference kernels, fused into single passes by numba (extra `fast`), for float32.

Same functions, same arguments; float64, which is for checking gradients, goes to the
reference. What is already one pass in NumPy is the reference's own.
"""

from llmlab.kernels.numba_kernels.activations import (
    gelu,
    gelu_tanh,
    multiply_slope,
    relu,
    relu_backward,
    relu_squared,
    silu,
)
from llmlab.kernels.numba_kernels.norms import (
    layer_norm,
    layer_norm_backward,
    rms_norm,
    rms_norm_backward,
)
from llmlab.kernels.numba_kernels.optim import adam, average, lion, sgd
from llmlab.kernels.numba_kernels.rotations import rotate
from llmlab.kernels.numba_kernels.rows import add_rows
from llmlab.kernels.numba_kernels.softmax import cross_entropy, softmax, softmax_backward
from llmlab.kernels.numpy_kernels import (
    dropout,
    dropout_backward,
    dropout_mask,
    product,
    smooth_labels,
)

__all__ = [
    "adam",
    "add_rows",
    "average",
    "cross_entropy",
    "dropout",
    "dropout_backward",
    "dropout_mask",
    "gelu",
    "gelu_tanh",
    "layer_norm",
    "layer_norm_backward",
    "lion",
    "multiply_slope",
    "product",
    "relu",
    "relu_backward",
    "relu_squared",
    "rms_norm",
    "rms_norm_backward",
    "rotate",
    "sgd",
    "silu",
    "smooth_labels",
    "softmax",
    "softmax_backward",
]
