// The C API on the emulator.
#include <cstdio>
#include <cstring>
#include <iterator>

#include "backend.h"
#include "device_library.h"
#include "emulator/emulator_api.h"

namespace rnc {

const char* wait_for_device() { return nullptr; }  // a launch returns when it is done

}  // namespace rnc

const char* rnc_device_backend() { return rnc_emulator_api()->checked ? "checked" : "emulated"; }

const char* rnc_device_describe(char* name, uint64_t name_bytes, int32_t* capability) {
  std::snprintf(name, name_bytes, "the device emulator");
  *capability = 9999;
  return nullptr;
}

void* rnc_device_malloc(uint64_t bytes, const char* name, int32_t initialised) {
  return rnc_emulator_api()->device_malloc(bytes, 0, name, initialised);
}

void rnc_device_free(void* pointer) { rnc_emulator_api()->device_free(pointer); }

const char* rnc_device_write(void* device, const void* host, uint64_t bytes) {
  std::memcpy(device, host, bytes);
  return nullptr;
}

const char* rnc_device_read(void* host, const void* device, uint64_t bytes) {
  std::memcpy(host, device, bytes);
  return nullptr;
}

const char* rnc_device_set_option(const char* name, int64_t value) {
  using rnc::emulator::Options;
  Options& options = *rnc_emulator_api()->options;
  if (std::strcmp(name, "seed") == 0) {
    options.seed = static_cast<uint32_t>(value);
    return nullptr;
  }
  const struct {
    const char* name;
    int32_t Options::* member;
  } members[] = {{"schedule", &Options::schedule},
                 {"workers", &Options::workers},
                 {"check", &Options::check},
                 {"count", &Options::count},
                 {"max_errors", &Options::max_errors},
                 {"cp_async", &Options::cp_async},
                 {"tma", &Options::tma},
                 {"wgmma", &Options::wgmma},
                 {"multiprocessors", &Options::multiprocessors}};
  for (const auto& member : members) {
    if (std::strcmp(name, member.name) != 0) continue;
    options.*member.member = static_cast<int32_t>(value);
    return nullptr;
  }
  return "the emulator has no such option";
}
