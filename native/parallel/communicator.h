// Collectives among the ranks of a world, or of a group of them, on memory of one device a rank.
//
// Every rank of a group makes the same calls in the same order. Calls take a Stream: they see what was put into
// it before, and what comes after sees their result. Sums are taken in the order of ranks, so all ranks get the
// same bits on every run. A rank that is dead or late ends in kCommunication on all others within the timeout;
// from then on every call fails, and the world has to be made anew.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "core/backend.h"
#include "parallel/transport.h"

namespace longhaul {

enum class Collective : uint8_t { kAllToAll, kAllGather, kReduceScatter, kAllReduce, kSendReceive, kBarrier };
constexpr int kCollectives = 6;

// What one rank sent to others, in all its groups.
struct Traffic {
  struct Count {
    int64_t calls = 0;
    int64_t bytes = 0;
  };
  std::array<Count, kCollectives> counts{};

  const Count& of(Collective kind) const { return counts[static_cast<size_t>(kind)]; }
};

class Communicator {
 public:
  // The world of `transport`. Buffers of all calls lie in `backend`'s memory.
  static std::unique_ptr<Communicator> create(std::unique_ptr<Transport> transport, Backend& backend,
                                              std::chrono::milliseconds timeout);
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }  // in this group
  int size() const { return static_cast<int>(ranks_.size()); }
  Backend& backend() const;

  // The group of these ranks of this one, ascending, this rank among them; ranks are numbered in that order.
  // Made once for each set, without a message, and kept: it lives as long as the world.
  Result<Communicator*> group(std::span<const int> ranks);
  // Groups made so far, in the whole world of this rank.
  size_t groups_made() const;

  // Parts lie one behind the other in the order of ranks. send_bytes[i] goes to rank i, whose receive_bytes at
  // this rank's place must be the same.
  Status all_to_all(Stream& stream, const void* send, std::span<const size_t> send_bytes, void* receive,
                    std::span<const size_t> receive_bytes);

  // Every rank gets the parts of all, in order; bytes_of[rank()] is what this rank brings.
  Status all_gather(Stream& stream, const void* send, void* receive, std::span<const size_t> bytes_of);

  // x [sum of counts] f32 or f64, dense; out [counts[rank()]]: this rank's part of the sum over ranks.
  Status reduce_scatter(Stream& stream, const Tensor& x, std::span<const int64_t> counts, const Tensor& out);

  // x, dense, f32 or f64, becomes its sum over ranks.
  Status all_reduce(Stream& stream, const Tensor& x);

  // One step round a ring, or between any ranks: `to` and `from` may be the same, or this rank.
  Status send_receive(Stream& stream, int to, const void* send, size_t send_bytes, int from, void* receive,
                      size_t receive_bytes);

  Status barrier(Stream& stream);

  const Traffic& traffic() const;

 private:
  struct World;
  Communicator(World* world, std::vector<int> ranks, int rank);

  // Messages to and from ranks of this group; what goes to this rank itself is copied.
  Status exchange(Collective kind, std::span<const Outgoing> sends, std::span<const Incoming> receives);
  Status exchange_parts(Collective kind, const char* send, std::span<const size_t> send_bytes, char* receive,
                        std::span<const size_t> receive_bytes);
  template <class T>
  Status reduce_parts(Collective kind, const T* x, std::span<const int64_t> counts, T* out);

  std::unique_ptr<World> owned_;  // by the world's own communicator
  World* world_;
  std::vector<int> ranks_;  // of the world
  int rank_;
};

}  // namespace longhaul
