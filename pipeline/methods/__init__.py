"""Methods: one composition per file; the file name is the name in params.yaml."""
