"""AP-10K's raw set as pairs, by the rules of GeoAware-SC's notebook `prepare_ap10k`.

The notebook takes files and folders in the order in which the file system lists them, which differs from machine to
machine; here they are sorted (docs/data.md says what that means).
"""

import json
import os
import random
import shutil
from collections.abc import Sequence
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

import numpy as np
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

Animal = dict[str, Any]  # an annotation with what is said of its image and of its species
Families = dict[str, dict[str, list[Animal]]]  # animals by family and species


def prepare(raw: Path, home: Path, crowds: Path) -> None:
    """Write ImageAnnotation, JPEGImages and PairAnnotation of the raw set (`annotations`, `data`) into `home`.

    Images are linked where the file system can, else copied.
    Args: crowds: names of the images that are in no pair, a line each.
    Raises: UserError: a file of the raw set is missing or of another form.
    """
    animals = read_animals(raw / "annotations")
    for animal in tqdm(animals, "preparing images", disable=None):
        annotation = home / "ImageAnnotation" / f"{path_of(animal)}.json"
        image, source = home / "JPEGImages" / f"{path_of(animal)}.jpg", raw / "data" / animal["file_name"]
        for path in (annotation, image):
            path.parent.mkdir(parents=True, exist_ok=True)
        annotation.write_text(json.dumps(animal, indent=4))
        if not source.is_file():
            raise UserError(f"the image {animal['file_name']} is missing")
        try:
            os.link(source, image)
        except OSError:
            shutil.copyfile(source, image)
    excluded = set(read_text(crowds, MIB).split())
    counted = [a for a in animals if a["num_keypoints"] >= COMMON_POINTS and name_of(a) not in excluded]
    for split, pairs in draw_pairs(counted).items():
        folder = home / "PairAnnotation" / split
        folder.mkdir(parents=True)
        for *ends, category in tqdm(pairs, f"preparing {split}", disable=None):
            paths = [f"data/ap-10k/ImageAnnotation/{path_of(animal)}.json" for animal in ends]
            name = f"{'-'.join(map(name_of, ends))}{'_' if os.name == 'nt' else ':'}{category}.json"
            content = dict(zip(("src_json_path", "trg_json_path"), paths, strict=True))
            (folder / name).write_text(json.dumps(content, indent=4))


def name_of(animal: Animal) -> str:
    return f"{animal['id']:012d}"


def path_of(animal: Animal) -> str:
    return f"{animal['supercategory']}/{animal['name']}/{name_of(animal)}"


def read_animals(folder: Path) -> list[Animal]:
    """The first annotation of every image, sorted by family, species and number."""
    files = [read_json(folder / f"ap10k-{subset}-split1.json", 512 * MIB) for subset in SUBSETS]
    with error_context(str(folder)):
        try:
            images = {image["id"]: image for file in files for image in file["images"]}
            kinds = {kind["id"]: kind for kind in files[0]["categories"]}
            annotations: dict[int, Animal] = {}
            for annotation in (annotation for file in files for annotation in file["annotations"]):
                annotations.setdefault(annotation["image_id"], annotation)
            animals = []
            for image_id, annotation in annotations.items():
                kind = kinds.get(annotation["category_id"])
                if kind and image_id in images:
                    named = {key: kind[key] for key in ("name", "supercategory")}
                    animals.append({**annotation, **images[image_id], **named})
            return sorted(animals, key=lambda a: (a["supercategory"], a["name"], name_of(a)))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"not the annotations of AP-10K ({error!r})") from error


def draw_pairs(animals: Sequence[Animal]) -> dict[str, list[tuple[Animal, Animal, str]]]:
    """(source, target, category) of every split of pairs, drawn in the notebook's order from its seeds.

    Args: animals: sorted, those that count.
    """
    splits: dict[str, Families] = {"trn": {}, "val": {}, "test": {}}
    for (family, species), group in groupby(animals, lambda a: (a["supercategory"], a["name"])):
        found = list(group)
        test = max(0, len(found) - TEST_IMAGES)
        val = max(0, test - VAL_IMAGES)
        for split, some in {"trn": found[:val], "val": found[val:test], "test": found[test:]}.items():
            splits[split].setdefault(family, {})[species] = some

    drawn: dict[str, list[tuple[Animal, Animal, str]]] = {}
    rng = random.Random(SEED)
    for split in ("trn", "test", "val"):
        drawn[split] = []
        for kinds in splits[split].values():
            for species, some in kinds.items():
                shuffled = list(some)
                rng.shuffle(shuffled)
                possible = possible_pairs(shuffled)
                count = min(TRAINING_PAIRS * len(some) if split == "trn" else len(possible), len(possible))
                drawn[split] += [(*pair, species) for pair in rng.sample(possible, count)]
    rng = random.Random(SEED)
    for split, most in SPECIES_PAIRS.items():
        drawn[f"{split}_cross_species"] = []
        for family, kinds in splits[split].items():
            possible = []
            for first, second in combinations(kinds.values(), 2):
                for _ in range(len(first) * len(second)):
                    rng.random()  # the notebook draws which is the source, and does not use it
                possible += possible_pairs(first, second)
            chosen = rng.sample(possible, min(most, len(possible)))
            drawn[f"{split}_cross_species"] += [(*pair, family) for pair in chosen]
    rng = random.Random(SEED)
    for split, most in FAMILY_PAIRS.items():
        drawn[f"{split}_cross_family"] = []
        families = [
            [animal for some in kinds.values() for animal in some] for kinds in splits[split].values()
        ]
        for first, second in combinations(families, 2):
            possible = possible_pairs(first, second)
            chosen = rng.sample(possible, min(most, len(possible)))
            drawn[f"{split}_cross_family"] += [(*pair, "all") for pair in chosen]
    return drawn


def possible_pairs(
    first: Sequence[Animal], second: Sequence[Animal] | None = None
) -> list[tuple[Animal, Animal]]:
    """Pairs with enough points in common: of one of the first with one of the second, or of the first alone.

    A point of visibility 1, not 2, counts half.
    """
    others = first if second is None else second
    if not first or not others:
        return []
    a, b = (np.array([animal["keypoints"][2::3] for animal in some]) / 2 for some in (first, others))
    common = a @ b.T >= COMMON_POINTS
    return [(first[i], others[j]) for i, j in np.argwhere(np.triu(common, 1) if second is None else common)]
