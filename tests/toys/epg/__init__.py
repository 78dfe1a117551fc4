"""The real `epg`, with toy stages in front of the real ones: put tests/toys on PYTHONPATH.

Each toy takes a moment, reports like a real stage and leaves a real stage record, so that all of
`epg run` can be tested without torch. `TOY_SLEEP=pretrain:30` makes a stage last, `TOY_FAIL` =
`evaluate-denoising:user` or `:crash` makes it fail, `TOY_GATE_FAILS=consistency` is a verdict.
"""

from pathlib import Path

_REAL = Path(__file__).resolve().parents[3] / "src" / "epg"
__path__.append(str(_REAL))
__version__ = "0.2.0"
