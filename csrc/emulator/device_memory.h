// Emulated device memory: every allocation lies between guard pages and has a name, so that a wrong
// access faults and can be named.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace rnc::emulator {

struct Allocation {
  uint64_t base = 0;
  size_t bytes = 0;
  std::string name;
  char* map = nullptr;  // guard, body, guard
  size_t body_bytes = 0;

  // One bit per byte that some checked launch has written; empty where every byte counts as
  // written.
  bool track_writes = false;
  std::vector<uint64_t> written;
};

void* device_malloc(uint64_t bytes, uint32_t misalignment, const char* name, int32_t initialised);
void device_free(void* pointer);

// All live allocations, by address.
std::vector<std::shared_ptr<Allocation>> live_allocations();

// For a launch whose writes are not observed: from here on every byte counts as written.
void stop_tracking_writes();

// "offset 256 of 'y' (256 bytes)", also for addresses in the guard pages around an allocation; else
// the bare address.
std::string describe_address(const void* address);

// Names an allocation whose surroundings a kernel without checks has overwritten; empty if there is
// none. The bytes are restored.
std::string find_overwritten_margin();

// Held across fork(), so that the child finds the table whole.
void lock_device_memory();
void unlock_device_memory();

}  // namespace rnc::emulator
