"""An exchange to trade on without keys, and to break on purpose."""
