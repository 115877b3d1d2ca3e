"""PF-PASCAL: 20 classes of PASCAL VOC, key-points and boxes in one .mat file per image (docs/method.md, section 9)."""

from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path, PurePosixPath
from types import MappingProxyType

import numpy as np

from dhpf.common.errors import UserError
from dhpf.common.files import MIB, is_file, read_bytes
from dhpf.data.benchmark import NO_POINTS, UNKNOWN, Array, Benchmark, Pair
from dhpf.data.lists import at_line, parse_points, read_pair_table, read_table
from dhpf.data.names import path_parts
from dhpf.data.published_lists import Published

COLUMNS = ("source_image", "target_image", "class")
COORDINATES = {"xa", "ya", "xb", "yb"}
CATEGORIES = """
    aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person
    pottedplant sheep sofa train tvmonitor
"""


class PFPascal(Benchmark):
    """PF-PASCAL.  Samples have boxes, and `leaked`: 1 if the pair, in any order, is a training pair, -1: unknown.

    A pair whose annotations are not there has the key-points of the list, if that has some, and no boxes.
    """

    name = "pfpascal"
    folder = "PF-PASCAL"
    other_folders = ("PF-dataset-PASCAL",)
    subfolders = ("JPEGImages",)
    never_holds = ("PairAnnotation", "ImageSets")
    lists = ("bbox_{split}_pairs_pf_pascal.csv", "{split}_pairs_pf_pascal.csv", "{split}_pairs.csv")
    published = MappingProxyType(
        {
            "trn": Published(1470, "c205c5fcef8ae0a3"),
            "val": Published(308, "d8e4b787e26bad02"),
            "test": Published(299, "b353d4b264eb14b8"),
        }
    )
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
            category_id = self.category_of_class(row["class"])
            keys = image_keys(row)
            kps = NO_POINTS, NO_POINTS
            if row.keys() >= COORDINATES and not all(is_file(self._mat(key, category_id)) for key in keys):
                kps = parse_points(row["xa"], row["ya"]), parse_points(row["xb"], row["yb"])
                check_equal(*keys, *kps)
            labels = {"leaked": UNKNOWN if training is None else int(frozenset(keys) in training)}
            return Pair(line, *keys, category_id, *kps, flip=parse_flip(row.get("flip", "0")), labels=labels)

        pairs = read_pair_table(self.list_path, COLUMNS, to_pair)
        if from_list := sum(pair.src_kps.size > 0 for pair in pairs):
            self.notes.append(f"{from_list} pairs without Annotations: key-points of the list, no boxes")
        return pairs

    def _training_pairs(self) -> set[frozenset[str]] | None:
        """The pairs of the training list without their order; None where the list is not there."""
        lists = self.lists_of("trn")
        if not lists:
            return None
        pairs = set()
        for line, row in read_table(lists[0], COLUMNS):
            with at_line(lists[0], line):
                pairs.add(frozenset(image_keys(row)))
        return pairs

    def complete(self, pair: Pair) -> Pair:
        """The pair with the key-points that are present in both images, and both boxes."""
        if pair.src_kps.size:
            return pair
        mats = [self._mat(key, pair.category_id) for key in (pair.src_key, pair.trg_key)]
        for path in mats:
            if path not in self._annotations:
                self._annotations[path] = read_annotation(path)
        (src_kps, src_bbox), (trg_kps, trg_bbox) = (self._annotations[path] for path in mats)
        check_equal(pair.src_key, pair.trg_key, src_kps, trg_kps)
        common = np.flatnonzero(~(np.isnan(src_kps) | np.isnan(trg_kps)).any(axis=0))
        return replace(
            pair,
            src_kps=src_kps[:, common],
            trg_kps=trg_kps[:, common],
            points=tuple(map(str, common + 1)),
            src_bbox=src_bbox,
            trg_bbox=trg_bbox,
            file=" and ".join(path.name for path in mats),
        )

    def _mat(self, key: str, category_id: int) -> Path:
        image = PurePosixPath(key).with_suffix(".mat").name
        return self.root / "Annotations" / self.categories[category_id] / image


def image_keys(row: Mapping[str, str]) -> tuple[str, str]:
    """The images of a pair inside the benchmark's folder, from their paths in any of the published lists."""
    source, target = (path_parts(row[f"{end}_image"])[-1] for end in ("source", "target"))
    return f"JPEGImages/{source}", f"JPEGImages/{target}"


def check_equal(src_key: str, trg_key: str, src_kps: Array, trg_kps: Array) -> None:
    """A UserError unless both images have as many key-points."""
    if src_kps.shape != trg_kps.shape:
        raise UserError(f"{src_key} has {src_kps.shape[1]} key-points, {trg_key} has {trg_kps.shape[1]}")


def parse_flip(text: str) -> int:
    """The flip column of a training pair."""
    if text not in ("0", "0.0", "1", "1.0"):
        raise UserError(f"flip is '{text}', not 0 or 1")
    return int(float(text))


def read_annotation(path: Path) -> tuple[Array, Array]:
    """Key-points [2, n] of one image, NaN where absent, and its box [4], in pixels of the stored image."""
    from scipy.io import loadmat  # slow to import, and only .mat files need it

    content = BytesIO(read_bytes(path, 16 * MIB))
    try:
        arrays = loadmat(content, variable_names=("kps", "bbox"))
        kps, bbox = (np.asarray(arrays[name], np.float64) for name in ("kps", "bbox"))
    except Exception as error:  # SciPy raises almost anything on damaged files
        raise UserError(f"{path}: not an annotation with kps and bbox ({error!r})") from error
    if kps.ndim != 2 or kps.shape[1] != 2 or len(kps) > 1000 or bbox.size != 4:
        raise UserError(f"{path}: kps is {kps.shape} and bbox {bbox.shape}, not (n, 2) and (1, 4)")
    return kps.T, bbox.ravel()
