"""The request budgets as Prometheus metrics; needs the extra `metrics`.

from prometheus_client import start_http_server
from ccxtbt import metrics

metrics.register()
start_http_server(9100)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ccxtbt.errors import NotOfferedError
from ccxtbt.exchange.budgets import all_budgets
from ccxtbt.exchange.lanes import Lane
from ccxtbt.exchange.limiter import LimiterStats

try:
    from prometheus_client import REGISTRY
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
except ImportError as error:
    raise NotOfferedError("Metrics need prometheus-client: install it with pip install 'ccxtbt[metrics]'.") from error


class BudgetCollector:
    """Reads all budgets of this process when they are scraped, and costs nothing between."""

    def collect(self) -> Iterator[Any]:
        """Yield the metrics of all budgets."""
        names = ["exchange", "budget"]
        limit = GaugeMetricFamily("ccxtbt_budget_limit", "What a window allows", labels=[*names, "window_s", "unit"])
        used = GaugeMetricFamily("ccxtbt_budget_used", "What counts in a window", labels=[*names, "window_s", "unit"])
        frozen = GaugeMetricFamily("ccxtbt_budget_frozen_seconds", "Seconds until the freeze ends", labels=names)
        waiting = GaugeMetricFamily("ccxtbt_budget_waiting", "Callers that wait", labels=[*names, "lane"])
        calls = CounterMetricFamily("ccxtbt_budget_calls", "Calls let out", labels=names)
        weight = CounterMetricFamily("ccxtbt_budget_weight", "Weight let out", labels=names)
        others = CounterMetricFamily("ccxtbt_budget_external_weight", "Weight used by others", labels=names)
        waited = CounterMetricFamily("ccxtbt_budget_waited_seconds", "Seconds that calls have waited", labels=names)
        refusals = CounterMetricFamily("ccxtbt_budget_refusals", "Answers that asked for a pause", labels=["exchange"])
        for exchange, budget, stats in _all_stats():
            own = [exchange, budget]
            for rule in stats.rules:
                labels = [*own, f"{rule.window_s:g}", "calls" if rule.per_call else "weight"]
                limit.add_metric(labels, rule.limit)
                used.add_metric(labels, rule.used)
            frozen.add_metric(own, stats.frozen_s)
            for lane in Lane:
                waiting.add_metric([*own, lane.name.lower()], stats.waiting[lane])
            calls.add_metric(own, stats.calls)
            weight.add_metric(own, stats.weight)
            others.add_metric(own, stats.external_weight)
            waited.add_metric(own, stats.waited_s)
        for number, each in enumerate(all_budgets()):
            refusals.add_metric([f"{each.exchange_id}#{number}"], each.refusals)
        yield from (limit, used, frozen, waiting, calls, weight, others, waited, refusals)


def register(registry: Any = REGISTRY) -> BudgetCollector:
    """Add the budgets to a registry, by default Prometheus's own, and return the collector."""
    collector = BudgetCollector()
    registry.register(collector)
    return collector


def _all_stats() -> Iterator[tuple[str, str, LimiterStats]]:
    """Give name of the exchange and its way, name of the budget, and its state; keys are numbered, never shown."""
    for number, budget in enumerate(all_budgets()):
        exchange = f"{budget.exchange_id}#{number}"
        yield exchange, "requests", budget.requests.stats()
        for place, key in enumerate(budget.keys().values()):
            yield exchange, f"orders#{place}", key.orders.stats()
