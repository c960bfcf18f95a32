#include "core/checker.h"

namespace longhaul {
namespace {

std::string text_of(const int64_t* shape, size_t rank) {
  std::string text = "[";
  for (size_t i = 0; i < rank; ++i) {
    if (i > 0) text += ", ";
    text += shape[i] == kAnyExtent ? "*" : std::to_string(shape[i]);
  }
  return text + "]";
}

std::string names_of(uint32_t dtypes) {
  std::string text;
  for (int i = 0; i <= static_cast<int>(DType::kU8); ++i) {
    const auto type = static_cast<DType>(i);
    if ((dtypes & one_of(type)) == 0) continue;
    if (!text.empty()) text += " or ";
    text += name_of(type);
  }
  return text;
}

bool matches(const Tensor& t, std::initializer_list<int64_t> shape) {
  if (t.rank != shape.size()) return false;
  int dim = 0;
  for (int64_t extent : shape) {
    const int64_t actual = t.shape[dim++];
    if (actual < 0 || (extent != kAnyExtent && actual != extent)) return false;
  }
  return true;
}

}  // namespace

Checker& Checker::tensor(const char* name, const Tensor& t, uint32_t dtypes,
                         std::initializer_list<int64_t> shape) {
  if (!status_.ok()) return *this;
  if (t.rank == 0) {
    fail(std::string(name) + " is missing");
  } else if ((dtypes & one_of(t.dtype)) == 0) {
    fail(std::string(name) + " is " + name_of(t.dtype) + ", needs " + names_of(dtypes));
  } else if (!matches(t, shape)) {
    fail(std::string(name) + " is " + text_of(t.shape.data(), t.rank) + ", needs " +
         text_of(shape.begin(), shape.size()));
  } else if (t.elements() > 0 && t.data == nullptr) {
    fail(std::string(name) + " has no data");
  } else if (t.shape[t.rank - 1] > 1 && t.stride[t.rank - 1] != 1) {
    fail(std::string(name) + " has an innermost stride of " + std::to_string(t.stride[t.rank - 1]) +
         ", needs 1");
  }
  return *this;
}

Checker& Checker::dense(const char* name, const Tensor& t, uint32_t dtypes,
                        std::initializer_list<int64_t> shape) {
  tensor(name, t, dtypes, shape);
  if (status_.ok() && !t.is_dense()) fail(std::string(name) + " must be dense");
  return *this;
}

Checker& Checker::weight(const char* name, const Weight* w) {
  if (!status_.ok()) return *this;
  if (w == nullptr) {
    fail(std::string(name) + " is missing");
  } else if (w->rows < 1 || w->cols < 1) {
    fail(std::string(name) + " is [" + std::to_string(w->rows) + ", " + std::to_string(w->cols) + "]");
  } else if ((kStorage & one_of(w->dtype)) == 0) {
    fail(std::string(name) + " is " + name_of(w->dtype) + ", needs " + names_of(kStorage));
  } else if (w->storage.data() == nullptr) {
    fail(std::string(name) + " has no data");
  }
  return *this;
}

}  // namespace longhaul
