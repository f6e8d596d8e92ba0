// The C API of a library of test kernels (cmake/RncDeviceLibrary.cmake), the same for GPUs and for
// the emulator: memory, launches by name, options. A function that can fail returns a message that
// stays valid until the next call on the same thread, or null.
#pragma once

#include <cstdint>

#include "common/status.h"

namespace rnc {

// What a launch is given: device memory, and numbers whose meaning is the kernel's own.
struct LaunchArguments {
  void* const* buffers;
  const int64_t* numbers;

  template <class T>
  T* buffer(int index) const {
    return static_cast<T*>(buffers[index]);
  }
  template <class T = int32_t>
  T number(int index) const {
    return static_cast<T>(numbers[index]);
  }
};

using LaunchFunction = Status (*)(const LaunchArguments&);

// A static object of this type makes a kernel known under a name.
class KernelRegistration {
 public:
  KernelRegistration(const char* name, LaunchFunction launch);
};

}  // namespace rnc

#define RNC_EXPORT extern "C" __attribute__((visibility("default")))

// Where kernels run: "emulated", "checked" or "cuda".
RNC_EXPORT const char* rnc_device_backend();
// The device's name, and 10 times its compute capability; fails where there is no device. The
// emulator has every capability.
RNC_EXPORT const char* rnc_device_describe(char* name, uint64_t name_bytes, int32_t* capability);

// `initialised` = 0: reads of bytes that no kernel wrote are reported in checked mode.
RNC_EXPORT void* rnc_device_malloc(uint64_t bytes, const char* name, int32_t initialised);
RNC_EXPORT void rnc_device_free(void* pointer);
RNC_EXPORT const char* rnc_device_write(void* device, const void* host, uint64_t bytes);
RNC_EXPORT const char* rnc_device_read(void* host, const void* device, uint64_t bytes);

// Launches a kernel and waits for it.
RNC_EXPORT const char* rnc_device_launch(const char* kernel, void* const* buffers,
                                         const int64_t* numbers);
// The n-th kernel's name, or null after the last one.
RNC_EXPORT const char* rnc_device_kernel_name(int32_t index);

// Sets one of the emulator's options by its name in emulator::Options.
RNC_EXPORT const char* rnc_device_set_option(const char* name, int64_t value);
