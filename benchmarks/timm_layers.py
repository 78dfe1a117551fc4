"""Why attention and MLP are our own: the same numbers and speed as timm's, without its import.

Windows of forward and backward passes on one core, ours and timm's by turns; the outputs must be
equal bit for bit. And the processor time that importing takes in a fresh process, after torch.

    python benchmarks/timm_layers.py --output benchmarks/results/timm_layers.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import Attention as TimmAttention
from timm.layers import Mlp as TimmMlp
from torch import nn

from epg.model.layers import Attention, Mlp

SHAPES = ((64, 18, 96, 3), (1, 258, 768, 12))  # images, tokens, width, heads: digits, Base
_REPEATS = 3
_IMPORT = "import time, torch; t = time.process_time(); {line}; print(time.process_time() - t)"


def seconds(module: nn.Module, x: torch.Tensor) -> float:
    """Processor time of one forward and backward pass."""
    begun = time.process_time()
    for _ in range(_REPEATS):
        module(x).sum().backward()
    return (time.process_time() - begun) / _REPEATS


def compared(ours: nn.Module, theirs: nn.Module, x: torch.Tensor, windows: int) -> dict[str, float]:
    theirs.load_state_dict(ours.state_dict())
    if not torch.equal(ours(x), theirs(x)):
        raise SystemExit(f"{type(ours).__name__} {list(x.shape)}: timm's gives other numbers")
    mine, others = [], []
    for _ in range(windows):
        mine.append(seconds(ours, x))
        others.append(seconds(theirs, x))
    return {"ours_seconds": statistics.median(mine), "timm_seconds": statistics.median(others)}


def import_seconds(line: str) -> float:
    code = _IMPORT.format(line=line)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(found.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=9)
    parser.add_argument("--output", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, Any] = {}
    for images, tokens, width, heads in SHAPES:
        x = torch.randn(images, tokens, width, requires_grad=True)
        for name, ours, theirs in (
            ("attention", Attention(width, heads), TimmAttention(width, heads)),
            ("mlp", Mlp(width, 4.0), TimmMlp(width, 4 * width)),
        ):
            rows[f"{name}, width {width}"] = compared(ours, theirs, x, arguments.windows)
    lines = {"ours": "import epg.model.layers", "timm": "import timm.layers"}
    imports = {
        name: statistics.median(import_seconds(line) for _ in range(3))
        for name, line in lines.items()
    }
    result = {
        "benchmark": "timm_layers",
        "equal": True,
        "layers": rows,
        "import_seconds": imports,
        "ratios": {name: row["timm_seconds"] / row["ours_seconds"] for name, row in rows.items()},
        "machine": platform.machine(),
        "versions": {"torch": torch.__version__, "timm": timm.__version__},
    }
    for name, ratio in result["ratios"].items():  # type: ignore[attr-defined]
        print(f"{name:24s} timm / ours {ratio:.3f}")
    print(f"import, s                timm {imports['timm']:.2f}, ours {imports['ours']:.2f}")
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
