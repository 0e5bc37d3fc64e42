# Asking for memory before it is needed: a hint that does nothing where the compiler does not know it, nor at an address
# that holds nothing.

cdef extern from *:
    """
    #include <stdint.h>
    #if defined(__GNUC__)
    #define CCXTBT_PREFETCH(at, ahead) __builtin_prefetch((const void *)((uintptr_t)(at) + (uintptr_t)(ahead)))
    #else
    #define CCXTBT_PREFETCH(at, ahead) ((void)(at))
    #endif
    """
    void prefetch "CCXTBT_PREFETCH"(const void* at, Py_ssize_t ahead) noexcept nogil
