"""The command line: `ccxtbt demo`, `ccxtbt download`, `ccxtbt exchanges`; also as `python -m ccxtbt`."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ccxtbt import CCXTStore, catalogue
from ccxtbt import demo as scene
from ccxtbt.errors import CCXTBTError
from ccxtbt.exchange.connection import as_ours
from ccxtbt.market import history

DATES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S"]

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


@app.command()
def download(
    exchange: Annotated[str, typer.Argument(help="ccxt's name of the exchange, such as binance.")],
    symbols: Annotated[list[str], typer.Argument(help="ccxt's unified symbols, such as BTC/USDT.")],
    first: Annotated[dt.datetime, typer.Option("--from", formats=DATES, help="First open, in UTC.")],
    last: Annotated[dt.datetime | None, typer.Option("--to", formats=DATES, help="Last open; without it, now.")] = None,
    timeframe: Annotated[str, typer.Option(help="Length of the bars, such as 1m, 1h, 1d, 1w or 1M.")] = "1m",
    archive: Annotated[Path | None, typer.Option(help="Folder; without it, one in the user's cache folder.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Gateway that leads to the exchange.")] = None,
) -> None:
    """Download bars into the archive, where feeds with archive=True find them. What is there is not fetched again."""
    console = Console(highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    store = None
    try:
        store = CCXTStore(exchange, endpoint=endpoint, archive=archive or True)
        with Progress(*columns, console=console) as progress:
            for symbol in symbols:
                _load(store, symbol, timeframe, first, last, progress)
        console.print(f"They are in {store.archive.root if store.archive else None}")
    except CCXTBTError as error:
        # As it is: brackets in it are no markup.
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(2) from error
    finally:
        if store is not None:
            store.stop()


@app.command()
def exchanges() -> None:
    """Say in Markdown what is known of every exchange: its history, streams, orders and client ids."""
    typer.echo(catalogue.page(), nl=False)


def _load(
    store: CCXTStore, symbol: str, timeframe: str, first: dt.datetime, last: dt.datetime | None, progress: Progress
) -> None:
    """Bring the bars of one market into the store's archive, and show how far that is."""
    task = progress.add_task(f"{symbol} {timeframe}", total=None)

    def report(at: history.Progress) -> None:
        progress.update(task, completed=at.done_ms, total=at.total_ms)

    feed = store.getdata(
        dataname=symbol, timeframe=timeframe, fromdate=first, todate=last, historical=True, progress=report
    )
    try:
        ts_ms, *_ = feed.launch().result()
    except Exception as error:
        raise as_ours(error, f"Loading the bars of {symbol}") from error
    progress.update(task, completed=1, total=1)
    progress.console.print(f"{symbol} {timeframe}: {len(ts_ms):,} bars")
