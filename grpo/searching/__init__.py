"""Tree search on engines: sessions, judges, files, pages, curves."""
