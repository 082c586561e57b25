"""The command line: what can be said, what it calls, what it prints."""
