"""The one table of figures: everything that `evaluate` measures, what it means, how it is written.

Gate, model card, report, console, metrics and dashboards read it; none has a list of its own.

Some figures are measured in the features of a network. One that several networks can give bears
its plain name in the recipe's first, and the network's besides in a further one: `precision`,
`precision_inception`. One that a single network gives (`fid`) has one name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from epg.numbers import decimals, percent, significant, whole

Kind = Literal["share", "fraction", "distance", "score", "ratio", "count", "rate", "amount"]

#: How a value of each kind is written, wherever it is shown. Papers give precision and recall as
#: fractions, accuracies in percent; a rate depends on the machine and deserves no third digit.
_WRITERS: dict[Kind, Callable[[Any], str]] = {
    "share": percent,
    "fraction": lambda value: decimals(value, 3),
    "distance": significant,
    "score": lambda value: significant(value, 4),
    "ratio": lambda value: decimals(value, 2),
    "count": whole,
    "rate": lambda value: significant(value, 2),
    "amount": significant,
}

#: Feature networks: name in recipes and in figures -> what it is called in sentences.
NETWORKS = {
    "classifier": "the pipeline's classifier",
    "inception": "Inception",
    "dinov2": "DINOv2",
}
#: Those whose pooled features any figure of two sets can be taken in.
SHARED = ("classifier", "inception", "dinov2")


@dataclass(frozen=True)
class Measure:
    """One figure.

    Attributes:
        name: in records, recipes (`gate`), `metrics.json` and model cards.
        label: for people: a line of a table, a legend.
        kind: decides how a value is written.
        better: which way is better; empty where neither is.
        explanation: what it is, to stand behind a label that does not say it; `{network}` stands
            for the feature network.
        networks: the feature networks that it can be measured in; none: it needs no features.
        short: a label for where its meaning stands beside it; empty: `label`.
        setting: what a recipe must have for it, besides a network.
        of_model: a property of the network, not of its images; `count-gflops` tells it as well.
        judges: a verdict on images, which has a protocol (`epg.protocol`); else a count or a cost.
        compares: real images are a part of it.
        of_samples: of generated images, whose number and labels are a part of it.
        further: measured in a further network of the recipe, `networks[0]`.
    """

    name: str
    label: str
    kind: Kind
    better: Literal["higher", "lower", ""] = ""
    explanation: str = ""
    networks: tuple[str, ...] = ()
    short: str = ""
    setting: str = ""
    of_model: bool = False
    judges: bool = True
    compares: bool = True
    of_samples: bool = True
    further: bool = False

    def write(self, value: Any) -> str:
        """Write a value, or say that there is none."""
        return _WRITERS[self.kind](value)

    def explain(self, networks: Mapping[str, str] | None = None) -> str:
        """Say what it is, after the label; empty where the label says it all.

        Args:
            networks: the recipe's feature networks in its order (`details.feature_networks`):
                name in the recipe -> what it is called where this is shown.
        """
        return self.explanation.format(network=self._called(networks or {}))

    def meaning(self, networks: Mapping[str, str] | None = None) -> str:
        """Say what it is where no label stands beside it: a sentence without its full stop."""
        text = self.explain(networks) or self.label
        return text[0].upper() + text[1:]

    @property
    def title(self) -> str:
        """The shorter label."""
        return self.short or self.label

    @property
    def direction(self) -> str:
        """`higher is better`, `lower is better`, or nothing."""
        return f"{self.better} is better" if self.better else ""

    @property
    def needs(self) -> str:
        """What a recipe must have for it: `evaluate.svc`; empty where it is always measured."""
        if self.setting or self.shared or not self.networks:
            return self.setting
        return f"evaluate.networks: [{self.networks[0]}]"

    @property
    def base(self) -> str:
        """The name without that of a further network."""
        return self.name.removesuffix(f"_{self.networks[0]}") if self.further else self.name

    @property
    def shared(self) -> bool:
        """Tell whether several networks can give it, and it may be there once for each."""
        return len(self.networks) > 1

    def _called(self, networks: Mapping[str, str]) -> str:
        if self.shared:
            return next(iter(networks.values()), "the feature network")
        own = self.networks[0] if self.networks else ""
        return networks.get(own) or NETWORKS.get(own, "")


MEASURES: tuple[Measure, ...] = (
    Measure(
        "fid",
        "FID",
        "distance",
        "lower",
        "Fréchet distance in Inception's pooled features",
        ("inception",),
    ),
    Measure(
        "sfid",
        "sFID",
        "distance",
        "lower",
        "Fréchet distance in Inception's spatial features",
        ("inception",),
    ),
    Measure(
        "fid_infinity",
        "FID∞",
        "distance",
        "lower",
        "FID that infinitely many images would have, by extrapolation",
        ("inception",),
        setting="evaluate.fid_infinity: true",
    ),
    Measure(
        "kid",
        "KID",
        "score",
        "lower",
        "unbiased kernel distance in Inception's pooled features",
        ("inception",),
    ),
    Measure(
        "inception_score",
        "Inception score",
        "score",
        "higher",
        "how sure Inception is of each image's class, and how varied the classes are",
        ("inception",),
        compares=False,
    ),
    Measure(
        "frechet_distance",
        "Fréchet distance (own classifier)",
        "distance",
        "lower",
        "Fréchet distance in features of {network}",
        ("classifier",),
        short="Fréchet distance",
    ),
    Measure(
        "frechet_distance_dinov2",
        "Fréchet distance (DINOv2)",
        "distance",
        "lower",
        "Fréchet distance in DINOv2's features",
        ("dinov2",),
    ),
    Measure(
        "precision",
        "Precision",
        "fraction",
        "higher",
        "share of generated images that lie among real ones in features of {network}",
        SHARED,
    ),
    Measure(
        "recall",
        "Recall",
        "fraction",
        "higher",
        "share of real images that lie among generated ones in features of {network}",
        SHARED,
    ),
    Measure(
        "density",
        "Density",
        "ratio",
        "higher",
        "in how many neighbourhoods of real images a generated one lies, over what is expected, in "
        "features of {network}",
        SHARED,
    ),
    Measure(
        "coverage",
        "Coverage",
        "fraction",
        "higher",
        "share of real images with a generated one in their neighbourhood in features of {network}",
        SHARED,
    ),
    Measure(
        "variety",
        "Variety, generated / real",
        "ratio",
        "",
        "spread of generated images over that of real ones in features of {network}; near 0: all "
        "alike",
        SHARED,
    ),
    Measure(
        "class_agreement",
        "Class agreement (own classifier)",
        "share",
        "higher",
        "share of generated images that {network} reads as the class asked for",
        ("classifier",),
        short="Class agreement",
        compares=False,
    ),
    Measure(
        "svc_agreement",
        "Class agreement (SVC)",
        "share",
        "higher",
        "share of generated images that an independent support-vector classifier reads as the "
        "class asked for",
        short="Class agreement",
        setting="evaluate.svc",
    ),
    Measure(
        "classifier_held_out_accuracy",
        "Accuracy on real images (own classifier)",
        "share",
        "",
        "share of real held-out images that {network} reads rightly: no verdict is better than "
        "its judge",
        ("classifier",),
        of_samples=False,
    ),
    Measure(
        "nearest_neighbour_ratio",
        "Nearest neighbour, generated / real",
        "ratio",
        "",
        "median distance of generated images to their nearest training image over that of real "
        "held-out images; far below 1: copies",
    ),
    Measure("num_samples", "Images generated and judged", "count", judges=False),
    Measure(
        "nfe",
        "Evaluations of the network per image",
        "count",
        "lower",
        short="Network evaluations",
        judges=False,
    ),
    Measure(
        "images_per_second",
        "Images generated per second",
        "rate",
        "higher",
        short="Images per second",
        judges=False,
    ),
    Measure("parameters", "Parameters of the generator", "count", of_model=True, judges=False),
    Measure(
        "gmacs",
        "GMACs per evaluation",
        "amount",
        "",
        "multiply-accumulates of one evaluation for one image, in thousand millions",
        of_model=True,
        judges=False,
    ),
)


def _in_further(measure: Measure, network: str) -> Measure:
    """Return a measure as it is called in a further network of a recipe."""
    plain = measure.label.partition(" (")[0]
    return replace(
        measure,
        name=f"{measure.name}_{network}",
        label=f"{plain} ({NETWORKS[network]})",
        networks=(network,),
        short="",
        further=True,
    )


#: Every name that a figure can bear -> its row, in the order of the table.
FIGURES: dict[str, Measure] = {
    named.name: named
    for measure in MEASURES
    for named in (measure, *(_in_further(measure, n) for n in measure.networks if measure.shared))
}


def find(name: str) -> Measure | None:
    """Return the row of a figure, also of one in a further network; None if there is none."""
    return FIGURES.get(name)


def measured(names: Iterable[str]) -> list[Measure]:
    """Return the rows of those names that are figures, in the order of the table."""
    wanted = set(names)
    return [measure for name, measure in FIGURES.items() if name in wanted]
