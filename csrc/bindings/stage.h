// Where a kernel runs: on the GPU that holds the tensors, or on the emulator with copies of them.
// An op hands its tensors over by name, gets the pointers for its params, and runs one pass.
#pragma once

#include <memory>

#include "bindings/arguments.h"
#include "launch/kernel_library.h"

namespace rnc::bindings {

class Stage {
 public:
  // Takes over the device and the current stream of the call. Raises when nothing can run it: a
  // build without CUDA kernels, or CPU tensors and no emulator selected.
  explicit Stage(const Arguments& args);
  ~Stage();
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;

  // Pointers for the params; null for an absent or empty tensor. Outputs start uninitialised: what
  // a kernel does not write stays undefined (under emulation: NaN).
  const void* in(const char* name, const Tensor& tensor);
  const void* in(const char* name, const OptionalTensor& tensor);
  void* out(const char* name, const Tensor& tensor);
  void* inout(const char* name, const OptionalTensor& tensor);
  void* workspace(const char* name, const Tensor& tensor);

  // Whether convolutions of the call may multiply float as TF32: on the GPU torch's switch says so,
  // on the emulator whoever selected it.
  bool allows_tf32() const;

  // What the launches of the call go to.
  const KernelLibrary& kernels() const { return *library_; }

  // Runs `pass`, once; raises with the launcher's message on failure. Outputs are valid afterwards
  // (on the GPU: in stream order).
  template <class Params>
  void run(Status (*KernelLibrary::*pass)(DType, const Params&, Stream), const Params& params) {
    finish((library_->*pass)(args_.dtype(), params, stream_));
  }

 private:
  struct Emulation;  // copies of the call's tensors in emulated device memory
  struct Gpu;        // the device guard

  enum class Access { kRead, kWrite, kReadWrite, kScratch };
  void* hold(const char* name, const Tensor& tensor, Access access);
  void finish(Status status);

  const Arguments& args_;
  const KernelLibrary* library_ = nullptr;
  Stream stream_ = nullptr;
  std::unique_ptr<Emulation> emulation_;
  std::unique_ptr<Gpu> gpu_;
};

// Opens the library with emulated kernels at `path` for the CPU tensors of all later calls in this
// process; "" deselects. allow_tf32: stands for torch's switch, which only concerns GPUs.
// capability: of the GPU that the emulator plays, 75 is 7.5.
void select_emulator(const std::string& path, bool allow_tf32, int64_t capability);

}  // namespace rnc::bindings
