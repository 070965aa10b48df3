"""Raw formats: one file each, found by name.

A module has `ROLES`, the files it wants, and `read(files, source) -> RawTables`, where `files` maps
each role to a local path.
"""
