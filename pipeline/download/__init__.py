"""Raw files: fetched, generated or found, listed in a manifest, located again for reading."""
