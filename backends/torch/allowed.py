"""The allow-list of generated PyTorch source."""

from __future__ import annotations

from rescompile.codegen.allow_list import Allowed

_NAMES = {
    "torch": "amax arange cat flatten full is_grad_enabled jit.unused log mean rand randint sigmoid softmax split sqrt stack tanh tensor "
    "unflatten var_mean where zeros",
    "F": "channel_shuffle elu gelu hardsigmoid hardswish interpolate layer_norm leaky_relu local_response_norm pad pixel_shuffle pixel_unshuffle relu relu6 silu",
    "nn": "ChannelShuffle Dropout ELU Flatten GELU GroupNorm Hardsigmoid Hardswish Identity LayerNorm LeakyReLU Linear "
    "LocalResponseNorm Module ModuleList PReLU Parameter PixelShuffle PixelUnshuffle ReLU ReLU6 Sequential SiLU Sigmoid Softmax "
    "Tanh Unflatten Upsample",
    "math": "sqrt",
    "nn.init": "constant_ kaiming_normal_ zeros_",
}
#: Names that torch provides for maps of one, two and three axes: `conv1d`, `conv2d`, `conv3d`.
_BY_AXES = {
    "F": "adaptive_avg_pool adaptive_max_pool avg_pool conv max_pool",
    "nn": "AdaptiveAvgPool AdaptiveMaxPool AvgPool BatchNorm Conv ConvTranspose InstanceNorm MaxPool ReflectionPad ReplicationPad "
    "ZeroPad",
}
ALLOWED = Allowed(
    modules={"math": None, "torch": None, "torch.nn.functional": "F"},
    imports={
        "collections": {"OrderedDict"},
        "collections.abc": {"Callable", "Iterator"},
        "contextlib": {"contextmanager", "nullcontext"},
        "torch": {"Tensor", "nn"},
        "torch.utils.checkpoint": {"checkpoint"},
    },
    names={f"{root}.{name}" for root, names in _NAMES.items() for name in names.split()}
    | {f"{root}.{name}{axes}d" for root, names in _BY_AXES.items() for name in names.split() for axes in (1, 2, 3)},
    decorators={"contextmanager", "torch.jit.unused"},
)
