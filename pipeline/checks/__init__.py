"""Whether params.yaml, dvc.yaml and the code agree: every check yields what is wrong, as text."""
