"""A model that is compiled for one image and one pair at a time, each in one CUDA graph.

On a GPU the many small calls of a single pair take longer than what they compute.
"""

import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from dhpf.common.errors import UserError
from dhpf.model.ablation import Ablation
from dhpf.model.backbone import FrozenBackbone
from dhpf.model.dhpf import DHPF, Matches
from dhpf.model.features import ImageFeatures


class CompiledDHPF:
    """A `DHPF` in evaluation mode, compiled: in its place for encoding and comparing.

    Its weights, voting, ablation and precision are to stay as they are.

    Args:
        model: on its device.
        frame: side of the frame of all images, pixels.
        log: is told that compiling takes long, and how long it took.
        options: for `torch.compile`, instead of what makes CUDA graphs.
    Raises:
        UserError: this PyTorch cannot compile it.
    """

    one_by_one = True

    @torch.no_grad()
    def __init__(self, model: DHPF, frame: int, log: Callable[[str], object] = str, **options: Any) -> None:
        self.model, self.frame = model.eval(), frame
        model.learner.folded()  # before it is traced

        def encode(image: Tensor) -> ImageFeatures:
            return model.encode(image, frame)

        options = {"fullgraph": True, "dynamic": False, **(options or {"mode": "reduce-overhead"})}
        self._encode = torch.compile(encode, **options)
        self._compare = torch.compile(model.compare, **options)
        log(f"compiling encoding and comparing for frames of {frame}×{frame} pixels, which may take minutes")
        begin, side = time.monotonic(), self.backbone.input_size_for(frame)
        try:
            for _ in range(3):  # to be compiled, recorded and run
                features = self.encode(torch.zeros(1, 3, side, side, device=self.device))
                self._compare(features, features)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"PyTorch {torch.__version__} cannot compile {self.backbone.name} ({reason}): run it without compiling"
            ) from error
        log(f"compiled in {time.monotonic() - begin:.0f} s")

    # Results are copied: where a graph's results lie, those of its next run will.

    def encode(self, images: Tensor, frame: int | None = None) -> ImageFeatures:
        """As `DHPF.encode`, in frames of the side that it is compiled for."""
        if frame not in (None, self.frame):
            raise UserError(f"a frame of {frame} pixels: the model is compiled for {self.frame}")
        return ImageFeatures.cat([deepcopy(self._encode(image)) for image in images.split(1)])

    def compare(self, src: ImageFeatures, trg: ImageFeatures) -> Matches:
        """As `DHPF.compare`, of one pair."""
        return deepcopy(self._compare(src, trg))

    def eval(self) -> "CompiledDHPF":
        return self

    @property
    def backbone(self) -> FrozenBackbone:
        return self.model.backbone

    @property
    def ablation(self) -> Ablation:
        return self.model.ablation

    @property
    def voting(self) -> str:
        return self.model.voting

    @property
    def decoder(self) -> str:
        return self.model.decoder

    @property
    def differences(self) -> str:
        return self.model.differences

    @property
    def device(self) -> torch.device:
        return self.model.device
