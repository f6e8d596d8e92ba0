// What a shared library with emulated kernels exports besides its kernels: options, device memory
// and launch records. Plain C types only, so that the library can be opened at run time by code
// built with another compiler.
#pragma once

#include <cstdint>

namespace rnc::emulator {

// The order in which threads (and blocks) run between two points of synchronisation.
enum Schedule : int32_t { kRoundRobin = 0, kReversed = 1, kRandom = 2 };

// When an asynchronous operation completes, within what the hardware is allowed.
enum Completion : int32_t {
  kLate = 0,   // not before somebody waits for it; a TMA load, not before nobody else can run
  kEarly = 1,  // when it is issued
  kRandomCompletion = 2,  // at any moment, by the seed
};

struct Options {
  int32_t schedule;    // a Schedule
  uint32_t seed;       // of the random schedule
  int32_t workers;     // OS threads that run blocks; 0: one per hardware thread, at most 16
  int32_t check;       // 1: races, bounds, uninitialised reads, conflicts between blocks
  int32_t count;       // 1: fill the counters
  int32_t max_errors;  // a launch is abandoned at this many reports (at least 1)
  int32_t cp_async, tma, wgmma;  // a Completion each
  // Of the GPU that is played, for plans and launches: 75 is compute capability 7.5.
  int32_t capability;
  int32_t multiprocessors;
};

// Global accesses are counted when they go through ptx::load_global and ptx::store_global; every
// other access, hence all of shared memory, only in the library with instrumented kernels.
struct Counters {
  uint64_t global_load_bytes, global_store_bytes;  // asked for by the threads
  uint64_t global_load_sectors,
      global_store_sectors;  // 32-byte sectors per warp instruction, summed
  uint64_t distinct_load_bytes, distinct_store_bytes;  // every byte once, however often it was
                                                       // touched: traffic of an ideal cache
  uint64_t shared_load_bytes, shared_store_bytes;      // asked for by the threads
  uint64_t shared_wavefronts,
      shared_wavefronts_ideal;  // shared-memory passes, and what they were without bank conflicts
  uint64_t context_switches,
      collectives;  // switches between emulated threads; warp collectives executed
  uint64_t distinct_load_sectors,
      distinct_store_sectors;  // 32-byte sectors of which any byte was touched, every one once
  uint64_t mma_instructions, mma_multiply_adds;  // mma.sync per warp, wgmma per warpgroup
};

struct LaunchRecord {
  const char* kernel;  // stays valid for the life of the process
  uint32_t grid[3];
  uint32_t block[3];
  uint64_t shared_bytes;
  // Unless Options::count was set, all zero but context_switches, collectives and mma_*.
  Counters counters;
  uint32_t cluster[3];
  uint32_t starts_early;  // 1: launched so that it may
};

// What a launch touched of one allocation, every byte once. Only where Options::count was set.
struct TensorTraffic {
  const char* name;  // stays valid for the life of the process
  uint64_t load_bytes, store_bytes;
};

struct EmulatorApi {
  Options* options;  // process-wide; read at each launch
  int32_t
      checked;  // 1 when the kernels are instrumented, so that Options::check has its full effect

  // Device memory between guard pages with ptr % 256 == misalignment. `name` appears in error
  // messages. With initialised = 0 the bytes hold NaN patterns and a checked launch reports reads
  // of bytes that no launch wrote; with 1 the caller fills them. Returns nullptr when there is no
  // memory.
  void* (*device_malloc)(uint64_t bytes, uint32_t misalignment, const char* name,
                         int32_t initialised);
  void (*device_free)(void*);

  // Launches since the last clear_launches(); the first 131072 are kept.
  uint64_t (*launch_count)();
  void (*launch_record)(uint64_t index, LaunchRecord* out);
  void (*clear_launches)();

  // The allocations that a launch touched: fills `out` with the first `capacity` and returns how
  // many there are.
  uint64_t (*launch_tensors)(uint64_t index, TensorTraffic* out, uint64_t capacity);
};

}  // namespace rnc::emulator

extern "C" __attribute__((visibility("default"))) const rnc::emulator::EmulatorApi*
rnc_emulator_api();
