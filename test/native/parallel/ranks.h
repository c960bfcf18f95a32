// Runs a body once on each rank of a world: on threads here, in processes in the program built for MPI.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "parallel/communicator.h"

namespace longhaul::testing {

// One rank of a test: its device, its queue and its place in the world.
struct Rank {
  Communicator& world;
  Backend& backend;
  Stream& stream;

  int index() const { return world.rank(); }
  int size() const { return world.size(); }
};

// Longer than any rank of a passing test is ever late, on a machine that does much else.
constexpr std::chrono::milliseconds kPatience{60'000};

// The numbers of ranks that this program can run.
std::vector<int> world_sizes();

// Runs `body` on every rank of `size`, which all use `device` ("reference", "cpu", "apart": the reference
// behind memory that counts as out of the processor's reach).
void on_ranks(int size, const std::string& device, const std::function<void(Rank&)>& body,
              std::chrono::milliseconds timeout = kPatience);

#define EXPECT_OK(expr)                                              \
  do {                                                               \
    const ::longhaul::Status status_ = (expr);                       \
    EXPECT_TRUE(status_.ok()) << #expr << ": " << status_.message(); \
  } while (0)

#define ASSERT_OK(expr)                                              \
  do {                                                               \
    const ::longhaul::Status status_ = (expr);                       \
    ASSERT_TRUE(status_.ok()) << #expr << ": " << status_.message(); \
  } while (0)

}  // namespace longhaul::testing
