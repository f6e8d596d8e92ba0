#include "wgmma_sweep.cuh"

namespace rnc::probes {
namespace {

const KernelRegistration from_shared{"wgmma_ss_f16_every_n", launch_every_width<float16, false>};
const KernelRegistration from_registers{"wgmma_rs_f16_every_n", launch_every_width<float16, true>};

}  // namespace
}  // namespace rnc::probes
