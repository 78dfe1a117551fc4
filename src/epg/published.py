"""The one table of published results: Tables 1 to 3 of the paper, and the systems beside it.

Whoever shows a figure of ours beside published ones reads it here. A cell is text as it was
printed: ranges, sums and alternatives cannot be told by a number. Blank is unknown, never zero.

What FID here means: ADM's suite or one that agrees with it, 50,000 samples, ImageNet's training
set as reference. Rows may differ in how labels were drawn and how many runs the best is of, so a
difference in the second decimal between two rows says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Table = Literal["256", "256-few-steps", "512"]

#: Which rows belong together.
TABLES: dict[Table, str] = {
    "256": "ImageNet 256×256, with guidance (Table 1)",
    "256-few-steps": "ImageNet 256×256, one evaluation of the network (Table 2)",
    "512": "ImageNet 512×512, with guidance (Table 3)",
}
#: The convention of the column `gflops`.
GFLOPS_CONVENTION = (
    "one multiply-accumulate is one operation, one evaluation of the network; autoencoder + "
    "generator where there are two; EPG's own leave attention's products out"
)
#: Marks of cells and rows.
SECONDARY, DERIVED = "‡", "†"
MARKS = {
    SECONDARY: "from tables of other papers, not verified at its source",
    DERIVED: "calculated here, printed nowhere",
}


@dataclass(frozen=True)
class Published:
    """One row; every cell is text, empty where nothing is known.

    Attributes:
        table: which table it stands in.
        method: name of the system.
        nfe: evaluations of the network per image; `250×2` where guidance doubles them.
        params: parameters, autoencoder + generator.
        gflops: see `GFLOPS_CONVENTION`.
        fid, inception_score, precision, recall: figures.
        epochs: passes over the training set.
        mark: of the whole row, a key of `MARKS`; empty: from the paper itself. Cells that differ
            end in a mark of their own.
        parameters: exact count of a model that a recipe of ours describes; 0 for others' models.
    """

    table: Table
    method: str
    nfe: str = ""
    params: str = ""
    gflops: str = ""
    fid: str = ""
    inception_score: str = ""
    precision: str = ""
    recall: str = ""
    epochs: str = ""
    mark: str = SECONDARY
    parameters: int = 0

    @property
    def source(self) -> str:
        """Where the row is from, in words."""
        return MARKS.get(self.mark, "arXiv 2510.12586")


#: In which order the rows below give their cells.
_CELLS = (
    "method",
    "nfe",
    "params",
    "gflops",
    "fid",
    "inception_score",
    "precision",
    "recall",
    "epochs",
)


def _ours(table: Table, parameters: int, *cells: str) -> Published:
    named = dict(zip(_CELLS, cells, strict=False))
    return replace(Published(table, "", mark="", parameters=parameters), **named)  # type: ignore[arg-type]


def _rows(table: Table, *rows: tuple[str, ...]) -> tuple[Published, ...]:
    empty = Published(table, "")
    return tuple(replace(empty, **dict(zip(_CELLS, row, strict=False))) for row in rows)  # type: ignore[arg-type]


PUBLISHED: tuple[Published, ...] = (
    _ours(
        "256",
        582_986_064,
        "EPG-XL/16",
        "75",
        "583M",
        "128†",
        "2.04",
        "283.2‡",
        "0.80‡",
        "0.61‡ or 0.56‡",
        "800",
    ),
    _ours(
        "256", 788_921_472, "EPG-XXL/16", "75", "789M", "176‡", "1.87 (1.81‡)", "", "", "", "800‡"
    ),
    _ours("256", 1_391_899_008, "EPG-G/16", "75", "1391M", "321‡", "1.58", "", "", "", "1600‡"),
    *_rows(
        "256",
        ("DiT-XL/2", "250×2", "84M+675M", "312+119", "2.27", "278.2", "0.83", "0.57", "1400"),
        (
            "SiT-XL/2",
            "250×2",
            "84M+675M",
            "312+119",
            "2.06",
            "270.3–284.0",
            "0.82–0.83",
            "0.59",
            "1400",
        ),
        ("JiT-B/16", "", "", "25", "3.66"),
        ("JiT-L/16", "", "", "≈88", "2.36"),
        ("JiT-H/16", "", "", "182", "1.86"),
        ("JiT-G/16", "191", "2B", "383", "1.82", "292.6", "0.79", "0.62", "600"),
        ("ADM-G", "250×2", "554M", "1120", "4.59", "186.7", "0.82", "0.52", "400"),
        ("RIN", "", "320–410M", "334", "3.42", "182.0", "", "", "480"),
        ("SiD UViT/2", "1000×2 or 250×2", "2–2.5B", "555", "2.44", "256.3", "", "", "800"),
        ("VDM++ UViT/2", "256×2", "2–2.5B", "555", "2.12", "267.7"),
        ("SiD2 UViT/2", "512×2", "", "137", "1.73"),
        ("SiD2 UViT/1", "512×2", "", "653", "1.38"),
        ("PixelFlow-XL/4", "120×2", "677M", "2909", "1.98", "282.1", "0.81", "0.60", "320"),
        ("PixNerd-XL/16", "100×2", "700M", "134", "1.93–2.15", "298.0", "0.80", "0.60", "320"),
        ("PixSGR-H", "", "875M", "", "1.51"),
        ("PixelDiT-XL", "", "797M", "155", "1.54"),
        ("AsymFlow-H", "", "953M", "182", "1.76"),
        ("AsymFlow-H with REPA", "", "953M", "182", "1.57"),
        ("FrequencyBooster-H", "", "", "", "1.60"),
        ("DeCo-XL", "", "682M", "122", "1.62"),
        ("PixelU-H", "", "", "", "1.63"),
        ("DiP-XL", "", "", "", "1.79"),
        ("PixelREPA-H", "", "953M", "182", "1.81"),
        ("PixelGen-XL", "", "676M", "130", "1.83"),
        ("FREPix", "", "", "", "1.91"),
        ("REPA-XL/2", "250×2", "49M+675M", "310+119", "1.42", "305.7", "0.80", "0.65", "800"),
        ("LightningDiT", "", "41M+675M", "", "1.35", "295.3", "0.79", "0.65", "800"),
        ("DDT-XL", "", "49M+675M", "", "1.26", "310.6", "0.79", "0.65", "400"),
        ("RAE-XL (DiT-DH)", "50×2", "415M+839M", "106+146", "1.13", "262.6", "0.78", "0.67", "800"),
    ),
    _ours("256-few-steps", 540_215_040, "EPG-L/16", "1", "540M", "113‡", "8.82", "", "", "", "560"),
    *_rows(
        "256-few-steps",
        ("iCT-XL/2", "1", "", "", "34.24"),
        ("Shortcut-XL/2", "1", "", "", "10.60"),
        ("IMM-XL/2", "1", "", "", "8.05"),
        ("MeanFlow-XL/2", "1", "", "", "3.43"),
        ("StyleGAN-XL", "1", "", "", "2.30"),
        ("iMF-XL/2", "1", "", "", "1.72"),
        ("pMF-B", "1", "", "", "3.12"),
        ("pMF-L", "1", "", "", "2.52"),
        ("pMF-H", "1", "", "", "2.22"),
        ("Drifting-B", "1", "", "", "1.76"),
        ("Drifting-L", "1", "", "", "1.61"),
    ),
    _ours("512", 544_935_936, "EPG-L/32", "75", "545M†", "114†", "2.35"),
    *_rows(
        "512",
        ("DiT-XL/2", "250×2", "", "1230+525", "3.04"),
        ("SiT-XL/2", "250×2", "", "", "2.62"),
        ("REPA-XL/2", "", "", "", "2.08"),
        ("RAE-XL (DiT-DH)", "", "", "", "1.13"),
        ("ADM-G", "", "", "1983", "7.72"),
        ("SiD UViT", "", "", "", "3.02"),
        ("VDM++ UViT", "", "", "", "2.65"),
        ("SiD2 UViT", "", "", "653", "1.48"),
        ("JiT-H/32", "", "", "", "1.94"),
        ("JiT-G/32", "", "", "384", "1.78"),
        ("PixelDiT-XL", "", "", "", "1.81"),
        ("PixNerd-XL", "", "", "", "2.84 (2.42)"),
        ("DeCo-XL", "", "", "", "2.22"),
        ("FREPix", "", "", "", "2.38"),
        ("pMF-H/32", "1", "", "", "2.48"),
    ),
)


def published(table: Table) -> list[Published]:
    """Return the rows of a table, the paper's own first."""
    return [row for row in PUBLISHED if row.table == table]


def published_table(image_size: int, *, one_step: bool = False) -> Table | None:
    """Return the table that a model of ours stands beside, if its size has one.

    Args:
        image_size: height and width in pixels.
        one_step: a consistency model's, of one evaluation or a few.
    """
    if image_size == 512 and not one_step:
        return "512"
    if image_size == 256:
        return "256-few-steps" if one_step else "256"
    return None


def published_as(parameters: int) -> Published | None:
    """Return the paper's row of the model with this many parameters, if it printed one."""
    found = (row for row in PUBLISHED if row.parameters == parameters > 0)
    return next(found, None)
