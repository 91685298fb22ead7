"""The vocabulary: digests, names, descriptors, manifests, media types and errors; no I/O."""
