// Launches and their records. Launches are serialised: one at a time runs, on as many OS threads as
// it is worth.
#pragma once

#include <cstdint>

#include "emulator/emulator_api.h"

namespace rnc::emulator {

extern bool kernels_are_instrumented;

Options& options();

uint64_t launch_count();
void launch_record(uint64_t index, LaunchRecord* out);
void clear_launches();
uint64_t launch_tensors(uint64_t index, TensorTraffic* out, uint64_t capacity);

}  // namespace rnc::emulator
