"""Run a backtrader strategy on any exchange that ccxt knows."""
