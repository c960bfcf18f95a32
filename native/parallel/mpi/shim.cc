// liblonghaul_mpi.so: messages over MPI, with deadlines. MPI itself has none, and Open MPI does not say that a
// rank is dead, so requests are polled.
#include "parallel/mpi/shim.h"

#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kTag = 1;
// Counts of MPI are int.
constexpr size_t kPieceBytes = size_t{1} << 30;
// Polls in a row before this rank begins to sleep between them, up to kLongestNap: ranks may be more than
// cores.
constexpr int kEagerPolls = 200;
constexpr std::chrono::microseconds kLongestNap{500};

MPI_Comm world = MPI_COMM_NULL;
std::string failure;  // of the first exchange that failed

int32_t report(const std::string& text, char* why, size_t why_bytes) {
  const size_t count = std::min(text.size(), why_bytes - 1);
  std::copy_n(text.data(), count, why);
  why[count] = 0;
  return 1;
}

std::string error_text(int code) {
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  return std::string(text, static_cast<size_t>(length));
}

struct Piece {
  MPI_Request request;
  int rank;
  size_t bytes;
  bool incoming;
};

// Calls start(data, bytes) for each piece of a message; also an empty one is a message.
template <class Start>
int each_piece(const LonghaulMpiMessage& message, Start start) {
  size_t at = 0;
  do {
    const size_t bytes = std::min(message.bytes - at, kPieceBytes);
    if (const int code = start(static_cast<char*>(message.data) + at, bytes); code != MPI_SUCCESS) return code;
    at += bytes;
  } while (at < message.bytes);
  return MPI_SUCCESS;
}

class Exchange {
 public:
  explicit Exchange(Clock::time_point deadline, int64_t timeout_ms)
      : deadline_(deadline), timeout_ms_(timeout_ms) {}

  // Empty when all arrived.
  std::string run(const LonghaulMpiMessage* sends, size_t send_count, const LonghaulMpiMessage* receives,
                  size_t receive_count) {
    for (size_t i = 0; i < receive_count; ++i) {
      const int rank = receives[i].rank;
      const int code = each_piece(receives[i], [&](char* data, size_t bytes) {
        MPI_Request request;
        const int started = MPI_Irecv(data, static_cast<int>(bytes), MPI_BYTE, rank, kTag, world, &request);
        if (started == MPI_SUCCESS) pieces_.push_back({request, rank, bytes, true});
        return started;
      });
      if (code != MPI_SUCCESS) return error_text(code);
    }
    for (size_t i = 0; i < send_count; ++i) {
      const int rank = sends[i].rank;
      const int code = each_piece(sends[i], [&](char* data, size_t bytes) {
        MPI_Request request;
        const int started = MPI_Isend(data, static_cast<int>(bytes), MPI_BYTE, rank, kTag, world, &request);
        if (started == MPI_SUCCESS) pieces_.push_back({request, rank, bytes, false});
        return started;
      });
      if (code != MPI_SUCCESS) return error_text(code);
    }
    return wait();
  }

 private:
  std::string wait() {
    std::chrono::microseconds nap{1};
    for (int polls = 0;; ++polls) {
      for (Piece& piece : pieces_) {
        if (piece.request == MPI_REQUEST_NULL) continue;
        if (std::string why = poll(piece); !why.empty()) return why;
      }
      const auto open = std::find_if(pieces_.begin(), pieces_.end(),
                                     [](const Piece& p) { return p.request != MPI_REQUEST_NULL; });
      if (open == pieces_.end()) return {};
      if (Clock::now() >= deadline_) {
        return "rank " + std::to_string(open->rank) + " did not answer within " + std::to_string(timeout_ms_) +
               " ms";
      }
      if (polls < kEagerPolls) {
        std::this_thread::yield();
      } else {
        std::this_thread::sleep_for(nap);
        nap = std::min(2 * nap, kLongestNap);
      }
    }
  }

  static std::string poll(Piece& piece) {
    int done = 0;
    MPI_Status status;
    const int code = MPI_Test(&piece.request, &done, &status);
    if (code != MPI_SUCCESS) return "rank " + std::to_string(piece.rank) + ": " + error_text(code);
    if (!done || !piece.incoming) return {};
    int count = 0;
    MPI_Get_count(&status, MPI_BYTE, &count);
    if (static_cast<size_t>(count) == piece.bytes) return {};
    return "rank " + std::to_string(piece.rank) + " sent " + std::to_string(count) + " bytes where " +
           std::to_string(piece.bytes) + " were expected";
  }

  Clock::time_point deadline_;
  int64_t timeout_ms_;
  std::vector<Piece> pieces_;
};

int32_t exchange(const LonghaulMpiMessage* sends, size_t send_count, const LonghaulMpiMessage* receives,
                 size_t receive_count, int64_t timeout_ms, char* why, size_t why_bytes) {
  if (failure.empty()) {
    Exchange messages(Clock::now() + std::chrono::milliseconds(timeout_ms), timeout_ms);
    failure = messages.run(sends, send_count, receives, receive_count);
  }
  return failure.empty() ? 0 : report(failure, why, why_bytes);
}

int32_t close(int64_t timeout_ms, char* why, size_t why_bytes) {
  int rank = 0;
  int size = 0;
  MPI_Comm_rank(world, &rank);
  MPI_Comm_size(world, &size);
  std::vector<LonghaulMpiMessage> others;
  for (int other = 0; other < size; ++other)
    if (other != rank) others.push_back({other, nullptr, 0});
  if (const int32_t code =
          exchange(others.data(), others.size(), others.data(), others.size(), timeout_ms, why, why_bytes))
    return code;
  MPI_Comm_free(&world);
  const int code = MPI_Finalize();
  return code == MPI_SUCCESS ? 0 : report(error_text(code), why, why_bytes);
}

LonghaulMpi table{};

}  // namespace

extern "C" __attribute__((visibility("default"))) const LonghaulMpi* longhaul_mpi_open_1(char* why,
                                                                                         size_t why_bytes) {
  int started = 0;
  MPI_Initialized(&started);
  if (started) {
    report("MPI was already started in this process", why, why_bytes);
    return nullptr;
  }
  // Signals and arguments stay with the program that embeds us.
  int provided = 0;
  if (const int code = MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided);
      code != MPI_SUCCESS) {
    report(error_text(code), why, why_bytes);
    return nullptr;
  }
  // An error is a value: by default MPI ends the process.
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  if (provided < MPI_THREAD_SERIALIZED) {
    report("this MPI cannot be called from several threads in turn (MPI_THREAD_SERIALIZED)", why, why_bytes);
    return nullptr;
  }
  if (const int code = MPI_Comm_dup(MPI_COMM_WORLD, &world); code != MPI_SUCCESS) {
    report(error_text(code), why, why_bytes);
    return nullptr;
  }
  MPI_Comm_set_errhandler(world, MPI_ERRORS_RETURN);
  MPI_Comm_rank(world, &table.rank);
  MPI_Comm_size(world, &table.size);
  table.exchange = exchange;
  table.close = close;
  return &table;
}
