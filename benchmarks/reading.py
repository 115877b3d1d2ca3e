"""How long opening a large benchmark takes, and how much memory: python benchmarks/reading.py

Each case runs in a process of its own, forked after the imports; memory is what its peak adds to what it had then. The
lists have the published sizes and repeat the pairs of ../shared/data, or of a tiny benchmark where that is not there.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))
from dhpf.data import open_benchmark
from dhpf.data.benchmark import Benchmark
from dhpf.data.spair import SPair
from tests.helpers import tiny
from tests.helpers.places import SHARED

Reader = Callable[[], int]  # reads, and says how much


def spair(folder: Path, split: str, layout: bool) -> Path:
    """SPair-71k with a list of the published length; without `layout` the annotations' names alone are the list."""
    real = SHARED / "data" / SPair.folder
    source = real if real.exists() else tiny.make_spair(folder / "tiny") / SPair.folder
    target = folder / SPair.folder
    lines = (source / f"Layout/large/{split}.txt").read_text().split()
    repeated = islice(cycle(lines), SPair.published[split].pairs)
    (target / "Layout/large").mkdir(parents=True)
    (target / "JPEGImages").symlink_to(source / "JPEGImages")
    if layout:
        (target / "PairAnnotation").symlink_to(source / "PairAnnotation")
        (target / f"Layout/large/{split}.txt").write_text("\n".join(repeated))
    else:
        (target / f"PairAnnotation/{split}").mkdir(parents=True)
        for number, line in enumerate(repeated):
            name = f"{number:06d}-{line.partition('-')[2]}.json"
            (target / f"PairAnnotation/{split}/{name}").touch()
    return folder


def opening(split: str, layout: bool = True) -> Callable[[Path], Reader]:
    def prepare(folder: Path) -> Reader:
        datapath = spair(folder, split, layout)
        return lambda: len(SPair(datapath, split))

    return prepare


def annotations(folder: Path) -> Reader:
    datapath = spair(folder, "test", True)

    def read() -> int:
        data: Benchmark = SPair(datapath, "test")
        return sum(data.annotation(i)["n_pts"] >= 0 for i in range(len(data)))

    return read


def coco(folder: Path) -> Reader:
    """50,000 annotations: PF-PASCAL's 285 over and over, each time in other images."""
    content = json.loads((SHARED / "data" / "coco" / "pf-pascal" / "keypoints.json").read_text())
    images, annotations = content["images"], content["annotations"]
    copies: dict[str, list[Any]] = {"images": [], "annotations": []}
    for n in range(50_000):
        copy, kind = divmod(n, len(annotations))
        image = images[kind] | {"id": n, "file_name": f"{copy}/{images[kind]['file_name']}"}
        copies["images"].append(image)
        copies["annotations"].append(annotations[kind] | {"id": n, "image_id": n})
    (folder / "coco.json").write_text(json.dumps(content | copies))
    return lambda: len(open_benchmark("coco", folder / "coco.json", None))


def ap10k(folder: Path) -> Reader:
    """36,000 pairs, as many as AP-10K's tests have, of 2,000 images."""
    for kind in ("PairAnnotation/test", "ImageAnnotation/Felidae/cat"):
        (folder / "ap-10k" / kind).mkdir(parents=True)
    for n in range(36_000):
        s, t = n % 2000, (n + 1 + n // 2000) % 2000
        paths = {
            f"{end}_json_path": f"data/ap-10k/ImageAnnotation/Felidae/cat/{k:012d}.json"
            for end, k in (("src", s), ("trg", t))
        }
        path = folder / "ap-10k" / "PairAnnotation" / "test" / f"{s:012d}-{t:012d}:cat.json"
        path.write_text(json.dumps(paths))
    return lambda: len(open_benchmark("ap10k", folder, "test"))


# By name: what prepares the files and gives what is measured; seconds and MiB that it may take, if it has limits.
CASES: dict[str, tuple[Callable[[Path], Reader], float | None, float | None]] = {
    "opening SPair-71k's test list": (opening("test"), 3, 150),
    "opening SPair-71k's training list": (opening("trn"), None, None),
    "opening SPair-71k's test pairs without Layout": (opening("test", layout=False), None, None),
    "reading all annotations of SPair-71k's test pairs": (annotations, None, None),
    "opening a COCO file of 50,000 annotations": (coco, 5, None),
    "opening 36,000 pairs of AP-10K": (ap10k, None, None),
}


def measured(read: Reader) -> tuple[int, float, float]:
    """What `read` says, its seconds, and the MiB that it added, in a process of its own."""
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def run() -> None:
        before, begin = peak(), time.perf_counter()
        count = read()
        sender.send((count, time.perf_counter() - begin, peak() - before))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    sender.close()  # so that a process that dies is not waited for
    result: tuple[int, float, float] = receiver.recv()
    process.join()
    return result


def peak() -> float:
    """The most memory that this process had, in MiB; after a fork, what it has."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> int:
    argparse.ArgumentParser(description="Measure how benchmarks are read.").parse_args()
    over = 0
    for name, (prepare, seconds, memory) in CASES.items():
        if prepare is coco and not SHARED.is_dir():
            print(f"{name}: left out, there is no ../shared")
            continue
        with tempfile.TemporaryDirectory() as folder:
            count, took, added = measured(prepare(Path(folder)))
        over += took > (seconds or took) or added > (memory or added)
        allowed = f" (at most {seconds:g} s{f', {memory:g} MiB' if memory else ''})" if seconds else ""
        print(f"{name}: {count} in {took:.2f} s, {added:.0f} MiB{allowed}", flush=True)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
