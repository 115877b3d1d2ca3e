"""AP-10K's raw set as pairs, by the rules of GeoAware-SC's notebook `prepare_ap10k` (docs/data.md: what is uncertain).

The notebook takes files and folders in the order in which the file system lists them, which differs from machine to
machine; here they are sorted.
"""

import json
import os
import random
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dhpf.common.errors import UserError, error_context
from dhpf.common.files import MIB, read_json, read_text

SEED = 42
SUBSETS = ("train", "test", "val")  # files of the raw set, in the order read
TEST_IMAGES, VAL_IMAGES = 30, 20  # of a species: the last ones, and those before them
COMMON_POINTS = 3  # at least, of an image and of a pair
TRAINING_PAIRS = 50  # for each training image of a species
SPECIES_PAIRS = {"val": 400, "test": 900}  # between species, for each family
FAMILY_PAIRS = {"test": 30, "val": 20}  # for each two families

Split = dict[str, list["Animal"]]


class Animal:
    """The first annotation of an image: `path` below ImageAnnotation, without suffix; `visible` [17], 0, 1 or 2."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content
        self.name, self.species, self.family = (
            f"{content['id']:012d}",
            content["name"],
            content["supercategory"],
        )
        self.path = f"{self.family}/{self.species}/{self.name}"
        self.visible = np.array(content["keypoints"], float)[2::3]


def prepare(raw: Path, crowds: Path, home: Path) -> None:
    """Write ImageAnnotation, JPEGImages and PairAnnotation of the raw set (`annotations`, `data`) into `home`.

    Images are linked where the file system can, else copied.
    Args: crowds: names of the images that count for no pair, a line each.
    Raises: UserError: a file of the raw set is missing or of another form.
    """
    animals = read_animals(raw / "annotations")
    for animal in tqdm(animals, "preparing images", disable=None):
        annotation = home / "ImageAnnotation" / f"{animal.path}.json"
        image = home / "JPEGImages" / f"{animal.path}.jpg"
        for path in (annotation, image):
            path.parent.mkdir(parents=True, exist_ok=True)
        annotation.write_text(json.dumps(animal.content, indent=4))
        source = raw / "data" / animal.content["file_name"]
        if not source.is_file():
            raise UserError(f"the image {animal.content['file_name']} is missing")
        try:
            os.link(source, image)
        except OSError:  # not every file system has links
            shutil.copyfile(source, image)
    excluded = set(read_text(crowds, MIB).split())
    splits = split_animals(
        a for a in animals if a.name not in excluded and a.content["num_keypoints"] >= COMMON_POINTS
    )
    for split, pairs in tqdm(draw_pairs(splits).items(), "preparing pairs", disable=None):
        folder = home / "PairAnnotation" / split
        folder.mkdir(parents=True)
        for source, target, category in pairs:
            ends = {"src": source, "trg": target}
            content = {
                f"{end}_json_path": f"data/ap-10k/ImageAnnotation/{a.path}.json" for end, a in ends.items()
            }
            separator = "_" if os.name == "nt" else ":"
            name = f"{source.name}-{target.name}{separator}{category}.json"
            (folder / name).write_text(json.dumps(content, indent=4))


def read_animals(folder: Path) -> list[Animal]:
    """The first annotation of every image, with what the files say of its image and species; sorted by path."""
    files = [read_json(folder / f"ap10k-{subset}-split1.json", 512 * MIB) for subset in SUBSETS]
    with error_context(str(folder)):
        try:
            images = {image["id"]: image for file in files for image in file["images"]}
            kinds = {
                kind["id"]: {key: kind[key] for key in ("name", "supercategory")}
                for kind in files[0]["categories"]
            }
            first: dict[int, dict[str, Any]] = {}
            for file in files:
                for annotation in file["annotations"]:
                    first.setdefault(annotation["image_id"], annotation)
            animals = [
                Animal({**annotation, **images[image_id], **kinds[annotation["category_id"]]})
                for image_id, annotation in first.items()
                if image_id in images and annotation["category_id"] in kinds
            ]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(f"not the annotations of AP-10K ({error!r})") from error
    return sorted(animals, key=lambda animal: (animal.family, animal.species, animal.name))


def split_animals(animals: Iterable[Animal]) -> dict[str, dict[str, Split]]:
    """Animals by split, family and species: of each species the last 30 are for test, the 20 before for validation."""
    families: dict[str, Split] = defaultdict(lambda: defaultdict(list))
    for animal in animals:
        families[animal.family][animal.species].append(animal)

    def cut(split: str, found: list[Animal]) -> list[Animal]:
        test = max(0, len(found) - TEST_IMAGES)
        val = max(0, test - VAL_IMAGES)
        return {"trn": found[:val], "val": found[val:test], "test": found[test:]}[split]

    return {
        split: {
            family: {kind: cut(split, found) for kind, found in species.items()}
            for family, species in families.items()
        }
        for split in ("trn", "val", "test")
    }


def draw_pairs(splits: dict[str, dict[str, Split]]) -> dict[str, list[tuple[Animal, Animal, str]]]:
    """(source, target, category) of every split of pairs, drawn in the notebook's order from its seeds."""
    drawn: dict[str, list[tuple[Animal, Animal, str]]] = {}
    rng = random.Random(SEED)
    for split in ("trn", "test", "val"):
        drawn[split] = []
        for species in splits[split].values():
            for name, animals in species.items():
                shuffled = list(animals)
                rng.shuffle(shuffled)
                common = matching(shuffled, shuffled)
                possible = [
                    (shuffled[i], shuffled[j])
                    for i, j in combinations(range(len(animals)), 2)
                    if common[i, j]
                ]
                most = TRAINING_PAIRS * len(animals) if split == "trn" else len(possible)
                drawn[split] += [(a, b, name) for a, b in rng.sample(possible, min(most, len(possible)))]
    rng = random.Random(SEED)
    for split, most in SPECIES_PAIRS.items():
        drawn[f"{split}_cross_species"] = pairs = []
        for family, species in splits[split].items():
            possible = []
            for first, second in combinations(species.values(), 2):
                for _ in range(len(first) * len(second)):
                    rng.random()  # the notebook tosses for each pair which is the source, and forgets it
                possible += possible_pairs(first, second)
            pairs += [(a, b, family) for a, b in rng.sample(possible, min(most, len(possible)))]
    rng = random.Random(SEED)
    for split, most in FAMILY_PAIRS.items():
        families = [
            [a for animals in species.values() for a in animals] for species in splits[split].values()
        ]
        drawn[f"{split}_cross_family"] = [
            (a, b, "all")
            for first, second in combinations(families, 2)
            for possible in [possible_pairs(first, second)]
            for a, b in rng.sample(possible, min(most, len(possible)))
        ]
    return drawn


def possible_pairs(first: Sequence[Animal], second: Sequence[Animal]) -> list[tuple[Animal, Animal]]:
    """All pairs of one of the first with one of the second that have enough points in common."""
    return [(first[i], second[j]) for i, j in zip(*np.nonzero(matching(first, second)), strict=True)]


def matching(first: Sequence[Animal], second: Sequence[Animal]) -> NDArray[np.bool_]:
    """Which animals have enough points in common: [n, m]; a point that is visible but not certain (1) counts less."""
    if not first or not second:
        return np.zeros((len(first), len(second)), bool)
    a, b = (np.stack([animal.visible for animal in animals]) / 2 for animals in (first, second))
    return a @ b.T >= COMMON_POINTS
