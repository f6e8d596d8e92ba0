#include "wgmma_sweep.cuh"

namespace rnc::probes {
namespace {

const KernelRegistration from_shared{"wgmma_ss_bf16_every_n", launch_every_width<bfloat16, false>};
const KernelRegistration from_registers{"wgmma_rs_bf16_every_n",
                                        launch_every_width<bfloat16, true>};

}  // namespace
}  // namespace rnc::probes
