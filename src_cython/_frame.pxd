# The grid of bars in C: what ccxtbt/market/timeframes.py says in Python, for kernels without the GIL.
#
# Every time given to these functions lies within +-TIME_LIMIT; then no sum below leaves 64 bits.

from libc.stdint cimport int64_t

cdef extern from *:
    """
    #include <stdint.h>
    #define CCXTBT_DAY_MS INT64_C(86400000)
    /* 2^53: every whole number up to here is exact as a double too; the year 287396. */
    #define CCXTBT_TIME_LIMIT INT64_C(9007199254740992)
    """
    const int64_t DAY_MS "CCXTBT_DAY_MS"
    const int64_t TIME_LIMIT "CCXTBT_TIME_LIMIT"
    const int64_t INT64_MIN
    const int64_t INT64_MAX


cdef struct Frame:
    int64_t ms          # length of a bar, 0 for months
    int64_t anchor_ms   # a time at which a bar of fixed length opens
    int64_t months      # length of a bar in calendar months, 0 for a fixed length


cdef inline int64_t floor_div(int64_t a, int64_t b) noexcept nogil:
    # b > 0
    cdef int64_t q = a // b
    if q * b > a:
        q -= 1
    return q


cdef inline bint time_allowed(int64_t ts_ms) noexcept nogil:
    return -TIME_LIMIT <= ts_ms <= TIME_LIMIT


cdef inline int64_t month_of(int64_t ts_ms) noexcept nogil:
    # Months since January of year 0, the years counted from March (the leap day is then the last one).
    cdef int64_t days = floor_div(ts_ms, DAY_MS) + 719468
    cdef int64_t era = floor_div(days, 146097)
    cdef int64_t day_of_era = days - era * 146097
    cdef int64_t year = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    cdef int64_t day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    return (era * 400 + year) * 12 + (5 * day_of_year + 2) // 153 + 2


cdef inline int64_t month_open(int64_t month) noexcept nogil:
    cdef int64_t year = floor_div(month - 2, 12)
    cdef int64_t month_of_year = month - 2 - year * 12
    cdef int64_t era = floor_div(year, 400)
    cdef int64_t days
    year -= era * 400
    days = 365 * year + year // 4 - year // 100 + (153 * month_of_year + 2) // 5
    return (era * 146097 + days - 719468) * DAY_MS


cdef inline int64_t frame_floor(Frame frame, int64_t ts_ms) noexcept nogil:
    # The open of the bar that holds ts_ms.
    if frame.ms:
        return floor_div(ts_ms - frame.anchor_ms, frame.ms) * frame.ms + frame.anchor_ms
    return month_open(floor_div(month_of(ts_ms), frame.months) * frame.months)


cdef inline int64_t frame_next(Frame frame, int64_t ts_ms) noexcept nogil:
    # The open of the first bar after the one that holds ts_ms.
    if frame.ms:
        return frame_floor(frame, ts_ms) + frame.ms
    return month_open((floor_div(month_of(ts_ms), frame.months) + 1) * frame.months)


cdef inline int64_t frame_close(Frame frame, int64_t open_ms) noexcept nogil:
    # The close of a bar with this open, which need not lie on the grid: a month keeps its distance
    # from the nearest turn of the month.
    cdef int64_t month, before_ms, after_ms
    if frame.ms:
        return open_ms + frame.ms
    month = month_of(open_ms)
    before_ms = month_open(month)
    after_ms = month_open(month + 1)
    if open_ms - before_ms > after_ms - open_ms:
        month += 1
        before_ms = after_ms
    return month_open(month + frame.months) + open_ms - before_ms


cdef inline int64_t frame_fitting(Frame frame, int64_t from_ms, int64_t to_ms) noexcept nogil:
    # How many whole bars fit between two times, the first opening at from_ms; 0 if to_ms is not later.
    cdef int64_t count = 0
    if to_ms <= from_ms:
        return 0
    if frame.ms:
        return (to_ms - from_ms) // frame.ms
    from_ms = frame_close(frame, from_ms)
    while from_ms <= to_ms:
        count += 1
        from_ms = frame_close(frame, from_ms)
    return count
