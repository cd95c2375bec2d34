"""What the loader leaves on a volume: bundles with their manifests, made all at once or not at all."""
