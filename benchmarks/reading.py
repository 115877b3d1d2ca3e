"""How long opening data takes, and how much memory above the process after its imports.

    python benchmarks/reading.py            # all of FORMATS, or those named; needs ../shared

Each is made from the real data, opened in a process of its own; the best of three.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

SHARED = ROOT.parent / "shared" / "data"
Case = tuple[str, Path, str | None]  # what `open_benchmark` takes: a benchmark, its path, the split


def coco(folder: Path) -> Case:
    """50,000 annotations: PF-PASCAL's 285 over and over, each time in other images."""
    content = json.loads((SHARED / "coco" / "pf-pascal" / "keypoints.json").read_text())
    images, annotations = content["images"], content["annotations"]
    copies: dict[str, list[Any]] = {"images": [], "annotations": []}
    for n in range(50_000):
        copy, kind = divmod(n, len(annotations))
        image = images[kind] | {"id": n, "file_name": f"{copy}/{images[kind]['file_name']}"}
        copies["images"].append(image)
        copies["annotations"].append(annotations[kind] | {"id": n, "image_id": n})
    (folder / "coco.json").write_text(json.dumps(content | copies))
    return "coco", folder / "coco.json", None


def ap10k(folder: Path) -> Case:
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
    return "ap10k", folder, "test"


FORMATS = {"coco": coco, "ap10k": ap10k}


def measure(case: Case) -> tuple[int, float, float, float]:
    """Pairs, seconds, seconds of the processor and MB of an opening in this process."""
    from dhpf.data import BENCHMARKS, open_benchmark

    name, path, split = case
    BENCHMARKS[name]  # imports it
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin, busy = time.perf_counter(), time.process_time()
    pairs = len(open_benchmark(name, path, split))
    seconds, busy = time.perf_counter() - begin, time.process_time() - busy
    return pairs, seconds, busy, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help=", ".join(FORMATS))
    for name in parser.parse_args().formats or FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            case = FORMATS[name](Path(folder))
            runs = []
            for _ in range(3):
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    runs.append(pool.apply(measure, (case,)))
        pairs, seconds, busy, memory = min(runs, key=lambda run: run[1])
        print(
            f"{name}: {pairs} pairs in {seconds:.2f} s ({busy:.2f} s of processor), {memory:.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
