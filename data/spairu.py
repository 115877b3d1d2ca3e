"""SPair-U: other key-points on images of SPair-71k, in SPair-71k's layout, published with Jamais Vu."""

from dataclasses import replace
from types import MappingProxyType
from typing import Any

from dhpf.common.errors import UserError, naming
from dhpf.common.files import MIB, read_json
from dhpf.data.benchmark import Pair
from dhpf.data.lists import path_parts
from dhpf.data.spair import SPair


class SPairU(SPair):
    """SPair-U. Its lists name pairs without an annotation file, which are left out, and its annotations the images."""

    name = "spairu"
    folder = "SPair-U"
    source = "unpack its archive there, and SPair-71k beside it"
    paper = MappingProxyType[str, Any]({})

    def read_pairs(self) -> list[Pair]:
        listed = super().read_pairs()
        folder = self.root / "PairAnnotation" / self.split
        there = {path.name for path in folder.glob("*.json")}
        pairs = [self._with_images(pair) for pair in listed if pair.file in there]
        if len(pairs) < len(listed):
            self.notes.append(
                f"{len(listed) - len(pairs)} of {len(listed)} listed pairs have no annotation and are left out"
            )
        return pairs

    def _with_images(self, pair: Pair) -> Pair:
        path = self.root / "PairAnnotation" / self.split / pair.file
        content = read_json(path, MIB)
        fields = content if isinstance(content, dict) else {}
        images = [name for end in ("src", "trg") if isinstance(name := fields.get(f"{end}_imname"), str)]
        if len(images) < 2:
            raise UserError(f"{path}: it does not name its images, src_imname and trg_imname")
        folder = f"JPEGImages/{self.categories[pair.category_id]}"
        with naming(str(path)):
            src_key, trg_key = (f"{folder}/{path_parts(image, 1)[0]}" for image in images)
        return replace(pair, src_key=src_key, trg_key=trg_key)
