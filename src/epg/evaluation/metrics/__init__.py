"""Figures from features: each file has the functions of one family, and knows no network."""
