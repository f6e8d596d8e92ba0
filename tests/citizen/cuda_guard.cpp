// What torch's builds for CPUs lack: a device guard for CUDA. In builds for GPUs FakeTensorMode
// puts this very one in its place where there is no GPU (c10::impl::ensureCUDADeviceGuardSet).
#include <c10/core/impl/DeviceGuardImplInterface.h>

C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>)
