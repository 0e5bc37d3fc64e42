"""Start ccxt's own live test-suite from a copy of ccxt: ``python run_ccxt_suite.py ROOT [its arguments]``.

ROOT holds ``python/ccxt``, ``keys.local.json`` and ``skip-tests.json``, laid out as the suite expects. One of its
checks is left out: that the class has Binance's addresses, since those are what is rewritten.
"""

import asyncio
import sys
from pathlib import Path

root = Path(sys.argv.pop(1))
sys.path[:0] = [str(root / "python" / "ccxt" / "test"), str(root / "python")]

import tests_helpers  # noqa: E402 - it reads sys.argv and needs the paths

if tests_helpers.IS_SYNCHRONOUS:
    from tests_sync import testMainClass
else:
    from tests_async import testMainClass

testMainClass.check_constructor = lambda self, exchange: None
outcome = testMainClass().init(tests_helpers.argvExchange, tests_helpers.argvSymbol, tests_helpers.argvMethod)
if not tests_helpers.IS_SYNCHRONOUS:
    asyncio.run(outcome)
