"""The allow-list of generated PyTorch source."""

from __future__ import annotations

from rescompile.codegen.allow_list import Allowed, dotted

_NAMES = {
    "torch": "amax arange cat flatten full is_grad_enabled jit.unused log mean rand randint sigmoid softmax split sqrt stack tanh tensor "
    "unflatten var_mean where zeros",
    "F": "adaptive_avg_pool{}d adaptive_max_pool{}d avg_pool{}d channel_shuffle conv{}d elu gelu hardsigmoid hardswish interpolate "
    "layer_norm leaky_relu local_response_norm max_pool{}d pad pixel_shuffle pixel_unshuffle relu relu6 silu",
    "nn": "AdaptiveAvgPool{}d AdaptiveMaxPool{}d AvgPool{}d BatchNorm{}d ChannelShuffle Conv{}d ConvTranspose{}d Dropout ELU Flatten "
    "GELU GroupNorm Hardsigmoid Hardswish Identity InstanceNorm{}d LayerNorm LeakyReLU Linear LocalResponseNorm MaxPool{}d Module "
    "ModuleList PReLU Parameter PixelShuffle PixelUnshuffle ReLU ReLU6 ReflectionPad{}d ReplicationPad{}d Sequential SiLU Sigmoid "
    "Softmax Tanh Unflatten Upsample ZeroPad{}d",
    "math": "sqrt",
    "nn.init": "constant_ kaiming_normal_ zeros_",
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
    names=dotted(_NAMES),
    decorators={"contextmanager", "torch.jit.unused"},
)
