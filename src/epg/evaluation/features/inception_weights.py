"""The weight file of FID's Inception network: where it comes from, and is it the right one?

Light to import: `epg run` asks before anything long starts.
"""

from __future__ import annotations

import os
from pathlib import Path

from epg.errors import UserError
from epg.store.digest import file_sha256

#: pytorch-fid publishes the same file as pt_inception-2015-12-05-6726825d.pth.
WEIGHTS_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
WEIGHTS_BYTES = 95_628_359
WEIGHTS_VARIABLE = "EPG_INCEPTION_WEIGHTS"


def require_inception_weights(path: str | Path | None = None) -> Path:
    """Return the weight file's path once it is known to be the right one.

    Args:
        path: the file; None: what `EPG_INCEPTION_WEIGHTS` names.

    Raises:
        UserError: one line with URL, digest and what to do, when it is missing or another file.
    """
    given = str(path or os.environ.get(WEIGHTS_VARIABLE, ""))
    remedy = (
        f"download {WEIGHTS_URL} (SHA-256 {WEIGHTS_SHA256}) and give it with "
        f"`--inception-weights PATH` or {WEIGHTS_VARIABLE}"
    )
    if not given:
        raise UserError(f"this recipe asks for FID, which needs the Inception weights: {remedy}")
    file = Path(given).expanduser()
    try:
        found = file_sha256(file)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"Inception weights {given}: cannot read ({reason}): {remedy}") from error
    if found != WEIGHTS_SHA256:
        raise UserError(f"Inception weights {given}: SHA-256 is {found}, another file: {remedy}")
    return file
