#include "emulator/tma_completion.h"

#include <algorithm>
#include <utility>

#include "emulator/agents.h"
#include "emulator/box_copy.h"
#include "emulator/fiber.h"
#include "emulator/mbarrier_state.h"

namespace rnc::emulator {

namespace {

// Stores whose results are on their way, in a cluster; more would only cost time and memory.
constexpr size_t kMaxUnwrittenStores = 32;

// While it lives, faults and messages name the thread that issued an operation, whoever runs.
class OnBehalfOf {
 public:
  explicit OnBehalfOf(Fiber* issuer) : running_(std::exchange(current, issuer)) {}
  ~OnBehalfOf() { current = running_; }
  OnBehalfOf(const OnBehalfOf&) = delete;
  OnBehalfOf& operator=(const OnBehalfOf&) = delete;

 private:
  ThreadView* const running_;
};

void read_source(TmaOperation& store) {
  if (store.was_read) return;
  store.data.resize(box_bytes(store.map));
  read_source(box_of(store), store.data.data());
  store.was_read = true;
}

TmaOperation take(Cluster& cluster, size_t index) {
  std::vector<TmaOperation>& operations = cluster.tensor_copies.operations;
  TmaOperation operation = std::move(operations[index]);
  operations.erase(operations.begin() + static_cast<ptrdiff_t>(index));
  --cluster.operations_in_flight;
  return operation;
}

void complete_at(Cluster& cluster, size_t index) {
  TmaOperation operation = take(cluster, index);
  complete(cluster, operation);
}

// Completes those stores whose sources were read, but for the newest of them.
void complete_oldest_stores(Cluster& cluster, size_t newest_left) {
  std::vector<TmaOperation>& operations = cluster.tensor_copies.operations;
  const auto unwritten = static_cast<size_t>(
      std::count_if(operations.begin(), operations.end(),
                    [](const TmaOperation& operation) { return operation.was_read; }));
  if (unwritten <= newest_left) return;
  size_t excess = unwritten - newest_left;
  for (size_t i = 0; excess != 0;) {
    if (operations[i].was_read) {
      complete_at(cluster, i);
      --excess;
    } else {
      ++i;
    }
  }
}

}  // namespace

Box box_of(const TmaOperation& operation) {
  return {operation.map, operation.coordinates, offsets_of(operation), operation.block->shared,
          operation.offset};
}

void complete(Cluster& cluster, TmaOperation& operation) {
  const OnBehalfOf issuer(operation.issuer);
  if (operation.store) {
    read_source(operation);
    write_box(box_of(operation), operation.data.data());
    return;
  }
  if (operation.block->live == 0) {
    fail("TMA load in flight into block " + name_of(operation.block->block_idx) +
         ", whose threads have all exited; they must wait for its mbarrier" +
         location(operation.pc));
  }
  load_box(box_of(operation));
  complete_load(cluster, operation.bound, static_cast<uint32_t>(box_bytes(operation.map)));
}

void complete_stores(const Fiber* fiber, uint32_t groups, bool read_only) {
  Cluster& cluster = cluster_of(fiber);
  std::vector<TmaOperation>& operations = cluster.tensor_copies.operations;
  if (read_only) complete_oldest_stores(cluster, kMaxUnwrittenStores);
  for (size_t i = 0; i < operations.size();) {
    TmaOperation& operation = operations[i];
    if (!operation.store || operation.issuer != fiber || operation.group >= groups) {
      ++i;
    } else if (read_only) {
      read_source(operation);
      ++i;
    } else {
      complete_at(cluster, i);
    }
  }
}

// Nobody waits for an agent to complete a store: late, it happens when the issuer waits for its
// result, or when the cluster is done.
bool tma_complete_one(Cluster& cluster, bool random) {
  std::vector<TmaOperation>& operations = cluster.tensor_copies.operations;
  if (operations.empty()) return false;
  if (cluster.live == 0) {
    complete_at(cluster, 0);
    return true;
  }
  if (random) {
    const size_t index = cluster.random(static_cast<uint32_t>(operations.size()));
    TmaOperation& operation = operations[index];
    if (operation.store && !operation.was_read) {
      read_source(operation);
    } else {
      complete_at(cluster, index);
    }
    return true;
  }
  const auto load = std::find_if(operations.begin(), operations.end(),
                                 [](const TmaOperation& operation) { return !operation.store; });
  if (load == operations.end()) return false;
  complete_at(cluster, static_cast<size_t>(load - operations.begin()));
  return true;
}

}  // namespace rnc::emulator
