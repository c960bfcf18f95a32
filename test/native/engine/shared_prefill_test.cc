// One prefill for several prompts, against a model and unions in plain loops, and against prefills of their
// own.
#include "engine/shared_prefill.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <random>
#include <set>

#include "dense_model.h"
#include "engine_client.h"
#include "machine.h"

namespace longhaul {
namespace {

using testing::DenseCache;
using testing::DenseModel;
using testing::DenseQueries;
using testing::DenseRow;
using testing::EngineClient;
using testing::RandomModel;
using testing::Vector;

using Tokens = std::vector<int32_t>;

Tokens random_tokens(std::mt19937& random, size_t count) {
  Tokens tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 64);
  return tokens;
}

MemoryPolicy prompted(Tokens prompt, Tokens budgets = {20, 31}) {
  MemoryPolicy policy;
  policy.kind = PolicyKind::kPatchedPrompt;
  policy.budgets = std::move(budgets);
  policy.block = 24;
  policy.tail = 40;
  policy.prompt = std::move(prompt);
  return policy;
}

struct Shared {
  std::vector<std::unique_ptr<Sequence>> sequences;
  std::unique_ptr<SharedPrefill> prefill;
};

Shared share(testing::Machine& machine, const std::vector<MemoryPolicy>& policies, const Tokens& tokens,
             const Tokens& budgets) {
  Shared shared;
  std::vector<Sequence*> pointers;
  for (const MemoryPolicy& policy : policies) {
    shared.sequences.push_back(machine.sequence(policy));
    pointers.push_back(shared.sequences.back().get());
  }
  Result<std::unique_ptr<SharedPrefill>> prefill = SharedPrefill::create(pointers, tokens, budgets);
  EXPECT_TRUE(prefill.ok()) << prefill.status().message();
  if (prefill.ok()) shared.prefill = std::move(prefill.value());
  return shared;
}

void run(SharedPrefill& prefill, const Tokens& tokens) {
  while (prefill.done() < static_cast<int64_t>(tokens.size())) {
    const Status status = prefill.step(tokens);
    ASSERT_TRUE(status.ok()) << status.message();
  }
}

void expect_same_rows(Sequence& actual, Sequence& expected, int32_t layers) {
  EXPECT_EQ(actual.tokens_seen(), expected.tokens_seen());
  EXPECT_EQ(actual.tail_rows(), expected.tail_rows());
  for (int32_t layer = 0; layer < layers; ++layer) {
    const LayerRows got = actual.cache().read_layer(layer).value();
    const LayerRows wanted = expected.cache().read_layer(layer).value();
    EXPECT_EQ(got.lengths, wanted.lengths);
    EXPECT_EQ(got.positions, wanted.positions);
    EXPECT_EQ(got.k, wanted.k);
    EXPECT_EQ(got.v, wanted.v);
  }
}

// The procedure in plain loops: each prompt reads the cache behind the block by itself, the best rows of each
// are its selection, and those of the best ranks in any of them stay.
class DenseShared {
 public:
  DenseShared(const RandomModel& shape, std::vector<MemoryPolicy> policies, Tokens budgets)
      : model_(shape),
        shape_(shape),
        policies_(std::move(policies)),
        budgets_(std::move(budgets)),
        cache_(model_.empty()),
        selected_(policies_.size()) {}

  void block(const Tokens& tokens) {
    model_.forward(cache_, tokens, position_);
    position_ += static_cast<int32_t>(tokens.size());
    // [layer] of each prompt: places (head, row), the best first.
    std::vector<std::vector<std::vector<Place>>> chosen(policies_.size());
    for (size_t e = 0; e < policies_.size(); ++e) {
      DenseCache behind = cache_;
      const DenseQueries queries = model_.forward(behind, policies_[e].prompt, position_);
      selected_[e] = model_.empty();
      for (size_t layer = 0; layer < cache_.size(); ++layer) {
        chosen[e].push_back(best(queries[layer], layer, policies_[e]));
        for (Place place : sorted(chosen[e].back())) {
          selected_[e][layer][place.first].push_back(cache_[layer][place.first][place.second]);
        }
      }
    }
    for (size_t layer = 0; layer < cache_.size(); ++layer) {
      std::set<Place> stay;
      const size_t most = static_cast<size_t>(budgets_[layer]) * static_cast<size_t>(shape_.kv_heads);
      for (size_t rank = 0; stay.size() < most; ++rank) {
        std::set<Place> of_rank;
        for (const auto& layers : chosen) {
          if (rank < layers[layer].size()) of_rank.insert(layers[layer][rank]);
        }
        if (of_rank.empty()) break;
        for (Place place : of_rank) {
          if (stay.size() < most) stay.insert(place);
        }
      }
      capped_ |= stay.size() == most;
      std::vector<std::vector<DenseRow>> left(static_cast<size_t>(shape_.kv_heads));
      for (Place place : stay) left[place.first].push_back(cache_[layer][place.first][place.second]);
      cache_[layer] = left;
    }
  }

  const DenseCache& cache() const { return cache_; }
  const DenseCache& selected(size_t prompt) const { return selected_[prompt]; }
  bool capped() const { return capped_; }

 private:
  using Place = std::pair<size_t, size_t>;

  static std::vector<Place> sorted(std::vector<Place> places) {
    std::sort(places.begin(), places.end());
    return places;
  }

  // The largest weight that any token of the prompt, in any head of the group, gives to a row.
  std::vector<Place> best(const std::vector<std::vector<Vector>>& queries, size_t layer,
                          const MemoryPolicy& policy) const {
    std::vector<std::pair<double, Place>> rows;
    for (size_t kv = 0; kv < cache_[layer].size(); ++kv) {
      Vector scores(cache_[layer][kv].size(), 0);
      for (const std::vector<Vector>& token : queries) {
        for (int head = 0; head < shape_.heads; ++head) {
          if (model_.kv_head(head) != kv) continue;
          const Vector weights = model_.attention(token[static_cast<size_t>(head)], cache_[layer][kv]);
          for (size_t r = 0; r < weights.size(); ++r) scores[r] = std::max(scores[r], weights[r]);
        }
      }
      for (size_t r = 0; r < scores.size(); ++r) rows.push_back({-scores[r], {kv, r}});
    }
    std::sort(rows.begin(), rows.end());
    rows.resize(std::min(rows.size(), static_cast<size_t>(policy.budgets[layer] * shape_.kv_heads)));
    std::vector<Place> places;
    for (const auto& row : rows) places.push_back(row.second);
    return places;
  }

  DenseModel model_;
  RandomModel shape_;
  std::vector<MemoryPolicy> policies_;
  Tokens budgets_;
  DenseCache cache_;
  std::vector<DenseCache> selected_;
  int32_t position_ = 0;
  bool capped_ = false;
};

void expect_rows(const LayerRows& held, const std::vector<std::vector<DenseRow>>& expected) {
  Tokens lengths, positions;
  std::vector<float> k;
  for (const std::vector<DenseRow>& rows : expected) {
    lengths.push_back(static_cast<int32_t>(rows.size()));
    for (const DenseRow& row : rows) {
      positions.push_back(row.position);
      for (double x : row.k) k.push_back(static_cast<float>(x));
    }
  }
  ASSERT_EQ(held.lengths, lengths);
  ASSERT_EQ(held.positions, positions);
  for (size_t i = 0; i < k.size(); ++i) ASSERT_NEAR(held.k[i], k[i], 1e-4) << "element " << i;
}

class SharedPrefillTest : public ::testing::TestWithParam<std::string> {};

TEST_P(SharedPrefillTest, KeepsTheUnionOfWhatThePromptsSelect) {
  std::mt19937 random(7);
  int capped = 0;
  for (const Tokens& budgets : {Tokens{61, 100, 82}, Tokens{24, 36, 30}}) {
    SCOPED_TRACE("budgets from " + std::to_string(budgets[0]));
    RandomModel shape;
    shape.layers = 3;
    shape.heads = 6;
    shape.kv_heads = 3;
    testing::Machine machine = testing::make_machine(GetParam(), shape, 16 << 20);
    std::vector<MemoryPolicy> policies;
    for (size_t length : {7, 1, 30}) {
      policies.push_back(prompted(random_tokens(random, length), {20, 33, 27}));
    }
    const Tokens tokens = random_tokens(random, 24 * 3 + 11);
    Shared shared = share(machine, policies, tokens, budgets);
    ASSERT_NE(shared.prefill, nullptr);
    DenseShared dense(shape, policies, budgets);
    for (size_t begin = 0; begin < tokens.size(); begin += 24) {
      const size_t count = std::min<size_t>(24, tokens.size() - begin);
      dense.block(Tokens(tokens.begin() + static_cast<int64_t>(begin),
                         tokens.begin() + static_cast<int64_t>(begin + count)));
      ASSERT_TRUE(shared.prefill->step(tokens).ok());
      for (int32_t layer = 0; layer < 3; ++layer) {
        SCOPED_TRACE("layer " + std::to_string(layer) + " behind " + std::to_string(begin + count) + " tokens");
        expect_rows(shared.prefill->cache().read_layer(layer).value(),
                    dense.cache()[static_cast<size_t>(layer)]);
      }
    }
    for (size_t e = 0; e < policies.size(); ++e) {
      EXPECT_EQ(shared.sequences[e]->tokens_seen(), static_cast<int64_t>(tokens.size()));
      for (int32_t layer = 0; layer < 3; ++layer) {
        SCOPED_TRACE("layer " + std::to_string(layer) + " of prompt " + std::to_string(e));
        expect_rows(shared.sequences[e]->cache().read_layer(layer).value(),
                    dense.selected(e)[static_cast<size_t>(layer)]);
      }
    }
    capped += dense.capped();
  }
  EXPECT_EQ(capped, 1) << "one trial has to meet the bound, and one not";
}

TEST_P(SharedPrefillTest, EqualPromptsGiveWhatAPrefillOfTheirOwnDoes) {
  std::mt19937 random(3);
  for (int variant = 0; variant < 4; ++variant) {
    RandomModel shape;
    shape.qk_norm = variant % 2 == 1;
    testing::Machine machine = testing::make_machine(GetParam(), shape, 8 << 20);
    MemoryPolicy policy = prompted(random_tokens(random, 9));
    policy.level = variant / 2 % 2 == 0 ? SelectLevel::kPair : SelectLevel::kHead;
    policy.prompt_at_last_position = variant == 1 || variant == 2;
    const Tokens tokens = random_tokens(random, 24 * 3 + 5);
    std::unique_ptr<Sequence> alone = machine.sequence(policy);
    for (size_t begin = 0; begin < tokens.size(); begin += 24) {
      ASSERT_TRUE(
          alone->prefill(std::span(tokens).subspan(begin, std::min<size_t>(24, tokens.size() - begin))).ok());
    }
    Shared shared = share(machine, {policy, policy, policy}, tokens, {20, 31});
    ASSERT_NE(shared.prefill, nullptr);
    run(*shared.prefill, tokens);
    shared.prefill.reset();
    const Tokens turn = random_tokens(random, 6);
    const Tokens block = random_tokens(random, 24);
    for (const std::unique_ptr<Sequence>& sequence : shared.sequences) expect_same_rows(*sequence, *alone, 2);
    // They go on as any other: a turn in the tail, then an eviction.
    ASSERT_TRUE(alone->extend(turn).ok());
    ASSERT_TRUE(alone->prefill(block).ok());
    for (const std::unique_ptr<Sequence>& sequence : shared.sequences) {
      ASSERT_TRUE(sequence->extend(turn).ok());
      ASSERT_TRUE(sequence->prefill(block).ok());
      expect_same_rows(*sequence, *alone, 2);
    }
    alone.reset();
    shared.sequences.clear();
    EXPECT_EQ(machine.pool->reserved_pages(), 0);
    EXPECT_EQ(machine.pool->used_pages(), 0);
  }
}

TEST_P(SharedPrefillTest, EverythingStaysWhereThereIsRoomForIt) {
  std::mt19937 random(5);
  testing::Machine machine = testing::make_machine(GetParam(), {}, 16 << 20);
  const Tokens tokens = random_tokens(random, 100);
  std::vector<MemoryPolicy> policies;
  for (size_t length : {4, 11}) policies.push_back(prompted(random_tokens(random, length), {100, 100}));
  Shared shared = share(machine, policies, tokens, {100, 100});
  ASSERT_NE(shared.prefill, nullptr);
  run(*shared.prefill, tokens);
  std::unique_ptr<Sequence> full = machine.sequence({.block = 24});
  ASSERT_TRUE(full->admit(110).ok());
  for (size_t begin = 0; begin < tokens.size(); begin += 24) {
    ASSERT_TRUE(
        full->prefill(std::span(tokens).subspan(begin, std::min<size_t>(24, tokens.size() - begin))).ok());
  }
  const Tokens question = random_tokens(random, 10);
  std::vector<std::vector<float>> logits;
  for (Sequence* sequence : {full.get(), shared.sequences[0].get(), shared.sequences[1].get()}) {
    ASSERT_TRUE(sequence->extend(question).ok());
    const Tensor row = machine.model->logits(sequence->last_row(), 1).value();
    logits.emplace_back(64);
    ASSERT_TRUE(machine.backend->download(machine.model->stream(), logits.back().data(), row.data, 256).ok());
  }
  EXPECT_EQ(logits[1], logits[0]);
  EXPECT_EQ(logits[2], logits[0]);
}

// Whatever the prompts want, and whatever is inside a pass.
TEST_P(SharedPrefillTest, NeverPassesItsBounds) {
  std::mt19937 random(11);
  const auto pick = [&](int low, int high) {
    return low + static_cast<int>(random() % static_cast<uint32_t>(high - low + 1));
  };
  int capped = 0;
  for (int trial = 0; trial < 6; ++trial) {
    SCOPED_TRACE("trial " + std::to_string(trial));
    RandomModel shape;
    shape.kv_heads = pick(1, 3);
    shape.heads = shape.kv_heads * pick(1, 2);
    shape.seed = static_cast<uint32_t>(trial);
    testing::Machine machine = testing::make_machine(GetParam(), shape, 16 << 20);
    std::vector<MemoryPolicy> policies;
    const Tokens budgets = {pick(1, 40), pick(1, 40)};
    const int block = pick(1, 40);
    for (int e = pick(1, 5); e > 0; --e) {
      policies.push_back(prompted(random_tokens(random, static_cast<size_t>(pick(1, 30))), budgets));
      policies.back().level = trial % 2 == 0 ? SelectLevel::kPair : SelectLevel::kHead;
      policies.back().block = block;
    }
    const Tokens most = {budgets[0] + pick(0, 15), budgets[1] + pick(0, 15)};
    const Tokens tokens = random_tokens(random, static_cast<size_t>(pick(1, 120)));
    Shared shared = share(machine, policies, tokens, most);
    ASSERT_NE(shared.prefill, nullptr);
    while (shared.prefill->done() < static_cast<int64_t>(tokens.size())) {
      ASSERT_TRUE(shared.prefill->step(tokens).ok());
      const Tokens lengths = shared.prefill->cache().lengths().value();
      for (size_t layer = 0; layer < 2; ++layer) {
        const auto begin = lengths.begin() + static_cast<int64_t>(layer) * shape.kv_heads;
        const int32_t rows = std::accumulate(begin, begin + shape.kv_heads, 0);
        EXPECT_LE(rows, most[layer] * shape.kv_heads);
        capped += rows == most[layer] * shape.kv_heads;
        if (trial % 2 == 0) continue;
        for (int32_t head = 0; head < shape.kv_heads; ++head) EXPECT_LE(*(begin + head), most[layer]);
      }
      EXPECT_LE(shared.prefill->peak_bytes(), shared.prefill->reserved_bytes());
    }
    for (const std::unique_ptr<Sequence>& sequence : shared.sequences) {
      const Tokens rows = sequence->memory().value().rows;
      for (size_t layer = 0; layer < 2; ++layer) {
        const auto begin = rows.begin() + static_cast<int64_t>(layer) * shape.kv_heads;
        EXPECT_EQ(std::accumulate(begin, begin + shape.kv_heads, 0),
                  std::min<int32_t>(budgets[layer], static_cast<int32_t>(tokens.size())) * shape.kv_heads);
      }
    }
  }
  EXPECT_GE(capped, 6);
}

INSTANTIATE_TEST_SUITE_P(Devices, SharedPrefillTest, ::testing::ValuesIn(testing::kDevicesUnderTest),
                         [](const auto& info) { return testing::test_name(info.param); });

class IngestSharedTaskTest : public ::testing::Test {
 protected:
  void SetUp() override { testing::write_model(RandomModel(), directory_.path()); }
  const std::string& model() const { return directory_.path(); }
  Tokens tokens(size_t count) { return random_tokens(random_, count); }

 private:
  TemporaryDirectory directory_;
  std::mt19937 random_{5};
};

TEST_F(IngestSharedTaskTest, TellsEachBlockAndWhatTheWorkingCacheTook) {
  EngineClient client(model());
  const std::vector<uint64_t> ids = {client.sequence(prompted(tokens(3))),
                                     client.sequence(prompted(tokens(9)))};
  const int64_t before = client->memory().reserved_bytes;
  const uint64_t task = client->ingest_shared(ids, tokens(60), {40, 62});
  const Event done = client.last(task);
  ASSERT_EQ(done.kind, EventKind::kDone) << done.status.message();
  std::vector<int64_t> told;
  for (const Event& event : client.events()) {
    if (event.task != task) continue;
    told.push_back(event.done);
    EXPECT_EQ(event.total, 60);
  }
  EXPECT_EQ(told, (std::vector<int64_t>{24, 48, 60, 60}));
  // (40 + 62) * 2 heads / 16 rows, a page more a head and layer, and 24 + 9 rows of the layer in hand.
  EXPECT_EQ(done.reserved_bytes, (5 + 7 + 4 + 2 * 3) * 16 * (2 * 16 * 4 + 4));
  EXPECT_GT(done.peak_bytes, 0);
  EXPECT_LE(done.peak_bytes, done.reserved_bytes);
  EXPECT_EQ(client->memory().reserved_bytes, before) << "told when its pages are free again";
  for (uint64_t id : ids) {
    const SequenceMemory memory = client->sequence_memory(id).value();
    EXPECT_EQ(memory.tokens_seen, 60);
    EXPECT_EQ(memory.rows[0] + memory.rows[1], 2 * 20);
  }
}

TEST_F(IngestSharedTaskTest, LeavesSequencesEmptyWhenItIsCancelled) {
  std::atomic<uint64_t> victim{UINT64_MAX};
  EngineClient client(model(), [&](Engine& engine, const Event& event) {
    if (event.task == victim && event.kind == EventKind::kProgress) engine.cancel(event.task);
  });
  const std::vector<uint64_t> ids = {client.sequence(prompted(tokens(3))),
                                     client.sequence(prompted(tokens(9)))};
  const int64_t before = client->memory().reserved_bytes;
  victim = client.last(client->score(tokens(4), {})).task + 1;
  const Event done = client.last(client->ingest_shared(ids, tokens(600), {40, 62}));
  EXPECT_EQ(done.finish, FinishReason::kCancelled);
  EXPECT_EQ(done.done, 24);
  EXPECT_EQ(client->memory().reserved_bytes, before);
  for (uint64_t id : ids) EXPECT_EQ(client->sequence_memory(id).value().tokens_seen, 0);
  victim = UINT64_MAX;
  EXPECT_EQ(client.last(client->ingest_shared(ids, tokens(60), {40, 62})).done, 60);
}

TEST_F(IngestSharedTaskTest, RefusesWhatCannotBeBeforeAnyWork) {
  EngineClient client(model(), {}, 1 << 20);
  const uint64_t first = client.sequence(prompted(tokens(3)));
  const uint64_t second = client.sequence(prompted(tokens(3)));
  MemoryPolicy unlike = prompted(tokens(3));
  unlike.level = SelectLevel::kHead;
  const uint64_t other = client.sequence(unlike);
  unlike = prompted({});
  unlike.kind = PolicyKind::kKeyDiff;
  const uint64_t unprompted = client.sequence(unlike);
  const int64_t before = client->memory().reserved_bytes;
  const auto refusal = [&](const std::vector<uint64_t>& ids, Tokens text, const Tokens& budgets) {
    return client.last(client->ingest_shared(ids, std::move(text), budgets)).status;
  };
  const Tokens most = {40, 62};
  EXPECT_EQ(refusal({}, tokens(60), most).code(), Code::kInvalidArgument);
  EXPECT_EQ(refusal({first, second}, {}, most).code(), Code::kInvalidArgument);
  EXPECT_EQ(refusal({first, second}, {64}, most).code(), Code::kInvalidArgument);
  EXPECT_EQ(refusal({first, first}, tokens(60), most).code(), Code::kInvalidArgument);
  EXPECT_EQ(refusal({first, 99}, tokens(60), most).code(), Code::kDisposed);
  EXPECT_EQ(refusal({first, other}, tokens(60), most).code(), Code::kInvalidArgument);
  EXPECT_EQ(refusal({unprompted}, tokens(60), most).code(), Code::kInvalidArgument);
  EXPECT_EQ(refusal({first, second}, tokens(5000), most).code(), Code::kInvalidArgument) << "4096 positions";
  EXPECT_EQ(refusal({first, second}, tokens(60), {40}).code(), Code::kInvalidArgument);
  const Status few = refusal({first, second}, tokens(60), {40, 30});
  EXPECT_NE(few.message().find("30 rows a head in layer 1, fewer than the budget of each sequence (31)"),
            std::string::npos)
      << few.message();
  const Status large = refusal({first, second}, tokens(60), {40000, 40000});
  EXPECT_EQ(large.code(), Code::kOutOfMemory);
  EXPECT_NE(large.message().find("the working cache of 2 sequences needs 10004 pages of kept rows"),
            std::string::npos)
      << large.message();
  EXPECT_EQ(client->memory().reserved_bytes, before);
  EXPECT_EQ(client->sequence_memory(first).value().tokens_seen, 0);
  EXPECT_EQ(refusal({first, second}, tokens(60), most).code(), Code::kOk);
  EXPECT_EQ(refusal({first, second}, tokens(60), most).code(), Code::kInvalidArgument) << "not empty any more";
}

}  // namespace
}  // namespace longhaul
