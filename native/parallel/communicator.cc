#include "parallel/communicator.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>

namespace longhaul {
namespace {

size_t sum(std::span<const size_t> bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), size_t{0});
}

// A device buffer as host memory: itself, or a copy where the processor cannot reach it.
class HostView {
 public:
  static Result<HostView> reading(Backend& backend, Stream& stream, const void* device, size_t bytes) {
    HostView view;
    view.data_ = static_cast<char*>(const_cast<void*>(device));
    if (!backend.is_host_memory()) {
      view.stage(bytes);
      LONGHAUL_TRY(backend.download(stream, view.data_, device, bytes));
    } else {
      LONGHAUL_TRY(stream.synchronize());
    }
    return view;
  }

  static Result<HostView> writing(Backend& backend, Stream& stream, void* device, size_t bytes) {
    HostView view;
    view.data_ = static_cast<char*>(device);
    if (!backend.is_host_memory()) {
      view.stage(bytes);
    } else {
      LONGHAUL_TRY(stream.synchronize());
    }
    return view;
  }

  Status commit(Backend& backend, Stream& stream, void* device, size_t bytes) const {
    return backend.is_host_memory() ? Status() : backend.upload(stream, device, data_, bytes);
  }

  char* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(static_cast<void*>(data_));
  }

 private:
  void stage(size_t bytes) {
    copy_.resize(bytes);
    data_ = copy_.data();
  }

  std::vector<char> copy_;
  char* data_ = nullptr;
};

Status check_parts(const char* op, const char* what, size_t parts, int size) {
  if (parts == static_cast<size_t>(size)) return {};
  return invalid_argument(std::string(op) + ": " + what + " has " + std::to_string(parts) + " parts for " +
                          std::to_string(size) + " ranks");
}

Status check_sum(const char* op, const Tensor& x) {
  if (x.dtype != DType::kF32 && x.dtype != DType::kF64) {
    return invalid_argument(std::string(op) + ": sums are of f32 or f64, not " + name_of(x.dtype));
  }
  if (!x.is_dense()) return invalid_argument(std::string(op) + ": x must be dense");
  return {};
}

// [0, total) in `parts` as even as possible.
std::vector<int64_t> even_counts(int64_t total, int parts) {
  std::vector<int64_t> counts;
  for (int64_t i = 0; i < parts; ++i) counts.push_back(total * (i + 1) / parts - total * i / parts);
  return counts;
}

std::vector<size_t> bytes_of_counts(std::span<const int64_t> counts, size_t size) {
  std::vector<size_t> bytes;
  for (int64_t count : counts) bytes.push_back(static_cast<size_t>(count) * size);
  return bytes;
}

}  // namespace

struct Communicator::World {
  std::unique_ptr<Transport> transport;
  Backend& backend;
  std::chrono::milliseconds timeout;
  Traffic traffic;
  std::map<std::vector<int>, std::unique_ptr<Communicator>> groups;
};

std::unique_ptr<Communicator> Communicator::create(std::unique_ptr<Transport> transport, Backend& backend,
                                                   std::chrono::milliseconds timeout) {
  std::vector<int> ranks(static_cast<size_t>(transport->size()));
  std::iota(ranks.begin(), ranks.end(), 0);
  const int rank = transport->rank();
  std::unique_ptr<World> world(new World{std::move(transport), backend, timeout, {}, {}});
  std::unique_ptr<Communicator> all(new Communicator(world.get(), std::move(ranks), rank));
  all->owned_ = std::move(world);
  return all;
}

Communicator::Communicator(World* world, std::vector<int> ranks, int rank)
    : world_(world), ranks_(std::move(ranks)), rank_(rank) {}

Communicator::~Communicator() = default;

Backend& Communicator::backend() const {
  return world_->backend;
}

const Traffic& Communicator::traffic() const {
  return world_->traffic;
}

size_t Communicator::groups_made() const {
  return world_->groups.size();
}

Result<Communicator*> Communicator::group(std::span<const int> ranks) {
  std::vector<int> members;
  int rank = -1;
  for (size_t i = 0; i < ranks.size(); ++i) {
    if (ranks[i] < 0 || ranks[i] >= size() || (i > 0 && ranks[i] <= ranks[i - 1])) {
      return invalid_argument("group: ranks must ascend and lie below " + std::to_string(size()) + ", got " +
                              std::to_string(ranks[i]));
    }
    if (ranks[i] == rank_) rank = static_cast<int>(i);
    members.push_back(ranks_[static_cast<size_t>(ranks[i])]);
  }
  if (rank < 0)
    return invalid_argument("group: rank " + std::to_string(rank_) + " asks for it and is not in it");
  if (members == ranks_) return this;
  auto& made = world_->groups[members];
  if (made == nullptr) made.reset(new Communicator(world_, std::move(members), rank));
  return made.get();
}

Status Communicator::exchange(Collective kind, std::span<const Outgoing> sends,
                              std::span<const Incoming> receives) {
  std::vector<Outgoing> out;
  std::vector<Incoming> in;
  const void* own = nullptr;
  size_t own_bytes = 0;
  Traffic::Count& count = world_->traffic.counts[static_cast<size_t>(kind)];
  ++count.calls;
  for (const Outgoing& send : sends) {
    if (send.to == rank_) {
      own = send.data;
      own_bytes = send.bytes;
    } else if (send.bytes > 0 || kind == Collective::kBarrier) {
      count.bytes += static_cast<int64_t>(send.bytes);
      out.push_back({ranks_[static_cast<size_t>(send.to)], send.data, send.bytes});
    }
  }
  for (const Incoming& receive : receives) {
    if (receive.from == rank_) {
      LONGHAUL_ASSERT(receive.bytes == own_bytes);
      if (own_bytes > 0) std::memmove(receive.data, own, own_bytes);
    } else if (receive.bytes > 0 || kind == Collective::kBarrier) {
      in.push_back({ranks_[static_cast<size_t>(receive.from)], receive.data, receive.bytes});
    }
  }
  if (out.empty() && in.empty()) return {};
  return world_->transport->exchange(out, in, world_->timeout);
}

Status Communicator::exchange_parts(Collective kind, const char* send, std::span<const size_t> send_bytes,
                                    char* receive, std::span<const size_t> receive_bytes) {
  std::vector<Outgoing> sends;
  std::vector<Incoming> receives;
  for (int other = 0; other < size(); ++other) {
    const auto i = static_cast<size_t>(other);
    sends.push_back({other, send, send_bytes[i]});
    receives.push_back({other, receive, receive_bytes[i]});
    send += send_bytes[i];
    receive += receive_bytes[i];
  }
  return exchange(kind, sends, receives);
}

Status Communicator::all_to_all(Stream& stream, const void* send, std::span<const size_t> send_bytes,
                                void* receive, std::span<const size_t> receive_bytes) {
  LONGHAUL_TRY(check_parts("all_to_all", "send_bytes", send_bytes.size(), size()));
  LONGHAUL_TRY(check_parts("all_to_all", "receive_bytes", receive_bytes.size(), size()));
  const auto self = static_cast<size_t>(rank_);
  if (send_bytes[self] != receive_bytes[self]) {
    return invalid_argument("all_to_all: this rank sends " + std::to_string(send_bytes[self]) +
                            " bytes to itself and expects " + std::to_string(receive_bytes[self]));
  }
  LONGHAUL_ASSIGN(const HostView from, HostView::reading(backend(), stream, send, sum(send_bytes)));
  LONGHAUL_ASSIGN(const HostView to, HostView::writing(backend(), stream, receive, sum(receive_bytes)));
  LONGHAUL_TRY(exchange_parts(Collective::kAllToAll, from.data(), send_bytes, to.data(), receive_bytes));
  return to.commit(backend(), stream, receive, sum(receive_bytes));
}

Status Communicator::all_gather(Stream& stream, const void* send, void* receive,
                                std::span<const size_t> bytes_of) {
  LONGHAUL_TRY(check_parts("all_gather", "bytes_of", bytes_of.size(), size()));
  const size_t own = bytes_of[static_cast<size_t>(rank_)];
  LONGHAUL_ASSIGN(const HostView from, HostView::reading(backend(), stream, send, own));
  LONGHAUL_ASSIGN(const HostView to, HostView::writing(backend(), stream, receive, sum(bytes_of)));
  std::vector<Outgoing> sends;
  std::vector<Incoming> receives;
  char* at = to.data();
  for (int other = 0; other < size(); ++other) {
    const size_t bytes = bytes_of[static_cast<size_t>(other)];
    sends.push_back({other, from.data(), own});
    receives.push_back({other, at, bytes});
    at += bytes;
  }
  LONGHAUL_TRY(exchange(Collective::kAllGather, sends, receives));
  return to.commit(backend(), stream, receive, sum(bytes_of));
}

// Each rank brings the parts of one rank together and adds them in the order of ranks.
template <class T>
Status Communicator::reduce_parts(Collective kind, const T* x, std::span<const int64_t> counts, T* out) {
  const auto own = static_cast<size_t>(counts[static_cast<size_t>(rank_)]);
  const std::vector<size_t> send_bytes = bytes_of_counts(counts, sizeof(T));
  const std::vector<size_t> receive_bytes(counts.size(), own * sizeof(T));
  std::vector<T> parts(own * counts.size());
  LONGHAUL_TRY(exchange_parts(kind, static_cast<const char*>(static_cast<const void*>(x)), send_bytes,
                              static_cast<char*>(static_cast<void*>(parts.data())), receive_bytes));
  for (size_t i = 0; i < own; ++i) {
    T total = parts[i];
    for (size_t r = 1; r < counts.size(); ++r) total += parts[r * own + i];
    out[i] = total;
  }
  return {};
}

Status Communicator::reduce_scatter(Stream& stream, const Tensor& x, std::span<const int64_t> counts,
                                    const Tensor& out) {
  LONGHAUL_TRY(check_parts("reduce_scatter", "counts", counts.size(), size()));
  LONGHAUL_TRY(check_sum("reduce_scatter", x));
  LONGHAUL_TRY(check_sum("reduce_scatter", out));
  const int64_t total = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  if (x.elements() != total || out.elements() != counts[static_cast<size_t>(rank_)] || x.dtype != out.dtype) {
    return invalid_argument(
        "reduce_scatter: x and out do not have the elements that counts says, or one dtype");
  }
  LONGHAUL_ASSIGN(const HostView from,
                  HostView::reading(backend(), stream, x.data, static_cast<size_t>(x.bytes())));
  LONGHAUL_ASSIGN(const HostView to,
                  HostView::writing(backend(), stream, out.data, static_cast<size_t>(out.bytes())));
  if (x.dtype == DType::kF32) {
    LONGHAUL_TRY(reduce_parts(Collective::kReduceScatter, from.as<float>(), counts, to.as<float>()));
  } else {
    LONGHAUL_TRY(reduce_parts(Collective::kReduceScatter, from.as<double>(), counts, to.as<double>()));
  }
  return to.commit(backend(), stream, out.data, static_cast<size_t>(out.bytes()));
}

Status Communicator::all_reduce(Stream& stream, const Tensor& x) {
  LONGHAUL_TRY(check_sum("all_reduce", x));
  const std::vector<int64_t> counts = even_counts(x.elements(), size());
  const std::vector<size_t> bytes = bytes_of_counts(counts, size_of(x.dtype));
  const size_t begin = sum(std::span(bytes).first(static_cast<size_t>(rank_)));
  LONGHAUL_ASSIGN(const HostView view,
                  HostView::reading(backend(), stream, x.data, static_cast<size_t>(x.bytes())));
  std::vector<char> own(bytes[static_cast<size_t>(rank_)]);
  void* const part = own.data();
  if (x.dtype == DType::kF32) {
    LONGHAUL_TRY(reduce_parts(Collective::kAllReduce, view.as<float>(), counts, static_cast<float*>(part)));
  } else {
    LONGHAUL_TRY(reduce_parts(Collective::kAllReduce, view.as<double>(), counts, static_cast<double*>(part)));
  }
  if (!own.empty()) std::memcpy(view.data() + begin, own.data(), own.size());
  std::vector<Outgoing> sends;
  std::vector<Incoming> receives;
  char* at = view.data();
  for (int other = 0; other < size(); ++other) {
    if (other != rank_) {
      sends.push_back({other, own.data(), own.size()});
      receives.push_back({other, at, bytes[static_cast<size_t>(other)]});
    }
    at += bytes[static_cast<size_t>(other)];
  }
  LONGHAUL_TRY(exchange(Collective::kAllReduce, sends, receives));
  return view.commit(backend(), stream, x.data, static_cast<size_t>(x.bytes()));
}

Status Communicator::send_receive(Stream& stream, int to, const void* send, size_t send_bytes, int from,
                                  void* receive, size_t receive_bytes) {
  if (to < 0 || to >= size() || from < 0 || from >= size()) {
    return invalid_argument("send_receive: ranks " + std::to_string(to) + " and " + std::to_string(from) +
                            " must lie below " + std::to_string(size()));
  }
  if ((to == rank_) != (from == rank_) || (to == rank_ && send_bytes != receive_bytes)) {
    return invalid_argument(
        "send_receive: what goes to this rank itself must come from it, with as many bytes");
  }
  LONGHAUL_ASSIGN(const HostView source, HostView::reading(backend(), stream, send, send_bytes));
  LONGHAUL_ASSIGN(const HostView target, HostView::writing(backend(), stream, receive, receive_bytes));
  const Outgoing out{to, source.data(), send_bytes};
  const Incoming in{from, target.data(), receive_bytes};
  LONGHAUL_TRY(exchange(Collective::kSendReceive, {&out, 1}, {&in, 1}));
  return target.commit(backend(), stream, receive, receive_bytes);
}

Status Communicator::barrier(Stream& stream) {
  LONGHAUL_TRY(stream.synchronize());
  const std::vector<size_t> nothing(ranks_.size());
  return exchange_parts(Collective::kBarrier, nullptr, nothing, nullptr, nothing);
}

}  // namespace longhaul
