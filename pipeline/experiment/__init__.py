"""One cell of the grid: what it reads, its parts put together, trained, ranked and kept."""
