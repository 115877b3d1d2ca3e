"""Caltech-101: outlines of objects, compared as masks after the transfer (docs/method.md, sections 8 and 9)."""

from collections.abc import Mapping
from types import MappingProxyType

from dhpf.data.benchmark import Benchmark, Pair
from dhpf.data.lists import parse_points, read_pair_table
from dhpf.data.names import path_parts
from dhpf.data.published_lists import Published

COLUMNS = ("source_image", "target_image", "class", "XA", "YA", "XB", "YB")
CATEGORIES = """
    Faces Faces_easy Leopards Motorbikes accordion airplanes anchor ant barrel bass beaver binocular
    bonsai brain brontosaurus buddha butterfly camera cannon car_side ceiling_fan cellphone chair
    chandelier cougar_body cougar_face crab crayfish crocodile crocodile_head cup dalmatian dollar_bill
    dolphin dragonfly electric_guitar elephant emu euphonium ewer ferry flamingo flamingo_head garfield
    gerenuk gramophone grand_piano hawksbill headphone hedgehog helicopter ibis inline_skate joshua_tree
    kangaroo ketch lamp laptop llama lobster lotus mandolin mayfly menorah metronome minaret nautilus
    octopus okapi pagoda panda pigeon pizza platypus pyramid revolver rhino rooster saxophone schooner
    scissors scorpion sea_horse snoopy soccer_ball stapler starfish stegosaurus stop_sign strawberry
    sunflower tick trilobite umbrella watch water_lilly wheelchair wild_cat windsor_chair wrench yin_yang
"""


class Caltech(Benchmark):
    """Caltech-101, for evaluation only.

    The key-points are vertices of the objects' outlines: those of the source do not correspond to those of
    the target, and their numbers differ.  `n_pts` counts the source's.
    """

    name = "caltech"
    folder = "Caltech-101"
    subfolders = ("101_ObjectCategories",)
    lists = ("{split}_pairs_caltech_with_category.csv",)
    published = MappingProxyType({"test": Published(1515)})  # 15 pairs of each class
    categories = tuple(CATEGORIES.split())
    splits = ("test",)
    thresholds = ("img",)
    auto_thres = "img"
    metric = "outlines"
    paper = MappingProxyType({"frame": "240x240 frame", "corners": "as published"})
    max_pts = 400

    def read_pairs(self) -> list[Pair]:
        def to_pair(line: int, row: Mapping[str, str]) -> Pair:
            files = (path_parts(row[f"{end}_image"], 2)[-2:] for end in ("source", "target"))
            src_key, trg_key = ("/".join(("101_ObjectCategories", *parts)) for parts in files)
            kps = parse_points(row["xa"], row["ya"]), parse_points(row["xb"], row["yb"])
            return Pair(line, src_key, trg_key, self.category_of_class(row["class"]), *kps)

        return read_pair_table(self.list_path, COLUMNS, to_pair)
