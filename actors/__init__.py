"""Thin Ray Serve deployments around the plain classes of the other packages. The only importer of ray."""
