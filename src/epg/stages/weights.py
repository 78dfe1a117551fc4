"""`epg weights`: bring the weights of a published feature network to where stages find them."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from epg.errors import UserError, did_you_mean, one_line
from epg.evaluation.features.weights import FOLDER, WEIGHTS, PublishedWeights, cache_folder
from epg.store import open_store
from epg.store.files import explained
from epg.store.scratch import scratch_folder
from epg.telemetry.progress import StageReporter

_PIECE = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte
_SCHEMES = ("http://", "https://")


def install_weights(
    network: str, *, source: str | None = None, store: str | None = None, sha256: str = ""
) -> str:
    """Fetch, check, convert and place the weights of a network; return where they lie.

    Args:
        network: its name in `evaluate.networks`.
        source: path or URL of the published file; default: where it is published.
        store: URI of the store of the runs, for all its machines; default: this user's cache.
        sha256: digest of the published file, where none is known here.

    Raises:
        UserError: an unknown network, a file that cannot be had, or another file.
    """
    if network not in WEIGHTS:
        hint = did_you_mean(network, WEIGHTS)
        raise UserError(f"no network {network!r}{hint} has weights to fetch: {', '.join(WEIGHTS)}")
    weights = WEIGHTS[network]
    place = source or weights.url
    fetched = place.startswith(_SCHEMES)
    if fetched and not (sha256 or weights.sha256):
        raise UserError(
            f"{place}: its publisher gives no SHA-256 that epg knows: look it up there and add "
            "--sha256 DIGEST, or bring the file and name it with --from FILE"
        )
    reporter = StageReporter("weights")
    with scratch_folder("weights") as scratch:
        if fetched:
            published = scratch / (Path(place.partition("?")[0]).name or "weights")
            _download(place, published, weights, reporter)
        else:
            published = Path(place).expanduser()
        return _place(weights, published, scratch, store, sha256, reporter)


def _place(
    weights: PublishedWeights,
    published: Path,
    scratch: Path,
    store: str | None,
    sha256: str,
    reporter: StageReporter,
) -> str:
    """Convert a local file, and put the result where stages look for it."""
    from epg.evaluation.features.converting import convert

    if not published.is_file():
        raise UserError(f"{published}: no such file: {weights.remedy}")
    converted = scratch / weights.file
    digest = convert(weights, published, converted, sha256)
    reporter.message(f"{published.name}: SHA-256 {digest}")
    if store is not None:
        target = open_store(store)
        target.put_file(f"{FOLDER}/{weights.file}", converted)
        return f"{target.uri}/{FOLDER}/{weights.file}"
    path = cache_folder() / weights.file
    with explained(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        shutil.copyfile(converted, part)
        part.replace(path)
    return str(path)


def _download(url: str, path: Path, weights: PublishedWeights, reporter: StageReporter) -> None:
    """Copy a URL into a file."""
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "epg"})  # noqa: S310 - http(s)
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310
            size = int(answer.headers.get("Content-Length") or 0)
            done = 0
            with path.open("wb") as file:
                while piece := answer.read(_PIECE):
                    file.write(piece)
                    done += len(piece)
                    reporter.progress(done >> 20, max(size, done) >> 20, "MiB")
        if size and done != size:
            raise EOFError(f"{done:,} of {size:,} bytes came")
    except (urllib.error.URLError, OSError, EOFError, HTTPException, ValueError) as error:
        reason = one_line(getattr(error, "reason", error))[:120]
        raise UserError(
            f"{url}: cannot be fetched ({reason}): on a site without internet "
            f"fetch it elsewhere and {weights.by_hand}"
        ) from error
