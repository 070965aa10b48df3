"""Search for a method's settings, with the same number of trials for every method."""
