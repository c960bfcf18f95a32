// Which rows stay: a radix cut on the scores' bits, then ties by (head, row) ascending. The result is that of a
// full sort, whatever the number of threads.
#include <algorithm>
#include <cstdint>

#include "cpu/backend.h"
#include "cpu/cache_rows.h"
#include "cpu/ops.h"
#include "cpu/radix_select.h"

namespace longhaul::cpu {
namespace {

// The rows of one head that compete: those between the protected ones.
class Candidates {
 public:
  Candidates(const SelectArgs& a, int32_t head)
      : rows_(std::max(a.view->length[head] - a.drop_last, 0)),
        begin_(std::min(a.protect_first, rows_)),
        end_(std::max(rows_ - std::min(a.protect_last, rows_), begin_)),
        scores_(a.scores ? a.scores.as<float>() + head * a.scores.stride[0] : nullptr) {}

  int32_t rows() const { return rows_; }
  int32_t begin() const { return begin_; }
  int32_t end() const { return end_; }

  template <class Visit>
  void for_each_key(Visit&& visit) const {
    if (scores_ != nullptr) {
      for (int32_t r = begin_; r < end_; ++r) visit(r, order_key(scores_[r]));
    } else {
      // Without scores the distance from the newest row counts, which is comparable between ragged heads.
      for (int32_t r = begin_; r < end_; ++r) visit(r, 0x80000000u - static_cast<uint32_t>(rows_ - r));
    }
  }

 private:
  int32_t rows_;
  int32_t begin_;
  int32_t end_;
  const float* scores_;
};

// Writes the rows of one head: protected ones, keys above `key`, and the first `ties` of those equal to it.
void keep_rows(const SelectArgs& a, int32_t head, uint32_t key, int64_t ties) {
  const Candidates candidates(a, head);
  auto* kept = reinterpret_cast<int32_t*>(row_at(a.kept, head));
  int32_t count = 0;
  while (count < candidates.begin()) {
    kept[count] = count;
    ++count;
  }
  candidates.for_each_key([&](int32_t row, uint32_t row_key) {
    if (row_key < key || (row_key == key && ties-- <= 0)) return;
    kept[count++] = row;
  });
  for (int32_t r = candidates.end(); r < candidates.rows(); ++r) kept[count++] = r;
  a.kept_count.as<int32_t>()[head] = count;
}

// The best `slots` rows of heads [first, last).
void choose(CpuStream& stream, const SelectArgs& a, int32_t first, int32_t last, int64_t slots) {
  int64_t total = 0;
  int64_t competing = 0;
  for (int32_t h = first; h < last; ++h) {
    const Candidates candidates(a, h);
    total += candidates.rows();
    competing += candidates.end() - candidates.begin();
  }
  const int64_t open = std::max<int64_t>(slots - (total - competing), 0);
  Cut cut{0, 0};             // keeps everything
  int64_t ties = competing;  // how many with the cut's key stay, over all heads
  if (total > slots && open > 0) {
    cut = kth_largest(open, [&](auto&& visit) {
      for (int32_t h = first; h < last; ++h) {
        Candidates(a, h).for_each_key([&](int32_t, uint32_t key) { visit(key); });
      }
    });
    ties = open - cut.larger;
  } else if (total > slots) {
    cut = {UINT32_MAX, 0};  // no key is so large: order_key's largest is that of +inf
    ties = 0;
  }
  if (a.only_scored && cut.key == 0) ties = 0;  // the key of NaN
  // Each head's part of the ties goes through kept_count, which keep_rows then overwrites.
  auto* shares = a.kept_count.as<int32_t>();
  stream.parallel_for(last - first, [&](int64_t i, int) {
    int32_t equal = 0;
    Candidates(a, first + static_cast<int32_t>(i)).for_each_key([&](int32_t, uint32_t key) {
      equal += key == cut.key;
    });
    shares[first + i] = equal;
  });
  for (int32_t h = first; h < last; ++h) {
    const auto share = static_cast<int32_t>(std::min<int64_t>(shares[h], ties));
    shares[h] = share;
    ties -= share;
  }
  stream.parallel_for(last - first, [&](int64_t i, int) {
    keep_rows(a, first + static_cast<int32_t>(i), cut.key, shares[first + i]);
  });
}

}  // namespace

size_t select_workspace(const SelectArgs&) {
  return 0;
}

Status select(Stream& stream, const SelectArgs& a, Workspace) {
  CpuStream& cpu = cpu_stream(stream);
  for (int32_t h = 0; h < a.kv_heads; ++h) LONGHAUL_ASSERT(Candidates(a, h).rows() <= a.kept.shape[1]);
  if (a.level == SelectLevel::kPair) {
    choose(cpu, a, 0, a.kv_heads, int64_t{a.budget} * a.kv_heads);
  } else {
    // From inside a task the pool runs nothing in parallel, so a head is one task.
    cpu.parallel_for(a.kv_heads, [&](int64_t head, int) {
      const auto h = static_cast<int32_t>(head);
      choose(cpu, a, h, h + 1, a.budget);
    });
  }
  return {};
}

}  // namespace longhaul::cpu
