// The library of passes on the emulator, opened as the bindings do it, and arrays in its memory.
#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"
#include "emulator/emulator_api.h"
#include "launch/kernel_library.h"

namespace rnc::test {

template <class Function>
Function symbol(const char* name) {
  static void* const library = dlopen(emulated_library_path().c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::runtime_error(dlerror());
  void* const address = dlsym(library, name);
  if (!address) throw std::runtime_error(std::string("no symbol ") + name);
  return reinterpret_cast<Function>(address);
}

inline const KernelLibrary& kernels() {
  return *symbol<const KernelLibrary* (*)()>("rnc_kernel_library")();
}
inline const emulator::EmulatorApi& api() {
  return *symbol<const emulator::EmulatorApi* (*)()>("rnc_emulator_api")();
}

// An array in emulated device memory.
template <class T>
class DeviceArray {
 public:
  DeviceArray(const char* name, const std::vector<T>& values)
      : DeviceArray(name, values.size(), true) {
    std::copy(values.begin(), values.end(), data_);
  }
  DeviceArray(const char* name, size_t size, bool initialised = false)
      : size_(size),
        data_(static_cast<T*>(api().device_malloc(size * sizeof(T), 0, name, initialised))) {
    if (!data_) throw std::runtime_error(std::string("no memory for ") + name);
  }
  ~DeviceArray() { api().device_free(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() { return data_; }
  T operator[](size_t i) const { return data_[i]; }
  size_t size() const { return size_; }

 private:
  size_t size_;
  T* data_;
};

}  // namespace rnc::test
