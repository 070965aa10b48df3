"""From raw files to a catalogue of items and users' histories."""
