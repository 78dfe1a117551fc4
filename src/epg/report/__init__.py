"""Loss curves and the one-page report: self-contained HTML, no script, no plotting library."""
