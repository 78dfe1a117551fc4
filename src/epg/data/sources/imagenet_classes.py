"""ImageNet's 1,000 classes: synset to index and name.

`imagenet_classes.tsv` is timm's table (`timm.data.ImageNetInfo`; a test compares them), here since
the step that shards has no PyTorch, which timm needs. The order is that of the synsets, bytewise.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from importlib import resources


@cache
def lemmas() -> dict[str, str]:
    """Return, by synset and in the order of the indices, the words of each class."""
    text = (resources.files(__package__) / "imagenet_classes.tsv").read_text(encoding="utf-8")
    return dict(line.split("\t", 1) for line in text.splitlines())


def short_names(synsets: list[str]) -> list[str]:
    """Return a name for each synset: its first word; with the synset where two share one.

    A synset that is none of the 1,000 is its own name.
    """
    table = lemmas()
    first = {synset: words.split(",")[0] for synset, words in table.items()}
    often = Counter(first.values())
    return [
        synset
        if synset not in first
        else first[synset]
        if often[first[synset]] == 1
        else f"{first[synset]} ({synset})"
        for synset in synsets
    ]
