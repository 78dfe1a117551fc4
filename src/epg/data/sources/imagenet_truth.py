"""Which class each validation image of ImageNet is of: the devkit's ground truth, or a text.

The devkit's ground truth holds ILSVRC2012 ids, which are not in the order of the synsets: id to
synset is in its `meta.mat`.
"""

from __future__ import annotations

import io
import re
import zlib
from collections import Counter
from collections.abc import Callable, Mapping

from epg.data.sources.cursor import Cursor
from epg.data.sources.tar import members
from epg.data.sources.volumes import Volume
from epg.errors import UserError, one_line

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
IDS = "ILSVRC2012_validation_ground_truth.txt"
META = "meta.mat"
#: A line is a synset, in the order of the images, or names an image and its synset.
TEXTS = (
    "imagenet_2012_validation_synset_labels.txt",
    "val_synsets.txt",
    "val_map.txt",
    "LOC_val_solution.csv",
)
FILES = (DEVKIT, IDS, META, *TEXTS)
SYNSET = re.compile(r"n\d{8}")
_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})")
_MOST_BYTES = 64 * 1024**2


def read_truth(spec: str, files: Mapping[str, Volume]) -> tuple[dict[int, str], str]:
    """Return the synset of each validation image, by its number from 1, and the file that says so.

    Args:
        spec: the source, for people.
        files: those of `FILES` that are there, by name.

    Raises:
        UserError: none is there, or one is damaged.
    """
    if DEVKIT in files:
        inside = _devkit(files[DEVKIT])
        return _by_id(files[DEVKIT].place, inside[IDS], inside[META]), DEVKIT
    if IDS in files and META in files:
        return _by_id(files[IDS].place, _bytes(files[IDS]), _bytes(files[META])), IDS
    name = next((name for name in TEXTS if name in files), None)
    if name is not None:
        return _by_text(files[name].place, _bytes(files[name])), name
    if IDS in files:
        raise UserError(
            f"{spec}: {IDS} holds numbers of the devkit's own, which its {META} explains: put "
            f"{META}, or the whole {DEVKIT}, beside it"
        )
    raise UserError(
        f"{spec}: nothing tells the classes of the validation images: put {DEVKIT} there, or a "
        f"{TEXTS[0]} with a synset in each line"
    )


def _bytes(volume: Volume) -> bytes:
    if volume.size > _MOST_BYTES:
        raise UserError(
            f"{volume.place}: {volume.size:,} bytes, at most {_MOST_BYTES:,} are read: get it again"
        )
    return volume.read(0, volume.size)


def _devkit(volume: Volume) -> dict[str, bytes]:
    """Return the two files of the devkit. Raises `UserError`."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        data = unpacker.decompress(_bytes(volume), _MOST_BYTES)
    except zlib.error as error:
        raise UserError(f"{volume.place}: damaged ({error}): get it again") from None
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise UserError(
            f"{volume.place}: it is cut, or unpacks to more than {_MOST_BYTES:,} bytes: get it "
            "again, whole"
        )
    cursor = Cursor(_Unpacked(volume.place, data), through=False)
    found: dict[str, bytes] = {}
    for member in members(cursor, Counter()):
        name = member.name.rpartition("/")[2]
        if name in (IDS, META):
            found[name] = cursor.read(member.length)
    missing = [name for name in (IDS, META) if name not in found]
    if missing:
        raise UserError(f"{volume.place}: no {missing[0]} in it: get the devkit of 2012 (t12)")
    return found


class _Unpacked:
    """Bytes in memory as a volume."""

    changed, far = 0, False

    def __init__(self, place: str, data: bytes) -> None:
        self.name = self.place = place
        self._data, self.size = data, len(data)

    def read(self, offset: int, length: int) -> bytes:
        """Return a part."""
        return self._data[offset : offset + length]


def _by_id(place: str, ids: bytes, meta: bytes) -> dict[int, str]:
    synset_of = _synsets(place, meta)

    def read(line: str, number: int) -> tuple[int, str]:
        if not line.isascii() or not line.isdigit() or int(line) not in synset_of:
            raise UserError(
                f"{place}: line {number} of {IDS} is {line[:40]!r}; it must be one of the "
                f"{len(synset_of):,} ids of {META}: get the devkit again"
            )
        return number, synset_of[int(line)]

    return _lines(place, ids, read)


def _synsets(place: str, meta: bytes) -> dict[int, str]:
    """Return the synset of each ILSVRC2012 id that is a class itself. Raises `UserError`."""
    from scipy.io import loadmat

    try:
        table = loadmat(io.BytesIO(meta), squeeze_me=True, variable_names=["synsets"])["synsets"]
        found = {
            int(number): str(synset)
            for number, synset, children in zip(
                table["ILSVRC2012_ID"], table["WNID"], table["num_children"], strict=True
            )
            if int(children) == 0
        }
    except Exception as error:  # a reader of an old binary format may raise anything
        raise UserError(
            f"{place}: {META} cannot be read ({one_line(error)[:100]}): get the devkit again"
        ) from None
    wrong = next((s for s in found.values() if not SYNSET.fullmatch(s)), None)
    if wrong is not None or len(set(found.values())) < len(found) or not found:
        raise UserError(f"{place}: {META} has no synset for each id: get the devkit again")
    return found


def _by_text(place: str, text: bytes) -> dict[int, str]:
    def read(line: str, number: int) -> tuple[int, str] | None:
        synset, image = SYNSET.search(line), _IMAGE.search(line)
        if synset is None and number == 1 and line.startswith("ImageId"):
            return None
        if synset is None:
            raise UserError(
                f"{place}: line {number} is {line[:60]!r}; it must have a synset such as n01440764"
            )
        return int(image[1]) if image else number, synset[0]

    return _lines(place, text, read)


def _lines(
    place: str, data: bytes, read: Callable[[str, int], tuple[int, str] | None]
) -> dict[int, str]:
    found: dict[int, str] = {}
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip():
            continue
        entry = read(line.strip(), number)
        if entry is None:
            continue
        if entry[0] in found:
            raise UserError(f"{place}: line {number}: image {entry[0]} is there twice")
        found[entry[0]] = entry[1]
    return found
