// The pool's pages are counted whatever fails.
#include "kv/page_pool.h"

#include <gtest/gtest.h>

#include <set>

#include "devices_under_test.h"
#include "kv/cache.h"

namespace longhaul {
namespace {

constexpr KvGeometry kGeometry{.layers = 2, .kv_heads = 2, .head_dim = 8, .dtype = DType::kF32};

class PagePoolTest : public ::testing::Test {
 protected:
  void SetUp() override {
    backend_ = std::move(testing::make_backend_under_test(testing::kFastDevice, 1).value());
    stream_ = std::move(backend_->make_stream().value());
    // A byte short of eleven pages.
    pool_ = std::move(PagePool::create(*backend_, kGeometry, 11 * kGeometry.page_bytes() - 1).value());
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<PagePool> pool_;
};

TEST_F(PagePoolTest, HoldsWholePagesOnly) {
  EXPECT_EQ(pool_->total_pages(), 10);
  EXPECT_EQ(backend_->allocated(MemoryUse::kPool), static_cast<size_t>(10 * kGeometry.page_bytes()));
  for (int64_t bytes : {kGeometry.page_bytes() - 1, int64_t{0}, int64_t{-1}}) {
    EXPECT_EQ(PagePool::create(*backend_, kGeometry, bytes).status().code(), Code::kOutOfMemory);
  }
}

TEST_F(PagePoolTest, ReservesAllPagesAskedForOrNone) {
  std::vector<int32_t> first;
  ASSERT_TRUE(pool_->reserve(6, first).ok());
  EXPECT_EQ(first, (std::vector<int32_t>{0, 1, 2, 3, 4, 5})) << "neighbouring pages come first";
  std::vector<int32_t> second{42};
  EXPECT_EQ(pool_->reserve(5, second).code(), Code::kOutOfMemory);
  EXPECT_EQ(second.size(), 1u);
  EXPECT_EQ(pool_->reserved_pages(), 6);

  pool_->release(first);
  EXPECT_EQ(pool_->reserved_pages(), 0);
  std::vector<int32_t> all;
  ASSERT_TRUE(pool_->reserve(10, all).ok());
  EXPECT_EQ(std::set<int32_t>(all.begin(), all.end()).size(), 10u) << "no page is given twice";
}

TEST_F(PagePoolTest, PeakCountsWhatOthersHoldMeanwhile) {
  pool_->account(0, 3, 4);
  pool_->account(0, 2, 5);  // another cache, while the first holds 3
  EXPECT_EQ(pool_->used_pages(), 5);
  EXPECT_EQ(pool_->peak_pages(), 8);
  pool_->account(3, 0, 3);
  EXPECT_EQ(pool_->used_pages(), 2);
  EXPECT_EQ(pool_->peak_pages(), 8);
}

TEST_F(PagePoolTest, RefusedCachesLeaveNoPageBehind) {
  EXPECT_EQ(SequenceCache::create(*backend_, *stream_, *pool_, 64, 11, 11).status().code(), Code::kOutOfMemory);
  EXPECT_EQ(pool_->reserved_pages(), 0);
  EXPECT_EQ(backend_->allocated(MemoryUse::kTables), 0u);

  std::unique_ptr<SequenceCache> cache =
      std::move(SequenceCache::create(*backend_, *stream_, *pool_, 64, 4, 8).value());
  EXPECT_EQ(cache->grow(9).code(), Code::kInternal) << "its tables are for 8 pages";
  std::vector<int32_t> others;
  ASSERT_TRUE(pool_->reserve(3, others).ok());
  EXPECT_EQ(cache->grow(8).code(), Code::kOutOfMemory);
  EXPECT_EQ(cache->reserved_pages(), 4);
  EXPECT_TRUE(cache->grow(7).ok());
  EXPECT_EQ(pool_->reserved_pages(), 10);
  EXPECT_TRUE(cache->grow(2).ok());
  EXPECT_EQ(cache->reserved_pages(), 7) << "growing gives nothing back";
  cache.reset();
  EXPECT_EQ(pool_->reserved_pages(), 3);
  EXPECT_EQ(backend_->allocated(MemoryUse::kTables), 0u);
}

TEST_F(PagePoolTest, ShrinkingGivesPagesBackThatComeAgainInTheirOrder) {
  std::unique_ptr<SequenceCache> cache =
      std::move(SequenceCache::create(*backend_, *stream_, *pool_, 64, 8, 8).value());
  ASSERT_TRUE(cache->shrink(9).ok());
  EXPECT_EQ(cache->reserved_pages(), 8);
  ASSERT_TRUE(cache->shrink(3).ok());
  EXPECT_EQ(cache->reserved_pages(), 3);
  EXPECT_EQ(pool_->reserved_pages(), 3);

  // Off the stack came 0, 1, 2, ... first, so these were on top: given back, and given to whoever comes next.
  std::vector<int32_t> next;
  ASSERT_TRUE(pool_->reserve(5, next).ok());
  EXPECT_EQ(next, (std::vector<int32_t>{0, 1, 2, 3, 4}));
  pool_->release(next);
  ASSERT_TRUE(cache->grow(8).ok());
  ASSERT_TRUE(cache->settle().ok());
  EXPECT_EQ(cache->used_pages(), 0) << "no page left the stack";
  EXPECT_EQ(cache->peak_pages(), 0);
  ASSERT_TRUE(cache->shrink(0).ok());
  EXPECT_EQ(pool_->reserved_pages(), 0);
  cache.reset();
  EXPECT_EQ(pool_->reserved_pages(), 0) << "what was given back is not released again";
}

}  // namespace
}  // namespace longhaul
