#include "wgmma_sweep.cuh"

namespace rnc::probes {
namespace {

const KernelRegistration from_shared{"wgmma_ss_tf32_every_n", launch_every_width<float, false>};
const KernelRegistration from_registers{"wgmma_rs_tf32_every_n", launch_every_width<float, true>};

}  // namespace
}  // namespace rnc::probes
