"""The signed REST endpoints of Binance's USD-M futures: wallet, positions, income and settings."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from ccxtbt.sim.binance_access import Params, Refusal
from ccxtbt.sim.binance_json import Json, text
from ccxtbt.sim.margin_books import BRACKETS, maintenance_of

if TYPE_CHECKING:
    from ccxtbt.sim.account import Account
    from ccxtbt.sim.margin_books import Position
    from ccxtbt.sim.perpetuals import Perpetuals

_ZERO = Decimal(0)


class UsdmAccounts:
    """Answers to signed requests about accounts. Each takes the account that signed and the request's parameters."""

    def __init__(self, exchange: Perpetuals) -> None:
        self._exchange = exchange

    def account(self, account: Account, params: Params) -> Json:
        """``GET /fapi/v3/account`` and its second version."""
        self._exchange.catch_up()
        asset = self._asset(account)
        total = {f"total{name[0].upper()}{name[1:]}": asset[name] for name in _TOTALS}
        positions = [self._account_position(account, position) for position in self._held(account, params)]
        rest = {"availableBalance": asset["availableBalance"], "maxWithdrawAmount": asset["maxWithdrawAmount"]}
        flags = {"feeTier": 0, "canTrade": True, "canDeposit": True, "canWithdraw": True, "updateTime": 0}
        return flags | total | rest | {"assets": [asset], "positions": positions}

    def _asset(self, account: Account) -> Json:
        books = self._exchange.books
        held = books.positions(account)
        profit = sum((books.unrealized(position) for position in held), _ZERO)
        crossed = sum((books.unrealized(position) for position in held if not position.isolated), _ZERO)
        position_margin = sum((books.initial_margin(position) for position in held), _ZERO)
        order_margin, wallet = books.order_margin(account), books.wallet(account)
        return {
            "asset": books.coin,
            "walletBalance": text(wallet),
            "unrealizedProfit": text(profit),
            "marginBalance": text(wallet + profit),
            "maintMargin": text(sum((maintenance_of(books.notional(each))[1] for each in held), _ZERO)),
            "initialMargin": text(position_margin + order_margin),
            "positionInitialMargin": text(position_margin),
            "openOrderInitialMargin": text(order_margin),
            "crossWalletBalance": text(books.cross_wallet(account)),
            "crossUnPnl": text(crossed),
            "availableBalance": text(books.available(account)),
            "maxWithdrawAmount": text(min(wallet, books.available(account))),
            "marginAvailable": True,
            "updateTime": account.updated_ms,
        }

    def _account_position(self, account: Account, position: Position) -> Json:
        risk = self._risk(account, position)
        names = ("symbol", "positionSide", "positionAmt", "isolatedMargin", "notional", "isolatedWallet", "updateTime")
        more = ("initialMargin", "maintMargin", "entryPrice", "leverage", "positionInitialMargin")
        unrealized = {"unrealizedProfit": risk["unRealizedProfit"], "isolated": position.isolated}
        return {name: risk[name] for name in (*names, *more, "openOrderInitialMargin")} | unrealized

    def _held(self, account: Account, params: Params) -> list[Position]:
        held = self._exchange.books.positions(account)
        return [position for position in held if params.get("symbol") in {None, position.symbol}]

    def balance(self, account: Account, params: Params) -> list[Json]:
        """``GET /fapi/v3/balance`` and its second version."""
        self._exchange.catch_up()
        asset = self._asset(account)
        names = ("asset", "crossWalletBalance", "crossUnPnl", "availableBalance", "maxWithdrawAmount", "updateTime")
        row = {name: asset[name] for name in (*names, "marginAvailable")}
        return [row | {"accountAlias": "sim", "balance": asset["walletBalance"]}]

    def risk(self, account: Account, params: Params) -> list[Json]:
        """``GET /fapi/v3/positionRisk``: of the positions that are not empty."""
        self._exchange.catch_up()
        return [self._risk(account, position) for position in self._held(account, params)]

    def risk_v2(self, account: Account, params: Params) -> list[Json]:
        """``GET /fapi/v2/positionRisk``: of every contract."""
        self._exchange.catch_up()
        symbols = [params.symbol()] if "symbol" in params else list(self._exchange.markets)
        for symbol in symbols:
            self._exchange.market(symbol)
        return [self._risk(account, self._exchange.books.position(account, symbol)) for symbol in symbols]

    def _risk(self, account: Account, position: Position) -> Json:
        books, notional = self._exchange.books, self._exchange.books.notional(position)
        bracket, maintenance = maintenance_of(notional)
        margin, order_margin = books.initial_margin(position), books.order_margin(account, position.symbol)
        kept = position.wallet + books.unrealized(position) if position.isolated else _ZERO
        return {
            "symbol": position.symbol,
            "positionSide": "BOTH",
            "positionAmt": text(position.amount),
            "entryPrice": text(position.entry),
            "breakEvenPrice": text(position.entry),
            "markPrice": text(notional / position.amount if position.amount else _ZERO),
            "unRealizedProfit": text(books.unrealized(position)),
            "liquidationPrice": text(books.liquidation_price(account, position)),
            "isolatedMargin": text(kept),
            "isolatedWallet": text(position.wallet),
            "notional": text(notional),
            "marginAsset": books.coin,
            "initialMargin": text(margin + order_margin),
            "maintMargin": text(maintenance),
            "positionInitialMargin": text(margin),
            "openOrderInitialMargin": text(order_margin),
            "adl": 0,
            "bidNotional": "0",
            "askNotional": "0",
            "leverage": str(position.leverage),
            "marginType": "isolated" if position.isolated else "cross",
            "isAutoAddMargin": "false",
            "maxNotionalValue": str(bracket.cap),
            "updateTime": position.updated_ms,
        }

    def set_leverage(self, account: Account, params: Params) -> Json:
        """``POST /fapi/v1/leverage``."""
        symbol, leverage = self._symbol(params), params.integer("leverage") or 0
        self._exchange.books.set_leverage(account, symbol, leverage)
        largest = max(bracket.cap for bracket in BRACKETS if bracket.max_leverage >= leverage)
        return {"leverage": leverage, "maxNotionalValue": str(largest), "symbol": symbol}

    def set_margin_type(self, account: Account, params: Params) -> Json:
        """``POST /fapi/v1/marginType``."""
        kind = params.one_of("marginType", {"ISOLATED", "CROSSED"}, -1130, "Invalid marginType.")
        self._exchange.books.set_isolated(account, self._symbol(params), isolated=kind == "ISOLATED")
        return {"code": 200, "msg": "success"}

    def position_mode(self, account: Account, params: Params) -> Json:
        """``GET /fapi/v1/positionSide/dual``."""
        return {"dualSidePosition": account in self._exchange.books.hedged}

    def set_position_mode(self, account: Account, params: Params) -> Json:
        """``POST /fapi/v1/positionSide/dual``: one-way mode is there already, hedge mode is not offered."""
        if params.required("dualSidePosition").lower() == "false":
            raise Refusal(400, -4059, "No need to change position side.")
        raise Refusal(400, -4068, "Position side cannot be changed: the simulator has one-way mode only.")

    def symbol_config(self, account: Account, params: Params) -> list[Json]:
        """``GET /fapi/v1/symbolConfig``."""
        symbols = [self._symbol(params)] if "symbol" in params else list(self._exchange.markets)
        positions = (self._exchange.books.position(account, symbol) for symbol in symbols)
        return [
            {
                "symbol": position.symbol,
                "marginType": "ISOLATED" if position.isolated else "CROSSED",
                "isAutoAddMargin": "false",
                "leverage": position.leverage,
                "maxNotionalValue": str(BRACKETS[-1].cap),
            }
            for position in positions
        ]

    def brackets(self, account: Account, params: Params) -> list[Json]:
        """``GET /fapi/v1/leverageBracket``."""
        symbols = [self._symbol(params)] if "symbol" in params else list(self._exchange.markets)
        rows = [
            {
                "bracket": number,
                "initialLeverage": bracket.max_leverage,
                "notionalCap": bracket.cap,
                "notionalFloor": bracket.floor,
                "maintMarginRatio": float(bracket.ratio),
                "cum": float(bracket.cum),
            }
            for number, bracket in enumerate(BRACKETS, 1)
        ]
        return [{"symbol": symbol, "brackets": rows} for symbol in symbols]

    def commission_rate(self, account: Account, params: Params) -> Json:
        """``GET /fapi/v1/commissionRate``."""
        books = self._exchange.books
        rates = {"makerCommissionRate": f"{books.maker_fee:f}", "takerCommissionRate": f"{books.taker_fee:f}"}
        return {"symbol": self._symbol(params)} | rates

    def income(self, account: Account, params: Params) -> list[Json]:
        """``GET /fapi/v1/income``: every change of the wallet, oldest first."""
        self._exchange.catch_up()
        kind, symbol = params.get("incomeType"), params.get("symbol")
        start_ms, end_ms, limit = params.integer("startTime"), params.integer("endTime"), params.limit(100, 1000)
        rows = [
            {
                "symbol": income.symbol,
                "incomeType": income.kind,
                "income": text(income.amount),
                "asset": self._exchange.books.coin,
                "info": income.kind,
                "time": income.at_ms,
                "tranId": income.tran_id,
                "tradeId": "",
            }
            for income in self._exchange.books.incomes(account)
            if kind in {None, income.kind}
            and symbol in {None, income.symbol}
            and (start_ms is None or income.at_ms >= start_ms)
            and (end_ms is None or income.at_ms <= end_ms)
        ]
        return rows[-limit:] if start_ms is None else rows[:limit]

    def _symbol(self, params: Params) -> str:
        return self._exchange.market(params.symbol()).spec.symbol


_TOTALS = (
    "initialMargin",
    "maintMargin",
    "walletBalance",
    "unrealizedProfit",
    "marginBalance",
    "positionInitialMargin",
    "openOrderInitialMargin",
    "crossWalletBalance",
    "crossUnPnl",
)
