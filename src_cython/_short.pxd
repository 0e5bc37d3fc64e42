"""Rows of short numbers, sixteen bytes at a time, on processors with SSSE3 (x86-64 of the last fifteen years).

Only speed is here: each function gives up (and says so) on whatever is not plain and short, and everywhere on other
processors; what it gives up on is read by `_digits.pxd` and `_json.pxd`. Inline only: no module at run time.
"""

from libc.stdint cimport int64_t


cdef extern from *:
    """
    #include <float.h>
    #include <stdint.h>
    /* Where what is read goes to. */
    struct ccxtbt_short_columns {
        int64_t *ts_ms;
        double *out[6]; /* by field; none for the time, field 0 */
        int64_t last_time; /* the last time taken, in the answer's unit */
        int64_t ms_per_time;
    };

    #if (defined(__x86_64__) || defined(_M_X64)) && defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD == 0
    #include <tmmintrin.h>
    #if defined(_MSC_VER)
    #include <intrin.h>
    #define CCXTBT_SSSE3 static
    #define CCXTBT_SSSE3_INLINE static __forceinline
    static int ccxtbt_bits_low(unsigned v) { unsigned long at; _BitScanForward(&at, v); return (int)at; }
    static int ccxtbt_has_ssse3(void) { int found[4]; __cpuid(found, 1); return (found[2] >> 9) & 1; }
    #else
    #define CCXTBT_SSSE3 __attribute__((target("ssse3"))) static
    #define CCXTBT_SSSE3_INLINE __attribute__((target("ssse3"), always_inline)) static inline
    #define ccxtbt_bits_low __builtin_ctz
    static int ccxtbt_has_ssse3(void) { __builtin_cpu_init(); return __builtin_cpu_supports("ssse3") != 0; }
    #endif

    static const double ccxtbt_short_tens[16] = {
        1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};

    /* [length][point]: where each of sixteen digits comes from in a number of so many bytes with its point there (at
       its length: none), the last digit last; 0x80 gives 0. */
    static unsigned char ccxtbt_places[16][16][16];
    static int ccxtbt_short_ready = 0;

    static int ccxtbt_prepare_short(void) {
        int length, point, i, from;
        for (length = 1; length < 16; length++) {
            for (point = 0; point <= length; point++) {
                for (i = 15, from = length - 1; i >= 0; i--, from--) {
                    if (from == point && point != length) from--;
                    ccxtbt_places[length][point][i] = from >= 0 ? (unsigned char)from : 0x80;
                }
            }
        }
        ccxtbt_short_ready = ccxtbt_has_ssse3();
        return ccxtbt_short_ready;
    }

    CCXTBT_SSSE3_INLINE unsigned ccxtbt_quotes(__m128i text) {
        return (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(text, _mm_set1_epi8('"')));
    }

    /* Which of 16 bytes are no digits: one bit each. */
    CCXTBT_SSSE3_INLINE unsigned ccxtbt_no_digits(__m128i text) {
        const __m128i digits = _mm_sub_epi8(text, _mm_set1_epi8('0'));
        return (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(digits, _mm_set1_epi8(9)), digits)) ^ 0xFFFFu;
    }

    /* The digits among 16 bytes as one integer, of a number of so many bytes with its point there. */
    CCXTBT_SSSE3_INLINE uint64_t ccxtbt_short_digits(__m128i text, int length, int point) {
        uint64_t both;
        text = _mm_shuffle_epi8(text, _mm_loadu_si128((const __m128i *)ccxtbt_places[length][point]));
        text = _mm_subs_epu8(text, _mm_set1_epi8('0'));
        /* Digits to pairs, to fours, to eights. */
        text = _mm_maddubs_epi16(text, _mm_set1_epi16((1 << 8) | 10));
        text = _mm_madd_epi16(text, _mm_set1_epi32((1 << 16) | 100));
        text = _mm_packs_epi32(text, text);
        text = _mm_madd_epi16(text, _mm_set1_epi32((1 << 16) | 10000));
        both = (uint64_t)_mm_cvtsi128_si64(text);
        return (both & 0xFFFFFFFFu) * 100000000u + (both >> 32);
    }

    /* The number of at most 15 bytes at p, which a quote follows: digits with or without a point. Gives its length,
       its digits as one integer, and how many of them follow the point; 0 for all else. Reads 16 bytes. */
    CCXTBT_SSSE3_INLINE int ccxtbt_quoted_number(const char *p, uint64_t *number, int *places) {
        const __m128i text = _mm_loadu_si128((const __m128i *)p);
        const unsigned quotes = ccxtbt_quotes(text);
        unsigned others = ccxtbt_no_digits(text);
        int length, point;
        if (quotes == 0) return 0;
        length = ccxtbt_bits_low(quotes);
        point = ccxtbt_bits_low(others);
        *places = 0;
        if (point != length) {
            /* The first byte that is no digit is the point, the next such byte the quote. */
            others &= others - 1;
            if (p[point] != '.' || ccxtbt_bits_low(others) != length || length == 1) return 0;
            *places = length - point - 1;
        }
        *number = ccxtbt_short_digits(text, length, point);
        return length;
    }

    /* The same for a number as JSON spells it, before a comma or a closing bracket. */
    CCXTBT_SSSE3_INLINE int ccxtbt_bare_number(const char *p, uint64_t *number, int *places) {
        const __m128i text = _mm_loadu_si128((const __m128i *)p);
        unsigned others = ccxtbt_no_digits(text);
        int length, point;
        if (others == 0) return 0;
        point = length = ccxtbt_bits_low(others);
        *places = 0;
        if (length == 0 || (p[0] == '0' && length > 1)) return 0;
        if (p[length] == '.') {
            others &= others - 1;
            if (others == 0) return 0;
            length = ccxtbt_bits_low(others);
            if (length == point + 1) return 0;
            *places = length - point - 1;
        }
        if (p[length] != ',' && p[length] != ']' && p[length] != '}') return 0;
        *number = ccxtbt_short_digits(text, length, point);
        return length;
    }

    /* Which of 16 bytes no plain text holds: backslashes, control characters; and those beyond ASCII, to be brief. */
    CCXTBT_SSSE3_INLINE unsigned ccxtbt_no_plain_text(__m128i text) {
        return (unsigned)_mm_movemask_epi8(_mm_or_si128(
            _mm_cmpeq_epi8(text, _mm_set1_epi8(0x5C)), _mm_cmplt_epi8(text, _mm_set1_epi8(32))));
    }

    /* The byte after the text of at most 31 bytes, or integer of at most 15, at p; else NULL. Reads 33 bytes. */
    CCXTBT_SSSE3_INLINE const char *ccxtbt_short_skip(const char *p) {
        unsigned found;
        if (*p == '"') {
            /* Both halves always: texts around sixteen bytes would make a branch here a gamble. What follows waits for
               the quote alone; whether the text is plain may come out later. */
            const __m128i first = _mm_loadu_si128((const __m128i *)(p + 1));
            const __m128i second = _mm_loadu_si128((const __m128i *)(p + 17));
            found = ccxtbt_quotes(first) | ccxtbt_quotes(second) << 16;
            if (found == 0) return NULL;
            if ((ccxtbt_no_plain_text(first) | ccxtbt_no_plain_text(second) << 16) & (found ^ (found - 1))) return NULL;
            return p + 2 + ccxtbt_bits_low(found);
        }
        found = ccxtbt_no_digits(_mm_loadu_si128((const __m128i *)p));
        if (found == 0) return NULL;
        found = (unsigned)ccxtbt_bits_low(found);
        return found != 0 && (p[0] != '0' || found == 1) ? p + found : NULL;
    }

    /* Read the value at p into its field, the time being field 0; the byte after it, or NULL. Reads 17 bytes. */
    CCXTBT_SSSE3_INLINE const char *ccxtbt_read_short(
            const char *p, int field, struct ccxtbt_short_columns *columns, Py_ssize_t slot) {
        uint64_t number;
        int places, length;
        const char *stop;
        if (*p == '"') {
            length = ccxtbt_quoted_number(p + 1, &number, &places);
            stop = p + 2 + length;
        } else {
            length = ccxtbt_bare_number(p, &number, &places);
            stop = p + length;
        }
        if (length == 0) return NULL;
        if (field) {
            /* Fewer than sixteen digits, and powers of ten, are exact doubles: one rounding. */
            columns->out[field][slot] = (double)(int64_t)number / ccxtbt_short_tens[places];
            return stop;
        }
        if (places != 0 || (int64_t)number > columns->last_time) return NULL;
        columns->ts_ms[slot] = (int64_t)number * columns->ms_per_time;
        return stop;
    }

    CCXTBT_SSSE3 const char *ccxtbt_short_field(
            const char *p, int field, struct ccxtbt_short_columns *columns, Py_ssize_t slot) {
        return ccxtbt_read_short(p, field, columns, slot);
    }

    /* Read values of a list row from *at_p on, the first of them its *at; all begin before until, behind which there
       are 32 more bytes. Stops at one that is not plain (0), or at the row's closing bracket (1). */
    CCXTBT_SSSE3 int ccxtbt_short_fields(
            const char **at_p, const char *until, const signed char *field_at, int width,
            struct ccxtbt_short_columns *columns, Py_ssize_t slot, int *at) {
        const char *p = *at_p, *stop;
        int i = *at, closed = 0;
        while (p < until) {
            if (i < width && field_at[i] >= 0) stop = ccxtbt_read_short(p, field_at[i], columns, slot);
            else stop = ccxtbt_short_skip(p);
            if (stop == NULL) break;
            if (*stop == ',') {
                p = stop + 1;
                i++;
                continue;
            }
            if (*stop == ']') {
                p = stop;
                closed = 1;
            }
            break;
        }
        *at_p = p;
        *at = i;
        return closed;
    }

    /* How often a byte occurs before end. */
    CCXTBT_SSSE3 Py_ssize_t ccxtbt_count_byte(const char *p, const char *end, char wanted) {
        const __m128i all = _mm_set1_epi8(wanted), zero = _mm_setzero_si128();
        Py_ssize_t count = 0;
        while (end - p >= 32) {
            /* A byte of `found` counts up to 254 hits, two an iteration. */
            const char *stop = end - p >= 127 * 32 ? p + 127 * 32 : p + (end - p) / 32 * 32;
            __m128i found = zero;
            for (; p != stop; p += 32) {
                found = _mm_sub_epi8(found, _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)p), all));
                found = _mm_sub_epi8(found, _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(p + 16)), all));
            }
            found = _mm_sad_epu8(found, zero);
            count += (Py_ssize_t)(_mm_cvtsi128_si64(found) + _mm_cvtsi128_si64(_mm_srli_si128(found, 8)));
        }
        for (; p != end; p++) count += *p == wanted;
        return count;
    }
    #else
    static int ccxtbt_prepare_short(void) { return 0; }
    static const char *ccxtbt_short_field(
            const char *p, int field, struct ccxtbt_short_columns *columns, Py_ssize_t slot) {
        (void)p; (void)field; (void)columns; (void)slot;
        return NULL;
    }
    static int ccxtbt_short_fields(
            const char **at_p, const char *until, const signed char *field_at, int width,
            struct ccxtbt_short_columns *columns, Py_ssize_t slot, int *at) {
        (void)at_p; (void)until; (void)field_at; (void)width; (void)columns; (void)slot; (void)at;
        return 0;
    }
    static Py_ssize_t ccxtbt_count_byte(const char *p, const char *end, char wanted) {
        Py_ssize_t count = 0;
        for (; p != end; p++) count += *p == wanted;
        return count;
    }
    #endif
    """
    struct ShortColumns "ccxtbt_short_columns":
        int64_t *ts_ms
        double *out[6]
        int64_t last_time
        int64_t ms_per_time
    bint prepare_short "ccxtbt_prepare_short"()
    Py_ssize_t count_byte "ccxtbt_count_byte"(const char *p, const char *end, char wanted) noexcept nogil
    const char *short_field "ccxtbt_short_field"(
        const char *p, int field, ShortColumns *columns, Py_ssize_t slot) noexcept nogil
    bint short_fields "ccxtbt_short_fields"(
        const char **p, const char *until, const signed char *field_at, int width, ShortColumns *columns,
        Py_ssize_t slot, int *at) noexcept nogil
