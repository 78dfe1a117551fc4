"""The pipelines: Python that compiles to the YAML beside it, the file that a cluster gets."""
