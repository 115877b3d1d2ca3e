"""PF-PASCAL: 20 classes of PASCAL VOC, key-points and boxes in one .mat file per image (docs/method.md, section 9)."""

from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path, PurePosixPath
from types import MappingProxyType

import numpy as np
from scipy.io import loadmat, whosmat

from dhpf.common.download import DRIVE
from dhpf.common.errors import UserError, naming
from dhpf.common.files import MIB, read_bytes
from dhpf.data.benchmark import Array, Benchmark, Pair
from dhpf.data.lists import path_parts, read_pair_table, read_table

COLUMNS = ("source_image", "target_image", "class")
CATEGORIES = """
    aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person
    pottedplant sheep sofa train tvmonitor
"""


class PFPascal(Benchmark):
    """PF-PASCAL.  Samples have boxes, and `leaked`: 1 if the pair, in any order, is a training pair."""

    name = "pfpascal"
    folder = "PF-PASCAL"
    archive = (DRIVE + "1OOwpGzJnTsFXYh-YffMQ9XKM_Kl_zdzg",)
    list_name = "{split}_pairs.csv"
    categories = tuple(CATEGORIES.split())
    splits = ("trn", "val", "test")
    thresholds = ("img", "bbox", "bbox-kp")
    auto_thres = "img"
    labels = MappingProxyType({"leaked": ("no", "yes")})
    paper = MappingProxyType({"average": "pairs", "frame": "240x240 frame", "thres": "img"})

    def read_pairs(self) -> list[Pair]:
        training = self._training_pairs()
        # One small entry per image of the benchmark, filled as pairs are read.
        self._annotations: dict[Path, tuple[Array, Array]] = {}

        def to_pair(line: int, row: Mapping[str, str]) -> Pair:
            src_key, trg_key = image_key(row["source_image"]), image_key(row["target_image"])
            return Pair(
                line,
                src_key,
                trg_key,
                self.category_of_class(row["class"]),
                flip=flip_of(row.get("flip")) if self.split == "trn" else 0,
                labels={"leaked": int(frozenset((src_key, trg_key)) in training)},
            )

        return read_pair_table(self.list_path, COLUMNS, to_pair)

    def _training_pairs(self) -> set[frozenset[str]]:
        """The pairs of the training list without their order; empty where the list is not there."""
        path = self.root / self.list_name.format(split="trn")
        if not path.exists():
            return set()
        pairs = set()
        for line, row in read_table(path, COLUMNS):
            with naming(f"{path}, line {line}"):
                pairs.add(frozenset((image_key(row["source_image"]), image_key(row["target_image"]))))
        return pairs

    def complete(self, pair: Pair) -> Pair:
        """The pair with the key-points that are present in both images, and both boxes."""
        src_kps, src_bbox = self._image_annotation(pair.src_key, pair.category_id)
        trg_kps, trg_bbox = self._image_annotation(pair.trg_key, pair.category_id)
        if src_kps.shape != trg_kps.shape:
            raise UserError(
                f"{pair.src_key} has {src_kps.shape[1]} key-points, {pair.trg_key} has {trg_kps.shape[1]}"
            )
        common = ~(np.isnan(src_kps) | np.isnan(trg_kps)).any(axis=0)
        return replace(
            pair, src_kps=src_kps[:, common], trg_kps=trg_kps[:, common], src_bbox=src_bbox, trg_bbox=trg_bbox
        )

    def _image_annotation(self, key: str, category_id: int) -> tuple[Array, Array]:
        image = PurePosixPath(key).with_suffix(".mat").name
        path = self.root / "Annotations" / self.categories[category_id] / image
        if path not in self._annotations:
            self._annotations[path] = read_annotation(path)
        return self._annotations[path]


def image_key(name: str) -> str:
    """Path of an image inside the benchmark's folder from its path in any of the published lists."""
    return "/".join(("JPEGImages", *path_parts(name, 1)))


def flip_of(text: str | None) -> int:
    """The flip column of a training pair; lists without one flip nothing."""
    if text is None:
        return 0
    if text.strip() not in ("0", "1"):
        raise UserError(f"flip is '{text}', not 0 or 1")
    return int(text)


def read_annotation(path: Path) -> tuple[Array, Array]:
    """Key-points [2, n] of one image, NaN where absent, and its box [4], in pixels of the stored image."""
    content = read_bytes(path, 16 * MIB)
    try:
        # Shapes first: a compressed file of a few KiB can hold gigabytes.
        shapes = {name: shape for name, shape, _ in whosmat(BytesIO(content))}
        kps, bbox = shapes["kps"], shapes["bbox"]
        if len(kps) != 2 or kps[1] != 2 or kps[0] > 1000 or np.prod(bbox) != 4:
            raise UserError(f"{path}: kps is {kps} and bbox {bbox}, not (n, 2) and (1, 4)")
        arrays = loadmat(BytesIO(content), variable_names=["kps", "bbox"])
        return arrays["kps"].astype(np.float64).T, arrays["bbox"].astype(np.float64).ravel()
    except UserError:
        raise
    except Exception as error:  # scipy's reader raises almost anything on damaged files
        raise UserError(f"{path}: not an annotation with kps and bbox ({error!r})") from error
