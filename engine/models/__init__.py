"""The models: the registry of names and the reference weights."""
