#include "host/emulator.h"

#include <dlfcn.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "emulator/emulator_api.h"

namespace rnc::host {
namespace {

namespace py = pybind11;
using emulator::Counters;
using emulator::EmulatorApi;
using emulator::LaunchRecord;
using emulator::Options;
using emulator::TensorTraffic;

py::dict to_dict(const Counters& counters) {
  py::dict out;
#define RNC_COUNTER(name) out[#name] = counters.name;
  RNC_COUNTER(global_load_bytes)
  RNC_COUNTER(global_store_bytes)
  RNC_COUNTER(global_load_sectors)
  RNC_COUNTER(global_store_sectors)
  RNC_COUNTER(distinct_load_bytes)
  RNC_COUNTER(distinct_store_bytes)
  RNC_COUNTER(shared_load_bytes)
  RNC_COUNTER(shared_store_bytes)
  RNC_COUNTER(shared_wavefronts)
  RNC_COUNTER(shared_wavefronts_ideal)
  RNC_COUNTER(context_switches)
  RNC_COUNTER(collectives)
  RNC_COUNTER(distinct_load_sectors)
  RNC_COUNTER(distinct_store_sectors)
  RNC_COUNTER(mma_instructions)
  RNC_COUNTER(mma_multiply_adds)
#undef RNC_COUNTER
  return out;
}

py::dict to_dict(const LaunchRecord& record) {
  py::dict out;
  out["kernel"] = record.kernel;
  out["grid"] = py::make_tuple(record.grid[0], record.grid[1], record.grid[2]);
  out["block"] = py::make_tuple(record.block[0], record.block[1], record.block[2]);
  out["shared_bytes"] = record.shared_bytes;
  out["cluster"] = py::make_tuple(record.cluster[0], record.cluster[1], record.cluster[2]);
  out["starts_early"] = record.starts_early != 0;
  out["counters"] = to_dict(record.counters);
  return out;
}

// An opened emulated library. The dynamic linker hands every opener of one path the same library,
// so options set here govern the launches of the torch ops.
class Emulator {
 public:
  explicit Emulator(const std::string& path) {
    void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) throw std::runtime_error("path: cannot open " + path + ": " + dlerror());
    using GetApi = const EmulatorApi* (*)();
    const auto get_api = reinterpret_cast<GetApi>(dlsym(library, "rnc_emulator_api"));
    if (!get_api) {
      throw std::runtime_error("path: " + path +
                               " does not export rnc_emulator_api, expected librnc_emulated.so or "
                               "librnc_emulated_checked.so");
    }
    api_ = get_api();
  }

  bool checked() const { return api_->checked != 0; }
  Options& options() const { return *api_->options; }

  py::list launches() const {
    py::list out;
    const uint64_t count = api_->launch_count();
    for (uint64_t i = 0; i < count; ++i) {
      LaunchRecord record{};
      api_->launch_record(i, &record);
      py::dict launch = to_dict(record);
      launch["tensors"] = tensors(i);
      out.append(launch);
    }
    return out;
  }

  void clear() const { api_->clear_launches(); }

 private:
  py::dict tensors(uint64_t launch) const {
    std::vector<TensorTraffic> found(api_->launch_tensors(launch, nullptr, 0));
    api_->launch_tensors(launch, found.data(), found.size());
    py::dict out;
    for (const TensorTraffic& one : found) {
      out[one.name] = py::make_tuple(one.load_bytes, one.store_bytes);
    }
    return out;
  }

  const EmulatorApi* api_;
};

}  // namespace

void bind_emulator(py::module_& m) {
  py::class_<Options>(m, "EmulatorOptions", "Process-wide options of one emulated library.")
      .def_readwrite("schedule", &Options::schedule, "0 round robin, 1 reversed, 2 random")
      .def_readwrite("seed", &Options::seed, "of the random schedule")
      .def_readwrite("workers", &Options::workers, "host threads; 0: one per hardware thread")
      .def_readwrite("check", &Options::check, "1: report races, bounds, uninitialised reads")
      .def_readwrite("count", &Options::count, "1: fill the counters of launch records")
      .def_readwrite("max_errors", &Options::max_errors, "reports after which a launch stops")
      .def_readwrite("cp_async", &Options::cp_async,
                     "when cp.async copies complete: 0 late, 1 early, 2 at random")
      .def_readwrite("tma", &Options::tma, "when tensor copies complete, in the same way")
      .def_readwrite("wgmma", &Options::wgmma, "when wgmma operations complete, in the same way")
      .def_readwrite("multiprocessors", &Options::multiprocessors, "of the GPU that is played");
  py::class_<Emulator>(m, "Emulator", "An opened library with emulated kernels.")
      .def(py::init<const std::string&>(), py::arg("path"))
      .def_property_readonly("checked", &Emulator::checked, "whether the kernels are instrumented")
      .def_property_readonly("options", &Emulator::options, py::return_value_policy::reference)
      .def("launches", &Emulator::launches,
           "Records of the launches since clear(): kernel, grid, block, cluster, shared_bytes, "
           "starts_early, counters, tensors {name: (bytes loaded, bytes stored)} (with "
           "options.count).")
      .def("clear", &Emulator::clear, "Forgets the launch records.");
}

}  // namespace rnc::host
