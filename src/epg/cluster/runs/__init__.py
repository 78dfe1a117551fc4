"""Runs on a cluster: sent, followed, and explained when they stand still."""
