"""Noise levels, preconditioning, guidance, samplers: pure functions."""
