// Collectives over every engine: what arrives, in which order sums are taken, what was sent.
#include "parallel/communicator.h"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "ranks.h"

namespace longhaul::testing {
namespace {

class CommunicatorTest : public ::testing::TestWithParam<std::tuple<int, std::string>> {
 protected:
  int size() const { return std::get<0>(GetParam()); }
  void run(const std::function<void(Rank&)>& body) const { on_ranks(size(), std::get<1>(GetParam()), body); }
};
INSTANTIATE_TEST_SUITE_P(Worlds, CommunicatorTest,
                         ::testing::Combine(::testing::ValuesIn(world_sizes()),
                                            ::testing::Values("reference", "apart")),
                         [](const auto& info) {
                           return std::get<1>(info.param) + "_" + std::to_string(std::get<0>(info.param));
                         });

// What rank `from` sends to rank `to`: as many bytes as no other pair has.
std::vector<unsigned char> letter(int from, int to) {
  std::vector<unsigned char> bytes(static_cast<size_t>(5 * from + 3 * to));
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(17 * from + 31 * to + i);
  return bytes;
}

template <class T>
void append(std::vector<T>& to, const std::vector<T>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

TEST_P(CommunicatorTest, AllToAllBringsEveryPartToItsRank) {
  run([](Rank& rank) {
    std::vector<unsigned char> send, expected;
    std::vector<size_t> send_bytes, receive_bytes;
    for (int other = 0; other < rank.size(); ++other) {
      append(send, letter(rank.index(), other));
      send_bytes.push_back(letter(rank.index(), other).size());
      append(expected, letter(other, rank.index()));
      receive_bytes.push_back(letter(other, rank.index()).size());
    }
    std::vector<unsigned char> receive(expected.size());
    ASSERT_OK(rank.world.all_to_all(rank.stream, send.data(), send_bytes, receive.data(), receive_bytes));
    EXPECT_EQ(receive, expected);
    const Traffic::Count count = rank.world.traffic().of(Collective::kAllToAll);
    EXPECT_EQ(count.calls, 1);
    EXPECT_EQ(count.bytes, static_cast<int64_t>(send.size() - send_bytes[static_cast<size_t>(rank.index())]));
  });
}

TEST_P(CommunicatorTest, AllGatherBringsEveryPartToAll) {
  run([](Rank& rank) {
    std::vector<unsigned char> expected;
    std::vector<size_t> bytes_of;
    for (int other = 0; other < rank.size(); ++other) {
      append(expected, letter(other, 1));
      bytes_of.push_back(letter(other, 1).size());
    }
    const std::vector<unsigned char> own = letter(rank.index(), 1);
    std::vector<unsigned char> receive(expected.size());
    ASSERT_OK(rank.world.all_gather(rank.stream, own.data(), receive.data(), bytes_of));
    EXPECT_EQ(receive, expected);
    EXPECT_EQ(rank.world.traffic().of(Collective::kAllGather).bytes,
              static_cast<int64_t>(own.size()) * (rank.size() - 1));
  });
}

// Numbers whose sum depends on the order.
template <class T>
std::vector<T> addends(int rank, size_t count) {
  std::vector<T> x;
  for (size_t i = 0; i < count; ++i) {
    x.push_back(static_cast<T>(1.0 / (1 + static_cast<double>(i) + 7 * rank)) *
                static_cast<T>(rank % 2 ? -1e3 : 1));
  }
  return x;
}

template <class T>
std::vector<T> added(int ranks, size_t count) {
  std::vector<T> total = addends<T>(0, count);
  for (int r = 1; r < ranks; ++r) {
    const std::vector<T> x = addends<T>(r, count);
    for (size_t i = 0; i < count; ++i) total[i] += x[i];
  }
  return total;
}

template <class T>
void expect_sums(Rank& rank, DType dtype) {
  const auto ranks = static_cast<int64_t>(rank.size());
  std::vector<int64_t> counts;
  for (int64_t r = 0; r < ranks; ++r) counts.push_back(3 + r);
  const int64_t begin = std::accumulate(counts.begin(), counts.begin() + rank.index(), int64_t{0});
  const int64_t total = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  const int64_t own = counts[static_cast<size_t>(rank.index())];
  std::vector<T> x = addends<T>(rank.index(), static_cast<size_t>(total));
  const std::vector<T> sums = added<T>(rank.size(), static_cast<size_t>(total));

  std::vector<T> part(static_cast<size_t>(own));
  ASSERT_OK(rank.world.reduce_scatter(rank.stream, Tensor::dense(x.data(), dtype, {total}), counts,
                                      Tensor::dense(part.data(), dtype, {own})));
  EXPECT_EQ(part, std::vector<T>(sums.begin() + begin, sums.begin() + begin + own));

  ASSERT_OK(rank.world.all_reduce(rank.stream, Tensor::dense(x.data(), dtype, {total})));
  EXPECT_EQ(x, sums);
}

TEST_P(CommunicatorTest, SumsAreTakenInTheOrderOfRanks) {
  run([](Rank& rank) {
    expect_sums<float>(rank, DType::kF32);
    expect_sums<double>(rank, DType::kF64);
  });
}

// 2 (P - 1) / P of the vector over all ranks, as a ring would send.
TEST_P(CommunicatorTest, ReductionsSendWhatTheyMust) {
  run([](Rank& rank) {
    const int64_t count = 16 * rank.size();
    std::vector<float> x = addends<float>(rank.index(), static_cast<size_t>(count));
    std::vector<float> part(16);
    const std::vector<int64_t> counts(static_cast<size_t>(rank.size()), 16);
    ASSERT_OK(rank.world.reduce_scatter(rank.stream, Tensor::dense(x.data(), DType::kF32, {count}), counts,
                                        Tensor::dense(part.data(), DType::kF32, {16})));
    EXPECT_EQ(rank.world.traffic().of(Collective::kReduceScatter).bytes, 64 * (rank.size() - 1));
    ASSERT_OK(rank.world.all_reduce(rank.stream, Tensor::dense(x.data(), DType::kF32, {count})));
    EXPECT_EQ(rank.world.traffic().of(Collective::kAllReduce).bytes, 2 * 64 * (rank.size() - 1));
  });
}

TEST_P(CommunicatorTest, SendReceiveGoesRoundTheRing) {
  run([](Rank& rank) {
    const int next = (rank.index() + 1) % rank.size();
    const int last = (rank.index() + rank.size() - 1) % rank.size();
    const std::vector<unsigned char> send = letter(rank.index(), next);
    std::vector<unsigned char> receive(letter(last, rank.index()).size());
    ASSERT_OK(rank.world.send_receive(rank.stream, next, send.data(), send.size(), last, receive.data(),
                                      receive.size()));
    EXPECT_EQ(receive, letter(last, rank.index()));
    EXPECT_EQ(rank.world.traffic().of(Collective::kSendReceive).bytes,
              rank.size() == 1 ? 0 : static_cast<int64_t>(send.size()));
    ASSERT_OK(rank.world.barrier(rank.stream));
    EXPECT_EQ(rank.world.traffic().of(Collective::kBarrier).bytes, 0);
  });
}

// Every aligned group of every degree, as FlexSP's executor makes them: at most log2(N) a rank, none twice.
TEST_P(CommunicatorTest, GroupsAreMadeOnce) {
  run([](Rank& rank) {
    size_t made = 0;
    for (int round = 0; round < 3; ++round) {
      for (int degree = 1; degree < rank.size(); degree *= 2) {
        std::vector<int> members(static_cast<size_t>(degree));
        std::iota(members.begin(), members.end(), rank.index() / degree * degree);
        auto group = rank.world.group(members);
        ASSERT_OK(group.status());
        EXPECT_EQ(group.value()->size(), degree);
        EXPECT_EQ(group.value()->rank(), rank.index() % degree);
        std::vector<float> one = {static_cast<float>(rank.index())};
        ASSERT_OK(group.value()->all_reduce(rank.stream, Tensor::dense(one.data(), DType::kF32, {1})));
        EXPECT_EQ(one[0], static_cast<float>(std::accumulate(members.begin(), members.end(), 0)));
        made += round == 0 ? 1 : 0;
      }
    }
    EXPECT_EQ(rank.world.groups_made(), made);
  });
}

// Ranks of a group are numbered in it, and a group of a group is one of the world.
TEST_P(CommunicatorTest, GroupsNest) {
  run([](Rank& rank) {
    std::vector<int> parity;
    for (int r = rank.index() % 2; r < rank.size(); r += 2) parity.push_back(r);
    auto group = rank.world.group(parity);
    ASSERT_OK(group.status());
    const int half = std::max(group.value()->size() / 2, 1);
    std::vector<int> members(static_cast<size_t>(half));
    std::iota(members.begin(), members.end(), group.value()->rank() / half * half);
    auto nested = group.value()->group(members);
    ASSERT_OK(nested.status());
    std::vector<float> x = {static_cast<float>(rank.index())};
    ASSERT_OK(nested.value()->all_reduce(rank.stream, Tensor::dense(x.data(), DType::kF32, {1})));
    float expected = 0;
    for (int member : members) expected += static_cast<float>(parity[static_cast<size_t>(member)]);
    EXPECT_EQ(x[0], expected);
  });
}

TEST_P(CommunicatorTest, WrongArgumentsAreRefusedBeforeAnythingIsSent) {
  run([](Rank& rank) {
    const std::vector<size_t> short_by_one(static_cast<size_t>(rank.size() - 1));
    EXPECT_EQ(rank.world.all_gather(rank.stream, nullptr, nullptr, short_by_one).code(),
              Code::kInvalidArgument);
    EXPECT_EQ(rank.world.group(std::vector<int>{rank.size()}).status().code(), Code::kInvalidArgument);
    EXPECT_EQ(rank.world.group(std::vector<int>{rank.index(), rank.index()}).status().code(),
              Code::kInvalidArgument);
    EXPECT_EQ(rank.world.group(std::vector<int>{}).status().code(), Code::kInvalidArgument);
    std::vector<int32_t> integers(2);
    EXPECT_EQ(rank.world.all_reduce(rank.stream, Tensor::dense(integers.data(), DType::kI32, {2})).code(),
              Code::kInvalidArgument);
    EXPECT_EQ(rank.world.send_receive(rank.stream, rank.size(), nullptr, 0, 0, nullptr, 0).code(),
              Code::kInvalidArgument);
    EXPECT_OK(rank.world.barrier(rank.stream));
  });
}

}  // namespace
}  // namespace longhaul::testing
