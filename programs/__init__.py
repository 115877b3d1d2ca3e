"""The commands: each reads its options and calls a room below."""
