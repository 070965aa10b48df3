"""From scores to ranks, from ranks to metrics, intervals and paired tests."""
