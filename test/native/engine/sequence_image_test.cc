// A sequence that was brought to the host and back is the same sequence; what could not have been one is
// refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <random>

#include "machine.h"

namespace longhaul {
namespace {

using testing::Machine;
using testing::make_machine;
using testing::RandomModel;

constexpr int64_t kPoolBytes = 8 << 20;
constexpr int kKinds = static_cast<int>(PolicyKind::kEpisodic) + 1;

MemoryPolicy policy_of(int kind, SelectLevel level) {
  MemoryPolicy policy;
  policy.kind = static_cast<PolicyKind>(kind);
  policy.level = level;
  policy.block = 24;
  policy.tail = 20;
  policy.window = 4;
  policy.prompt = {5, 9, 2};
  policy.own = {8, 40, 90, 400};
  if (policy.bounded()) policy.budgets = {23, 31};
  return policy;
}

// A model with so few positions that conversations of these tests pack theirs.
RandomModel short_model() {
  RandomModel model;
  model.max_positions = 160;
  return model;
}

using Rows = std::vector<std::vector<uint8_t>>;

Rows read_rows(Sequence& sequence, const KvGeometry& geometry) {
  Rows rows;
  for (int32_t layer = 0; layer < geometry.layers; ++layer) {
    for (int32_t head = 0; head < geometry.kv_heads; ++head) {
      rows.push_back(std::move(sequence.read_rows(layer, head).value()));
    }
  }
  return rows;
}

Status write_rows(Sequence& sequence, const KvGeometry& geometry, const Rows& rows) {
  for (int32_t layer = 0; layer < geometry.layers; ++layer) {
    for (int32_t head = 0; head < geometry.kv_heads; ++head) {
      const std::vector<uint8_t>& bytes = rows[static_cast<size_t>(layer) * geometry.kv_heads + head];
      if (!bytes.empty()) LONGHAUL_TRY(sequence.write_rows(layer, head, bytes));
    }
  }
  return Status();
}

// Feeds `steps` random passes: blocks, questions, evictions of the tail, things forgotten.
void feed(Sequence& sequence, std::mt19937& random, int steps) {
  auto pick = [&](int low, int high) {
    return low + static_cast<int>(random() % static_cast<uint32_t>(high - low + 1));
  };
  for (int step = 0; step < steps; ++step) {
    std::vector<int32_t> tokens(static_cast<size_t>(pick(1, std::min(18, sequence.policy().block))));
    for (int32_t& token : tokens) token = pick(0, 63);
    ASSERT_TRUE(sequence.admit(static_cast<int64_t>(tokens.size())).ok());
    const bool extend = sequence.tail_holds(static_cast<int64_t>(tokens.size())) && pick(0, 2) > 0;
    ASSERT_TRUE((extend ? sequence.extend(tokens) : sequence.prefill(tokens)).ok());
    if (sequence.tail_rows() > 2 && pick(0, 3) == 0) ASSERT_TRUE(sequence.truncate(pick(1, 2)).ok());
  }
  ASSERT_TRUE(sequence.give_back().ok());
}

// Logits behind each of some tokens, fed one by one as an answer is: the tail fills up and is evicted.
std::vector<float> go_on(Machine& machine, Sequence& sequence, std::mt19937 random) {
  std::vector<float> all;
  const size_t vocab = static_cast<size_t>(machine.model->config().vocab_size);
  for (int step = 0; step < 30; ++step) {
    const int32_t token = static_cast<int32_t>(random() % 64);
    EXPECT_TRUE(sequence.admit(1).ok());
    if (!sequence.tail_holds(1)) EXPECT_TRUE(sequence.evict_tail().ok());
    const Status status = sequence.extend({&token, 1});
    EXPECT_TRUE(status.ok()) << status.message();
    if (!status.ok()) return all;
    const Tensor logits = machine.model->logits(sequence.last_row(), 1).value();
    EXPECT_TRUE(sequence.settle().ok());
    all.resize(all.size() + vocab);
    EXPECT_TRUE(machine.backend
                    ->download(machine.model->stream(), all.data() + all.size() - vocab, logits.data,
                               vocab * sizeof(float))
                    .ok());
  }
  return all;
}

void expect_same_memory(const SequenceMemory& a, const SequenceMemory& b) {
  EXPECT_EQ(a.tokens_seen, b.tokens_seen);
  EXPECT_EQ(a.next_position, b.next_position);
  EXPECT_EQ(a.packing.times, b.packing.times);
  EXPECT_EQ(a.packing.rotations, b.packing.rotations);
  EXPECT_EQ(a.packing.settled, b.packing.settled);
  EXPECT_EQ(a.tail_rows, b.tail_rows);
  EXPECT_EQ(a.reserved_bytes, b.reserved_bytes);
  EXPECT_EQ(a.used_bytes, b.used_bytes);
  EXPECT_EQ(a.peak_bytes, b.peak_bytes);
  EXPECT_EQ(a.table_bytes, b.table_bytes);
  EXPECT_EQ(a.rows, b.rows);
}

class SequenceImages : public ::testing::TestWithParam<std::string> {};

// In the same pool beside the original, and on another machine with the same model.
void expect_to_go_on(const std::string& device, PositionKind positions) {
  std::mt19937 random(11);
  const bool packed = positions == PositionKind::kPacked;
  const RandomModel shape = packed ? short_model() : RandomModel();
  Machine machine = make_machine(device, shape, kPoolBytes);
  Machine other = make_machine(device, shape, kPoolBytes);
  const KvGeometry geometry = machine.model->kv_geometry();
  for (int kind = packed ? 1 : 0; kind < kKinds; ++kind) {
    for (SelectLevel level : {SelectLevel::kPair, SelectLevel::kHead}) {
      // The long way to the last position takes an emulated GPU most of a minute.
      if (packed && device == "cuda-emulated" && (level == SelectLevel::kHead) != (kind % 2 == 0)) continue;
      SCOPED_TRACE("policy " + std::to_string(kind) + " level " + std::to_string(static_cast<int>(level)));
      MemoryPolicy policy = policy_of(kind, level);
      policy.positions = positions;
      std::unique_ptr<Sequence> original = machine.sequence(policy);
      feed(*original, random, static_cast<int>(random() % 12) + (packed ? 24 : 0));
      if (original->tokens_seen() > 0) original->pending = 7;
      const SequenceMemory memory = original->memory().value();
      const SequenceImage image = original->image().value();
      const Rows rows = read_rows(*original, geometry);
      EXPECT_EQ(image.tokens_seen, original->tokens_seen());
      // A second pair, made before the original goes on.
      std::vector<std::pair<Machine*, std::unique_ptr<Sequence>>> copies;
      for (Machine* at : {&machine, &other}) {
        const int64_t used = at->pool->used_pages();
        Result<std::unique_ptr<Sequence>> copy = Sequence::restore(*at->model, *at->pool, image);
        ASSERT_TRUE(copy.ok()) << copy.status().message();
        ASSERT_TRUE(write_rows(*copy.value(), geometry, rows).ok());
        expect_same_memory(copy.value()->memory().value(), memory);
        EXPECT_EQ((at->pool->used_pages() - used) * at->pool->page_bytes(), memory.used_bytes);
        EXPECT_EQ(copy.value()->pending, original->pending);
        const SequenceImage again = copy.value()->image().value();
        EXPECT_EQ(again.rows.lengths, image.rows.lengths);
        EXPECT_EQ(again.rows.positions, image.rows.positions);
        EXPECT_EQ(again.recent, image.recent);
        EXPECT_EQ(read_rows(*copy.value(), geometry), rows);
        copies.emplace_back(at, std::move(copy.value()));
      }
      const std::vector<float> expected = go_on(machine, *original, random);
      for (auto& [at, copy] : copies) EXPECT_EQ(go_on(*at, *copy, random), expected);
      const SequenceMemory after = original->memory().value();
      for (auto& [at, copy] : copies) expect_same_memory(copy->memory().value(), after);
    }
  }
  EXPECT_EQ(machine.pool->reserved_pages(), 0);
  EXPECT_EQ(other.pool->used_pages(), 0);
}

TEST_P(SequenceImages, RefuseWorkUntilAllRowsAreThere) {
  std::mt19937 random(3);
  Machine machine = make_machine(GetParam(), {}, kPoolBytes);
  const KvGeometry geometry = machine.model->kv_geometry();
  std::unique_ptr<Sequence> original =
      std::move(Sequence::create(*machine.model, *machine.pool, policy_of(4, SelectLevel::kPair)).value());
  feed(*original, random, 6);
  const Rows rows = read_rows(*original, geometry);
  std::unique_ptr<Sequence> copy =
      std::move(Sequence::restore(*machine.model, *machine.pool, original->image().value()).value());
  const int32_t token = 3;
  for (size_t head = 0; head < rows.size(); ++head) {
    EXPECT_NE(copy->extend({&token, 1}).message().find("rows are missing"), std::string::npos);
    EXPECT_FALSE(copy->image().ok());
    const int32_t layer = static_cast<int32_t>(head) / geometry.kv_heads;
    const int32_t kv_head = static_cast<int32_t>(head) % geometry.kv_heads;
    std::vector<uint8_t> bytes = rows[head];
    bytes.pop_back();
    EXPECT_EQ(copy->write_rows(layer, kv_head, bytes).code(), Code::kCorruptFile);
    EXPECT_EQ(copy->write_rows(geometry.layers, kv_head, rows[head]).code(), Code::kInvalidArgument);
    EXPECT_EQ(copy->write_rows(layer, -1, rows[head]).code(), Code::kInvalidArgument);
    EXPECT_TRUE(copy->write_rows(layer, kv_head, rows[head]).ok());
    EXPECT_EQ(copy->write_rows(layer, kv_head, rows[head]).code(), Code::kInvalidArgument);
  }
  EXPECT_TRUE(copy->extend({&token, 1}).ok());
  EXPECT_FALSE(copy->read_rows(0, geometry.kv_heads).ok());
}

TEST_P(SequenceImages, AreRefusedByAPoolThatIsTooSmall) {
  std::mt19937 random(3);
  Machine machine = make_machine(GetParam(), {}, kPoolBytes);
  const int64_t page = machine.pool->page_bytes();
  Machine small = make_machine(GetParam(), {}, 12 * page);
  for (int kind : {0, 4}) {
    std::unique_ptr<Sequence> original =
        std::move(Sequence::create(*machine.model, *machine.pool, policy_of(kind, SelectLevel::kPair)).value());
    for (int i = 0; i < 5; ++i) feed(*original, random, 4);
    ASSERT_GT(original->memory().value().reserved_bytes, 12 * page);
    const Result<std::unique_ptr<Sequence>> refused =
        Sequence::restore(*small.model, *small.pool, original->image().value());
    EXPECT_EQ(refused.status().code(), Code::kOutOfMemory) << refused.status().message();
    EXPECT_EQ(small.pool->reserved_pages(), 0);
  }
}

// One thing wrong each; the reservation must be untouched.
TEST_P(SequenceImages, GoOnAsTheOriginalDoes) {
  expect_to_go_on(GetParam(), PositionKind::kAbsolute);
}

TEST_P(SequenceImages, WithPackedPositionsGoOnAsTheOriginalDoes) {
  expect_to_go_on(GetParam(), PositionKind::kPacked);
}

TEST_P(SequenceImages, ThatCannotBeAreRefused) {
  std::mt19937 random(5);
  Machine machine = make_machine(GetParam(), {}, kPoolBytes);
  std::unique_ptr<Sequence> original =
      std::move(Sequence::create(*machine.model, *machine.pool, policy_of(4, SelectLevel::kPair)).value());
  feed(*original, random, 9);
  while (original->tail_rows() < 3) feed(*original, random, 1);
  const SequenceImage image = original->image().value();
  const int64_t reserved = machine.pool->reserved_pages();
  ASSERT_TRUE(check(image, machine.model->config(), machine.pool->geometry()).ok());

  const std::vector<std::pair<const char*, std::function<void(SequenceImage&)>>> changes = {
      {"layers", [](SequenceImage& i) { ++i.geometry.layers; }},
      {"KV heads", [](SequenceImage& i) { i.geometry.kv_heads = -1; }},
      {"head_dim", [](SequenceImage& i) { i.geometry.head_dim = 0; }},
      {"dtype", [](SequenceImage& i) { i.geometry.dtype = DType::kBf16; }},
      {"no budgets", [](SequenceImage& i) { i.policy.budgets.clear(); }},
      {"a budget of none", [](SequenceImage& i) { i.policy.budgets[0] = 0; }},
      {"a smaller budget", [](SequenceImage& i) { i.policy.budgets[1] = 2; }},
      // Its heads are not even, so the longer one is beyond what each may have.
      {"a budget of each head", [](SequenceImage& i) { i.policy.level = SelectLevel::kHead; }},
      {"block", [](SequenceImage& i) { i.policy.block = 0; }},
      {"window", [](SequenceImage& i) { i.policy.window = -1; }},
      {"sinks", [](SequenceImage& i) { i.policy.sinks = -1; }},
      {"a tail beyond the policy's", [](SequenceImage& i) { i.policy.tail = 2; }},
      {"the prompt", [](SequenceImage& i) { i.policy.prompt = {64}; }},
      {"policy full", [](SequenceImage& i) { i.policy.kind = PolicyKind::kFull; }},
      {"fewer tokens seen", [](SequenceImage& i) { --i.tokens_seen; }},
      {"more tokens seen", [](SequenceImage& i) { ++i.tokens_seen; }},
      {"tokens beyond the positions", [](SequenceImage& i) { i.tokens_seen = 4097; }},
      {"negative tokens", [](SequenceImage& i) { i.tokens_seen = -1; }},
      {"a longer tail", [](SequenceImage& i) { i.tail_rows = 20; }},
      {"a negative tail", [](SequenceImage& i) { i.tail_rows = -1; }},
      {"pending", [](SequenceImage& i) { i.pending = 64; }},
      {"negative pending", [](SequenceImage& i) { i.pending = -5; }},
      {"heads of TOVA that differ",
       [](SequenceImage& i) {
         i.policy.kind = PolicyKind::kTova;
         i.recent = {1};
       }},
      {"a recent token that nobody needs", [](SequenceImage& i) { i.recent = {1}; }},
      {"recent tokens",
       [](SequenceImage& i) {
         i.policy.kind = PolicyKind::kSnapKv;
         i.recent = {-1};
       }},
      {"too many recent tokens",
       [](SequenceImage& i) {
         i.policy.kind = PolicyKind::kSnapKv;
         i.recent.assign(5, 1);
       }},
      {"a missing length", [](SequenceImage& i) { i.rows.lengths.pop_back(); }},
      {"a negative length", [](SequenceImage& i) { i.rows.lengths[0] = -1; }},
      {"a huge length", [](SequenceImage& i) { i.rows.lengths[1] = 0x7fffffff; }},
      {"a longer head", [](SequenceImage& i) { ++i.rows.lengths[0]; }},
      {"a missing position", [](SequenceImage& i) { i.rows.positions.pop_back(); }},
      {"equal positions", [](SequenceImage& i) { i.rows.positions[1] = i.rows.positions[0]; }},
      {"a negative position", [](SequenceImage& i) { i.rows.positions[0] = -1; }},
      {"a position to come",
       [](SequenceImage& i) { i.rows.positions.back() = static_cast<int32_t>(i.tokens_seen); }},
      {"a gap in the tail",
       [](SequenceImage& i) {
         const size_t end = static_cast<size_t>(i.rows.lengths[0]);
         i.rows.positions[end - static_cast<size_t>(i.tail_rows)] -= 1;
       }},
      {"a low peak", [](SequenceImage& i) { i.peak_pages = 1; }},
      {"a peak beyond the reservation", [](SequenceImage& i) { i.peak_pages = 1 << 20; }},
  };
  for (const auto& [what, change] : changes) {
    SequenceImage changed = image;
    change(changed);
    const Result<std::unique_ptr<Sequence>> refused = Sequence::restore(*machine.model, *machine.pool, changed);
    EXPECT_EQ(refused.status().code(), Code::kCorruptFile) << what << ": " << refused.status().message();
    EXPECT_EQ(machine.pool->reserved_pages(), reserved) << what;
  }
}

TEST_P(SequenceImages, ThatCannotBePackedLikeThatAreRefused) {
  std::mt19937 random(6);
  Machine machine = make_machine(GetParam(), short_model(), kPoolBytes);
  MemoryPolicy policy = policy_of(4, SelectLevel::kPair);
  policy.positions = PositionKind::kPacked;
  std::unique_ptr<Sequence> original = machine.sequence(policy);
  feed(*original, random, 30);
  while (original->tail_rows() < 3) feed(*original, random, 1);
  const SequenceImage image = original->image().value();
  ASSERT_GT(image.packing.times, 0);
  ASSERT_LT(image.next_position, image.tokens_seen);
  ASSERT_TRUE(check(image, machine.model->config(), machine.pool->geometry()).ok());
  const int64_t reserved = machine.pool->reserved_pages();
  const std::vector<std::pair<const char*, std::function<void(SequenceImage&)>>> changes = {
      {"absolute positions", [](SequenceImage& i) { i.policy.positions = PositionKind::kAbsolute; }},
      {"never packed", [](SequenceImage& i) { i.packing = {}; }},
      {"packed less than never", [](SequenceImage& i) { i.packing.times = -1; }},
      {"rotations beyond packings", [](SequenceImage& i) { i.packing.rotations = i.packing.times + 1; }},
      {"negative rotations", [](SequenceImage& i) { i.packing.rotations = -1; }},
      {"settled rows to come",
       [](SequenceImage& i) { i.packing.settled = static_cast<int32_t>(i.next_position) + 1; }},
      {"settled rows of negative positions", [](SequenceImage& i) { i.packing.settled = -1; }},
      {"a next position further on", [](SequenceImage& i) { ++i.next_position; }},
      {"a next position that is taken", [](SequenceImage& i) { --i.next_position; }},
      {"a next position beyond the model's", [](SequenceImage& i) { i.next_position = 161; }},
      {"fewer tokens than positions", [](SequenceImage& i) { i.tokens_seen = i.next_position - 1; }},
      {"tokens that nobody can count", [](SequenceImage& i) { i.tokens_seen = (int64_t{1} << 53) + 1; }},
      {"a budget beyond the positions", [](SequenceImage& i) { i.policy.budgets[0] = 100; }},
  };
  for (const auto& [what, change] : changes) {
    SequenceImage changed = image;
    change(changed);
    const Result<std::unique_ptr<Sequence>> refused = Sequence::restore(*machine.model, *machine.pool, changed);
    EXPECT_EQ(refused.status().code(), Code::kCorruptFile) << what << ": " << refused.status().message();
    EXPECT_EQ(machine.pool->reserved_pages(), reserved) << what;
  }
}

TEST_P(SequenceImages, OfAFullTailNeedItsLastTokens) {
  Machine machine = make_machine(GetParam(), {}, kPoolBytes);
  std::unique_ptr<Sequence> original =
      std::move(Sequence::create(*machine.model, *machine.pool, policy_of(2, SelectLevel::kPair)).value());
  const std::vector<int32_t> tokens(20, 3);
  ASSERT_TRUE(original->extend(tokens).ok());
  SequenceImage image = original->image().value();
  image.recent.clear();
  EXPECT_EQ(Sequence::restore(*machine.model, *machine.pool, image).status().code(), Code::kCorruptFile);
}

// Whatever is changed at random is refused, or is a sequence that can be gone on with inside its reservation.
TEST_P(SequenceImages, ChangedAtRandomDoNoHarm) {
  std::mt19937 random(17);
  Machine machine = make_machine(GetParam(), {}, kPoolBytes);
  const KvGeometry geometry = machine.model->kv_geometry();
  const std::vector<int64_t> values = {-2147483648LL, -1, 0, 1, 2, 16, 17, 63, 64, 4096, 2147483647LL};
  // A pass on an emulated GPU takes a hundred times as long.
  const int trials = GetParam() == "cuda-emulated" ? 30 : 300;
  int restored = 0;
  for (int trial = 0; trial < trials; ++trial) {
    const int kind = static_cast<int>(random() % kKinds);
    std::unique_ptr<Sequence> original =
        std::move(Sequence::create(*machine.model, *machine.pool,
                                   policy_of(kind, random() % 2 == 0 ? SelectLevel::kPair : SelectLevel::kHead))
                      .value());
    feed(*original, random, 1 + static_cast<int>(random() % 4));
    SequenceImage image = original->image().value();
    Rows rows = read_rows(*original, geometry);
    original.reset();
    ASSERT_EQ(machine.pool->reserved_pages(), 0);

    std::vector<int32_t*> fields = {&image.geometry.layers, &image.geometry.kv_heads, &image.geometry.head_dim,
                                    &image.policy.block,    &image.policy.tail,       &image.policy.sinks,
                                    &image.policy.window,   &image.policy.pool_kernel};
    for (std::vector<int32_t>* list : {&image.policy.budgets, &image.policy.prompt, &image.policy.own,
                                       &image.recent, &image.rows.lengths, &image.rows.positions}) {
      // Long lists do not crowd out the others.
      for (int i = 0; i < 4 && !list->empty(); ++i) fields.push_back(&(*list)[random() % list->size()]);
    }
    std::vector<int64_t*> wide = {&image.tokens_seen, &image.tail_rows, &image.peak_pages};
    const size_t chosen = random() % (fields.size() + wide.size() + 2);
    const int64_t value =
        random() % 2 == 0 ? values[random() % values.size()] : static_cast<int64_t>(random() % 80);
    if (chosen < fields.size()) {
      *fields[chosen] = static_cast<int32_t>(value);
    } else if (chosen < fields.size() + wide.size()) {
      *wide[chosen - fields.size()] = value;
    } else if (chosen == fields.size() + wide.size()) {
      image.policy.kind = static_cast<PolicyKind>(random() % kKinds);
    } else {
      // Any bits may be keys and values, those that are no numbers too.
      for (std::vector<uint8_t>& bytes : rows) {
        for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
      }
    }
    Result<std::unique_ptr<Sequence>> result = Sequence::restore(*machine.model, *machine.pool, image);
    if (!result.ok()) {
      const Code code = result.status().code();
      EXPECT_TRUE(code == Code::kCorruptFile || code == Code::kOutOfMemory) << result.status().message();
      EXPECT_EQ(machine.pool->reserved_pages(), 0);
      continue;
    }
    ++restored;
    Sequence& sequence = *result.value();
    ASSERT_TRUE(write_rows(sequence, geometry, rows).ok());
    if (sequence.tokens_seen() > 3900) continue;  // hardly a position left
    feed(sequence, random, 4);
    go_on(machine, sequence, random);
    const SequenceMemory memory = sequence.memory().value();
    EXPECT_LE(memory.used_bytes, memory.reserved_bytes);
    EXPECT_EQ(machine.pool->used_pages() * machine.pool->page_bytes(), memory.used_bytes);
  }
  EXPECT_GT(restored, trials / 20);
  EXPECT_EQ(machine.pool->reserved_pages(), 0);
  EXPECT_EQ(machine.pool->used_pages(), 0);
}

INSTANTIATE_TEST_SUITE_P(Devices, SequenceImages, ::testing::ValuesIn(testing::kDevicesUnderTest),
                         [](const auto& info) { return testing::test_name(info.param); });

}  // namespace
}  // namespace longhaul
