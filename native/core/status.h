// The one error currency inside native/: no exception crosses a function, nothing aborts the process.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <variant>

namespace longhaul {

// Each code becomes one LonghaulError code in JavaScript (src/errors.h).
enum class Code : unsigned char {
  kOk,
  kInvalidArgument,
  kOutOfMemory,
  kOverloaded,
  kUnsupported,
  kCorruptFile,
  kCommunication,
  kDeviceLost,
  kDisposed,
  kCancelled,
  kInternal,
};

// Ok is a null pointer, so success costs nothing to pass around.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : rep_(std::make_unique<Rep>(Rep{code, std::move(message)})) {}
  Status(const Status& other) : rep_(other.rep_ ? std::make_unique<Rep>(*other.rep_) : nullptr) {}
  Status(Status&&) noexcept = default;
  Status& operator=(const Status& other) {
    rep_ = other.rep_ ? std::make_unique<Rep>(*other.rep_) : nullptr;
    return *this;
  }
  Status& operator=(Status&&) noexcept = default;

  bool ok() const { return rep_ == nullptr; }
  Code code() const { return rep_ ? rep_->code : Code::kOk; }
  const std::string& message() const {
    static const std::string none;
    return rep_ ? rep_->message : none;
  }

 private:
  struct Rep {
    Code code;
    std::string message;
  };
  std::unique_ptr<Rep> rep_;
};

inline Status invalid_argument(std::string message) {
  return {Code::kInvalidArgument, std::move(message)};
}
inline Status out_of_memory(std::string message) {
  return {Code::kOutOfMemory, std::move(message)};
}
inline Status unsupported(std::string message) {
  return {Code::kUnsupported, std::move(message)};
}
inline Status corrupt_file(std::string message) {
  return {Code::kCorruptFile, std::move(message)};
}
inline Status communication_error(std::string message) {
  return {Code::kCommunication, std::move(message)};
}
inline Status internal_error(std::string message) {
  return {Code::kInternal, std::move(message)};
}

// A value or the reason there is none.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}         // NOLINT: implicit on purpose
  Result(Status status) : value_(std::move(status)) {}  // NOLINT: implicit on purpose

  bool ok() const { return value_.index() == 0; }
  T& value() { return std::get<0>(value_); }
  const T& value() const { return std::get<0>(value_); }
  Status status() const { return ok() ? Status() : std::get<1>(value_); }

 private:
  std::variant<T, Status> value_;
};

}  // namespace longhaul

#define LONGHAUL_CONCAT_INNER(a, b) a##b
#define LONGHAUL_CONCAT(a, b) LONGHAUL_CONCAT_INNER(a, b)

// Returns from the enclosing function when `expr` (a Status) is not ok.
#define LONGHAUL_TRY(expr)                                    \
  do {                                                        \
    if (::longhaul::Status status_ = (expr); !status_.ok()) { \
      return status_;                                         \
    }                                                         \
  } while (0)

// Declares `decl` from a Result, or returns its status.
#define LONGHAUL_ASSIGN(decl, expr) LONGHAUL_ASSIGN_INNER(LONGHAUL_CONCAT(result_, __LINE__), decl, expr)
#define LONGHAUL_ASSIGN_INNER(result, decl, expr) \
  auto result = (expr);                           \
  if (!result.ok()) return result.status();       \
  decl = std::move(result.value())

// A broken invariant is reported as a Status, never by ending the process that embeds us.
#define LONGHAUL_ASSERT(condition)                                                             \
  do {                                                                                         \
    if (!(condition)) {                                                                        \
      return ::longhaul::internal_error(std::string(__FILE__ ":") + std::to_string(__LINE__) + \
                                        ": " #condition);                                      \
    }                                                                                          \
  } while (0)
