"""Encoder, projector, decoder, generator, their costs and their files."""
