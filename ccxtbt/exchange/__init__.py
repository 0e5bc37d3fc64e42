"""The wire: one I/O thread, ccxt's classes with our hooks, the exchange's clock, budgets and facts."""
