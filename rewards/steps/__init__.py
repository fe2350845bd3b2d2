"""Step scorers: rules that judge spans of a completion and abstain where they cannot judge."""
