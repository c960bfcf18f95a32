#include "parallel/thread_transport.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>

namespace longhaul {
namespace {

using Clock = std::chrono::steady_clock;

struct Message {
  enum class State { kPosted, kTaken, kDone };
  const void* data;
  size_t bytes;
  State state = State::kPosted;
};

std::string rank_name(int rank) {
  return "rank " + std::to_string(rank);
}

// What the ranks share. A message lies in its sender's stack frame, so a sender leaves `exchange` only when
// each of its messages was either copied or taken back.
class World {
 public:
  explicit World(int size)
      : size_(size),
        gone_(static_cast<size_t>(size)),
        channels_(static_cast<size_t>(size) * static_cast<size_t>(size)) {}

  int size() const { return size_; }

  void leave(int rank) {
    const std::lock_guard lock(mutex_);
    gone_[static_cast<size_t>(rank)] = true;
    changed_.notify_all();
  }

  Status exchange(int self, std::span<const Outgoing> sends, std::span<const Incoming> receives,
                  std::chrono::milliseconds timeout) {
    const Clock::time_point deadline = Clock::now() + timeout;
    std::unique_lock lock(mutex_);
    if (!failure_.ok()) return failure_;
    std::vector<Message> messages;
    for (const Outgoing& send : sends) messages.push_back({send.data, send.bytes});
    for (size_t i = 0; i < sends.size(); ++i) channel(self, sends[i].to).push_back(&messages[i]);
    changed_.notify_all();

    std::vector<const Incoming*> pending;
    for (const Incoming& receive : receives) pending.push_back(&receive);
    while (failure_.ok()) {
      if (take(lock, self, pending)) continue;
      const int unread = first_unread(sends, messages);
      if (pending.empty() && unread < 0) return {};
      const int other = pending.empty() ? unread : pending.front()->from;
      if (const int lost = first_gone(sends, messages, pending); lost >= 0) {
        fail(rank_name(lost) + " is gone, and " + rank_name(self) + " waits for it");
      } else if (changed_.wait_until(lock, deadline) == std::cv_status::timeout && Clock::now() >= deadline &&
                 failure_.ok() && !is_ready(self, pending)) {
        fail(rank_name(other) + " did not answer " + rank_name(self) + " within " +
             std::to_string(timeout.count()) + " ms");
      }
    }
    take_back(lock, self, sends, messages);
    return failure_;
  }

 private:
  std::deque<Message*>& channel(int from, int to) {
    return channels_[static_cast<size_t>(from) * static_cast<size_t>(size_) + static_cast<size_t>(to)];
  }

  void fail(const std::string& why) {
    failure_ = communication_error(why);
    changed_.notify_all();
  }

  bool is_ready(int self, const std::vector<const Incoming*>& pending) {
    return std::ranges::any_of(pending, [&](const Incoming* r) { return !channel(r->from, self).empty(); });
  }

  // Copies one message that is there, without the lock. False: there is none.
  bool take(std::unique_lock<std::mutex>& lock, int self, std::vector<const Incoming*>& pending) {
    const auto ready =
        std::ranges::find_if(pending, [&](const Incoming* r) { return !channel(r->from, self).empty(); });
    if (ready == pending.end()) return false;
    const Incoming receive = **ready;
    Message* const message = channel(receive.from, self).front();
    if (message->bytes != receive.bytes) {
      fail(rank_name(receive.from) + " sent " + std::to_string(message->bytes) + " bytes where " +
           rank_name(self) + " expected " + std::to_string(receive.bytes));
      return true;
    }
    pending.erase(ready);
    channel(receive.from, self).pop_front();
    message->state = Message::State::kTaken;
    lock.unlock();
    if (receive.bytes > 0) std::memcpy(receive.data, message->data, receive.bytes);
    lock.lock();
    message->state = Message::State::kDone;
    changed_.notify_all();
    return true;
  }

  static int first_unread(std::span<const Outgoing> sends, const std::vector<Message>& messages) {
    for (size_t i = 0; i < sends.size(); ++i)
      if (messages[i].state != Message::State::kDone) return sends[i].to;
    return -1;
  }

  // A rank whose message will not come, or that will not read ours.
  int first_gone(std::span<const Outgoing> sends, const std::vector<Message>& messages,
                 const std::vector<const Incoming*>& pending) const {
    for (const Incoming* receive : pending)
      if (gone_[static_cast<size_t>(receive->from)]) return receive->from;
    for (size_t i = 0; i < sends.size(); ++i)
      if (messages[i].state == Message::State::kPosted && gone_[static_cast<size_t>(sends[i].to)])
        return sends[i].to;
    return -1;
  }

  void take_back(std::unique_lock<std::mutex>& lock, int self, std::span<const Outgoing> sends,
                 std::vector<Message>& messages) {
    for (size_t i = 0; i < sends.size(); ++i) std::erase(channel(self, sends[i].to), &messages[i]);
    changed_.wait(lock, [&] {  // for copies under way: they end by themselves
      return std::ranges::none_of(messages, [](const Message& m) { return m.state == Message::State::kTaken; });
    });
  }

  const int size_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Status failure_;
  std::vector<bool> gone_;
  std::vector<std::deque<Message*>> channels_;  // [from, to]
};

class ThreadTransport final : public Transport {
 public:
  ThreadTransport(std::shared_ptr<World> world, int rank) : world_(std::move(world)), rank_(rank) {}
  ~ThreadTransport() override { world_->leave(rank_); }

  int rank() const override { return rank_; }
  int size() const override { return world_->size(); }
  Status exchange(std::span<const Outgoing> sends, std::span<const Incoming> receives,
                  std::chrono::milliseconds timeout) override {
    return world_->exchange(rank_, sends, receives, timeout);
  }

 private:
  std::shared_ptr<World> world_;
  int rank_;
};

}  // namespace

std::vector<std::unique_ptr<Transport>> make_thread_transports(int size) {
  const auto world = std::make_shared<World>(size);
  std::vector<std::unique_ptr<Transport>> ends;
  for (int rank = 0; rank < size; ++rank) ends.push_back(std::make_unique<ThreadTransport>(world, rank));
  return ends;
}

}  // namespace longhaul
