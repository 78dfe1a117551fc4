"""From images of any origin to augmented batches: sources, shards, reader, augmentation."""
