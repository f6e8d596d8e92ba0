// The table of kernels, which belongs to each library.
#include "device_library.h"

#include <cstring>
#include <string>
#include <vector>

#include "backend.h"

namespace rnc {
namespace {

struct Kernel {
  const char* name;
  LaunchFunction launch;
};

std::vector<Kernel>& kernels() {
  static std::vector<Kernel> table;
  return table;
}

}  // namespace

KernelRegistration::KernelRegistration(const char* name, LaunchFunction launch) {
  kernels().push_back({name, launch});
}

}  // namespace rnc

const char* rnc_device_launch(const char* kernel, void* const* buffers, const int64_t* numbers) {
  // One word per thread: a library that is opened at run time finds little room for thread-local
  // data.
  thread_local std::string* message = nullptr;
  if (message == nullptr) message = new std::string;
  for (const rnc::Kernel& known : rnc::kernels()) {
    if (std::strcmp(known.name, kernel) != 0) continue;
    const rnc::Status status = known.launch({buffers, numbers});
    if (!status.ok()) return status.error;
    return rnc::wait_for_device();
  }
  *message = "this library has no kernel '" + std::string(kernel) + "'";
  return message->c_str();
}

const char* rnc_device_kernel_name(int32_t index) {
  const auto& table = rnc::kernels();
  return index >= 0 && index < static_cast<int32_t>(table.size()) ? table[index].name : nullptr;
}
