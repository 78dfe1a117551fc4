"""Kubeflow components: one folder per stage, a signature each; the work is in `epg.stages`."""

from epg import __version__

#: Where the components run unless the pipeline's parameters say otherwise (images/*/Dockerfile).
TRAIN_IMAGE = f"epg-train:{__version__}"
TOOLS_IMAGE = f"epg-tools:{__version__}"
