"""SPair-U: other key-points on images of SPair-71k, in SPair-71k's layout, published with Jamais Vu."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dhpf.common.errors import UserError, error_context
from dhpf.common.files import MIB, read_json
from dhpf.data.benchmark import Pair
from dhpf.data.names import path_parts
from dhpf.data.published_lists import Published
from dhpf.data.spair import SPair

IMAGES = ("src_imname", "trg_imname")


class SPairU(SPair):
    """SPair-U. Its lists name pairs without an annotation file, which are left out, and its annotations the images."""

    name = "spairu"
    folder = "SPair-U"
    published = MappingProxyType[str, Published]({})
    paper = MappingProxyType[str, Any]({})

    @classmethod
    def find_folder(cls, datapath: Path) -> Path | None:
        """The benchmark's folder, if it is there, also where its archive unpacks to."""
        return super().find_folder(datapath) or super().find_folder(datapath / "datasets")

    def image_annotation(self, key: str) -> None:
        """Unknown: SPair-71k's has other key-points."""

    @classmethod
    def point_groups(cls, category: str) -> None:
        """Unknown: the table has other key-points."""

    def _path(self, key: str) -> Path:
        """The file of an image: of SPair-71k beside, where the folder has none."""
        return self.image_root / key if self.image_root else super()._path(key)

    @cached_property
    def image_root(self) -> Path | None:
        """SPair-71k's folder beside, if this one has no images."""
        places = self.root.parents[:2] if not (self.root / "JPEGImages").is_dir() else ()
        return next(filter(None, map(SPair.find_folder, places)), None)

    def read_pairs(self) -> list[Pair]:
        listed = super().read_pairs()
        pairs = [self._with_images(pair) for pair in listed if self.annotation_file(pair).exists()]
        if len(pairs) < len(listed):
            self.notes.append(
                f"{len(listed) - len(pairs)} of {len(listed)} listed pairs have no annotation and are left out"
            )
        return pairs

    def _with_images(self, pair: Pair) -> Pair:
        """The pair with the images that its annotation names."""
        path = self.annotation_file(pair)
        fields = read_json(path, MIB)
        with error_context(str(path), "correct or remove it"):
            if not isinstance(fields, dict) or not all(isinstance(fields.get(name), str) for name in IMAGES):
                raise UserError(f"it does not name its images, {' and '.join(IMAGES)}")
            folder = f"JPEGImages/{self.categories[pair.category_id]}"
            src_key, trg_key = (f"{folder}/{path_parts(fields[name])[-1]}" for name in IMAGES)
        return replace(pair, src_key=src_key, trg_key=trg_key)
