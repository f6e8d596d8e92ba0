#include "launch/kernel_library.h"

namespace rnc {

const KernelLibrary& kernel_library() {
  static const KernelLibrary library = {
#define RNC_PASS_ENTRY(stem, Params) stem,
      RNC_FOR_EACH_PASS(RNC_PASS_ENTRY)
#undef RNC_PASS_ENTRY
          bottleneck_block_is_fused};
  return library;
}

}  // namespace rnc

extern "C" const rnc::KernelLibrary* rnc_kernel_library() { return &rnc::kernel_library(); }
