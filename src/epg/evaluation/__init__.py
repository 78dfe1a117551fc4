"""Judging generated images: feature networks, distances, neighbours, judges, grids."""
