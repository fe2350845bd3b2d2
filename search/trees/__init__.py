"""Strategies of tree search: each says what to generate next, and which completion it prefers."""
