"""Progress, metrics and their exporter."""
