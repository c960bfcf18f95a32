// Which rows a policy leaves, block by block, against a model and a policy in plain loops.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "dense_model.h"
#include "machine.h"

namespace longhaul {
namespace {

using testing::DenseCache;
using testing::DenseModel;
using testing::DenseQueries;
using testing::DenseRow;
using testing::RandomModel;
using testing::Vector;

// The indices of the `count` largest scores, in order of index. Two that differ by rounding only would make the
// comparison a matter of luck: the test's data must not have them at the border.
std::vector<size_t> best(const Vector& scores, size_t count) {
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  if (count >= order.size()) return order;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  EXPECT_GT(scores[order[count - 1]], scores[order[count]] * (1 + 1e-5)) << "a near tie: choose another seed";
  order.resize(count);
  std::sort(order.begin(), order.end());
  return order;
}

void keep(std::vector<DenseRow>& rows, const std::vector<size_t>& kept) {
  std::vector<DenseRow> left;
  for (size_t index : kept) left.push_back(rows[index]);
  rows = left;
}

// A conversation with everything that eviction has to do with: a first block, full blocks, a
// tail that goes with the next block, a short block, a tail that is evicted alone.
class KeptRows : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    shape_.layers = 3;
    shape_.heads = 6;
    shape_.kv_heads = 3;
    machine_ = testing::make_machine(GetParam(), shape_, 16 << 20);
    dense_.emplace(shape_);
    policy_.budgets = {20, 33, 27};
    policy_.block = 24;
    policy_.tail = 16;
    policy_.prompt = random_tokens(7);
  }

  std::vector<int32_t> random_tokens(size_t count) {
    std::vector<int32_t> tokens(count);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random_() % static_cast<uint32_t>(shape_.vocab));
    return tokens;
  }

  // Runs the conversation on both and compares the rows left after each eviction. evict(cache, queries, block,
  // position) does on the dense cache what the policy should: `queries` are those of `block`, which is empty
  // when the tail is evicted alone, and `position` is the next one.
  template <class Evict>
  void run(Evict evict) {
    sequence_ = machine_.sequence(policy_);
    cache_ = dense_->empty();
    seen_.clear();
    const auto block = [&](size_t count) {
      const std::vector<int32_t> tokens = random_tokens(count);
      const DenseQueries queries = feed(tokens);
      evict(cache_, queries, tokens, static_cast<int32_t>(seen_.size()));
      ASSERT_TRUE(sequence_->prefill(tokens).ok());
      compare();
    };
    const auto tail = [&](size_t count) {
      const std::vector<int32_t> tokens = random_tokens(count);
      feed(tokens);
      ASSERT_TRUE(sequence_->extend(tokens).ok());
    };
    for (int i = 0; i < 4; ++i) block(24);
    tail(9);
    block(24);
    block(11);
    tail(5);
    tail(11);
    evict(cache_, DenseQueries(), std::vector<int32_t>(), static_cast<int32_t>(seen_.size()));
    ASSERT_TRUE(sequence_->evict_tail().ok());
    compare();
  }

  DenseQueries feed(const std::vector<int32_t>& tokens) {
    const DenseQueries queries = dense_->forward(cache_, tokens, static_cast<int32_t>(seen_.size()));
    seen_.insert(seen_.end(), tokens.begin(), tokens.end());
    return queries;
  }

  // Queries of tokens that are fed behind the cache and leave no rows.
  DenseQueries observe(const std::vector<int32_t>& tokens, int32_t position) const {
    DenseCache behind = cache_;
    return dense_->forward(behind, tokens, position);
  }

  void compare() {
    for (int32_t layer = 0; layer < shape_.layers; ++layer) {
      SCOPED_TRACE("layer " + std::to_string(layer) + " after " + std::to_string(seen_.size()) + " tokens");
      const LayerRows held = sequence_->cache().read_layer(layer).value();
      std::vector<int32_t> lengths, positions;
      for (const std::vector<DenseRow>& rows : cache_[static_cast<size_t>(layer)]) {
        lengths.push_back(static_cast<int32_t>(rows.size()));
        for (const DenseRow& row : rows) positions.push_back(row.position);
      }
      EXPECT_EQ(held.lengths, lengths);
      EXPECT_EQ(held.positions, positions);
    }
  }

  std::mt19937 random_{5};
  RandomModel shape_;
  testing::Machine machine_;
  std::optional<DenseModel> dense_;
  MemoryPolicy policy_;
  std::unique_ptr<Sequence> sequence_;
  DenseCache cache_;
  std::vector<int32_t> seen_;
};

// Every head keeps the rows to which the newest token attends most on average over all heads, and the newest.
TEST_P(KeptRows, TovaTakesTheNewestTokensMeanOverTheLayersHeads) {
  for (SelectLevel level : {SelectLevel::kPair, SelectLevel::kHead}) {
    policy_.kind = PolicyKind::kTova;
    policy_.level = level;  // makes no difference: the heads of a layer share their rows
    run([&](DenseCache& cache, const DenseQueries& queries, const std::vector<int32_t>& block,
            int32_t position) {
      // Without a block in hand the newest token is fed again.
      const DenseQueries again = block.empty() ? observe({seen_.back()}, position) : DenseQueries();
      for (size_t layer = 0; layer < cache.size(); ++layer) {
        const std::vector<Vector>& newest = (block.empty() ? again : queries)[layer].back();
        Vector mean;
        for (int head = 0; head < shape_.heads; ++head) {
          const Vector weights =
              dense_->attention(newest[static_cast<size_t>(head)], cache[layer][dense_->kv_head(head)]);
          mean.resize(weights.size() - 1, 0);
          for (size_t r = 0; r < mean.size(); ++r) mean[r] += weights[r] / shape_.heads;
        }
        std::vector<size_t> kept = best(mean, static_cast<size_t>(policy_.budgets[layer]) - 1);
        kept.push_back(mean.size());
        for (std::vector<DenseRow>& rows : cache[layer]) keep(rows, kept);
      }
    });
  }
}

// The largest weight that any query of the repetition, in any head of the group, gives to a row of the cache.
TEST_P(KeptRows, KvZipTakesTheRepetitionsLargestAttention) {
  for (const bool prompted : {true, false}) {
    policy_.kind = PolicyKind::kKvZip;
    if (!prompted) policy_.prompt.clear();
    run([&](DenseCache& cache, const DenseQueries&, const std::vector<int32_t>& block, int32_t position) {
      std::vector<int32_t> repetition = policy_.prompt;
      // Without a block in hand as many of the newest tokens are repeated as a block has.
      const std::vector<int32_t> newest(seen_.end() - policy_.block, seen_.end());
      const std::vector<int32_t>& repeated = block.empty() ? newest : block;
      repetition.insert(repetition.end(), repeated.begin(), repeated.end());
      const DenseQueries queries = observe(repetition, position);
      for (size_t layer = 0; layer < cache.size(); ++layer) {
        Vector scores;  // head after head
        std::vector<size_t> begin{0};
        for (const std::vector<DenseRow>& rows : cache[layer]) {
          begin.push_back(begin.back() + rows.size());
        }
        scores.resize(begin.back(), 0);
        for (const std::vector<Vector>& token : queries[layer]) {
          for (int head = 0; head < shape_.heads; ++head) {
            const size_t kv = dense_->kv_head(head);
            const Vector weights = dense_->attention(token[static_cast<size_t>(head)], cache[layer][kv]);
            for (size_t r = 0; r < weights.size(); ++r) {
              scores[begin[kv] + r] = std::max(scores[begin[kv] + r], weights[r]);
            }
          }
        }
        const std::vector<size_t> kept =
            best(scores, static_cast<size_t>(policy_.budgets[layer]) * static_cast<size_t>(shape_.kv_heads));
        for (size_t kv = 0; kv < cache[layer].size(); ++kv) {
          std::vector<size_t> of_head;
          for (size_t index : kept) {
            if (index >= begin[kv] && index < begin[kv + 1]) of_head.push_back(index - begin[kv]);
          }
          keep(cache[layer][kv], of_head);
        }
      }
    });
  }
}

// In deviations from their mean over the layer's rows.
Vector standardised(const Vector& x) {
  const double mean = std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
  double squares = 0;
  for (double value : x) squares += (value - mean) * (value - mean);
  const double deviation = std::sqrt(squares / static_cast<double>(x.size()));
  Vector out;
  for (double value : x) out.push_back((value - mean) / deviation);
  return out;
}

// Minus the cosine of each key with the mean of the unit keys.
Vector diversity(const std::vector<DenseRow>& rows) {
  std::vector<Vector> units;
  Vector anchor(rows[0].k.size(), 0);
  for (const DenseRow& row : rows) {
    const double length = std::sqrt(std::inner_product(row.k.begin(), row.k.end(), row.k.begin(), 0.0));
    units.push_back(row.k);
    for (size_t d = 0; d < anchor.size(); ++d) anchor[d] += units.back()[d] /= length;
  }
  const double length = std::sqrt(std::inner_product(anchor.begin(), anchor.end(), anchor.begin(), 0.0));
  Vector scores;
  for (const Vector& unit : units) {
    scores.push_back(-std::inner_product(unit.begin(), unit.end(), anchor.begin(), 0.0) / length);
  }
  return scores;
}

// Key diversity in deviations, that of a prompt's largest attention on top when there is one, 3 more for the
// episode's own rows; a sixteenth of the budget goes to each head's newest rows.
TEST_P(KeptRows, EpisodicTakesItsOwnRowsByDiversityAndThePromptsAttention) {
  policy_.kind = PolicyKind::kEpisodic;
  policy_.own = {10, 31, 60, 75, 100, 1000};
  const std::vector<int32_t> prompt = policy_.prompt;
  for (const bool prompted : {false, true}) {
    for (SelectLevel level : {SelectLevel::kPair, SelectLevel::kHead}) {
      SCOPED_TRACE(std::string(prompted ? "with" : "without") + " a prompt, level " +
                   (level == SelectLevel::kPair ? "pair" : "head"));
      policy_.level = level;
      policy_.prompt = prompted ? prompt : std::vector<int32_t>();
      run([&](DenseCache& cache, const DenseQueries&, const std::vector<int32_t>&, int32_t position) {
        const DenseQueries queries = prompted ? observe(prompt, position) : DenseQueries();
        for (size_t layer = 0; layer < cache.size(); ++layer) {
          Vector unusual, attended;  // head after head
          std::vector<size_t> begin{0};
          for (const std::vector<DenseRow>& rows : cache[layer]) {
            const Vector scores = diversity(rows);
            unusual.insert(unusual.end(), scores.begin(), scores.end());
            begin.push_back(unusual.size());
          }
          attended.resize(unusual.size(), 0);
          for (size_t token = 0; prompted && token < prompt.size(); ++token) {
            for (int head = 0; head < shape_.heads; ++head) {
              const size_t kv = dense_->kv_head(head);
              const Vector weights =
                  dense_->attention(queries[layer][token][static_cast<size_t>(head)], cache[layer][kv]);
              for (size_t r = 0; r < weights.size(); ++r) {
                attended[begin[kv] + r] = std::max(attended[begin[kv] + r], weights[r]);
              }
            }
          }
          Vector scores = standardised(unusual);
          if (prompted) {
            const Vector more = standardised(attended);
            for (size_t i = 0; i < scores.size(); ++i) scores[i] += more[i];
          }
          const auto budget = static_cast<size_t>(policy_.budgets[layer]);
          for (size_t kv = 0; kv < cache[layer].size(); ++kv) {
            const std::vector<DenseRow>& rows = cache[layer][kv];
            for (size_t r = 0; r < rows.size(); ++r) {
              double& score = scores[begin[kv] + r];
              score += 100;  // above zero, where `best` can tell near ties
              for (size_t i = 0; i < policy_.own.size(); i += 2) {
                if (rows[r].position >= policy_.own[i] && rows[r].position < policy_.own[i + 1]) score += 3;
              }
              if (r + budget / 16 >= rows.size()) score = 1000 + static_cast<double>(kv * 100 + r);
            }
          }
          std::vector<std::vector<size_t>> kept(cache[layer].size());
          if (level == SelectLevel::kPair) {
            for (size_t index : best(scores, budget * cache[layer].size())) {
              const size_t kv =
                  static_cast<size_t>(std::upper_bound(begin.begin(), begin.end(), index) - begin.begin()) - 1;
              kept[kv].push_back(index - begin[kv]);
            }
          } else {
            for (size_t kv = 0; kv < cache[layer].size(); ++kv) {
              kept[kv] = best(Vector(scores.begin() + static_cast<int64_t>(begin[kv]),
                                     scores.begin() + static_cast<int64_t>(begin[kv + 1])),
                              budget);
            }
          }
          for (size_t kv = 0; kv < cache[layer].size(); ++kv) keep(cache[layer][kv], kept[kv]);
        }
      });
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, KeptRows, ::testing::ValuesIn(testing::kDevicesUnderTest),
                         [](const auto& info) { return testing::test_name(info.param); });

}  // namespace
}  // namespace longhaul
