"""EPG: pixel-space generative models without a VAE, from raw images to a registered model."""

import os

__version__ = "0.2.0"

# OpenMP's threads spin while they wait for each other, for milliseconds by default. Where other
# work wants the cores they spin through the time that the awaited thread needs, and training
# crawls; without any spinning it loses a third. A short spin is right on quiet and on busy
# machines (benchmarks/threads.py). The library reads this when it is loaded, so before torch.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
