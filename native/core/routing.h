// How a router turns the probabilities of experts into their weights. Plain data: adapter files are read into
// it and the router op takes it.
#pragma once

#include <cstdint>

namespace longhaul {

// A row's weights fit the registers of one warp, a row's mask one 64-bit word.
inline constexpr int32_t kMaxExperts = 64;

enum class EntropyType : uint8_t { kTsallis, kRenyi };

enum class EntropyMode : uint8_t {
  kReference,  // the published code: eps added to every probability, nothing renormalised; wild as q -> 1
  kStable,     // without eps, continuous at q = 1; Tsallis only
};

// DynMoLE (arXiv 2504.00661), as its published code has it. p = softmax(gate . x), sorted descending, equal p
// by the lower index. Experts whose cumulative p stays within top_p are kept, and the first keep_top_k always.
// Where the entropy of p is above the threshold all are kept. Weights are p of the kept experts, else 0.
//
// Routers without entropy are the same rule with other numbers: top_k_router and dense_router.
struct RouterSettings {
  double top_p = 0.75;
  int32_t keep_top_k = 2;  // 1 or more; as many as there are experts keeps all
  EntropyType entropy_type = EntropyType::kTsallis;
  EntropyMode entropy_mode = EntropyMode::kReference;
  double entropy_index = 1.1;      // q; 1 is Shannon's entropy
  double entropy_threshold = 0.9;  // exceeded strictly; 1 or more: never
  double entropy_eps = 1e-5;
  bool entropy_normalized = true;  // divided by the entropy of equal p
  bool include_crossing = false;   // also keep the expert whose p crosses top_p
  bool renormalize = false;        // weights of a row sum to 1
};

// The k most probable experts, their weights summing to 1 (MixLoRA, MoLA).
inline RouterSettings top_k_router(int32_t k) {
  RouterSettings router;
  router.top_p = 0.0;
  router.keep_top_k = k;
  router.entropy_threshold = 1.0;
  router.renormalize = true;
  return router;
}

// All experts with their probabilities (LoRAMoE).
inline RouterSettings dense_router(int32_t experts) {
  RouterSettings router = top_k_router(experts);
  router.renormalize = false;
  return router;
}

}  // namespace longhaul
