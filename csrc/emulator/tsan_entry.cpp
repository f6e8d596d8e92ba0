// The functions that code compiled with -fsanitize=thread calls, in place of libtsan, which is not
// linked: every access of an instrumented kernel arrives here with its address. Hidden, so that a
// real libtsan in the process is neither used nor disturbed.
#include <cstddef>

#include "emulator/access.h"
#include "emulator/launch.h"

#pragma GCC visibility push(hidden)

using rnc::emulator::Access;
using rnc::emulator::observe;

extern "C" {

// Called by a constructor in every instrumented object file: this is how the library knows that its
// kernels are.
void __tsan_init() { rnc::emulator::kernels_are_instrumented = true; }

void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

#define RNC_READ_WRITE(prefix, bytes)                                     \
  void __tsan_##prefix##read##bytes(void* address) {                      \
    observe(address, bytes, Access::kRead, __builtin_return_address(0));  \
  }                                                                       \
  void __tsan_##prefix##write##bytes(void* address) {                     \
    observe(address, bytes, Access::kWrite, __builtin_return_address(0)); \
  }
#define RNC_READS_WRITES(bytes)     \
  RNC_READ_WRITE(, bytes)           \
  RNC_READ_WRITE(unaligned_, bytes) \
  RNC_READ_WRITE(volatile_, bytes)  \
  RNC_READ_WRITE(unaligned_volatile_, bytes)
RNC_READS_WRITES(1)
RNC_READS_WRITES(2)
RNC_READS_WRITES(4)
RNC_READS_WRITES(8)
RNC_READS_WRITES(16)
#undef RNC_READS_WRITES
#undef RNC_READ_WRITE

void __tsan_read_range(void* address, size_t bytes) {
  observe(address, bytes, Access::kRead, __builtin_return_address(0));
}
void __tsan_write_range(void* address, size_t bytes) {
  observe(address, bytes, Access::kWrite, __builtin_return_address(0));
}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

// Atomics of the host code around the kernels, such as the guards of function-local statics.
#define RNC_ATOMICS(bits, T)                                                                 \
  T __tsan_atomic##bits##_load(const T* address, int) {                                      \
    return __atomic_load_n(address, __ATOMIC_SEQ_CST);                                       \
  }                                                                                          \
  void __tsan_atomic##bits##_store(T* address, T value, int) {                               \
    __atomic_store_n(address, value, __ATOMIC_SEQ_CST);                                      \
  }                                                                                          \
  T __tsan_atomic##bits##_exchange(T* address, T value, int) {                               \
    return __atomic_exchange_n(address, value, __ATOMIC_SEQ_CST);                            \
  }                                                                                          \
  T __tsan_atomic##bits##_fetch_add(T* address, T value, int) {                              \
    return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);                             \
  }                                                                                          \
  T __tsan_atomic##bits##_fetch_sub(T* address, T value, int) {                              \
    return __atomic_fetch_sub(address, value, __ATOMIC_SEQ_CST);                             \
  }                                                                                          \
  int __tsan_atomic##bits##_compare_exchange_strong(T* address, T* expected, T desired, int, \
                                                    int) {                                   \
    return __atomic_compare_exchange_n(address, expected, desired, false, __ATOMIC_SEQ_CST,  \
                                       __ATOMIC_SEQ_CST);                                    \
  }
RNC_ATOMICS(8, char)
RNC_ATOMICS(32, int)
RNC_ATOMICS(64, long)
#undef RNC_ATOMICS

}  // extern "C"

#pragma GCC visibility pop
