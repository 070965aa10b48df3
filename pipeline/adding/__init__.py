"""`spectran add`: columns guessed, rows shown, a block written into params.yaml."""
