# Rows of 8-byte values and sorted times, many at once: loops without a branch that has to be guessed.

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from _prefetch cimport prefetch

cdef enum:
    # Bytes. The processor reads ahead on its own, but only to the end of a page of 4 KB.
    READ_AHEAD = 8192


cdef inline void copy_lot(char* out, const char* values) noexcept nogil:
    # 256 bytes; the sizes are constants, so these are plain moves, and from the end, as `copy_words` goes.
    prefetch(values, 192 - READ_AHEAD)
    prefetch(values, 128 - READ_AHEAD)
    prefetch(values, 64 - READ_AHEAD)
    prefetch(values, -READ_AHEAD)
    memcpy(out + 192, values + 192, 64)
    memcpy(out + 128, values + 128, 64)
    memcpy(out + 64, values + 64, 64)
    memcpy(out, values, 64)


cdef inline void copy_words(void* to, const void* source, Py_ssize_t count) noexcept nogil:
    # From the end to the beginning. In a fresh array this was a quarter faster than memcpy: of a page that the kernel
    # has just zeroed the end is still in the cache.
    cdef Py_ssize_t left = 8 * count
    while left >= 256:
        left -= 256
        copy_lot(<char*> to + left, <const char*> source + left)
    memcpy(to, source, left)


cdef inline bint same_double(double a, double b) noexcept nogil:
    # NaN is like NaN.
    return a == b or (a != a and b != b)


cdef inline bint words_differ(const void* a, const void* b, Py_ssize_t count, int step) noexcept nogil:
    # Whether any bits differ, b read in steps; from the end too.
    cdef const int64_t* left = <const int64_t*> a
    cdef const int64_t* right = <const int64_t*> b
    cdef int64_t difference = 0
    cdef Py_ssize_t i = count
    cdef Py_ssize_t j
    while step == 1 and i >= 8:
        i -= 8
        for j in range(8):
            difference |= left[i + j] ^ right[i + j]
    while i:
        i -= 1
        difference |= left[i] ^ right[step * i]
    return difference != 0


cdef inline bint eight_in_step(const int64_t* ts, int64_t step_ms) noexcept nogil:
    # Whether each of the next eight times is one step after the one before it. Without a loop, since this is where most
    # of the time over a plan goes.
    cdef const uint64_t* t = <const uint64_t*> ts
    cdef uint64_t step = <uint64_t> step_ms
    cdef uint64_t first = (t[1] - t[0] ^ step) | (t[2] - t[1] ^ step) | (t[3] - t[2] ^ step) | (t[4] - t[3] ^ step)
    cdef uint64_t second = (t[5] - t[4] ^ step) | (t[6] - t[5] ^ step) | (t[7] - t[6] ^ step) | (t[8] - t[7] ^ step)
    return (first | second) == 0


cdef inline Py_ssize_t how_many_in_step(const int64_t* ts, int64_t step_ms) noexcept nogil:
    # How many of the next eight times are, up to the first that is not.
    cdef Py_ssize_t count = 0
    cdef Py_ssize_t goes_on = 1
    cdef Py_ssize_t i
    for i in range(8):
        goes_on &= <uint64_t> ts[i + 1] - <uint64_t> ts[i] == <uint64_t> step_ms
        count += goes_on
    return count


cdef inline Py_ssize_t rise_end(const int64_t* ts, Py_ssize_t at, Py_ssize_t size) noexcept nogil:
    # The first place from `at` > 0 on where time falls. A block is passed over if no difference in it is negative and
    # every time within +-2^54, so that no difference can have overflowed.
    cdef uint64_t falls, wild
    cdef Py_ssize_t i
    while at + 64 <= size:
        falls = 0
        wild = 0
        for i in range(64):
            falls |= <uint64_t> ts[at + i] - <uint64_t> ts[at + i - 1]
            wild |= <uint64_t> ts[at + i] + (<uint64_t> 1 << 54)
        if falls >> 63 or wild >> 56:
            break
        at += 64
    while at < size and ts[at] >= ts[at - 1]:
        at += 1
    return at
