"""Any network of timm as a backbone (docs/backbones.md): every block is a hyperpixel layer.

What a network's blocks are, where they end, and which channels and strides they have is found by a run on the meta
device, which computes nothing.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache, partial
from math import isqrt
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from dhpf.common.errors import UserError
from dhpf.common.registry import UnknownNameError
from dhpf.model.backbone import Channels, ClassProperty, FrozenBackbone, State, unbuilt
from dhpf.model.grid import STRIDE

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
FINAL_NORM = "norm"  # of timm's transformers over tokens
ACTIVATIONS = ("torch.nn.modules.activation", "timm.layers.activations")


@dataclass(frozen=True)
class LayerHook:
    """Where the map of a layer is: what enters or leaves a module. `entered`: how many modules were entered by then."""

    module: str
    enters: bool
    channels: int
    side: int
    entered: int


@dataclass(frozen=True)
class BackboneSpec:
    """What a run of a network tells.

    layers: its hyperpixel layers, sides never growing.
    convs_and_norms: convolutions and the batch norms that take nothing but what they give.
    entered: names of modules in the order in which they are first entered.
    input_size: side of the images that it is made for, pixels; any_size: whether it takes others.
    """

    layers: tuple[LayerHook, ...]
    convs_and_norms: tuple[tuple[str, str], ...]
    entered: tuple[str, ...]
    input_size: int
    any_size: bool


def _channels(cls: "type[TimmBackbone]") -> Channels:
    return tuple(layer.channels for layer in backbone_spec(cls.arch).layers)


class TimmBackbone(FrozenBackbone):
    """A network of timm: what comes out of every block at stride 4 or more.

    A convolutional block that ends in an activation counts before it, as the published ResNet's do, and what enters
    the first block is a layer too. Tokens are laid out as maps, without class and register tokens; those after the
    network's final norm are the last layer. What would run behind the last hyperpixel layer is skipped.
    """

    arch: str
    channels: Channels = ClassProperty(_channels)  # type: ignore[assignment]
    scale: Tensor
    shift: Tensor

    def __init__(self, state: State, *args: Any, **kwargs: Any) -> None:
        super().__init__(state, *args, **kwargs)
        self.spec = backbone_spec(self.arch)
        layers = [self.spec.layers[k] for k in self.blocks or range(len(self.spec.layers))]
        for name in skippable(self.arch, max(layer.entered for layer in layers)):
            self.net.set_submodule(name, Skipped(self.net.get_submodule(name)))
        self.maps: list[Any] = [None] * len(layers)  # of the images that the network sees
        for k, layer in enumerate(layers):
            module = self.net.get_submodule(layer.module)
            register = module.register_forward_pre_hook if layer.enters else module.register_forward_hook
            register(partial(self._keep, k, layer.enters))
        for module in self.net.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # it would overwrite a layer's map
        self.input_multiple = patch_side(self.net)
        # Images come ImageNet-normalised (method, section 1); the network has its own mean and deviation.
        config = self.net.pretrained_cfg
        own = torch.tensor([config["mean"], config["std"]])
        usual = torch.tensor([IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD])
        scale, shift = usual[1] / own[1], (usual[0] - own[0]) / own[1]
        self.register_buffer("scale", scale.view(3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(3, 1, 1), persistent=False)
        self.normalises_alike = bool((own == usual).all())

    def __reduce__(self) -> Any:
        return unbuilt, (self.name,), self.__dict__

    def network(self) -> nn.Module:
        return create_network(self.arch)

    def convs_and_norms(self) -> list[tuple[str, str]]:
        return list(backbone_spec(self.arch).convs_and_norms)

    def nearest_input_size(self, side: int) -> int:
        return super().nearest_input_size(side) if self.spec.any_size else self.spec.input_size

    def forward(self, images: Tensor) -> Iterator[Tensor]:
        """The maps of the hyperpixel layers alone: all of the network that runs."""
        side = self.nearest_input_size(images.shape[-1])
        if side != images.shape[-1]:
            images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
        images = images if self.normalises_alike else images * self.scale + self.shift
        try:
            run_features(self.net, images)
            maps = self.maps
        finally:  # also of a run that failed nothing stays
            self.maps = [None] * len(self.maps)
        yield from (m for m in (as_map(x, self.net) for x in maps) if m is not None)

    def _keep(self, k: int, enters: bool, _: nn.Module, inputs: Any, output: Any = None) -> None:
        self.maps[k] = inputs[0] if enters else output

    def select_blocks(self, maps: Iterator[Tensor]) -> Iterator[Tensor]:
        return maps


class Skipped(nn.Module):
    """A module that is not run: what enters it leaves it. It keeps its weights, which a resumed training compares."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        return x


def run_features(net: nn.Module, images: Tensor) -> None:
    getattr(net, "forward_features", net)(images)


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


def patch_side(net: nn.Module) -> int:
    """Side of the patches that a network cuts its images into, pixels."""
    patch = getattr(getattr(net, "patch_embed", None), "patch_size", 1)
    return patch[0] if isinstance(patch, tuple) else patch


def create_network(arch: str) -> Any:
    """The network with drawn weights, for images of any side where it can."""
    try:
        return timm.create_model(arch, dynamic_img_size=True)
    except TypeError:
        return timm.create_model(arch)


def meta_network(arch: str) -> Any:
    """The network on the meta device, in evaluation mode."""
    try:
        with torch.device("meta"):
            net = create_network(arch)
    except Exception:  # some compute with the values of their weights
        net = create_network(arch).to("meta")
    return net.eval()


@cache
def backbone_spec(arch: str) -> BackboneSpec:
    """What the network consists of. Raises: UserError: it gives no maps."""
    net = meta_network(arch)
    side = net.pretrained_cfg["input_size"][-1]
    run = DryRun(net, side)
    if not run.layers:
        raise UserError(
            f"timm:{arch} has no spatial features that could be matched: its blocks give no square maps"
        )
    try:
        DryRun(net, side + 2 * patch_side(net))
        any_size = True
    except Exception:
        any_size = False
    # A fused activation takes the place of its norm, once that is folded.
    norms = {norm for _, norm in run.convs_and_norms}
    outer = [layer.module.rpartition(".")[0] for layer in run.layers]
    layers = [
        replace(layer, module=norm) if norm in norms else layer
        for layer, norm in zip(run.layers, outer, strict=True)
    ]
    return BackboneSpec(tuple(layers), tuple(run.convs_and_norms), tuple(run.entered), side, any_size)


@cache
def skippable(arch: str, entered: int) -> tuple[str, ...]:
    """Names of the modules that need not run behind the first `entered` ones; none if the network then fails."""
    spec, net = backbone_spec(arch), meta_network(arch)
    names: list[str] = []
    folded = [norm for _, norm in spec.convs_and_norms]  # what is in them is no more
    for name in spec.entered[entered:]:
        if not name.startswith(
            tuple(f"{outer}." for outer in (*names, *folded))
        ):  # the outer ones are entered first
            names.append(name)
            net.set_submodule(name, Skipped(net.get_submodule(name)))
    side = spec.input_size
    larger = side + 2 * patch_side(net) if spec.any_size else side
    try:
        with torch.no_grad():
            for shape in ((1, 3, side, side), (2, 3, larger, larger)):
                run_features(net, torch.empty(shape, device="meta"))
    except Exception:  # such as of what expects the shape that a skipped module gives
        return ()
    return tuple(names)


class DryRun:
    """A run of a network on the meta device; attributes as in `BackboneSpec`."""

    def __init__(self, net: nn.Module, side: int) -> None:
        self.net, self.side = net, side
        self.layers: list[LayerHook] = []
        self.convs_and_norms: list[tuple[str, str]] = []
        self.entered: dict[str, None] = {}
        self.last_conv: tuple[str, Any] = "", None  # its name and output
        self.last_leaf: tuple[str, nn.Module, Any] = "", net, None  # of the modules without parts
        blocks = set(blocks_of(net))
        with ExitStack() as hooks, torch.no_grad():
            for name, module in net.named_modules():
                hooks.enter_context(module.register_forward_pre_hook(partial(self._enter, name)))
                if name in blocks:
                    hooks.enter_context(module.register_forward_pre_hook(partial(self._enter_block, name)))
                if isinstance(module, nn.BatchNorm2d):
                    hooks.enter_context(module.register_forward_pre_hook(partial(self._enter_norm, name)))
                if not list(module.children()):
                    hooks.enter_context(module.register_forward_hook(partial(self._leave_leaf, name)))
                if name in blocks:
                    hooks.enter_context(module.register_forward_hook(partial(self._leave_block, name)))
                if name == FINAL_NORM and list(module.parameters()):
                    hooks.enter_context(module.register_forward_hook(self._leave_final_norm))
            run_features(net, torch.empty(1, 3, side, side, device="meta"))
        self.layers.sort(key=lambda layer: -layer.side)

    def _enter(self, name: str, module: nn.Module, inputs: Any) -> None:
        if name:
            self.entered.setdefault(name)

    def _enter_block(self, name: str, module: nn.Module, inputs: Any) -> None:
        if not self.layers and isinstance(inputs[0], Tensor) and inputs[0].dim() == 4:
            self._add_layer(name, True, inputs[0])

    def _enter_norm(self, name: str, module: nn.Module, inputs: Any) -> None:
        if inputs[0] is self.last_conv[1]:
            self.convs_and_norms.append((self.last_conv[0], name))

    def _leave_leaf(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self.last_leaf = name, module, output
        if isinstance(module, nn.Conv2d):
            self.last_conv = name, output

    def _leave_block(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        last, leaf, given = self.last_leaf
        before = given is output and type(leaf).__module__.startswith(ACTIVATIONS) and output.dim() == 4
        self._add_layer(last if before else name, before, output)

    def _leave_final_norm(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.layers and output.dim() == 3:
            self._add_layer(FINAL_NORM, False, output)

    def _add_layer(self, name: str, enters: bool, x: Any) -> None:
        m = as_map(x, self.net)
        if m is not None and STRIDE * (m.shape[-1] - 1) < self.side:
            self.layers.append(LayerHook(name, enters, m.shape[1], m.shape[-1], len(self.entered)))


def blocks_of(net: nn.Module) -> list[str]:
    """Names of a network's blocks: the parts of its rows of blocks, or of the rows in its stages."""
    names = {module: name for name, module in net.named_modules()}

    def parts(module: nn.Module) -> list[nn.Module]:
        """The parts of a row that have weights in several parts themselves."""
        return [c for c in module.children() if sum(bool(m._parameters) for m in c.modules()) > 1]

    def is_row(module: nn.Module) -> bool:
        alike = len({type(child) for child in module.children()}) == 1
        return bool(parts(module)) and (alike or isinstance(module, CONTAINERS))

    def size(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    def blocks(module: nn.Module) -> Iterator[nn.Module]:
        rows = [c for c in module.children() if is_row(c) and 2 * size(c) > size(module)]
        if is_row(module):
            for part in parts(module):
                yield from blocks(part)
        elif rows:
            yield from blocks(rows[0])
        else:
            yield module

    found: list[nn.Module] = []
    for child in net.children():
        inner = list(blocks(child))
        found += inner if inner != [child] else []
    if not found:
        return [info["module"] for info in getattr(net, "feature_info", [])]
    return [names[block] for block in found]


def named(name: str) -> type[TimmBackbone]:
    """The backbone of a name, `timm:NAME`. Raises: UserError: timm has no such network."""
    arch = name.partition(":")[2]
    known = timm.list_models()
    if arch.partition(".")[0] not in known:
        starts = [n for n in known if n.startswith(arch)]
        close = [*starts, *get_close_matches(arch, known, 3)][:3]
        near = f"did you mean {', '.join(f'timm:{n}' for n in close)}? " if close else ""
        raise UnknownNameError(f"timm has no network '{arch}': {near}timm.list_models() names all")
    return type(arch, (TimmBackbone,), {"name": name, "arch": arch})


class EfficientNetLite0(TimmBackbone):
    name = "efficientnet_lite0"
    arch = "tf_efficientnet_lite0"
