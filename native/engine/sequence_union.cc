// Two sequences of one history as one. Rows are merged on the host, through the images that sequences leave and
// come back by, so that it works on every device.
#include <algorithm>
#include <cstring>
#include <limits>

#include "engine/sequence.h"

namespace longhaul {
namespace {

// Where a row of a united head comes from.
struct Origin {
  bool second = false;
  int32_t row = 0;
};

// All rows of `first`, and those of `second` below `end` whose position it has not, by position.
std::vector<Origin> merge(std::span<const int32_t> first, std::span<const int32_t> second, int64_t end) {
  std::vector<Origin> merged;
  size_t a = 0;
  size_t b = 0;
  while (a < first.size() || b < second.size()) {
    if (b < second.size() && second[b] >= end) {
      b = second.size();
    } else if (b == second.size() || (a < first.size() && first[a] <= second[b])) {
      if (b < second.size() && first[a] == second[b]) ++b;
      merged.push_back({.second = false, .row = static_cast<int32_t>(a++)});
    } else {
      merged.push_back({.second = true, .row = static_cast<int32_t>(b++)});
    }
  }
  return merged;
}

Status check_mergeable(const SequenceImage& image, int64_t shared_tokens) {
  if (image.packing.times > 0) {
    return unsupported("sequences whose positions were packed cannot be united: use absolute positions");
  }
  if (shared_tokens < 0 || shared_tokens > image.tokens_seen - image.tail_rows) {
    return invalid_argument("sequences cannot share " + std::to_string(shared_tokens) + " tokens: one has " +
                            std::to_string(image.tokens_seen - image.tail_rows) + " in front of its tail");
  }
  return Status();
}

Result<std::vector<int32_t>> add_budgets(const MemoryPolicy& first, const MemoryPolicy& second) {
  if (!first.bounded() || !second.bounded()) return invalid_argument("a full cache has all rows already");
  std::vector<int32_t> sums;
  for (size_t layer = 0; layer < first.budgets.size(); ++layer) {
    const int64_t sum = int64_t{first.budgets[layer]} + second.budgets[layer];
    if (sum > std::numeric_limits<int32_t>::max()) {
      return invalid_argument("budgets of " + std::to_string(sum) + " rows are too large to be united");
    }
    sums.push_back(static_cast<int32_t>(sum));
  }
  return sums;
}

// Keys, then values, of merged rows out of those of both heads. [2, rows, row_bytes]
std::vector<uint8_t> gather(const std::vector<Origin>& merged, std::span<const uint8_t> first,
                            std::span<const uint8_t> second, size_t row_bytes) {
  std::vector<uint8_t> out(2 * merged.size() * row_bytes);
  uint8_t* to = out.data();
  for (size_t half = 0; half < 2; ++half) {
    for (const Origin& origin : merged) {
      const std::span<const uint8_t> from = origin.second ? second : first;
      std::memcpy(to, from.data() + half * from.size() / 2 + static_cast<size_t>(origin.row) * row_bytes,
                  row_bytes);
      to += row_bytes;
    }
  }
  return out;
}

}  // namespace

Result<std::unique_ptr<Sequence>> Sequence::unite(Transformer& model, PagePool& pool, Sequence& first,
                                                  Sequence& second, int64_t shared_tokens) {
  LONGHAUL_ASSIGN(SequenceImage image, first.image());
  LONGHAUL_ASSIGN(const SequenceImage other, second.image());
  LONGHAUL_TRY(check_mergeable(image, shared_tokens));
  LONGHAUL_TRY(check_mergeable(other, shared_tokens));
  LONGHAUL_ASSIGN(image.policy.budgets, add_budgets(image.policy, other.policy));

  CacheIndex united;
  std::vector<std::vector<Origin>> heads;
  const int32_t* a = image.rows.positions.data();
  const int32_t* b = other.rows.positions.data();
  image.peak_pages = 0;
  for (size_t head = 0; head < image.rows.lengths.size(); ++head) {
    const std::span<const int32_t> of_first(a, static_cast<size_t>(image.rows.lengths[head]));
    const std::span<const int32_t> of_second(b, static_cast<size_t>(other.rows.lengths[head]));
    heads.push_back(merge(of_first, of_second, shared_tokens));
    for (const Origin& origin : heads.back()) {
      united.positions.push_back((origin.second ? of_second : of_first)[static_cast<size_t>(origin.row)]);
    }
    united.lengths.push_back(static_cast<int32_t>(heads.back().size()));
    image.peak_pages += pages_for(united.lengths.back());
    a += of_first.size();
    b += of_second.size();
  }
  image.rows = std::move(united);

  LONGHAUL_ASSIGN(std::unique_ptr<Sequence> sequence, restore(model, pool, image));
  const KvGeometry& geometry = pool.geometry();
  const size_t row_bytes = static_cast<size_t>(geometry.head_dim) * size_of(geometry.dtype);
  for (size_t head = 0; head < heads.size(); ++head) {
    if (heads[head].empty()) continue;
    const auto layer = static_cast<int32_t>(head) / geometry.kv_heads;
    const auto kv_head = static_cast<int32_t>(head) % geometry.kv_heads;
    LONGHAUL_ASSIGN(const std::vector<uint8_t> of_first, first.read_rows(layer, kv_head));
    LONGHAUL_ASSIGN(const std::vector<uint8_t> of_second, second.read_rows(layer, kv_head));
    LONGHAUL_TRY(sequence->write_rows(layer, kv_head, gather(heads[head], of_first, of_second, row_bytes)));
  }
  return sequence;
}

}  // namespace longhaul
