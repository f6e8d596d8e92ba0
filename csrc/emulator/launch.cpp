#include "emulator/launch.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <mutex>
#include <new>
#include <numeric>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "emulator/block.h"
#include "emulator/fault_handler.h"
#include "emulator/fiber.h"
#include "emulator/grid.h"
#include "emulator/worker_pool.h"

namespace rnc::emulator {

bool kernels_are_instrumented = false;

namespace {

constexpr size_t kMaxSharedBytes = 227 * 1024;
constexpr size_t kReservedSharedBytes = 1024;  // of every block
constexpr size_t kMultiprocessorSharedBytes = 228 * 1024;
constexpr uint64_t kKeptRecords = 131072;

// A launch whose first clusters took no longer than this is not worth waking other threads.
constexpr std::chrono::microseconds kWorthHelp{40};

struct Record {
  LaunchRecord launch;
  std::vector<TensorTraffic> tensors;
};

struct State {
  std::mutex launch_mutex;
  Worker own_worker;  // of whichever thread launches
  WorkerPool* pool = nullptr;

  std::mutex record_mutex;
  std::deque<Record> records;
  std::set<std::string> names;  // what the records point to
};

State& state();

// After fork() only the calling thread exists in the child: it must find no lock taken and start
// its own pool.
void before_fork() {
  state().launch_mutex.lock();
  state().record_mutex.lock();
  lock_device_memory();
}
void after_fork_in_parent() {
  unlock_device_memory();
  state().record_mutex.unlock();
  state().launch_mutex.unlock();
}
void after_fork_in_child() {
  state().pool = nullptr;  // its threads are gone; joining them would wait for ever
  after_fork_in_parent();
}

State& state() {  // never destroyed: launches may happen until the process ends
  static State* const instance = [] {
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    return new State;
  }();
  return *instance;
}

// Empty if the GPU would accept the launch as well.
std::string find_refusal(const LaunchRequest& request) {
  const Dim3& grid = request.grid;
  const Dim3& block = request.block;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > kMaxThreads || block.z > 64) {
    return "block " + name_of(block) +
           "; at most 1024 threads, at least one, and at most 64 along z";
  }
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7FFFFFFFu || grid.y > 65535 ||
      grid.z > 65535) {
    return "grid " + name_of(grid) + "; from 1 to 2147483647 blocks along x, 65535 along y and z";
  }
  if (request.shared_bytes > kMaxSharedBytes) {
    return format("%zu bytes of shared memory; at most %zu", request.shared_bytes, kMaxSharedBytes);
  }
  const size_t together =
      (request.shared_bytes + kReservedSharedBytes) * request.blocks_per_multiprocessor;
  if (request.blocks_per_multiprocessor > 1 && together > kMultiprocessorSharedBytes) {
    return format("%zu bytes of shared memory: %u blocks do not fit on one multiprocessor",
                  request.shared_bytes, request.blocks_per_multiprocessor);
  }
  const Dim3& cluster = request.cluster;
  if (count(cluster) == 0 || count(cluster) > kMaxClusterBlocks) {
    return format("cluster %s; from 1 to %u blocks (8 is what every GPU can run)",
                  name_of(cluster).c_str(), kMaxClusterBlocks);
  }
  if (grid.x % cluster.x != 0 || grid.y % cluster.y != 0 || grid.z % cluster.z != 0) {
    return "cluster " + name_of(cluster) + ", which does not divide grid " + name_of(grid);
  }
  return "";
}

// Runs clusters until none is left; with a time limit, at least one and no new one after it.
void run_clusters(Worker& worker, Launch& launch,
                  std::chrono::nanoseconds limit = std::chrono::nanoseconds::max()) {
  const auto start = std::chrono::steady_clock::now();
  while (!launch.aborted) {
    const uint64_t position = launch.next_cluster.fetch_add(1, std::memory_order_relaxed);
    if (position >= launch.clusters) return;
    run_cluster(worker, launch.order.at(position));
    if (std::chrono::steady_clock::now() - start > limit) return;
  }
}

void run(Launch& launch, State& global, Counters& counters) {
  const AlternateStack alternate_stack;
  const FaultHandler fault_handler;
  Worker& own = global.own_worker;
  begin_launch(own, launch);
  const uint32_t helpers = WorkerPool::workers(launch.options) - 1;
  run_clusters(own, launch, kWorthHelp);
  const bool help = helpers > 0 && launch.next_cluster + 1 < launch.clusters && !launch.aborted;
  if (help) {
    if (global.pool == nullptr) global.pool = new WorkerPool;
    global.pool->start(helpers, [&launch](Worker& worker) {
      begin_launch(worker, launch);
      run_clusters(worker, launch);
    });
  }
  run_clusters(own, launch);
  if (help) global.pool->finish(counters);
  add(counters, own.counters);
}

void record(State& global, const LaunchRequest& request, const Counters& counters,
            const std::vector<LaunchMemory::Touched>& touched) {
  const std::lock_guard<std::mutex> lock(global.record_mutex);
  if (global.records.size() >= kKeptRecords) return;
  const auto keep = [&](const std::string& name) {
    return global.names.insert(name).first->c_str();
  };
  std::vector<TensorTraffic> tensors;
  for (const LaunchMemory::Touched& one : touched) {
    tensors.push_back({keep(one.name), one.load_bytes, one.store_bytes});
  }
  global.records.push_back({{keep(request.name),
                             {request.grid.x, request.grid.y, request.grid.z},
                             {request.block.x, request.block.y, request.block.z},
                             request.shared_bytes,
                             counters,
                             {request.cluster.x, request.cluster.y, request.cluster.z},
                             request.starts_early},
                            std::move(tensors)});
}

std::string find_wrong_option(const Options& options) {
  const struct {
    const char* name;
    int32_t value;
  } choices[] = {{"schedule", options.schedule},
                 {"cp_async", options.cp_async},
                 {"tma", options.tma},
                 {"wgmma", options.wgmma}};
  for (const auto& choice : choices) {
    if (choice.value >= 0 && choice.value <= 2) continue;
    return format("the emulator's option %s = %d; 0, 1 or 2", choice.name, choice.value);
  }
  return "";
}

// What repeats a launch; empty under the default options.
std::string describe_timing(const Options& options) {
  static constexpr const char* kSchedules[] = {"round robin", "reversed", "random"};
  static constexpr const char* kCompletions[] = {"late", "early", "random"};
  const bool is_default = options.schedule == kRoundRobin && options.cp_async == kLate &&
                          options.tma == kLate && options.wgmma == kLate;
  if (is_default) return "";
  return format("\n  (schedule %s, seed %u; completion of cp.async %s, TMA %s, wgmma %s)",
                kSchedules[options.schedule], options.seed, kCompletions[options.cp_async],
                kCompletions[options.tma], kCompletions[options.wgmma]);
}

std::string run_and_record(const LaunchRequest& request) {
  State& global = state();
  const std::lock_guard<std::mutex> lock(global.launch_mutex);
  std::string refusal = find_refusal(request);
  if (refusal.empty()) refusal = find_wrong_option(options());
  if (!refusal.empty()) return std::string(request.name) + ": cannot launch with " + refusal;
  try {
    Launch launch(request, options(), kernels_are_instrumented);
    Counters counters{};
    observing = launch.options.check != 0 || launch.options.count != 0;
    run(launch, global, counters);
    observing = false;
    const std::vector<LaunchMemory::Touched> touched = launch.memory.count_distinct(counters);
    record(global, request, counters, touched);
    std::string errors = launch.errors.text();
    const std::string margin = find_overwritten_margin();
    if (errors.empty() && !margin.empty()) {
      errors =
          std::string(request.name) + ": " + margin + "; options.check = 1 names block and thread";
    }
    return errors.empty() ? "" : errors + describe_timing(launch.options);
  } catch (const std::bad_alloc&) {
    observing = false;
    return std::string(request.name) + ": the emulator cannot get the memory for this launch";
  }
}

}  // namespace

Options& options() {
  static Options values{kRoundRobin, 1, 0, 0, 0, 1, kLate, kLate, kLate, 90, 132};
  return values;
}

int32_t capability() { return options().capability; }
int32_t multiprocessors() { return options().multiprocessors; }

ClusterOrder::ClusterOrder(uint64_t cluster_count, const Options& options)
    : clusters(cluster_count), reversed(options.schedule == kReversed) {
  if (options.schedule != kRandom) return;
  step = (options.seed * 0x9E3779B97F4A7C15ull >> 16) % clusters;
  while (std::gcd(step, clusters) != 1) step = (step + 1) % clusters;
  offset = options.seed % clusters;
}

uint64_t ClusterOrder::at(uint64_t position) const {
  if (reversed) return clusters - 1 - position;
  __extension__ using Product = unsigned __int128;
  return static_cast<uint64_t>((Product{position} * step + offset) % clusters);
}

Launch::Launch(const LaunchRequest& launch_request, const Options& launch_options,
               bool instrumented)
    : request(launch_request),
      options(launch_options),
      threads(static_cast<uint32_t>(count(request.block))),
      cluster_blocks(static_cast<uint32_t>(count(request.cluster))),
      clusters(count(request.grid) / cluster_blocks),
      check_shared(instrumented && options.check != 0),
      random_completion(options.cp_async == kRandomCompletion || options.tma == kRandomCompletion ||
                        options.wgmma == kRandomCompletion),
      order(clusters, options),
      errors(options.max_errors),
      memory(options, check_shared, count(request.grid)) {}

const char* launch(const LaunchRequest& request) {
  // One word per thread: a library that is opened at run time finds little room for thread-local
  // data.
  thread_local std::string* message = nullptr;
  if (message == nullptr) message = new std::string;
  *message = run_and_record(request);
  return message->empty() ? nullptr : message->c_str();
}

uint64_t launch_count() {
  const std::lock_guard<std::mutex> lock(state().record_mutex);
  return state().records.size();
}

void launch_record(uint64_t index, LaunchRecord* out) {
  const std::lock_guard<std::mutex> lock(state().record_mutex);
  *out = index < state().records.size() ? state().records[index].launch : LaunchRecord{};
}

uint64_t launch_tensors(uint64_t index, TensorTraffic* out, uint64_t capacity) {
  const std::lock_guard<std::mutex> lock(state().record_mutex);
  if (index >= state().records.size()) return 0;
  const std::vector<TensorTraffic>& tensors = state().records[index].tensors;
  std::copy_n(tensors.begin(), std::min<uint64_t>(capacity, tensors.size()), out);
  return tensors.size();
}

void clear_launches() {
  const std::lock_guard<std::mutex> lock(state().record_mutex);
  state().records.clear();
}

}  // namespace rnc::emulator
