"""Where the parts of the benchmarks are fetched from: what public code and its publishers name, in the order tried.

Sizes and hashes stand where public code has them. What kind of archive a file is shows when it is opened.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dhpf.common.download import DRIVE

if TYPE_CHECKING:
    from dhpf.data.benchmark import Benchmark

WILLOW = "https://www.di.ens.fr/willow/research/"
SD4MATCH = "https://www.robots.ox.ac.uk/~xinghui/sd4match/"


@dataclass(frozen=True)
class Source:
    """One address of an archive or a file.

    Args:
        name: of the file in a mirror; empty: as in the address.
        size: bytes, None: not known.  sha256: empty: not known.
    """

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
    """The part that is a split's list of pairs."""
    return Part(f"list of {split} pairs", sources, split=split)


PFPASCAL = Source(DRIVE + "1OOwpGzJnTsFXYh-YffMQ9XKM_Kl_zdzg", "PF-PASCAL.tar.gz")
PFPASCAL_LISTS = Source(SD4MATCH + "pf-pascal_image_pairs.zip")
PFWILLOW = Source(DRIVE + "1tDP0y8RO5s45L-vqnortRaieiWENQco_", "PF-WILLOW.tar.gz")
CALTECH = Source(DRIVE + "1IV0E5sJ6xSdDyIvVSTdZjPHELMwGzsMn", "Caltech-101.tar.gz")
SPAIR = "https://cvlab.postech.ac.kr/research/SPair-71k/data/SPair-71k.tar.gz"
SPAIR_SIZE = 226_961_117
SPAIR_SHA256 = "d145eebe4d7d02ff0b9e2746dd3d72cfcb872df0dcfd6f3227576eb594408809"
# What the preparation of AP-10K leaves out: names of images, without suffix, a line each.
AP10K_CROWDS = Part(
    "list of crowds",
    (Source("https://raw.githubusercontent.com/Junyi42/GeoAware-SC/master/data/ap-10k_is_crowd.txt"),),
    r"(^|/)ap-10k_is_crowd\.txt$",
)

PARTS: dict[str, tuple[Part, ...]] = {
    "pfpascal": (
        Part(
            "images and annotations",
            (Source(WILLOW + "proposalflow/dataset/PF-dataset-PASCAL.zip"), PFPASCAL),
            r"(^|/)Annotations/[^/]+/[^/]+\.mat$",
            ("JPEGImages", "Annotations"),
        ),
        pair_list(
            "test",
            PFPASCAL_LISTS,
            Source(WILLOW + "cnngeometric/other_resources/test_pairs_pf_pascal.csv"),
            PFPASCAL,
        ),
        pair_list(
            "val",
            PFPASCAL_LISTS,
            Source(WILLOW + "cnngeometric/other_resources/val_pairs_pf_pascal.csv"),
            PFPASCAL,
        ),
        pair_list(
            "trn",
            PFPASCAL_LISTS,
            Source(DRIVE + "111tpXshLiJ4qudBHoGK3HbMSNr9vVRq9", "train_pairs_pf_pascal.csv"),
            PFPASCAL,
        ),
    ),
    "pfwillow": (
        Part(
            "images",
            (Source(WILLOW + "proposalflow/dataset/PF-dataset.zip"), PFWILLOW),
            r"(^|/)(car|duck|motorbike)\([GMS]\)/",
            ("car(G)",),
        ),
        pair_list(
            "test",
            Source(WILLOW + "cnngeometric/other_resources/test_pairs_pf.csv"),
            Source(SD4MATCH + "test_pairs.csv"),
            PFWILLOW,
        ),
    ),
    "caltech": (
        Part(
            "images",
            (
                Source(
                    "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
                    size=137_414_764,
                    sha256="331234750fc7f77520e50d9565e8b6907b03565e30320da1401130db08c61f91",
                ),
                CALTECH,
            ),
            r"(^|/)101_ObjectCategories(/|\.tar\.gz$)",
            ("101_ObjectCategories",),
        ),
        pair_list(
            "test",
            Source(WILLOW + "cnngeometric/other_resources/test_pairs_caltech_with_category.csv"),
            CALTECH,
        ),
    ),
    "spair": (
        Part(
            "images and pairs",
            (
                Source(
                    f"https://web.archive.org/web/20250701134122id_/{SPAIR}",
                    size=SPAIR_SIZE,
                    sha256=SPAIR_SHA256,
                ),
                Source(SPAIR, size=SPAIR_SIZE, sha256=SPAIR_SHA256),
                Source(DRIVE + "1KSvB0k2zXA06ojWNvFjBv0Ake426Y76k", "SPair-71k.tar.gz"),
            ),
            r"^(?!.*spair-?u).*PairAnnotation/[^/]+/\d+-\d{4}_\d+-\d{4}_\d+[:_]",
            ("PairAnnotation", "JPEGImages"),
        ),
    ),
    "spairu": (
        Part(
            "pairs",
            (Source("https://groups.inf.ed.ac.uk/hbilen-data/data/JamaisVuData/SPair-U.zip"),),
            r"(^|/)spair-?u/.*PairAnnotation/",
            ("PairAnnotation",),
        ),
        Part("images and lists", folders=("JPEGImages", "Layout"), link_to="spair"),
    ),
    "ap10k": (
        Part(
            "images and pairs",
            (Source(DRIVE + "1-FNNGcdtAQRehYYkGY1y4wzFNg4iWNad", "ap-10k.zip"),),
            r"(^|/)(annotations/ap10k-train-split1\.json$|PairAnnotation/test_cross_family/)",
            ("PairAnnotation", "ImageAnnotation", "JPEGImages"),
            raw=("annotations", "data"),
        ),
    ),
}


def parts_of(benchmark: "type[Benchmark]") -> tuple[Part, ...]:
    """What a benchmark consists of; of a user's the one archive that its `archive` names; none: it is not fetched."""
    if benchmark.name in PARTS or not benchmark.archive:
        return PARTS.get(benchmark.name, ())
    sources = tuple(Source(url, f"{benchmark.folder}.tar.gz") for url in benchmark.archive)
    return (Part("files", sources, rf"(^|/){re.escape(benchmark.folder)}/"),)
