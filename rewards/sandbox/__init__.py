"""Rewards for generated code: it runs where it can do no harm, and the parent judges."""
