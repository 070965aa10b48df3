"""The library: typed artifacts, text spectra, sequence models, training and evaluation.

Nothing here knows the command line; `stages` reads artifacts, calls this package and writes
artifacts. Shape letters used everywhere: B users in a batch, L history length, N items, H encoder
width, D item width, R spectral components, K cut-off.
"""
