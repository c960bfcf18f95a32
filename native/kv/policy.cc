#include "kv/policy.h"

#include <algorithm>

namespace longhaul {

int32_t MemoryPolicy::observing_tokens() const {
  switch (kind) {
    // kSnapKv and kTova feed them again only when a full tail is evicted without a block in hand.
    case PolicyKind::kSnapKv:
    case PolicyKind::kSnapKvRefed:
      return window;
    case PolicyKind::kTova:
      return 1;
    case PolicyKind::kKvZip:
      return block;
    default:
      return 0;
  }
}

int64_t MemoryPolicy::observers() const {
  const int64_t reserved = std::max<int64_t>(static_cast<int64_t>(prompt.size()), prompt_rows);
  return (prompted() ? reserved : 0) + observing_tokens();
}

namespace {

Status check_own(const std::vector<int32_t>& own) {
  if (own.size() % 2 != 0) return invalid_argument("own has a begin without an end");
  int32_t last = -1;
  for (size_t i = 0; i < own.size(); ++i) {
    // A span holds something, and does not touch the next.
    if (own[i] <= last) {
      return invalid_argument("own must ascend, not go from " + std::to_string(last) + " to " +
                              std::to_string(own[i]));
    }
    last = own[i];
  }
  return Status();
}

}  // namespace

Status check(const MemoryPolicy& policy, const KvGeometry& geometry) {
  if (policy.block < 1)
    return invalid_argument("block must be at least 1, not " + std::to_string(policy.block));
  if (!policy.bounded()) {
    if (policy.positions == PositionKind::kAbsolute) return Status();
    return invalid_argument(
        "positions cannot be packed under policy 'full': it keeps every row, so the rows alone take a position "
        "each; choose a bounded policy");
  }
  if (policy.prompt_rows < 0) {
    return invalid_argument("prompt rows must be at least 0, not " + std::to_string(policy.prompt_rows));
  }
  if (policy.tail < 1) return invalid_argument("tail must be at least 1, not " + std::to_string(policy.tail));
  if (static_cast<int32_t>(policy.budgets.size()) != geometry.layers) {
    return invalid_argument("budget has " + std::to_string(policy.budgets.size()) + " layers, the model has " +
                            std::to_string(geometry.layers));
  }
  const int32_t least = *std::min_element(policy.budgets.begin(), policy.budgets.end());
  if (least < 1) return invalid_argument("budget must be at least 1 row, not " + std::to_string(least));
  switch (policy.kind) {
    case PolicyKind::kStreaming:
      if (policy.sinks < 0 || policy.sinks >= least) {
        return invalid_argument("sinks (" + std::to_string(policy.sinks) + ") must be below the budget (" +
                                std::to_string(least) + " rows)");
      }
      break;
    case PolicyKind::kSnapKv:
    case PolicyKind::kSnapKvRefed:
      if (policy.window < 1 || policy.window >= least) {
        return invalid_argument("window (" + std::to_string(policy.window) +
                                ") must be between 1 and the budget (" + std::to_string(least) + " rows)");
      }
      if (policy.pool_kernel < 1 || policy.pool_kernel % 2 == 0) {
        return invalid_argument("kernel must be odd, not " + std::to_string(policy.pool_kernel));
      }
      break;
    case PolicyKind::kPatchedPrompt:
      if (policy.prompt.empty()) {
        return invalid_argument("policy 'patched-prompt' needs a prompt of at least one token");
      }
      break;
    case PolicyKind::kEpisodic:
      return check_own(policy.own);
    default:
      break;
  }
  return Status();
}

namespace {

int64_t frozen_pages(const MemoryPolicy& policy, const KvGeometry& geometry) {
  int64_t pages = 0;
  for (int64_t budget : policy.budgets) pages += budget * geometry.kv_heads / kPageRows + geometry.kv_heads;
  return pages;
}

int64_t tail_pages(const MemoryPolicy& policy, const KvGeometry& geometry) {
  return static_cast<int64_t>(geometry.layers) * geometry.kv_heads * pages_for(policy.tail);
}

int64_t block_pages(const MemoryPolicy& policy, const KvGeometry& geometry) {
  return geometry.kv_heads * pages_for(int64_t{policy.block} + policy.observers());
}

}  // namespace

int64_t reservation_pages(const MemoryPolicy& policy, const KvGeometry& geometry) {
  return frozen_pages(policy, geometry) + tail_pages(policy, geometry) + block_pages(policy, geometry);
}

std::string explain_reservation(const MemoryPolicy& policy, const KvGeometry& geometry) {
  const int64_t frozen = frozen_pages(policy, geometry);
  const int64_t tail = tail_pages(policy, geometry);
  const int64_t block = block_pages(policy, geometry);
  const int64_t most = *std::max_element(policy.budgets.begin(), policy.budgets.end());
  return std::to_string(frozen) + " pages of kept rows (budget M = " + std::to_string(most) + " in " +
         std::to_string(geometry.layers) + " layers x " + std::to_string(geometry.kv_heads) + " KV heads) + " +
         std::to_string(tail) + " of tail (T = " + std::to_string(policy.tail) + ") + " +
         std::to_string(block) + " for the block in hand (B = " + std::to_string(policy.block) +
         ", P = " + std::to_string(policy.observers()) + ") = " + std::to_string(frozen + tail + block) +
         " pages of " + std::to_string(geometry.page_bytes()) +
         " bytes = " + std::to_string((frozen + tail + block) * geometry.page_bytes()) + " bytes";
}

Status check_positions(const MemoryPolicy& policy, const KvGeometry& geometry, int64_t max_positions) {
  if (policy.positions == PositionKind::kAbsolute) return Status();
  const int64_t rows = head_capacity(policy, geometry);
  if (rows <= max_positions) return Status();
  const int64_t frozen = rows - policy.tail - policy.block - policy.observers();
  const bool pair = policy.selection_level() == SelectLevel::kPair && geometry.kv_heads > 1;
  return invalid_argument(
      "packed positions take one for each row that a head may hold: " + std::to_string(frozen) + " kept" +
      (pair ? " (budget x " + std::to_string(geometry.kv_heads) +
                  " KV heads, for at level 'pair' one head may keep all)"
            : "") +
      " + tail " + std::to_string(policy.tail) + " + block " + std::to_string(policy.block) + " + " +
      std::to_string(policy.observers()) + " that observe it = " + std::to_string(rows) +
      ", and the model has " + std::to_string(max_positions) + "; lower budget, tail or block" +
      (pair ? ", or choose level 'head'" : ""));
}

int64_t head_capacity(const MemoryPolicy& policy, const KvGeometry& geometry) {
  const int64_t most = *std::max_element(policy.budgets.begin(), policy.budgets.end());
  const int64_t frozen = policy.selection_level() == SelectLevel::kPair ? most * geometry.kv_heads : most;
  return frozen + policy.tail + policy.block + policy.observers();
}

}  // namespace longhaul
