"""Where the parts of the benchmarks are fetched from: what public code and their makers name, in the order tried.

Sizes and hashes stand where public code has them. What kind of archive a file is shows when it is opened.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dhpf.common.download import DRIVE

if TYPE_CHECKING:
    from dhpf.data.benchmark import Benchmark


@dataclass(frozen=True)
class Source:
    """An address, and what is known of the file: its name (in a mirror, too), size in bytes and SHA-256."""

    url: str
    name: str = ""
    size: int | None = None
    sha256: str = ""

    @property
    def file_name(self) -> str:
        return self.name or self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Part:
    """What is fetched as one.

    Args:
        title: in words.
        telltale: pattern of a file's name, or of a path in an archive, that only this part has.
        folders: what lies in the benchmark's folder, all in one folder of the archive; the first is there if the
            part is there. Empty: a folder with a list of pairs.
        split: of a list of pairs, which is taken if its pairs are the published ones, whatever its name is.
        raw: folders of the raw set, from which the part is prepared.
        link_to: the benchmark whose folders these are.
    """

    title: str
    sources: tuple[Source, ...] = ()
    telltale: str = r"\.csv$"
    folders: tuple[str, ...] = ()
    split: str = ""
    raw: tuple[str, ...] = ()
    link_to: str = ""


def pair_list(split: str, *sources: Source) -> Part:
    """A split's list of pairs."""
    return Part(f"list of {split} pairs", sources, split=split)


MAKERS = "https://www.di.ens.fr/willow/research/proposalflow/dataset/"
LISTS = "https://www.di.ens.fr/willow/research/cnngeometric/other_resources/"
SD4MATCH = "https://www.robots.ox.ac.uk/~xinghui/sd4match/"

PASCAL_LISTS = Source(SD4MATCH + "pf-pascal_image_pairs.zip")
PASCAL_TRN = Source(DRIVE + "111tpXshLiJ4qudBHoGK3HbMSNr9vVRq9", "train_pairs_pf_pascal.csv")
PASCAL_ALL = Source(DRIVE + "1OOwpGzJnTsFXYh-YffMQ9XKM_Kl_zdzg", "PF-PASCAL.tar.gz")
WILLOW_ALL = Source(DRIVE + "1tDP0y8RO5s45L-vqnortRaieiWENQco_", "PF-WILLOW.tar.gz")
CALTECH_IMAGES = Source(
    "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
    size=137_414_764,
    sha256="331234750fc7f77520e50d9565e8b6907b03565e30320da1401130db08c61f91",
)
CALTECH_ALL = Source(DRIVE + "1IV0E5sJ6xSdDyIvVSTdZjPHELMwGzsMn", "Caltech-101.tar.gz")
SPAIR_URL = "https://cvlab.postech.ac.kr/research/SPair-71k/data/SPair-71k.tar.gz"
SPAIR_SIZE, SPAIR_SHA256 = 226_961_117, "d145eebe4d7d02ff0b9e2746dd3d72cfcb872df0dcfd6f3227576eb594408809"
SPAIR_ALL = (
    Source(f"https://web.archive.org/web/20250701134122id_/{SPAIR_URL}", "", SPAIR_SIZE, SPAIR_SHA256),
    Source(SPAIR_URL, "", SPAIR_SIZE, SPAIR_SHA256),
    Source(DRIVE + "1KSvB0k2zXA06ojWNvFjBv0Ake426Y76k", "SPair-71k.tar.gz"),
)
SPAIR_TELLTALE = r"^(?!.*spair-?u).*PairAnnotation/[^/]+/\d+-\d{4}_\d+-\d{4}_\d+[:_]"
SPAIRU_PAIRS = Source("https://groups.inf.ed.ac.uk/hbilen-data/data/JamaisVuData/SPair-U.zip")
AP10K_RAW = Source(DRIVE + "1-FNNGcdtAQRehYYkGY1y4wzFNg4iWNad", "ap-10k.zip")
AP10K_TELLTALE = r"(^|/)(annotations/ap10k-train-split1\.json$|PairAnnotation/test_cross_family/)"
AP10K_FOLDERS = ("PairAnnotation", "ImageAnnotation", "JPEGImages")
CROWDS_URL = "https://raw.githubusercontent.com/Junyi42/GeoAware-SC/master/data/ap-10k_is_crowd.txt"
# What the preparation of AP-10K leaves out: names of images, without suffix, a line each.
AP10K_CROWDS = Part("list of crowds", (Source(CROWDS_URL),), r"(^|/)ap-10k_is_crowd\.txt$")

PARTS: dict[str, tuple[Part, ...]] = {
    "pfpascal": (
        Part(
            "images and annotations",
            (Source(MAKERS + "PF-dataset-PASCAL.zip"), PASCAL_ALL),
            r"(^|/)Annotations/[^/]+/[^/]+\.mat$",
            ("JPEGImages", "Annotations"),
        ),
        pair_list("test", PASCAL_LISTS, Source(LISTS + "test_pairs_pf_pascal.csv"), PASCAL_ALL),
        pair_list("val", PASCAL_LISTS, Source(LISTS + "val_pairs_pf_pascal.csv"), PASCAL_ALL),
        pair_list("trn", PASCAL_LISTS, PASCAL_TRN, PASCAL_ALL),
    ),
    "pfwillow": (
        Part(
            "images",
            (Source(MAKERS + "PF-dataset.zip"), WILLOW_ALL),
            r"(^|/)(car|duck|motorbike)\([GMS]\)/",
            ("car(G)",),
        ),
        pair_list(
            "test", Source(LISTS + "test_pairs_pf.csv"), Source(SD4MATCH + "test_pairs.csv"), WILLOW_ALL
        ),
    ),
    "caltech": (
        Part(
            "images",
            (CALTECH_IMAGES, CALTECH_ALL),
            r"(^|/)101_ObjectCategories(/|\.tar\.gz$)",
            ("101_ObjectCategories",),
        ),
        pair_list("test", Source(LISTS + "test_pairs_caltech_with_category.csv"), CALTECH_ALL),
    ),
    "spair": (Part("images and pairs", SPAIR_ALL, SPAIR_TELLTALE, ("PairAnnotation", "JPEGImages")),),
    "spairu": (
        Part("pairs", (SPAIRU_PAIRS,), r"(^|/)spair-?u/.*PairAnnotation/", ("PairAnnotation",)),
        Part("images and lists", folders=("JPEGImages", "Layout"), link_to="spair"),
    ),
    "ap10k": (
        Part("images and pairs", (AP10K_RAW,), AP10K_TELLTALE, AP10K_FOLDERS, raw=("annotations", "data")),
    ),
}


def parts_of(benchmark: "type[Benchmark]") -> tuple[Part, ...]:
    """What a benchmark consists of; of a user's the one archive that its `archive` names; none: it is not fetched."""
    if benchmark.name in PARTS or not benchmark.archive:
        return PARTS.get(benchmark.name, ())
    sources = tuple(Source(url, f"{benchmark.folder}.tar.gz") for url in benchmark.archive)
    return (Part("files", sources, rf"(^|/){re.escape(benchmark.folder)}/"),)
