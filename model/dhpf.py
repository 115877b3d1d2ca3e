"""Dynamic Hyperpixel Flow: the parts composed."""

import secrets
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate, groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhpf.common.errors import UserError
from dhpf.model import DECODERS, VOTINGS
from dhpf.model.ablation import Ablation
from dhpf.model.backbone import FrozenBackbone
from dhpf.model.correlation import correlate
from dhpf.model.features import ImageFeatures, interpolated_norms
from dhpf.model.gating import DynamicGating
from dhpf.model.grid import STRIDE, cat, covering_cells, pair_numbers
from dhpf.model.transfer import confident_targets, mutual_nn_filter, peaks, transfer_keypoints
from dhpf.model.voting import Scores


@dataclass(frozen=True)
class Matches:
    """What comparing B pairs gave.

    selection: B×K, 1 where a pair selected a layer (with gradient in training; in between with soft gates).
    weights: B×K, the selection with layer 0 standing in where a pair selected none.
    scores: the match scores that the voting gave.
    decoder: a key of `DECODERS`, which makes target positions of them.
    """

    selection: Tensor
    weights: Tensor
    scores: Scores
    decoder: str = "cells"

    def __getitem__(self, pairs: slice) -> "Matches":
        """The matches of some of the pairs."""
        return replace(
            self, selection=self.selection[pairs], weights=self.weights[pairs], scores=self.scores[pairs]
        )

    @property
    def side(self) -> int:
        """S, the side of the correlation grid."""
        return round(self.scores.column_max.shape[1] ** 0.5)

    def decoded(self, cells: Tensor) -> Tensor:
        """Target positions (x, y) of some source cells B×n, in cells: B×n×2."""
        column_max, decode = self.scores.column_max, DECODERS[self.decoder]
        return cat([decode(mutual_nn_filter(rows, column_max)) for rows in self._rows(cells)], 1)

    def confident(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Best target cell of some source cells and how sure it is (see `confident_targets`), all B×n."""
        parts = [confident_targets(rows, self.scores.column_max) for rows in self._rows(cells)]
        targets, confidence = zip(*parts, strict=True)
        return cat(targets, 1), cat(confidence, 1)

    def _rows(self, cells: Tensor) -> Iterator[Tensor]:
        """Rows of scores of some source cells, in parts that take little memory, without gradient."""
        chunk = max(1, 2**20 // self.scores.column_max.numel())
        for part in cells.split(chunk if cells.device.type == "cpu" else 64 * chunk, dim=1):
            with torch.no_grad():
                rows = self.scores.rows(part)
            yield rows

    def transfer(self, points: Tensor) -> Tensor:
        """Predicted target points of source points, both B×2×P in the 4S×4S frame; NaN outside every cell."""
        cells, covers = covering_cells(points, self.side)
        targets = self.decoded(cells.flatten(1)).unflatten(1, cells.shape[1:])
        return transfer_keypoints(points, cells, covers, targets, self.side)

    def transfer_with_confidence(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """`transfer` and the mean confidence of the cells that cover each point, B×P in 0..1; NaN likewise."""
        cells, covers = covering_cells(points, self.side)
        distinct, position = cells.unique(return_inverse=True)  # many points share the same cells
        decode, parts = DECODERS[self.decoder], []
        for rows in self._rows(distinct.expand(len(cells), -1)):
            filtered = mutual_nn_filter(rows, self.scores.column_max)
            parts.append((decode(filtered), peaks(filtered)[1]))
        pair = pair_numbers(points, len(cells))[..., None]
        targets, confidence = (cat(x, 1)[pair, position] for x in zip(*parts, strict=True))
        mean = (confidence * covers).sum(2) / covers.sum(2)
        return transfer_keypoints(points, cells, covers, targets, self.side), mean

    def transfer_back(self, points: Tensor) -> Tensor:
        """Where target points are in the source by the same scores, both B×2×P: `transfer` of the transposed scores."""
        cells, covers = covering_cells(points, self.side)
        distinct, position = cells.unique(return_inverse=True)
        every = torch.arange(self.side**2, device=points.device).expand(len(points), -1)
        column_max = self.scores.column_max
        columns = [mutual_nn_filter(rows, column_max)[:, :, distinct] for rows in self._rows(every)]
        targets = DECODERS[self.decoder](cat(columns, 1).mT)
        pair = pair_numbers(points, len(cells))[..., None]
        return transfer_keypoints(points, cells, covers, targets[pair, position], self.side)


class DHPF(nn.Module):
    """The network: a frozen backbone and the learned gating (`learner`), composed as in `dhpf.model.reference`.

    Training and evaluation differ as `nn.Module.train` says. The state dict of `learner` is the published checkpoint.
    Images are B×3×s×s, ImageNet-normalised. s is the side of the frame, a multiple of 4 (240 in the paper). Where the
    backbone takes images of another size, they have `backbone.input_size_for(frame)`, and `frame` is given beside them.
    Points and predictions are in pixels of the frame.
    """

    layer_of_channel: Tensor
    one_by_one = False  # pairs are to be compared one by one, on any device

    def __init__(self, backbone: FrozenBackbone, voting: str = "hough", decoder: str = "cells") -> None:
        """Args: voting, decoder: keys of `VOTINGS` and `DECODERS`; they may be changed at any time.

        Raises: UserError: a decoder's parameters are wrong.
        """
        super().__init__()
        self.model_id = secrets.token_hex(8)  # a copy has the same
        self.voting, self.decoder = voting, decoder
        DECODERS[decoder]
        self.backbone = backbone
        self.learner = DynamicGating(backbone.channels, backbone.reduced_channels)
        self.ablation = Ablation()
        self.register_buffer("layer_of_channel", _layer_of_channel(self._channels), persistent=False)
        self.bf16 = False  # precision of the backbone and the transformation; the matching is float32 always

    def ablate(self, ablation: Ablation) -> None:
        """Evaluate otherwise than the paper; image features of before do not fit features of after.

        Raises: UserError: the backbone has no such layers.
        """
        layers, count = ablation.fixed_layers, len(self.backbone.channels)
        if layers and layers[-1] >= count:
            raise UserError(f"there is no layer {layers[-1]}: the hyperpixel layers are 0 to {count - 1}")
        self.ablation = ablation
        self.layer_of_channel = _layer_of_channel(self._channels).to(self.device)

    @property
    def _channels(self) -> tuple[int, ...]:
        """Channels of every layer that are compared."""
        return self.backbone.channels if self.ablation.raw else self.backbone.reduced_channels

    @property
    def differences(self) -> str:
        """What it does otherwise than the paper, in words; empty if nothing."""
        voting = {"hough": "", "none": "no Hough matching"}.get(self.voting, f"voting {self.voting}")
        decoder = "" if self.decoder == "cells" else f"decoder {self.decoder} of rows scaled to maximum 1"
        return ", ".join(filter(None, [str(self.ablation), voting, decoder]))

    @property
    def device(self) -> torch.device:
        return self.layer_of_channel.device

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.learner.parameters()).dtype

    def forward(
        self, src: Tensor, trg: Tensor, noise: Tensor | None = None, frame: int | None = None
    ) -> Matches:
        """Match source image b with target image b.

        Args:
            src, trg: images, B×3×s×s.
            noise: as in `DynamicGating`.
            frame: side of the frame, pixels; s if not given.
        """
        if self.training:
            return self.compare(*self.encode_pairs(src, trg, frame=frame), noise)
        features = self.encode(torch.cat([src, trg]), frame)
        return self.compare(features[: len(src)], features[len(src) :])

    def encode(self, images: Tensor, frame: int | None = None) -> ImageFeatures:
        """Features of B images, B×3×s×s (evaluation); `frame`: its side, pixels; s if not given."""
        # Layers at full resolution take much memory, and a CPU gains nothing from more images at once.
        parts = images.split(len(images) if images.is_cuda else 4)
        grid = (frame or images.shape[-1]) // STRIDE
        return ImageFeatures.cat([self._describe(self._layer_maps(part, frame), grid) for part in parts])

    def encode_pairs(
        self,
        src: Tensor,
        trg: Tensor,
        pairs: tuple[Tensor, Tensor] | None = None,
        frame: int | None = None,
    ) -> tuple[ImageFeatures, ImageFeatures]:
        """Source and target features of B' pairs; in training each side's batch has its own batch statistics.

        Args:
            pairs: B' indices of source images and of target images; by default image b with image b.
            frame: as in `encode`.
        """
        src_index, trg_index = pairs or (None, None)
        with self._precision():
            src_maps, trg_maps = (list(self._layer_maps(images, frame)) for images in (src, trg))
        grid = (frame or src.shape[-1]) // STRIDE
        features = self._describe(src_maps, grid, src_index), self._describe(trg_maps, grid, trg_index)
        if self.training:
            # The published program transforms layer 0 once more, as the base map, and so counts it twice.
            with torch.no_grad(), self._precision():
                self.learner.transform(0, src_maps[0], src_index)
                self.learner.transform(0, trg_maps[0], trg_index)
        return features

    def _layer_maps(self, images: Tensor, frame: int | None) -> Iterator[Tensor]:
        """The maps of all hyperpixel layers, each computed when it is asked for."""
        return self.backbone.layer_maps(images.contiguous(memory_format=torch.channels_last), frame)

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def _describe(self, maps: Iterable[Tensor], grid: int, index: Tensor | None = None) -> ImageFeatures:
        """Image features on a grid×grid correlation grid from backbone maps; `index` as in `transformed`."""
        pooled, transformed = [], []
        stacks = ((m, m) for m in maps) if self.ablation.raw else self.learner.transformed(maps, index)
        with self._precision():
            for x, y in stacks:
                pooled.append(x.to(self._dtype).mean((2, 3)))
                transformed.append(y if y.shape[-1] <= grid else coarsened(y, grid))
        joined, norms, channels = [], [], list(self._channels)
        for _, same_side in groupby(transformed, key=lambda m: m.shape[-1]):
            x = cat([m.permute(0, 2, 3, 1) for m in same_side], -1).to(self._dtype)
            count = list(accumulate(channels)).index(x.shape[-1]) + 1  # of layers
            joined.append(x)
            norms.append(interpolated_norms(x, channels[:count], grid))
            channels = channels[count:]
        if joined[0].shape[1] < grid:  # no layer is as fine as the grid
            joined.insert(0, joined[0].new_zeros(len(joined[0]), grid, grid, 0))
        pools = torch.cat(pooled, 1)
        pools = pools if index is None else pools[index]
        return ImageFeatures(tuple(joined), torch.cat(norms, 1), pools, self.model_id, self.ablation.raw)

    def compare(self, src: ImageFeatures, trg: ImageFeatures, noise: Tensor | None = None) -> Matches:
        """Match B source images with B target images, given as features; `noise` as in `DynamicGating`.

        Raises:
            UserError: the features do not belong together, or to this model as it is now.
        """
        if not src.model_id == trg.model_id == self.model_id:
            raise UserError("features of another model: encode both images with the model that compares them")
        if not src.raw == trg.raw == self.ablation.raw:
            raise UserError("raw and transformed features do not match: encode both images after `ablate`")
        if src.side != trg.side:
            raise UserError(
                f"features of a {STRIDE * src.side} and a {STRIDE * trg.side} pixel frame do not match: encode both "
                "images in one frame"
            )
        selection = self._select(src, trg, noise)
        none = selection.detach().sum(1, keepdim=True) == 0
        first = torch.arange(selection.shape[1], device=self.device) == 0
        weights = selection.masked_fill(none & first, 1)
        floor = 1e-4 if self.training else 0.0
        correlation = correlate(src, trg, weights, self.layer_of_channel, floor=floor)
        return Matches(selection, weights, VOTINGS[self.voting](correlation), self.decoder)

    def _select(self, src: ImageFeatures, trg: ImageFeatures, noise: Tensor | None) -> Tensor:
        """Selection of each pair, B×K."""
        if self.ablation.fixed_layers is not None:
            fixed = src.norms.new_zeros(len(src), len(self.backbone.channels))
            fixed[:, list(self.ablation.fixed_layers)] = 1
            return fixed
        return self.learner(src.pooled + trg.pooled, noise, self.ablation.soft)


def coarsened(maps: Tensor, side: int) -> Tensor:
    """Maps finer than the correlation grid, interpolated to it as coarser ones are (method, section 4)."""
    return F.interpolate(maps, (side, side), mode="bilinear", align_corners=True)


def _layer_of_channel(channels: tuple[int, ...]) -> Tensor:
    """The layer of every channel of the concatenated maps, ΣC."""
    return torch.tensor([layer for layer, count in enumerate(channels) for _ in range(count)])
