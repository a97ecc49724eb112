"""The allow-list of generated PyTorch source."""

from __future__ import annotations

from rescompile.codegen.allow_list import Allowed

_NAMES = {
    "torch": "cat flatten is_grad_enabled jit.unused rand sigmoid tanh",
    "F": "adaptive_avg_pool2d avg_pool2d elu gelu hardswish interpolate leaky_relu max_pool2d pad relu relu6 silu",
    "nn": "AdaptiveAvgPool2d AvgPool2d BatchNorm1d BatchNorm2d Conv2d Dropout ELU Flatten GELU GroupNorm Hardswish Identity "
    "LeakyReLU Linear MaxPool2d Module ModuleList ReLU ReLU6 Sequential SiLU Sigmoid Tanh Upsample",
    "nn.init": "constant_ kaiming_normal_ zeros_",
}
ALLOWED = Allowed(
    modules={"torch": None, "torch.nn.functional": "F"},
    imports={
        "collections": {"OrderedDict"},
        "collections.abc": {"Callable", "Iterator"},
        "contextlib": {"contextmanager", "nullcontext"},
        "torch": {"Tensor", "nn"},
        "torch.utils.checkpoint": {"checkpoint"},
    },
    names={f"{root}.{name}" for root, names in _NAMES.items() for name in names.split()},
    decorators={"contextmanager", "torch.jit.unused"},
)
