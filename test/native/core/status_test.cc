#include "core/status.h"

#include <gtest/gtest.h>

#include <memory>

namespace longhaul {
namespace {

Status fails_when(bool bad) {
  return bad ? invalid_argument("bad") : Status();
}

Status passes_on(bool bad, bool& reached_end) {
  LONGHAUL_TRY(fails_when(bad));
  reached_end = true;
  return {};
}

Result<std::unique_ptr<int>> half(int value) {
  if (value % 2 != 0) return unsupported("odd " + std::to_string(value));
  return std::make_unique<int>(value / 2);
}

Result<int> quarter(int value) {
  LONGHAUL_ASSIGN(const std::unique_ptr<int> once, half(value));
  LONGHAUL_ASSIGN(std::unique_ptr<int> twice, half(*once));
  return *twice;
}

Status asserts(int value) {
  LONGHAUL_ASSERT(value == 1);
  return {};
}

TEST(Status, IsOkWithoutAMessage) {
  const Status ok;
  EXPECT_TRUE(ok.ok());
  EXPECT_EQ(ok.code(), Code::kOk);
  EXPECT_EQ(ok.message(), "");
}

TEST(Status, CopiesAndMoves) {
  const Status first = out_of_memory("full");
  Status copy = first;
  EXPECT_EQ(copy.code(), Code::kOutOfMemory);
  EXPECT_EQ(copy.message(), "full");
  const Status moved = std::move(copy);
  EXPECT_EQ(moved.message(), "full");
  copy = corrupt_file("torn");
  EXPECT_EQ(copy.code(), Code::kCorruptFile);
  copy = Status();
  EXPECT_TRUE(copy.ok());
  EXPECT_EQ(first.message(), "full");
}

TEST(Status, TryReturnsTheFirstFailure) {
  bool reached_end = false;
  EXPECT_EQ(passes_on(true, reached_end).message(), "bad");
  EXPECT_FALSE(reached_end);
  EXPECT_TRUE(passes_on(false, reached_end).ok());
  EXPECT_TRUE(reached_end);
}

TEST(Result, HoldsAValueOrTheReason) {
  EXPECT_EQ(quarter(12).value(), 3);
  EXPECT_TRUE(quarter(12).status().ok());
  EXPECT_EQ(quarter(7).status().message(), "odd 7");
  EXPECT_EQ(quarter(6).status().message(), "odd 3");
  EXPECT_EQ(quarter(6).status().code(), Code::kUnsupported);
}

TEST(Status, ABrokenInvariantIsAStatus) {
  EXPECT_TRUE(asserts(1).ok());
  const Status broken = asserts(2);
  EXPECT_EQ(broken.code(), Code::kInternal);
  EXPECT_NE(broken.message().find("value == 1"), std::string::npos);
  EXPECT_NE(broken.message().find("status_test.cc"), std::string::npos);
}

}  // namespace
}  // namespace longhaul
