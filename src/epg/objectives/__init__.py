"""What is minimised: tensors and callables in, losses out."""
