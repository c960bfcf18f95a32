// What a sequence may hold and how it chooses what to keep.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/ops.h"
#include "kv/page_pool.h"

namespace longhaul {

enum class PolicyKind : uint8_t {
  kFull,           // every row stays
  kStreaming,      // StreamingLLM: attention sinks and the most recent rows
  kSnapKv,         // SnapKV: mean attention of the block's own last queries, average pooling, window kept
  kSnapKvRefed,    // as EpiCache's code runs it: the block's last tokens fed again behind it, max attention
  kKeyDiff,        // KeyDiff: keys least like the mean key of their head
  kPatchedPrompt,  // EpiCache: max attention of a given prompt behind each block
  kTova,           // TOVA: mean attention, over the heads of the layer, of the newest token, which stays
  kKvZip,          // KVzip: max attention of the block fed again behind a prompt that asks to repeat it
  kEpisodic,       // keys least like the mean key, those of the episode's own tokens first
};

// Which positions the rows of a stream have.
enum class PositionKind : uint8_t {
  kAbsolute,  // those of their tokens: the stream ends at the model's last one
  kPacked,    // the same until they are used up; then rows move up to each other, and the stream goes on behind
              // them
};

// Rows are rows of one KV head in one layer.
struct MemoryPolicy {
  PolicyKind kind = PolicyKind::kFull;
  SelectLevel level = SelectLevel::kPair;
  std::vector<int32_t> budgets;  // [layers] M_l: rows kept a head (on average at level kPair)
  int32_t block = 512;           // B: tokens of one prefill pass
  int32_t tail = 512;            // T: rows of questions, answers and new turns before they are evicted
  int32_t sinks = 4;             // kStreaming
  int32_t window = 32;           // kSnapKv*: queries that observe
  int32_t pool_kernel = 5;       // kSnapKv: neighbours averaged
  std::vector<int32_t>
      prompt;                // kPatchedPrompt, kKvZip, kEpisodic: its token ids; only of the first never empty
  int32_t prompt_rows = 0;   // reserved for a shorter prompt: caches with other prompts take as much
  std::vector<int32_t> own;  // kEpisodic: positions of the episode's own tokens, begin, end, begin, end, ...
  bool prompt_at_last_position =
      false;  // published code's off-by-one: the prompt starts at the block's last position

  PositionKind positions = PositionKind::kAbsolute;

  bool bounded() const { return kind != PolicyKind::kFull; }
  // Every head of kStreaming and kTova keeps the same rows. At level kPair a tie could go to one head only.
  SelectLevel selection_level() const {
    return kind == PolicyKind::kStreaming || kind == PolicyKind::kTova ? SelectLevel::kHead : level;
  }
  // Newest tokens that observe: by their own queries or fed again behind a block or a full tail.
  int32_t observing_tokens() const;
  // Whether `prompt` observes behind a block.
  bool prompted() const {
    return kind == PolicyKind::kPatchedPrompt || kind == PolicyKind::kKvZip || kind == PolicyKind::kEpisodic;
  }
  // P: rows that observe behind a block and are dropped again.
  int64_t observers() const;
};

// Checks the policy against the model's shape; kInvalidArgument names the option.
Status check(const MemoryPolicy& policy, const KvGeometry& geometry);

// Packed positions need room in the model's for the most rows a head may hold: kInvalidArgument has the
// arithmetic.
Status check_positions(const MemoryPolicy& policy, const KvGeometry& geometry, int64_t max_positions);

// Pages that a bounded policy needs whatever it is fed (ARCHITECTURE.md, "Memory"), with its terms in words:
//   sum_l (floor(M_l * H / page) + H) + L * H * ceil(T / page) + H * ceil((B + P) / page)
int64_t reservation_pages(const MemoryPolicy& policy, const KvGeometry& geometry);
std::string explain_reservation(const MemoryPolicy& policy, const KvGeometry& geometry);

// Rows one head can hold at most, in any layer, inside a pass.
int64_t head_capacity(const MemoryPolicy& policy, const KvGeometry& geometry);

}  // namespace longhaul
