"""The command line: `ccxtbt demo`, or `python -m ccxtbt demo`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ccxtbt import demo as scene
from ccxtbt.errors import CCXTBTError

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Run backtrader strategies on crypto exchanges.")


@app.callback()
def root() -> None:
    """Run backtrader strategies on crypto exchanges."""


@app.command()
def demo(
    trades: Annotated[Path | None, typer.Option(help="Replay recorded trades (CSV, also gzipped) as 1m bars.")] = None,
    symbol: Annotated[str, typer.Option(help="Symbol of the recorded trades.")] = "XRP/ETH",
    live: Annotated[int | None, typer.Option(help="Live bars for which the strategy trades.")] = None,
    speed: Annotated[float | None, typer.Option(help="Seconds of the exchange in one second here.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the simulated market.")] = 7,
    picture: Annotated[Path, typer.Option(help="Where to write the picture of the run.")] = Path("ccxtbt-demo.png"),
) -> None:
    """Trade on the simulated exchange, without keys or internet, and compare the books with the exchange's."""
    console = Console(highlight=False)
    # The table at the end needs its width where the output is no terminal too.
    console.width = max(console.width, 120)
    began_s = time.monotonic()
    try:
        if trades is None:
            plan = scene.Plan(live=live or 240, speed=speed or 8.0, seed=seed)
            exchange = scene.seeded_exchange(plan)
        else:
            recorded = scene.read_trades(trades)
            plan = scene.plan_of(recorded, symbol, live or 12, speed or 20.0)
            exchange = scene.replayed_exchange(plan, recorded)
        report = scene.run(plan, exchange, console)
    except CCXTBTError as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(2) from error
    console.print(report.table)
    try:
        scene.draw(report, picture)
        console.print(f"The picture of the run is in {picture}.")
    except ImportError:
        console.print("For a picture of the run: pip install 'ccxtbt[plot]', then run this again.")
    for fault in report.faults[:20]:
        console.print(f"[red]wrong:[/red] {fault}")
    verdict = "[red]The books differ.[/red]" if report.faults else "[green]Every bar and every book agrees.[/green]"
    console.print(f"{verdict} {time.monotonic() - began_s:.0f} s.")
    raise typer.Exit(1 if report.faults else 0)
