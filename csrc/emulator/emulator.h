// What kernels compiled for the host call, through ptx/ and launch/launch_kernel.h. Everything
// heavy is behind function calls, in files that are never instrumented; inline is only what a
// kernel touches in its inner loops.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/dim3.h"

namespace rnc::emulator {

// The part of an emulated thread that threadIdx & co read.
struct ThreadView {
  Dim3 thread_idx;
  const Dim3* block_idx;
  const Dim3* block_dim;
  const Dim3* grid_dim;
};

struct LaunchRequest {
  const char* name;
  Dim3 grid;
  Dim3 block;
  Dim3 cluster;  // blocks that run together and may reach each other's shared memory
  size_t shared_bytes;
  void (*call)(void* kernel,
               const void* params);  // casts both back to their types and calls the kernel
  void* kernel;
  const void* params;
  size_t params_bytes;
  uint32_t blocks_per_multiprocessor = 1;  // that the kernel was compiled for
  bool starts_early = false;               // perhaps: while the launches before it still run
};

// Hidden: several emulated libraries may live in one process and must not see each other's state.
#pragma GCC visibility push(hidden)

// The emulated thread that this OS thread runs now, or null.
extern constinit thread_local ThreadView* current __attribute__((tls_model("initial-exec")));

// Whether the launch in progress checks or counts; without it global accesses are plain copies
// between guard pages.
extern bool observing;
#if defined(__SANITIZE_THREAD__)  // instrumented kernels: reading the flag would itself be an
                                  // observed access
constexpr bool must_observe() { return true; }
#else
inline bool must_observe() { return observing; }
#endif

enum class ShuffleMode : int32_t { kIndex, kUp, kDown, kXor };

enum class AtomicOp : int32_t {
  kAdd,
  kMin,
  kMax,
  kMinSigned,
  kMaxSigned,
  kAnd,
  kOr,
  kXor,
  kExchange,
  kCompareAndSwap,
};

// The block's dynamic shared memory, 1024-byte aligned; an error if the launch provides fewer than
// `bytes`.
void* dynamic_smem(size_t bytes);

void syncthreads();
void syncwarp(uint32_t mask);
uint64_t shuffle(uint32_t mask, uint64_t value, ShuffleMode mode, int32_t operand, int32_t width);
uint32_t ballot(uint32_t mask, bool predicate);

// Atomic operation on an integer of 4 or 8 bytes; returns the old value. Signed operands are
// sign-extended to 64 bits.
uint64_t atomic(AtomicOp op, void* address, size_t bytes, uint64_t operand, uint64_t compare = 0);

void load_global(void* value, const void* address, size_t bytes);
void store_global(void* address, const void* value, size_t bytes);
void prefetch_l2(const void* address, uint32_t bytes);
[[noreturn]] void misaligned_access(const void* address, size_t bytes, bool write);
[[noreturn]] void trap(const char* what);

// Runs the kernel to completion. Returns nullptr or a message that stays valid until the next call
// on the same OS thread.
const char* launch(const LaunchRequest& request);

// Of the GPU that is played: a capability of 90 is 9.0.
int32_t capability();
int32_t multiprocessors();

#pragma GCC visibility pop

}  // namespace rnc::emulator
