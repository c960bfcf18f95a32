#include <algorithm>
#include <cmath>
#include <tuple>

#include "reference/reference.h"
#include "reference/rows.h"

namespace longhaul::reference {
namespace {

struct Candidate {
  int32_t head;
  int32_t row;
  float score;
};

bool better(const Candidate& a, const Candidate& b) {
  const bool a_nan = std::isnan(a.score);
  const bool b_nan = std::isnan(b.score);
  if (a_nan != b_nan) return b_nan;
  if (!a_nan && a.score != b.score) return a.score > b.score;
  return std::tie(a.head, a.row) < std::tie(b.head, b.row);
}

// Marks the protected rows of heads [first, last) and the best others, `slots` in all; every row when they fit.
void choose(const SelectArgs& a, const std::vector<int32_t>& rows, int32_t first, int32_t last, int64_t slots,
            std::vector<std::vector<bool>>& keep) {
  int64_t total = 0;
  for (int32_t h = first; h < last; ++h) total += rows[static_cast<size_t>(h)];
  int64_t unscored = 0;
  std::vector<Candidate> candidates;
  for (int32_t h = first; h < last; ++h) {
    const int32_t n = rows[static_cast<size_t>(h)];
    for (int32_t r = 0; r < n; ++r) {
      const bool is_protected = r < a.protect_first || r >= n - a.protect_last;
      if (a.only_scored && !is_protected && std::isnan(a.scores.as<float>()[row_at(a.scores, h) + r])) {
        ++unscored;
        continue;
      }
      if (total <= slots || is_protected) {
        keep[static_cast<size_t>(h)][static_cast<size_t>(r)] = true;
        continue;
      }
      // Without scores the distance from the newest row counts, which is comparable between ragged heads.
      const float score = a.scores ? a.scores.as<float>()[row_at(a.scores, h) + r] : static_cast<float>(r - n);
      candidates.push_back({h, r, score});
    }
  }
  const int64_t taken = total - unscored - static_cast<int64_t>(candidates.size());
  std::sort(candidates.begin(), candidates.end(), better);
  const auto open = static_cast<size_t>(std::max<int64_t>(slots - taken, 0));
  for (size_t i = 0; i < std::min(open, candidates.size()); ++i) {
    keep[static_cast<size_t>(candidates[i].head)][static_cast<size_t>(candidates[i].row)] = true;
  }
}

}  // namespace

Status select(Stream&, const SelectArgs& a, Workspace) {
  std::vector<int32_t> rows(static_cast<size_t>(a.kv_heads));
  std::vector<std::vector<bool>> keep(rows.size());
  for (size_t h = 0; h < rows.size(); ++h) {
    rows[h] = std::max(a.view->length[h] - a.drop_last, 0);
    keep[h].assign(static_cast<size_t>(rows[h]), false);
  }
  if (a.level == SelectLevel::kPair) {
    choose(a, rows, 0, a.kv_heads, static_cast<int64_t>(a.budget) * a.kv_heads, keep);
  } else {
    for (int32_t h = 0; h < a.kv_heads; ++h) choose(a, rows, h, h + 1, a.budget, keep);
  }
  for (int32_t h = 0; h < a.kv_heads; ++h) {
    int32_t* kept = a.kept.as<int32_t>() + row_at(a.kept, h);
    int32_t count = 0;
    for (int32_t r = 0; r < rows[static_cast<size_t>(h)]; ++r) {
      if (keep[static_cast<size_t>(h)][static_cast<size_t>(r)]) kept[count++] = r;
    }
    a.kept_count.as<int32_t>()[h] = count;
  }
  return Status();
}

}  // namespace longhaul::reference
