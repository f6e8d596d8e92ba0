#include "emulator/emulator_api.h"

#include "emulator/device_memory.h"
#include "emulator/launch.h"

extern "C" const rnc::emulator::EmulatorApi* rnc_emulator_api() {
  using namespace rnc::emulator;
  static const EmulatorApi api{&options(),     kernels_are_instrumented ? 1 : 0,
                               device_malloc,  device_free,
                               launch_count,   launch_record,
                               clear_launches, launch_tensors};
  return &api;
}
