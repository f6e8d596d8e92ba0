// The one function that the tests call.
#include <cstring>
#include <initializer_list>

#include "launch/launch_kernel.h"
#include "planted_faults.h"

// Launches the kernel of that name. Returns nullptr or the error, valid until the next call on this
// thread.
extern "C" __attribute__((visibility("default"))) const char* rnc_test_launch(
    const char* name, const uint32_t* grid, const uint32_t* block, const uint32_t* cluster,
    const float* x, float* y, int32_t* counts, int32_t n, int32_t operand) {
  using namespace rnc;
  for (const Table& table :
       {kernels_with_memory_faults(), kernels_with_barrier_faults(), kernels_with_mbarrier_faults(),
        kernels_with_cluster_faults(), kernels_with_warpgroup_faults()}) {
    for (const Entry* entry = table.begin; entry != table.end; ++entry) {
      if (std::strcmp(entry->name, name) != 0) continue;
      return launch_kernel(entry->name, entry->kernel, {grid[0], grid[1], grid[2]},
                           {block[0], block[1], block[2]}, entry->shared_bytes, nullptr,
                           Params{x, y, counts, n, operand}, {cluster[0], cluster[1], cluster[2]})
          .error;
    }
  }
  return "there is no kernel of this name in tests/emulator";
}
