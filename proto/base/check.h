// Assertions for what must not happen. A failed check prints the place and the condition and
// aborts: it is a bug of Varve, never of its input. VARVE_CHECK stays on in release builds;
// VARVE_DCHECK is for hot loops and is off there.
#pragma once

namespace varve {

// Prints "file:line: check failed: what" to stderr and aborts.
[[noreturn]] void CheckFailed(const char* file, int line, const char* what);

}  // namespace varve

#define VARVE_CHECK(condition)                              \
  do {                                                      \
    if (!(condition)) [[unlikely]] {                        \
      ::varve::CheckFailed(__FILE__, __LINE__, #condition); \
    }                                                       \
  } while (false)

#ifdef NDEBUG
#define VARVE_DCHECK(condition) \
  do {                          \
  } while (false && (condition))
#else
#define VARVE_DCHECK(condition) VARVE_CHECK(condition)
#endif

#define VARVE_UNREACHABLE(why) ::varve::CheckFailed(__FILE__, __LINE__, why)
