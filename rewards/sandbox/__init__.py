"""Rewards for generated code: it runs where it can harm nothing, and the parent judges its output."""
