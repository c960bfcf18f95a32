#include "files/torch_pickle.h"

#include <algorithm>
#include <cstdio>
#include <optional>
#include <unordered_set>
#include <utility>

#include "files/bytes.h"
#include "files/json.h"

namespace longhaul {
namespace {

// Every name that a pickle may ask for. None is looked up anywhere: each stands for one rule of this file.
enum class Global : uint8_t {
  kOrderedDict,
  kRebuildTensor,
  kRebuildParameter,
  kFloatStorage,
  kHalfStorage,
  kBfloat16Storage,
};

constexpr struct {
  std::string_view module;
  std::string_view name;
  Global global;
} kGlobals[] = {
    {"collections", "OrderedDict", Global::kOrderedDict},
    {"torch._utils", "_rebuild_tensor_v2", Global::kRebuildTensor},
    {"torch._utils", "_rebuild_parameter", Global::kRebuildParameter},
    {"torch", "FloatStorage", Global::kFloatStorage},
    {"torch", "HalfStorage", Global::kHalfStorage},
    {"torch", "BFloat16Storage", Global::kBfloat16Storage},
};

std::optional<DType> dtype_of_storage(Global global) {
  if (global == Global::kFloatStorage) return DType::kF32;
  if (global == Global::kHalfStorage) return DType::kF16;
  if (global == Global::kBfloat16Storage) return DType::kBf16;
  return std::nullopt;
}

// Values are small and copied: a tuple in a tuple in a tuple is three windows on one array, so there is nothing
// to free recursively and nothing grows when it is used again.
struct Value {
  enum class Kind : uint8_t { kBool, kInteger, kText, kGlobal, kTuple, kDictionary, kStorage, kTensor };
  Kind kind = Kind::kBool;
  uint32_t begin = 0;  // kText: in the pickle; kTuple: in items_; kStorage, kTensor: the index
  uint32_t count = 0;  // kText: bytes; kTuple: items
  int64_t number = 0;  // kBool, kInteger, kGlobal; kDictionary: its id
};
using Kind = Value::Kind;

struct Storage {
  std::string key;
  DType dtype = DType::kF32;
  int64_t elements = 0;
};

struct DictionaryItem {
  int64_t dictionary = 0;
  Value key, value;
};

class Unpickler {
 public:
  Unpickler(std::span<const std::byte> pickle, std::string_view path) : pickle_(pickle), path_(path) {}

  Result<std::vector<PickledTensor>> run() {
    if (pickle_.size() > kPickleMaxBytes) {
      return bad("has a pickle of " + std::to_string(pickle_.size()) + " bytes, more than " +
                 std::to_string(kPickleMaxBytes));
    }
    LONGHAUL_TRY(need(2));
    if (byte(0) != 0x80 || byte(1) != 2)
      return bad("does not begin as a pickle of protocol 2, which torch.save writes");
    at_ = 2;
    while (!stopped_) {
      start_ = at_;
      LONGHAUL_TRY(need(1));
      LONGHAUL_TRY(step(byte(at_++)));
      if (stack_.size() > kPickleMaxStack || marks_.size() > kPickleMaxStack)
        return wrong("makes the stack too deep");
    }
    if (at_ != pickle_.size()) return bad("has bytes behind the end of its pickle");
    return result();
  }

 private:
  Status bad(const std::string& what) const { return corrupt_file(std::string(path_) + ": " + what); }
  Status wrong(const std::string& what) const {
    char code[8];
    std::snprintf(code, sizeof code, "0x%02x", static_cast<unsigned>(byte(start_)));
    return bad("the pickle's instruction " + std::string(code) + " at byte " + std::to_string(start_) + " " +
               what);
  }
  Status need(size_t bytes) const {
    if (pickle_.size() - at_ >= bytes) return {};
    return bad("has a pickle that ends inside an instruction");
  }
  uint8_t byte(size_t offset) const { return std::to_integer<uint8_t>(pickle_[offset]); }
  template <class T>
  Result<T> read() {
    LONGHAUL_TRY(need(sizeof(T)));
    at_ += sizeof(T);
    return read_little_endian<T>(pickle_, at_ - sizeof(T));
  }
  std::string_view text(const Value& value) const {
    return {reinterpret_cast<const char*>(pickle_.data()) + value.begin, value.count};
  }
  std::span<const Value> items(const Value& tuple) const { return {items_.data() + tuple.begin, tuple.count}; }

  Status push(Value value) {
    stack_.push_back(value);
    return {};
  }
  Status push_number(Kind kind, int64_t number) { return push({.kind = kind, .number = number}); }

  // How many values lie above the newest mark, or above nothing.
  size_t above_mark() const { return stack_.size() - (marks_.empty() ? 0 : marks_.back()); }
  Result<Value> pop() {
    if (above_mark() == 0) return wrong("takes from an empty stack");
    const Value value = stack_.back();
    stack_.pop_back();
    return value;
  }
  // Ends the newest mark and says how many values it held.
  Result<size_t> close_mark() {
    if (marks_.empty()) return wrong("has no mark before it");
    const size_t count = above_mark();
    marks_.pop_back();
    return count;
  }

  Status step(uint8_t code) {
    switch (code) {
      case '(':  // MARK
        marks_.push_back(stack_.size());
        return {};
      case ')':  // EMPTY_TUPLE
        return make_tuple(0);
      case 0x85:  // TUPLE1
      case 0x86:  // TUPLE2
      case 0x87:  // TUPLE3
        return make_tuple(code - 0x84);
      case 't': {  // TUPLE
        LONGHAUL_ASSIGN(const size_t count, close_mark());
        return make_tuple(count);
      }
      case '}':  // EMPTY_DICT
        return push_number(Kind::kDictionary, dictionaries_++);
      case 's':  // SETITEM
        return set_items(2);
      case 'u': {  // SETITEMS
        LONGHAUL_ASSIGN(const size_t count, close_mark());
        return set_items(count);
      }
      case 0x88:  // NEWTRUE
      case 0x89:  // NEWFALSE
        return push_number(Kind::kBool, code == 0x88);
      case 'K': {  // BININT1
        LONGHAUL_ASSIGN(const int64_t value, read<uint8_t>());
        return push_number(Kind::kInteger, value);
      }
      case 'M': {  // BININT2
        LONGHAUL_ASSIGN(const int64_t value, read<uint16_t>());
        return push_number(Kind::kInteger, value);
      }
      case 'J': {  // BININT
        LONGHAUL_ASSIGN(const int64_t value, read<int32_t>());
        return push_number(Kind::kInteger, value);
      }
      case 0x8a:  // LONG1
        return long_integer();
      case 'X':  // BINUNICODE
        return unicode();
      case 'c':  // GLOBAL
        return global();
      case 'Q':  // BINPERSID
        return storage();
      case 'R':  // REDUCE
        return call();
      case 'q': {  // BINPUT
        LONGHAUL_ASSIGN(const uint32_t slot, read<uint8_t>());
        return remember(slot);
      }
      case 'r': {  // LONG_BINPUT
        LONGHAUL_ASSIGN(const uint32_t slot, read<uint32_t>());
        return remember(slot);
      }
      case 'h': {  // BINGET
        LONGHAUL_ASSIGN(const uint32_t slot, read<uint8_t>());
        return recall(slot);
      }
      case 'j': {  // LONG_BINGET
        LONGHAUL_ASSIGN(const uint32_t slot, read<uint32_t>());
        return recall(slot);
      }
      case '.':  // STOP
        stopped_ = true;
        return {};
      default:
        return wrong("is not allowed: no dictionary of tensors needs it; nothing was executed");
    }
  }

  Status make_tuple(size_t count) {
    if (above_mark() < count) return wrong("takes from an empty stack");
    if (items_.size() + count > kPickleMaxItems) return wrong("makes more tuples than any adapter has");
    const auto begin = static_cast<uint32_t>(items_.size());
    items_.insert(items_.end(), stack_.end() - static_cast<ptrdiff_t>(count), stack_.end());
    stack_.resize(stack_.size() - count);
    return push({.kind = Kind::kTuple, .begin = begin, .count = static_cast<uint32_t>(count)});
  }

  Status set_items(size_t count) {
    if (count % 2 != 0 || above_mark() < count + 1)
      return wrong("has no dictionary and pairs of key and value");
    const Value dictionary = stack_[stack_.size() - count - 1];
    if (dictionary.kind != Kind::kDictionary) return wrong("puts items into something that is no dictionary");
    if (dictionary_items_.size() + count / 2 > kPickleMaxTensors)
      return wrong("makes more items than any adapter has");
    for (size_t i = stack_.size() - count; i < stack_.size(); i += 2) {
      dictionary_items_.push_back({dictionary.number, stack_[i], stack_[i + 1]});
    }
    stack_.resize(stack_.size() - count);
    return {};
  }

  // An integer too large for BININT: the byte count, then two's complement.
  Status long_integer() {
    LONGHAUL_ASSIGN(const uint8_t bytes, read<uint8_t>());
    if (bytes > 8) return wrong("is an integer of more than 64 bits");
    LONGHAUL_TRY(need(bytes));
    uint64_t value = bytes > 0 && (byte(at_ + bytes - 1) & 0x80) ? ~uint64_t{0} : 0;
    for (size_t i = bytes; i-- > 0;) value = (value << 8) | byte(at_ + i);
    at_ += bytes;
    return push_number(Kind::kInteger, static_cast<int64_t>(value));
  }

  Status unicode() {
    LONGHAUL_ASSIGN(const uint32_t bytes, read<uint32_t>());
    LONGHAUL_TRY(need(bytes));
    LONGHAUL_TRY(push({.kind = Kind::kText, .begin = static_cast<uint32_t>(at_), .count = bytes}));
    at_ += bytes;
    return {};
  }

  Result<std::string_view> line() {
    const std::string_view rest(reinterpret_cast<const char*>(pickle_.data()) + at_, pickle_.size() - at_);
    const size_t end = rest.find('\n');
    if (end == rest.npos) return bad("has a pickle that ends inside an instruction");
    at_ += end + 1;
    return rest.substr(0, end);
  }

  Status global() {
    LONGHAUL_ASSIGN(const std::string_view module, line());
    LONGHAUL_ASSIGN(const std::string_view name, line());
    for (const auto& known : kGlobals) {
      if (module == known.module && name == known.name) {
        return push_number(Kind::kGlobal, static_cast<int64_t>(known.global));
      }
    }
    return wrong("asks for " + quote_for_message(std::string(module) + "." + std::string(name)) +
                 ", which no file of tensors needs: the file may be hostile; nothing was executed");
  }

  // ("storage", type, key, device, elements): what torch.save writes in place of a storage.
  Status storage() {
    LONGHAUL_ASSIGN(const Value id, pop());
    const auto not_storage = [&] { return wrong("has an id that is not a storage's"); };
    if (id.kind != Kind::kTuple || id.count != 5) return not_storage();
    const std::span<const Value> part = items(id);
    if (part[0].kind != Kind::kText || text(part[0]) != "storage" || part[1].kind != Kind::kGlobal ||
        part[2].kind != Kind::kText || part[3].kind != Kind::kText || part[4].kind != Kind::kInteger) {
      return not_storage();
    }
    const std::optional<DType> dtype = dtype_of_storage(static_cast<Global>(part[1].number));
    if (!dtype || part[4].number < 0) return not_storage();
    const std::string_view key = text(part[2]);
    if (key.empty() || key.size() > 20 || key.find_first_not_of("0123456789") != key.npos) {
      return wrong("has the storage key " + quote_for_message(key) + ", which is no number");
    }
    if (storages_.size() >= kPickleMaxTensors) return wrong("makes more storages than any adapter has");
    storages_.push_back({std::string(key), *dtype, part[4].number});
    return push({.kind = Kind::kStorage, .begin = static_cast<uint32_t>(storages_.size() - 1)});
  }

  Status call() {
    LONGHAUL_ASSIGN(const Value arguments, pop());
    LONGHAUL_ASSIGN(const Value function, pop());
    if (function.kind != Kind::kGlobal || arguments.kind != Kind::kTuple) {
      return wrong("calls something that is no function");
    }
    switch (static_cast<Global>(function.number)) {
      case Global::kOrderedDict:
        if (arguments.count != 0) return wrong("gives OrderedDict arguments");
        return push_number(Kind::kDictionary, dictionaries_++);
      case Global::kRebuildTensor:
        return tensor(items(arguments));
      case Global::kRebuildParameter: {
        const std::span<const Value> part = items(arguments);
        if (part.size() != 3 || part[0].kind != Kind::kTensor || part[1].kind != Kind::kBool ||
            part[2].kind != Kind::kDictionary) {
          return wrong("makes a Parameter of something else than a tensor");
        }
        return push(part[0]);
      }
      default:
        return wrong("calls a storage");
    }
  }

  // (storage, offset, sizes, strides, requires_grad, backward hooks).
  Status tensor(std::span<const Value> part) {
    if (part.size() != 6 || part[0].kind != Kind::kStorage || part[1].kind != Kind::kInteger ||
        part[2].kind != Kind::kTuple || part[3].kind != Kind::kTuple || part[4].kind != Kind::kBool ||
        part[5].kind != Kind::kDictionary) {
      return wrong("makes a tensor from arguments that torch.save does not write");
    }
    if (part[2].count != part[3].count || part[2].count > kPickleMaxTensorRank) {
      return wrong("makes a tensor of " + std::to_string(part[2].count) + " dimensions with " +
                   std::to_string(part[3].count) + " strides");
    }
    if (tensors_.size() >= kPickleMaxTensors) return wrong("makes more tensors than any adapter has");
    const Storage& storage = storages_[part[0].begin];
    PickledTensor tensor;
    tensor.storage = storage.key;
    tensor.dtype = storage.dtype;
    tensor.storage_elements = storage.elements;
    tensor.offset = part[1].number;
    for (size_t i = 0; i < part[2].count; ++i) {
      const Value extent = items(part[2])[i], stride = items(part[3])[i];
      if (extent.kind != Kind::kInteger || stride.kind != Kind::kInteger || extent.number < 0 ||
          stride.number < 0) {
        return wrong("makes a tensor whose sizes or strides are not whole numbers >= 0");
      }
      tensor.shape.push_back(extent.number);
      tensor.stride.push_back(stride.number);
    }
    if (tensor.offset < 0) return wrong("makes a tensor that begins before its storage");
    tensors_.push_back(std::move(tensor));
    return push({.kind = Kind::kTensor, .begin = static_cast<uint32_t>(tensors_.size() - 1)});
  }

  Status remember(uint32_t slot) {
    if (above_mark() == 0) return wrong("remembers the top of an empty stack");
    if (slot >= kPickleMaxMemo) return wrong("remembers more than any adapter has");
    if (slot >= memo_.size()) memo_.resize(size_t{slot} + 1);
    memo_[slot] = stack_.back();
    return {};
  }

  Status recall(uint32_t slot) {
    if (slot >= memo_.size() || !memo_[slot]) return wrong("recalls what was never remembered");
    return push(*memo_[slot]);
  }

  Result<std::vector<PickledTensor>> result() {
    if (stack_.size() != 1 || !marks_.empty() || stack_[0].kind != Kind::kDictionary) {
      return bad("is not a dictionary of tensors; save the adapter's state_dict");
    }
    std::vector<PickledTensor> named;
    std::unordered_set<std::string_view> names;
    for (const DictionaryItem& item : dictionary_items_) {
      if (item.dictionary != stack_[0].number) continue;
      if (item.key.kind != Kind::kText) return bad("has a tensor whose name is no text");
      const std::string_view name = text(item.key);
      if (item.value.kind != Kind::kTensor) return bad(quote_for_message(name) + " is not a tensor");
      if (!names.insert(name).second) return bad("tensor " + quote_for_message(name) + " is there twice");
      if (named.size() >= kPickleMaxTensors) return bad("has more tensors than any adapter");
      named.push_back(tensors_[item.value.begin]);
      named.back().name = name;
    }
    return named;
  }

  std::span<const std::byte> pickle_;
  std::string_view path_;
  size_t at_ = 0;
  size_t start_ = 0;  // of the instruction in hand
  bool stopped_ = false;
  int64_t dictionaries_ = 0;
  std::vector<Value> stack_;
  std::vector<size_t> marks_;  // heights of the stack
  std::vector<std::optional<Value>> memo_;
  std::vector<Value> items_;  // of all tuples
  std::vector<DictionaryItem> dictionary_items_;
  std::vector<Storage> storages_;
  std::vector<PickledTensor> tensors_;
};

}  // namespace

Result<std::vector<PickledTensor>> parse_torch_pickle(std::span<const std::byte> pickle,
                                                      std::string_view path) {
  return Unpickler(pickle, path).run();
}

}  // namespace longhaul
