"""Progress, metrics and their exporter."""

import os

# Set for the workers of a web server of the site, it makes prometheus_client keep every number in
# files of a folder that may not be there. It is read when that library is loaded, so before.
for _variable in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
    os.environ.pop(_variable, None)
