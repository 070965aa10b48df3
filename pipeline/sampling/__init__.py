"""What a training step sees: windows of histories, cloze targets, drawn negatives."""
