"""WebSocket frames to bars and trades, without a parse of the whole."""

from time import monotonic

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

from _digits cimport Decimal, read_decimal, to_double, to_integer

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    object PyType_GenericAlloc(type kind, Py_ssize_t size)

cdef enum:
    # The event's name stands among the first bytes, behind the stream's name in a combined frame.
    HEAD = 96
    # Market and timeframe of a frame; longer ones are left to a slower reader.
    NAME = 96


cdef struct Word:
    const char *at
    Py_ssize_t size


cdef struct Kline:
    Word symbol
    Word interval
    int64_t ts_ms
    double[5] prices
    # Trades, quote volume, taker-buy volume.
    double[3] extra
    bint wide  # they have been read
    bint closed


cdef struct Deal:
    Word symbol
    Word number
    int64_t ts_ms
    double price
    double amount
    int64_t count  # of single trades in an aggregate one
    bint maker


cdef inline const char *find(const char *p, const char *end, const char *word, Py_ssize_t size) noexcept nogil:
    """The byte after the first `word` that begins at `p` or later; NULL if there is none before `end`."""
    while True:
        if end - p < size:
            return NULL
        p = <const char *> memchr(p, word[0], end - p - size + 1)
        if p == NULL:
            return NULL
        if memcmp(p, word, size) == 0:
            return p + size
        p += 1


cdef inline const char *read_price(const char *p, const char *end, double *value) noexcept nogil:
    """Read a quoted number at `p`; the byte after its closing quote, or NULL where a slower reader must do."""
    cdef Decimal number
    if p[0] != c'"':
        return NULL
    p = read_decimal(p + 1, end, False, &number)
    if p == NULL or p[0] != c'"' or not to_double(&number, 0, value):
        return NULL
    return p + 1


cdef inline const char *read_word(const char *p, const char *end, Word *word) noexcept nogil:
    """Read a quoted word at `p`; the byte after its closing quote, or NULL where a slower reader must do."""
    cdef const char *first = p + 1
    if p[0] != c'"':
        return NULL
    p = <const char *> memchr(first, c'"', end - first)
    if p == NULL or memchr(first, c'\\', p - first) != NULL:
        return NULL
    word.at, word.size = first, p - first
    return p + 1


cdef inline const char *read_time(const char *p, const char *end, int64_t *ts_ms) noexcept nogil:
    cdef Decimal number
    p = read_decimal(p, end, True, &number)
    return p if p != NULL and to_integer(&number, 0, ts_ms) else NULL


cdef inline const char *read_bool(const char *p, const char *end, bint *value) noexcept nogil:
    value[0] = p[0] == c't'
    if end - p < 5 or memcmp(p, b"true" if value[0] else b"false", 4 if value[0] else 5) != 0:
        return NULL
    return p + (4 if value[0] else 5)


cdef inline const char *skip_value(const char *p, const char *end) noexcept nogil:
    """The byte after a word or number that is not wanted; NULL for anything nested."""
    cdef Word word
    if p[0] == c'"':
        return read_word(p, end, &word)
    while p < end and p[0] != c',' and p[0] != c'}':
        if p[0] == c'"' or p[0] == c'{' or p[0] == c'[':
            return NULL
        p += 1
    return p


cdef inline const char *event_of(const char *p, Py_ssize_t size) noexcept nogil:
    """The name of the event; NULL if the frame has none where Binance writes it."""
    return find(p, p + min(size, HEAD), b'"e":"', 5)


cdef bint is_ascii(Word word) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(word.size):
        if <unsigned char> word.at[i] > 127:
            return False
    return True


cdef inline const char *read_count(const char *p, const char *end, double *value) noexcept nogil:
    cdef int64_t count
    p = read_time(p, end, &count)
    if p != NULL:
        value[0] = <double> count
    return p


cdef bint read_kline(const char *p, Py_ssize_t size, Kline *kline, bint wide) noexcept nogil:
    """Read a frame of the event ``kline``, with its extra values if `wide`; False where a slower reader must do."""
    cdef const char *end = p + size
    cdef int seen = 0, place
    cdef char key
    kline.symbol.at = kline.interval.at = NULL
    p = event_of(p, size)
    if p == NULL or end - p < 6 or memcmp(p, b'kline"', 6) != 0:
        return False
    p = find(p, end, b'"k":{', 5)
    if p == NULL:
        return False
    while True:
        if end - p < 6 or p[0] != c'"' or p[2] != c'"' or p[3] != c':':
            return False
        key = p[1]
        p += 4
        place = -1
        if key == c'o':
            place = 0
        elif key == c'h':
            place = 1
        elif key == c'l':
            place = 2
        elif key == c'c':
            place = 3
        elif key == c'v':
            place = 4
        if place >= 0:
            p = read_price(p, end, &kline.prices[place])
            seen |= 1 << place
        elif key == c't':
            p = read_time(p, end, &kline.ts_ms)
            seen |= 32
        elif key == c'x':
            p = read_bool(p, end, &kline.closed)
            seen |= 64
        elif key == c's':
            p = read_word(p, end, &kline.symbol)
        elif key == c'i':
            p = read_word(p, end, &kline.interval)
        elif not wide:
            p = skip_value(p, end)
        elif key == c'n':
            p = read_count(p, end, &kline.extra[0])
            seen |= 128
        elif key == c'q':
            p = read_price(p, end, &kline.extra[1])
            seen |= 256
        elif key == c'V':
            p = read_price(p, end, &kline.extra[2])
            seen |= 512
        else:
            p = skip_value(p, end)
        if p == NULL:
            return False
        if p[0] == c'}':
            break
        if p[0] != c',':
            return False
        p += 1
    kline.wide = seen == 1023
    if seen & 127 != 127 or kline.symbol.at == NULL or kline.interval.at == NULL:
        return False
    return is_ascii(kline.symbol) and is_ascii(kline.interval)


cdef bint read_deal(const char *p, Py_ssize_t size, Deal *deal) noexcept nogil:
    """Read a frame of the events ``trade`` and ``aggTrade``; False where a slower reader must do."""
    cdef const char *end = p + size
    cdef const char *first
    cdef int seen = 0, counted = 0
    cdef int64_t first_id = 0, last_id = 0
    cdef char key, number = c't'
    deal.symbol.at = NULL
    p = event_of(p, size)
    if p == NULL or end - p < 9:
        return False
    if memcmp(p, b'trade"', 6) == 0:
        p += 6
    elif memcmp(p, b'aggTrade"', 9) == 0:
        number = c'a'
        p += 9
    else:
        return False
    # All that counts stands behind the event's name; what stands before it is missed below.
    while p[0] == c',':
        p += 1
        if end - p < 6 or p[0] != c'"':
            return False
        if p[2] != c'"' or p[3] != c':':
            # A longer name than any that is wanted.
            p = <const char *> memchr(p + 1, c'"', end - p - 1)
            if p == NULL or p[1] != c':':
                return False
            p = skip_value(p + 2, end)
        else:
            key = p[1]
            p += 4
            if key == c'p':
                p = read_price(p, end, &deal.price)
                seen |= 1
            elif key == c'q':
                p = read_price(p, end, &deal.amount)
                seen |= 2
            elif key == c'T':
                p = read_time(p, end, &deal.ts_ms)
                seen |= 4
            elif key == c'm':
                p = read_bool(p, end, &deal.maker)
                seen |= 8
            elif key == c'f' and number == c'a':
                p = read_time(p, end, &first_id)
                counted |= 1
            elif key == c'l' and number == c'a':
                p = read_time(p, end, &last_id)
                counted |= 2
            elif key == number:
                first = p
                while c'0' <= p[0] <= c'9':
                    p += 1
                deal.number.at, deal.number.size = first, p - first
                seen |= 16 if p > first else 0
            elif key == c's':
                p = read_word(p, end, &deal.symbol)
            else:
                p = skip_value(p, end)
        if p == NULL:
            return False
    if p[0] != c'}' or seen != 31 or deal.symbol.at == NULL:
        return False
    deal.count = last_id - first_id + 1 if counted == 3 and last_id >= first_id else 1
    # Futures show, at a price of 0, what was no trade.
    return deal.price > 0 and is_ascii(deal.symbol)


cdef inline object text_of(Word word):
    return PyUnicode_DecodeASCII(word.at, word.size, NULL)


cdef inline void put(object row, Py_ssize_t place, object value):
    Py_INCREF(value)
    PyTuple_SET_ITEM(row, place, value)


cdef inline const char *bytes_of(object frame, Py_ssize_t *size) except NULL:
    if isinstance(frame, bytes):
        size[0] = PyBytes_GET_SIZE(frame)
        return PyBytes_AS_STRING(frame)
    return PyUnicode_AsUTF8AndSize(frame, size)


def binance_kline(frame):
    cdef Kline kline
    cdef Py_ssize_t size
    cdef const char *p = bytes_of(frame, &size)
    if not read_kline(p, size, &kline, False):
        return None
    return (
        text_of(kline.symbol),
        text_of(kline.interval),
        kline.ts_ms,
        kline.prices[0],
        kline.prices[1],
        kline.prices[2],
        kline.prices[3],
        kline.prices[4],
        kline.closed,
    )


def binance_trade(frame):
    cdef Deal deal
    cdef Py_ssize_t size
    cdef const char *p = bytes_of(frame, &size)
    if not read_deal(p, size, &deal):
        return None
    side = "sell" if deal.maker else "buy"
    return text_of(deal.symbol), text_of(deal.number), deal.ts_ms, deal.price, deal.amount, side, deal.count


cdef class BinanceReader:
    cdef object _inner, _pass_on, _source, _bar, _trade, _origin, _now_s
    cdef dict _bars, _wide, _trades
    cdef bytes _tail
    cdef Py_ssize_t _passing
    cdef public double heard_s

    def __init__(self, dict bars, dict wide, dict trades, object source, type bar, type trade, object origin):
        self._bars, self._wide, self._trades, self._source = bars, wide, trades, source
        self._bar, self._trade, self._origin = bar, trade, origin
        self._tail = b""
        self._passing = 0
        self._inner = self._pass_on = None
        self.heard_s = monotonic()

    def before(self, inner):
        self._inner, self._pass_on = inner, inner.feed_data
        return self

    def feed_eof(self):
        self._inner.feed_eof()

    def mute(self):
        # Frames of subscriptions that are not known are left to others.
        self._bars, self._wide, self._trades = {}, {}, {}

    def feed_data(self, data):
        cdef bytes chunk = data if type(data) is bytes else bytes(data)
        cdef const char *start
        cdef const char *p
        cdef const char *end
        # From here on nothing was passed on yet.
        cdef const char *kept
        cdef Py_ssize_t header, size
        if self._tail:
            chunk = self._tail + chunk
            self._tail = b""
        self._now_s = monotonic()
        self.heard_s = self._now_s
        kept = p = start = PyBytes_AS_STRING(chunk)
        end = p + PyBytes_GET_SIZE(chunk)
        while p < end:
            if self._passing:
                size = min(self._passing, end - p)
                self._passing -= size
                p += size
                continue
            size = frame_size(p, end, &header)
            if size < 0:
                # Not even a header: a few bytes wait for the next chunk.
                break
            if not is_whole_text(p):
                self._passing = size
                continue
            if size > end - p:
                break
            if not self.take(p + header, size - header):
                p += size
                continue
            if kept < p:
                failed = self._pass_on(PyBytes_FromStringAndSize(kept, p - kept))
                if failed[0]:
                    return failed
            p += size
            kept = p
        if p < end:
            self._tail = PyBytes_FromStringAndSize(p, end - p)
        if kept == start and p == end:
            return self._pass_on(chunk)
        if kept < p:
            return self._pass_on(PyBytes_FromStringAndSize(kept, p - kept))
        return False, b""

    cdef bint take(self, const char *p, Py_ssize_t size) except -1:
        cdef Kline kline
        cdef Deal deal
        cdef char[NAME] name
        cdef Py_ssize_t length
        cdef object row
        cdef tuple extra = ()
        cdef bint wide = len(self._wide) > 0
        cdef int i
        if read_kline(p, size, &kline, wide):
            length = kline.symbol.size + 1 + kline.interval.size
            if length > NAME:
                return False
            memcpy(name, kline.symbol.at, kline.symbol.size)
            name[kline.symbol.size] = c' '
            memcpy(name + kline.symbol.size + 1, kline.interval.at, kline.interval.size)
            key = PyUnicode_DecodeASCII(name, length, NULL)
            subscription = self._bars.get(key)
            if subscription is None and wide:
                subscription = self._wide.get(key)
                if kline.wide:
                    extra = (kline.extra[0], kline.extra[1], kline.extra[2])
            if subscription is None:
                return False
            row = PyType_GenericAlloc(self._bar, 8)
            put(row, 0, kline.ts_ms)
            for i in range(5):
                put(row, 1 + i, kline.prices[i])
            put(row, 6, self._origin)
            put(row, 7, extra)
            subscription.frame(row, kline.closed, self._now_s)
            return True
        if read_deal(p, size, &deal):
            subscription = self._trades.get(text_of(deal.symbol))
            if subscription is None:
                return False
            row = PyType_GenericAlloc(self._trade, 7)
            put(row, 0, text_of(deal.number))
            put(row, 1, deal.ts_ms)
            put(row, 2, deal.price)
            put(row, 3, deal.amount)
            put(row, 4, "sell" if deal.maker else "buy")
            put(row, 5, deal.count)
            # Aggregates are numbered by themselves.
            put(row, 6, 1)
            subscription.trades([row], self._source, self._now_s)
            return True
        return False


cdef inline bint is_whole_text(const char *p) noexcept nogil:
    """Whether a frame is a whole text, neither compressed nor masked, of at most 65,535 bytes."""
    return <unsigned char> p[0] == 0x81 and <unsigned char> p[1] <= 126


cdef inline Py_ssize_t frame_size(const char *p, const char *end, Py_ssize_t *header) noexcept nogil:
    """Bytes of the frame that begins at `p`, header and all (RFC 6455, 5.2); -1 if its header is not whole."""
    cdef const unsigned char *at = <const unsigned char *> p
    cdef uint64_t size
    cdef int i, more = 0
    if end - p < 2:
        return -1
    size = at[1] & 0x7F
    if size == 126:
        more = 2
    elif size == 127:
        more = 8
    header[0] = 2 + more + (4 if at[1] & 0x80 else 0)
    if end - p < 2 + more:
        return -1
    if more:
        size = 0
        for i in range(more):
            size = size << 8 | at[2 + i]
    return header[0] + <Py_ssize_t> (size & 0x7FFFFFFFFFFFFFFULL)
