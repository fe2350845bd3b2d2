"""Whether two mathematical answers are the same: a bounded parser of our own and typed equality."""
