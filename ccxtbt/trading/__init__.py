"""Orders out: requests, transitions, brackets, account."""
