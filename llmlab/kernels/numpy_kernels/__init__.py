"""The reference kernels, in NumPy.

Shape legend: N rows (B·T), C embedding, V vocabulary, K key/value heads, G query heads for
each of them, D head width, Q queries of a block, L keys.

Every function returns arrays from `ctx`, except those that say that they work in place.
Gradients of parameters are added to, as in the layers.
"""

from llmlab.kernels.numpy_kernels.activations import (
    gelu,
    gelu_tanh,
    multiply_slope,
    relu,
    relu_backward,
    relu_squared,
    silu,
)
from llmlab.kernels.numpy_kernels.dropout import dropout, dropout_backward, dropout_mask
from llmlab.kernels.numpy_kernels.norms import (
    layer_norm,
    layer_norm_backward,
    rms_norm,
    rms_norm_backward,
)
from llmlab.kernels.numpy_kernels.optim import adam, average, lion, sgd
from llmlab.kernels.numpy_kernels.products import product
from llmlab.kernels.numpy_kernels.rotations import rotate
from llmlab.kernels.numpy_kernels.rows import add_rows
from llmlab.kernels.numpy_kernels.smoothing import smooth_labels
from llmlab.kernels.numpy_kernels.softmax import cross_entropy, softmax, softmax_backward

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
