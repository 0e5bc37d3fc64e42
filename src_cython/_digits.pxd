"""Decimal text to numbers, correctly rounded. Inline only: nothing here is a module at run time.

Every function reads up to `end` and no further, but for the one NUL byte that CPython keeps after the text of every
`bytes` and `str`: single bytes are looked at without asking for the end, since the NUL stops every loop.
"""

from libc.stdint cimport int64_t, uint64_t


cdef extern from *:
    """
    #include <float.h>
    #include <math.h>
    #include <stdint.h>
    #include <string.h>
    #if defined(_MSC_VER)
    #include <intrin.h>
    #endif
    /* Eight bytes, the first one lowest. */
    static inline uint64_t ccxtbt_load8(const char *p) {
        uint64_t v;
        memcpy(&v, p, 8);
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        v = __builtin_bswap64(v);
    #endif
        return v;
    }

    /* The number of zero bits below the lowest set bit; v is not 0. */
    static inline int ccxtbt_low_zeros(uint64_t v) {
    #if defined(_MSC_VER)
        unsigned long at;
        if (_BitScanForward(&at, (unsigned long)v)) return (int)at;
        _BitScanForward(&at, (unsigned long)(v >> 32));
        return (int)at + 32;
    #else
        return __builtin_ctzll(v);
    #endif
    }

    /* With x87 arithmetic a quotient is rounded twice: then no fast path is exact. */
    #if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD == 0
    #define CCXTBT_EXACT_DOUBLES 1
    #else
    #define CCXTBT_EXACT_DOUBLES 0
    #endif

    static const double ccxtbt_tens[23] = {
        1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19,
        1e20, 1e21, 1e22};
    static const uint64_t ccxtbt_int_tens[20] = {
        UINT64_C(1), UINT64_C(10), UINT64_C(100), UINT64_C(1000), UINT64_C(10000), UINT64_C(100000), UINT64_C(1000000),
        UINT64_C(10000000), UINT64_C(100000000), UINT64_C(1000000000), UINT64_C(10000000000), UINT64_C(100000000000),
        UINT64_C(1000000000000), UINT64_C(10000000000000), UINT64_C(100000000000000), UINT64_C(1000000000000000),
        UINT64_C(10000000000000000), UINT64_C(100000000000000000), UINT64_C(1000000000000000000),
        UINT64_C(10000000000000000000)};

    /* The offset of the first byte from p on that is a quote, a backslash or below a space; 8 if none of 8 is. */
    static inline int ccxtbt_plain_text(const char *p) {
        const uint64_t v = ccxtbt_load8(p), ones = UINT64_C(0x0101010101010101);
        const uint64_t quote = v ^ (ones * 0x22), slash = v ^ (ones * 0x5C);
        /* The high bit of each such byte is set; exact up to the first. */
        const uint64_t special =
            (((quote - ones) & ~quote) | ((slash - ones) & ~slash) | ((v - ones * 0x20) & ~v)) & (ones * 0x80);
        return special ? ccxtbt_low_zeros(special) >> 3 : 8;
    }

    /* mantissa / 10**places, correctly rounded, for 0 < mantissa and 1 <= places <= 27: the quotient by 5**places
       (below 2**63) is taken to 64 bits with its remainder, so rounding to 53 bits is exact. No subnormals arise. */
    static inline int ccxtbt_quotient(uint64_t mantissa, int places, double *value) {
    #if defined(__SIZEOF_INT128__)
        uint64_t divisor = 1, quotient, rest;
        unsigned __int128 dividend;
        int i, shift = -places, drop;
        for (i = 0; i < places; i++) divisor *= 5;
        drop = __builtin_clzll(mantissa);
        mantissa <<= drop;
        shift -= drop;
        drop = __builtin_clzll(divisor);
        divisor <<= drop;
        shift += drop;
        if (mantissa >= divisor) {
            dividend = (unsigned __int128)mantissa << 63;
            shift -= 63;
        } else {
            dividend = (unsigned __int128)mantissa << 64;
            shift -= 64;
        }
        quotient = (uint64_t)(dividend / divisor);
        rest = (uint64_t)(dividend - (unsigned __int128)quotient * divisor);
        drop = (int)(quotient & 0x7FF);
        quotient >>= 11;
        if (drop > 0x400 || (drop == 0x400 && (rest != 0 || (quotient & 1)))) quotient++;
        *value = ldexp((double)quotient, shift + 11);
        return 1;
    #else
        (void)mantissa; (void)places; (void)value;
        return 0;
    #endif
    }
    """
    int plain_text "ccxtbt_plain_text"(const char *p) noexcept nogil
    uint64_t load8 "ccxtbt_load8"(const char *p) noexcept nogil
    int low_zeros "ccxtbt_low_zeros"(uint64_t v) noexcept nogil
    bint quotient "ccxtbt_quotient"(uint64_t mantissa, int places, double *value) noexcept nogil
    const double[23] tens "ccxtbt_tens"
    const uint64_t[20] int_tens "ccxtbt_int_tens"
    const bint EXACT_DOUBLES "CCXTBT_EXACT_DOUBLES"


cdef struct Decimal:
    uint64_t mantissa  # value = ±mantissa × 10**exponent, unless oversize
    int exponent
    bint negative
    bint oversize  # more digits than the mantissa holds: neither mantissa nor exponent may be used


cdef inline uint64_t eight_digits(uint64_t v) noexcept nogil:
    """The number that eight bytes 0..9 spell, the first one lowest: pairs, fours, eight."""
    v = (v * 2561) >> 8
    v = ((v & <uint64_t> 0x00FF00FF00FF00FF) * 6553601) >> 16
    return ((v & <uint64_t> 0x0000FFFF0000FFFF) * <uint64_t> 42949672960001) >> 32


cdef inline uint64_t beyond_digits(uint64_t v) noexcept nogil:
    """`v` is text ^ 0x30…: the high bit of each byte that is no digit is set (exact up to the first such byte)."""
    return ((v + <uint64_t> 0x7676767676767676) | v) & <uint64_t> 0x8080808080808080


cdef inline const char *read_digits(const char *p, const char *end, uint64_t *total) noexcept nogil:
    """Append the digits at `p` to `total` (modulo 2**64); return the first byte that is no digit."""
    cdef uint64_t v, beyond
    cdef int count
    cdef unsigned char digit
    while end - p >= 8:
        v = load8(p) ^ <uint64_t> 0x3030303030303030
        beyond = beyond_digits(v)
        if beyond == 0:
            total[0] = total[0] * 100000000 + eight_digits(v)
            p += 8
            continue
        count = low_zeros(beyond) >> 3
        if count:
            total[0] = total[0] * int_tens[count] + eight_digits(v << (64 - 8 * count))
        return p + count
    while True:
        digit = <unsigned char> (p[0] - 48)
        if digit > 9:
            return p
        total[0] = total[0] * 10 + digit
        p += 1


cdef inline const char *skip_digits(const char *p, const char *end) noexcept nogil:
    """The first byte from `p` on that is no digit."""
    cdef uint64_t beyond
    while end - p >= 8:
        beyond = beyond_digits(load8(p) ^ <uint64_t> 0x3030303030303030)
        if beyond:
            return p + (low_zeros(beyond) >> 3)
        p += 8
    while <unsigned char> (p[0] - 48) <= 9:
        p += 1
    return p


cdef inline const char *read_exponent(const char *p, int *exponent) noexcept nogil:
    """Read the digits after an `e` at `p` (a sign may come first); NULL where there are none. Held within ±999,999."""
    cdef bint negative = p[0] == c'-'
    cdef int total = 0
    cdef const char *first
    if negative or p[0] == c'+':
        p += 1
    first = p
    while <unsigned char> (p[0] - 48) <= 9:
        if total < 100000:
            total = total * 10 + (p[0] - 48)
        p += 1
    exponent[0] = -total if negative else total
    if p == first:
        return NULL
    return p


cdef inline const char *read_decimal(const char *p, const char *end, bint bare, Decimal *number) noexcept nogil:
    """Read the decimal number at `p`; return the byte after it, or NULL where there is none.

    `bare` numbers follow JSON; quoted ones may also be spelt `+1`, `.5`, `5.` and `007`, as `float()` takes them.
    """
    cdef const char *first
    cdef const char *fraction
    cdef Py_ssize_t whole, places = 0
    cdef uint64_t total = 0
    cdef int exponent = 0
    number.negative = p[0] == c'-'
    if number.negative or (p[0] == c'+' and not bare):
        p += 1
    first = p
    p = read_digits(p, end, &total)
    whole = p - first
    if p[0] == c'.':
        fraction = p + 1
        p = read_digits(fraction, end, &total)
        places = p - fraction
        if bare and places == 0:
            return NULL
    if bare and (whole == 0 or (whole > 1 and first[0] == c'0')):
        return NULL
    if whole + places == 0:
        return NULL
    number.oversize = False
    if whole + places > 19:
        while first[0] == c'0' or first[0] == c'.':
            if first[0] == c'0':
                whole -= 1
            first += 1
            if first == p:
                break
        # `whole` now counts what is left of both parts less `places`; below zero where the fraction begins with zeros.
        number.oversize = whole + places > 19
    if p[0] == c'e' or p[0] == c'E':
        p = read_exponent(p + 1, &exponent)
        if p == NULL:
            return NULL
    if places > 99999 or exponent > 99999 or exponent < -99999:
        number.oversize = True
        places = 0
    number.mantissa = total
    number.exponent = exponent - <int> places
    return p


cdef inline bint to_double(const Decimal *number, int scale, double *value) noexcept nogil:
    """Give number / 10**scale, correctly rounded; False where that takes more than the fast paths can."""
    cdef uint64_t mantissa = number.mantissa
    cdef int exponent = number.exponent - scale
    cdef double result
    if number.oversize or not EXACT_DOUBLES:
        return False
    if mantissa <= (<uint64_t> 1 << 53) and -22 <= exponent <= 22:
        # Mantissa and power of ten are both exact doubles: one rounding (Clinger).
        if exponent < 0:
            result = <double> mantissa / tens[-exponent]
        else:
            result = <double> mantissa * tens[exponent]
    elif exponent == 0 or mantissa == 0:
        result = <double> mantissa
    elif not (-27 <= exponent < 0 and quotient(mantissa, -exponent, &result)):
        return False
    value[0] = -result if number.negative else result
    return True


cdef inline bint to_integer(const Decimal *number, int shift, int64_t *value) noexcept nogil:
    """Give number × 10**shift cut to an integer; False where it is negative or has more than 18 digits."""
    cdef uint64_t mantissa = number.mantissa
    cdef int exponent = number.exponent + shift
    if number.oversize or (number.negative and mantissa != 0):
        return False
    if mantissa == 0 or exponent < -19:
        value[0] = 0
        return True
    if exponent > 18:
        return False
    if exponent < 0:
        mantissa = mantissa // int_tens[-exponent]
    elif exponent > 0:
        if mantissa > <uint64_t> 999999999999999999 // int_tens[exponent]:
            return False
        mantissa = mantissa * int_tens[exponent]
    if mantissa > <uint64_t> 999999999999999999:
        return False
    value[0] = <int64_t> mantissa
    return True
