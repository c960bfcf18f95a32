// Ranks of threads that are dead, late or out of step: kCommunication on all others, never a hang.
#include <atomic>
#include <thread>

#include "ranks.h"

namespace longhaul::testing {
namespace {

using std::chrono::milliseconds;

// Until the communicator fails, as a rank in a pass would.
Status reduce_forever(Rank& rank) {
  std::vector<float> x(1000);
  for (;;) LONGHAUL_TRY(rank.world.all_reduce(rank.stream, Tensor::dense(x.data(), DType::kF32, {1000})));
}

TEST(ThreadFailure, ARankThatLeavesIsNoticedByAll) {
  std::atomic<int> noticed = 0;
  on_ranks(4, "reference", [&](Rank& rank) {
    if (rank.index() == 2) {
      std::vector<float> x(1000);
      for (int i = 0; i < 5; ++i) {
        ASSERT_OK(rank.world.all_reduce(rank.stream, Tensor::dense(x.data(), DType::kF32, {1000})));
      }
      return;  // in the middle of the others' reductions
    }
    const Status status = reduce_forever(rank);
    EXPECT_EQ(status.code(), Code::kCommunication);
    EXPECT_NE(status.message().find("rank 2 is gone"), std::string::npos) << status.message();
    ++noticed;
  });
  EXPECT_EQ(noticed, 3);
}

TEST(ThreadFailure, ALateRankIsNoticedByAllAndFailsItself) {
  std::atomic<int> noticed = 0;
  on_ranks(
      4, "reference",
      [&](Rank& rank) {
        if (rank.index() == 1) {
          while (noticed < 3) std::this_thread::yield();
        }
        const Status status = rank.world.barrier(rank.stream);
        EXPECT_EQ(status.code(), Code::kCommunication);
        EXPECT_NE(status.message().find("rank 1 did not answer"), std::string::npos) << status.message();
        EXPECT_EQ(rank.world.barrier(rank.stream).code(), Code::kCommunication) << "a failed world stays so";
        ++noticed;
      },
      milliseconds(200));
  EXPECT_EQ(noticed, 4);
}

// A rank that waits for nobody but whose message is not fetched is not left hanging either.
TEST(ThreadFailure, AMessageThatNobodyReadsFails) {
  std::atomic<bool> done = false;
  on_ranks(
      2, "reference",
      [&](Rank& rank) {
        const char text[] = "hello";
        char answer[8];
        if (rank.index() == 0) {
          const Status status = rank.world.send_receive(rank.stream, 1, text, sizeof(text), 1, answer, 0);
          EXPECT_EQ(status.code(), Code::kCommunication);
          done = true;
        }
        while (!done) std::this_thread::yield();
      },
      milliseconds(100));
}

TEST(ThreadFailure, RanksOutOfStepAreNamed) {
  std::atomic<int> named = 0;
  on_ranks(2, "reference", [&](Rank& rank) {
    std::vector<float> x(8);
    const int64_t count = rank.index() == 0 ? 8 : 4;
    const Status status = rank.world.all_reduce(rank.stream, Tensor::dense(x.data(), DType::kF32, {count}));
    EXPECT_EQ(status.code(), Code::kCommunication);
    if (status.message().find("bytes where rank") != std::string::npos) ++named;
  });
  EXPECT_EQ(named, 2);
}

}  // namespace
}  // namespace longhaul::testing
