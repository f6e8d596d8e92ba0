#include "bindings/stage.h"

#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include <atomic>
#include <cstring>
#include <mutex>

#include "bindings/tf32_switch.h"
#include "emulator/emulator_api.h"

namespace rnc::bindings {
namespace {

// An opened library with emulated kernels. Never closed: its launch records and messages may
// outlive the selection.
struct EmulatorLibrary {
  const KernelLibrary* kernels;
  const emulator::EmulatorApi* api;
  bool allow_tf32;
  int32_t capability;
};

std::atomic<const EmulatorLibrary*> selected_emulator{nullptr};

// The emulator is one device with one stream: calls from several threads take turns.
std::mutex emulated_device;

constexpr uintptr_t kHostAlignment = 64;  // of torch's CPU allocator

template <class Function>
Function find_symbol(void* library, const char* symbol, const std::string& path) {
  void* const address = dlsym(library, symbol);
  if (!address) {
    throw std::runtime_error("resnet_cuda::_select_emulator: " + path + " does not export " +
                             symbol +
                             ", expected librnc_emulated.so or librnc_emulated_checked.so");
  }
  return reinterpret_cast<Function>(address);
}

#if RNC_WITH_CUDA
// libtorch_cuda is loaded with RTLD_LOCAL, so neither a weak symbol nor RTLD_DEFAULT would find its
// functions.
Stream current_cuda_stream(const Arguments& args) {
  using GetStream = AOTITorchError (*)(int32_t, void**);
  static const GetStream get_stream = [] {
    void* const library = dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_NOLOAD);
    return library
               ? reinterpret_cast<GetStream>(dlsym(library, "aoti_torch_get_current_cuda_stream"))
               : nullptr;
  }();
  args.require(get_stream, "this torch has no CUDA: libtorch_cuda.so is not loaded");
  void* stream = nullptr;
  args.require(get_stream(args.device_index(), &stream) == AOTI_TORCH_SUCCESS,
               "cannot get the current CUDA stream of device ", args.device_index());
  return stream;
}
#endif

}  // namespace

struct Stage::Gpu {
  torch::stable::accelerator::DeviceGuard guard;
};

struct Stage::Emulation {
  struct Copy {
    void* device;
    void* host;
    size_t bytes;
    bool written;
  };

  explicit Emulation(const EmulatorLibrary& library)
      : api(library.api), allow_tf32(library.allow_tf32), turn(emulated_device) {
    api->options->capability = library.capability;
  }
  ~Emulation() {
    for (const Copy& copy : copies) api->device_free(copy.device);
  }

  const emulator::EmulatorApi* api;
  bool allow_tf32;
  std::vector<Copy> copies;
  std::unique_lock<std::mutex> turn;
};

Stage::Stage(const Arguments& args) : args_(args) {
  if (args.on_cuda()) {
#if RNC_WITH_CUDA
    gpu_ = std::make_unique<Gpu>(Gpu{torch::stable::accelerator::DeviceGuard(args.device_index())});
    stream_ = current_cuda_stream(args);
    library_ = &kernel_library();
#else
    args.fail(
        "this build of resnet_cuda has no CUDA kernels: no nvcc was found when it was built. Set "
        "CUDA_HOME or put nvcc on PATH and build again; python -m resnet_cuda info shows what was "
        "built");
#endif
  } else {
    const EmulatorLibrary* const library = selected_emulator.load();
    args.require(library,
                 "CPU tensors run the kernels on the emulator and none is selected; enclose the "
                 "call in resnet_cuda.testing.emulated()");
    emulation_ = std::make_unique<Emulation>(*library);
    library_ = library->kernels;
  }
}

Stage::~Stage() = default;

const void* Stage::in(const char* name, const Tensor& tensor) {
  return hold(name, tensor, Access::kRead);
}
const void* Stage::in(const char* name, const OptionalTensor& tensor) {
  return tensor ? in(name, *tensor) : nullptr;
}
void* Stage::out(const char* name, const Tensor& tensor) {
  return hold(name, tensor, Access::kWrite);
}
void* Stage::inout(const char* name, const OptionalTensor& tensor) {
  return tensor ? hold(name, *tensor, Access::kReadWrite) : nullptr;
}
void* Stage::workspace(const char* name, const Tensor& tensor) {
  return hold(name, tensor, Access::kScratch);
}

void* Stage::hold(const char* name, const Tensor& tensor, Access access) {
  const int64_t elements = tensor.numel();
  if (elements == 0) return nullptr;
  void* const data = access == Access::kRead ? const_cast<void*>(tensor.const_data_ptr())
                                             : tensor.mutable_data_ptr();
  if (!emulation_) return data;

  // Fresh CPU tensors stand for fresh CUDA tensors, which are aligned to at least 256 bytes; a view
  // that starts in the middle keeps its misalignment.
  const bool read = access == Access::kRead || access == Access::kReadWrite;
  const bool written = access == Access::kWrite || access == Access::kReadWrite;
  const size_t bytes = size_t(elements) * tensor.element_size();
  const uint32_t misalignment = uint32_t(reinterpret_cast<uintptr_t>(data) % kHostAlignment);
  void* const device = emulation_->api->device_malloc(bytes, misalignment, name, read);
  args_.require(device, name, ": the emulator has no memory for ", bytes, " bytes");
  emulation_->copies.push_back({device, data, bytes, written});
  if (read) std::memcpy(device, data, bytes);
  return device;
}

bool Stage::allows_tf32() const {
  if (args_.dtype() != DType::kFloat32) return false;
  return emulation_ ? emulation_->allow_tf32 : torch_allows_tf32();
}

void Stage::finish(Status status) {
  args_.require(status.ok(), status.error);
  if (!emulation_) return;
  for (const Emulation::Copy& copy : emulation_->copies) {
    if (copy.written) std::memcpy(copy.host, copy.device, copy.bytes);
  }
}

void select_emulator(const std::string& path, bool allow_tf32, int64_t capability) {
  if (path.empty()) {
    selected_emulator = nullptr;
    return;
  }
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    throw std::runtime_error("resnet_cuda::_select_emulator: cannot open " + path + ": " +
                             dlerror());
  }
  const auto kernels = find_symbol<const KernelLibrary* (*)()>(library, "rnc_kernel_library", path);
  const auto api =
      find_symbol<const emulator::EmulatorApi* (*)()>(library, "rnc_emulator_api", path);
  // One small record for each choice ever made, so that a call in another thread keeps the one
  // it took.
  static std::mutex registry;
  static std::vector<std::unique_ptr<EmulatorLibrary>> libraries;
  const std::lock_guard lock(registry);
  for (const auto& known : libraries) {
    if (known->api == api() && known->allow_tf32 == allow_tf32 && known->capability == capability) {
      selected_emulator = known.get();
      return;
    }
  }
  libraries.push_back(std::make_unique<EmulatorLibrary>(
      EmulatorLibrary{kernels(), api(), allow_tf32, int32_t(capability)}));
  selected_emulator = libraries.back().get();
}

}  // namespace rnc::bindings
