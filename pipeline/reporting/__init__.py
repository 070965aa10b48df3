"""From metrics and paired tests to pages, tables and cards that people read."""
