"""`python -m ccxtbt`."""

from ccxtbt.cli import app

app(prog_name="ccxtbt")
