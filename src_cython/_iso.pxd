"""Times written as ISO 8601. Inline only: nothing here is a module at run time.

As in `_digits.pxd`, the text ends with a NUL byte; each byte is looked at only once the one before it is good.
"""

from libc.stdint cimport int64_t


cdef inline int two_digits(const char *p) noexcept nogil:
    """The number of two digits at `p`, or -1000 where they are none."""
    cdef unsigned char tens = <unsigned char> (p[0] - 48)
    cdef unsigned char ones
    if tens > 9:
        return -1000
    ones = <unsigned char> (p[1] - 48)
    return tens * 10 + ones if ones <= 9 else -1000


cdef inline int64_t days_since_1970(int year, int month, int day) noexcept nogil:
    """Days of the proleptic Gregorian calendar; -1 where there is no such day. Years 1 to 9999."""
    cdef int days_of_month
    if month < 1 or month > 12 or day < 1 or year < 1:
        return -1
    if month == 2:
        days_of_month = 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    else:
        days_of_month = 30 if month in (4, 6, 9, 11) else 31
    if day > days_of_month:
        return -1
    # Count years from March, so that the leap day comes last.
    if month <= 2:
        year -= 1
        month += 12
    return 365 * <int64_t> year + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5 + day - 719469


cdef inline const char *read_iso(const char *p, int64_t *ts_ms) noexcept nogil:
    """Read `YYYY-MM-DDTHH:MM:SS[.fraction][Z|±HH[:]MM]` (or a space for the T); NULL where it is something else."""
    cdef int century = two_digits(p), years, month, day, hour, minute, second
    cdef int sign, offset_hours, offset_minutes
    cdef int64_t days
    cdef int milliseconds = 0, unit = 100
    if century < 0:
        return NULL
    years = two_digits(p + 2)
    if years < 0 or p[4] != c'-':
        return NULL
    month = two_digits(p + 5)
    if month < 0 or p[7] != c'-':
        return NULL
    day = two_digits(p + 8)
    if day < 0 or not (p[10] == c'T' or p[10] == c't' or p[10] == c' '):
        return NULL
    hour = two_digits(p + 11)
    if hour < 0 or hour > 23 or p[13] != c':':
        return NULL
    minute = two_digits(p + 14)
    if minute < 0 or minute > 59 or p[16] != c':':
        return NULL
    second = two_digits(p + 17)
    if second < 0 or second > 59:
        return NULL
    p += 19
    if p[0] == c'.':
        p += 1
        if not c'0' <= p[0] <= c'9':
            return NULL
        while c'0' <= p[0] <= c'9':
            milliseconds += unit * (p[0] - 48)
            unit //= 10
            p += 1
    if p[0] == c'Z' or p[0] == c'z':
        p += 1
    elif p[0] == c'+' or p[0] == c'-':
        sign = -1 if p[0] == c'+' else 1
        offset_hours = two_digits(p + 1)
        if offset_hours < 0:
            return NULL
        p += 4 if p[3] == c':' else 3
        offset_minutes = two_digits(p)
        if offset_minutes < 0:
            return NULL
        hour += sign * offset_hours
        minute += sign * offset_minutes
        p += 2
    days = days_since_1970(century * 100 + years, month, day)
    ts_ms[0] = (((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + milliseconds
    return p if days >= 0 else NULL
